"""Where puzzles come from: local files, pinned files of the hub, and the generator."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import ANSWER, PUZZLES, TASK

from trm import rng
from trm.config import DataConfig
from trm.data import sources
from trm.errors import UserError
from trm.original import folders as original
from trm.puzzles.deal import classes
from trm.puzzles.sudoku.config import SudokuDataConfig, SudokuGeneratorConfig
from trm.puzzles.sudoku.family import Sudoku
from trm.puzzles.table import Puzzles, from_arrays

GENERATED = SudokuDataConfig(generate=SudokuGeneratorConfig(train=6, validation=3, test=2, extra_clues=2))


def prepare(config: DataConfig, folder: Path, seed: int = 0) -> tuple[Puzzles, Puzzles]:
    made = sources.prepare(config, TASK, seed, folder, lambda done: None)
    return made.train, made.validation


def texts(puzzles: Puzzles) -> list[str]:
    return [TASK.text(tokens_L) for tokens_L in puzzles.tokens_NL]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "puzzles.csv"
    path.write_text("question,answer\n" + "".join(f"{puzzle},{ANSWER}\n" for puzzle in PUZZLES))
    return path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub whose one file holds `content`; returns what was asked of it."""
    asked = []

    def set_up(content: bytes | Exception):
        def download(*args, **kwargs):
            asked.append((args, kwargs))
            if isinstance(content, Exception):
                raise content
            (tmp_path / "train.csv").write_bytes(content)
            return str(tmp_path / "train.csv")

        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
        pinned = sources.HubFile("org/repo", "abc", "train.csv", hashlib.sha256(b"good").hexdigest())
        monkeypatch.setitem(sources.HUB_FILES, "sudoku-extreme/train", pinned)
        return asked

    return set_up


def test_a_local_name_is_a_path():
    assert sources.locate("data/train.csv") == Path("data/train.csv")


def test_a_split_of_an_original_folder_is_read_like_a_file(tmp_path, file):
    puzzles = sources.read(str(file), TASK)
    original.write(tmp_path / "folder", {"train": puzzles.take(slice(5)), "test": puzzles}, TASK)
    assert texts(sources.read(str(tmp_path / "folder" / "test"), TASK, 3)) == texts(puzzles)[:3]
    config = SudokuDataConfig(train=str(tmp_path / "folder" / "train"), hold_out=2)
    train, validation = prepare(config, tmp_path)
    assert len(validation) == 2 and set(texts(train) + texts(validation)) <= set(texts(puzzles)[:5])
    with pytest.raises(UserError, match="the splits test, train: name one, such as"):
        sources.read(str(tmp_path / "folder"), TASK)


def test_the_mazes_of_the_hub_are_pinned():
    assert {"maze-hard/train", "maze-hard/test"} < set(sources.HUB_FILES)
    assert all(len(f.sha256) == 64 and len(f.revision) == 40 for f in sources.HUB_FILES.values())


def test_an_unknown_hub_name_lists_the_known():
    with pytest.raises(
        UserError, match="'hub:nope'; known: hub:sudoku-extreme/train, hub:sudoku-extreme/test"
    ):
        sources.locate("hub:nope")


def test_a_hub_file_is_asked_for_at_its_revision(hub):
    asked = hub(b"good")
    assert sources.locate("hub:sudoku-extreme/train").read_bytes() == b"good"
    assert asked == [(("org/repo", "train.csv"), {"repo_type": "dataset", "revision": "abc"})]


def test_a_changed_hub_file_is_refused(hub):
    hub(b"bad")
    with pytest.raises(UserError, match=r"train\.csv has sha256 [0-9a-f]{12}\.\.\., not"):
        sources.locate("hub:sudoku-extreme/train")


@pytest.mark.parametrize(
    ("error", "reason"), [(OSError("no route\nto host"), "no route"), (ValueError(), "ValueError")]
)
def test_an_unreachable_hub_is_a_user_error(hub, error, reason):
    hub(error)
    with pytest.raises(
        UserError, match=f"cannot download train.csv of org/repo: {reason}; check the network"
    ):
        sources.locate("hub:sudoku-extreme/train")


def test_generated_puzzles_are_right_and_all_different():
    splits = sources.generate(GENERATED.generate, TASK, 0, lambda done: None)
    assert {name: len(puzzles) for name, puzzles in splits.items()} == {
        "train": 6,
        "validation": 3,
        "test": 2,
    }
    for puzzles in splits.values():
        for tokens_L, answer_L in zip(puzzles.tokens_NL, puzzles.answers_NL, strict=True):
            TASK.check(tokens_L)
            assert TASK.verify(tokens_L, answer_L)
    assert len({text for puzzles in splits.values() for text in texts(puzzles)}) == 11


def test_puzzles_are_generated_once_and_read_back_ever_after(tmp_path, monkeypatch):
    first = prepare(GENERATED, tmp_path / "data")
    assert {path.name for path in (tmp_path / "data").iterdir()} == {
        "train.csv",
        "validation.csv",
        "test.csv",
        "made-from.json",
    }

    def never(*args):
        raise AssertionError("generated again")

    monkeypatch.setattr(Sudoku, "generate", never)
    second = prepare(GENERATED, tmp_path / "data")
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.tokens_NL, b.tokens_NL)
        assert np.array_equal(a.answers_NL, b.answers_NL)
        assert np.array_equal(a.rating_N, b.rating_N)
    assert [len(puzzles) for puzzles in second] == [6, 3]


def test_data_made_by_an_earlier_version_is_not_made_again(tmp_path, monkeypatch):
    first, _ = prepare(GENERATED, tmp_path)
    old = {
        "task": TASK.config.model_dump(),
        "data": {"generate_train": 6, "generate_validation": 3, "generate_test": 2, "extra_clues": 2},
        "seed": 0,
    }
    (tmp_path / "made-from.json").write_text(json.dumps(old, indent=1))
    monkeypatch.setattr(Sudoku, "generate", lambda *_: pytest.fail("generated again"))
    assert texts(prepare(GENERATED, tmp_path)[0]) == texts(first)


def test_generation_depends_on_the_seed(tmp_path):
    a, b, c = (prepare(GENERATED, tmp_path / str(i), seed)[0] for i, seed in enumerate((0, 0, 1)))
    assert texts(a) == texts(b) != texts(c)


def test_generation_that_was_cut_short_leaves_nothing_and_starts_again(tmp_path, monkeypatch):
    whole, _ = prepare(GENERATED, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(sources, "write_atomic", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(GENERATED, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert texts(prepare(GENERATED, tmp_path / "data")[0]) == texts(whole)


def test_files_that_no_run_has_made_are_left_alone(tmp_path):
    (tmp_path / "train.csv").write_text("mine")
    with pytest.raises(UserError, match=r"holds puzzles that no run has made \(made-from.json is missing\)"):
        prepare(GENERATED, tmp_path)
    (tmp_path / "notes.txt").write_text("mine too")
    with pytest.raises(UserError, match=r"notes\.txt was not made by a run"):
        prepare(GENERATED, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"train.csv", "notes.txt"}
    assert (tmp_path / "train.csv").read_text() == "mine"


def test_a_run_that_goes_on_generates_nothing(tmp_path):
    def go_on(seed: int = 0) -> sources.TrainingData:
        return sources.prepare(GENERATED, TASK, seed, tmp_path / "data", lambda done: None, resume=True)

    with pytest.raises(UserError, match=r"made-from\.json is missing; put them back"):
        go_on()
    first, _ = prepare(GENERATED, tmp_path / "data")
    assert texts(go_on().train) == texts(first)
    with pytest.raises(UserError, match=r"made-from\.json names others; put them back"):
        go_on(seed=1)


def test_puzzles_are_held_out_at_random_and_never_trained_on(file, tmp_path):
    config = SudokuDataConfig(train=str(file), hold_out=2)
    chosen = set()
    for seed in range(20):
        train, validation = prepare(config, tmp_path, seed)
        assert texts(train) == others(*texts(validation)) != []
        assert len(validation) == 2
        chosen.add(tuple(texts(validation)))
    assert len(chosen) > 10
    assert texts(prepare(config, tmp_path, 3)[1]) == texts(prepare(config, tmp_path, 3)[1])


def test_a_run_of_an_earlier_version_holds_out_the_first_rows(file, tmp_path):
    config = SudokuDataConfig(train=str(file), hold_out=3)
    made = sources.prepare(config, TASK, 0, tmp_path, lambda done: None, resume=True, first_rows=True)
    assert texts(made.validation) == list(PUZZLES[:3])
    assert texts(made.train) == others(*PUZZLES[:3])


def test_whole_groups_of_a_folder_are_held_out(file, tmp_path):
    """Each of four puzzles under five symmetries, as the original's builder writes them."""
    puzzles = sources.read(str(file), TASK)
    different = [members[0] for members in classes([TASK.canonical(each) for each in puzzles.tokens_NL])]
    chosen = puzzles.take(np.repeat(different, 5))
    symmetry = TASK.symmetry(rng.fold(rng.stream("test"), torch.arange(len(chosen))))
    images = [
        symmetry.apply(torch.from_numpy(each).long()).numpy()
        for each in (chosen.tokens_NL, chosen.answers_NL)
    ]
    groups = {"train": np.arange(0, len(chosen) + 1, 5)}
    original.write(tmp_path / "folder", {"train": from_arrays(*images)}, TASK, groups)
    config = SudokuDataConfig(train=str(tmp_path / "folder" / "train"), hold_out=2, augment=False)
    train, validation = prepare(config, tmp_path)
    assert len(validation) == 2  # the interval counts groups
    assert len(train) == 5 * (len(different) - 2)
    held = {TASK.canonical(tokens_L) for tokens_L in validation.tokens_NL}
    assert len(held) == 2 and not held & {TASK.canonical(tokens_L) for tokens_L in train.tokens_NL}


def test_rows_without_labels_are_refused(file, tmp_path):
    puzzles = sources.read(str(file), TASK)
    puzzles.answers_NL[2] = 0
    original.write(tmp_path / "folder", {"test": puzzles}, TASK)
    with pytest.raises(UserError, match=r"folder/test, row 2: no label"):
        sources.read(str(tmp_path / "folder" / "test"), TASK)


def test_no_name_is_no_split_wherever_the_command_runs(tmp_path, monkeypatch):
    (tmp_path / "dataset.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert not original.is_split("")
    assert original.is_split(".")
    assert len(prepare(GENERATED, tmp_path / "data")[0]) == 6


def test_data_made_with_other_options_is_made_again(tmp_path):
    first, _ = prepare(GENERATED, tmp_path)
    other, _ = prepare(GENERATED, tmp_path, seed=1)
    assert texts(first) != texts(other)


def moved(puzzle: str) -> str:
    """The same puzzle to a solver: rows 1 and 2 change places, and so do digits 1 and 4."""
    return (puzzle[4:8] + puzzle[:4] + puzzle[8:]).translate(str.maketrans("14", "41"))


def others(*held: str) -> list[str]:
    """The tiny puzzles that no symmetry maps to a held-out one."""
    forms = {TASK.canonical(TASK.parse(puzzle)) for puzzle in held}
    return [puzzle for puzzle in PUZZLES if TASK.canonical(TASK.parse(puzzle)) not in forms]


def test_equivalent_puzzles_are_never_on_both_sides(file, tmp_path):
    (tmp_path / "more.csv").write_text(file.read_text() + f"{moved(PUZZLES[0])},{moved(ANSWER)}\n")
    more = sources.read(str(tmp_path / "more.csv"), TASK)
    seeds = range(40)
    splits = [
        prepare(SudokuDataConfig(train=str(tmp_path / "more.csv"), hold_out=1), tmp_path, s) for s in seeds
    ]
    train, _ = next(each for each in splits if texts(each[1]) == [PUZZLES[0]])
    assert len(more) == len(PUZZLES) + 1
    assert texts(train) == others(PUZZLES[0])  # its image is left out, and so are its like
    (tmp_path / "validation.csv").write_text(f"question,answer\n{moved(PUZZLES[2])},{moved(ANSWER)}\n")
    config = SudokuDataConfig(train=str(file), validation=str(tmp_path / "validation.csv"))
    with pytest.raises(UserError, match=rf"{8 - len(others(PUZZLES[2]))} training puzzles are equivalent"):
        prepare(config, tmp_path)


@pytest.mark.parametrize("hold_out", [0, len(PUZZLES), 100])
def test_hold_out_must_leave_both_sides_something(file, tmp_path, hold_out):
    with pytest.raises(UserError, match=f"data.hold_out is {hold_out} of {len(PUZZLES)} puzzles"):
        prepare(SudokuDataConfig(train=str(file), hold_out=hold_out), tmp_path)


def test_nothing_to_train_on_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"no puzzles|generate.train"):
        prepare(SudokuDataConfig(), tmp_path)
