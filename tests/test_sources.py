"""Where puzzles come from: local files, pinned files of the hub, and the generator."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from tiny import ANSWER, PUZZLES, TASK

from trm.config import DataConfig
from trm.data import sources
from trm.errors import UserError
from trm.original import folders as original
from trm.puzzles.sudoku.config import SudokuDataConfig, SudokuGeneratorConfig
from trm.puzzles.sudoku.family import Sudoku
from trm.puzzles.table import Puzzles

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
    assert texts(train) + texts(validation) == texts(puzzles)[2:5] + texts(puzzles)[:2]
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


def test_generation_that_was_cut_short_starts_again(tmp_path):
    whole, _ = prepare(GENERATED, tmp_path)
    (tmp_path / "made-from.json").unlink()
    (tmp_path / "train.csv").write_text("question,ans")
    assert texts(prepare(GENERATED, tmp_path)[0]) == texts(whole)


def test_held_out_puzzles_are_the_first_and_no_training_puzzles(file, tmp_path):
    train, validation = prepare(SudokuDataConfig(train=str(file), hold_out=3), tmp_path)
    assert texts(validation) == list(PUZZLES[:3])
    assert texts(train) == others(*PUZZLES[:3]) != []


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


def test_essentially_equal_puzzles_are_never_on_both_sides(file, tmp_path):
    (tmp_path / "more.csv").write_text(file.read_text() + f"{moved(PUZZLES[0])},{moved(ANSWER)}\n")
    train, validation = prepare(SudokuDataConfig(train=str(tmp_path / "more.csv"), hold_out=1), tmp_path)
    assert texts(validation) == [PUZZLES[0]]
    assert texts(train) == others(PUZZLES[0])  # its image is left out, and so are its like
    (tmp_path / "validation.csv").write_text(f"question,answer\n{moved(PUZZLES[2])},{moved(ANSWER)}\n")
    config = SudokuDataConfig(train=str(file), validation=str(tmp_path / "validation.csv"))
    with pytest.raises(UserError, match=rf"{8 - len(others(PUZZLES[2]))} training puzzles are essentially"):
        prepare(config, tmp_path)


@pytest.mark.parametrize("hold_out", [0, len(PUZZLES), 100])
def test_hold_out_must_leave_both_sides_something(file, tmp_path, hold_out):
    with pytest.raises(UserError, match=f"data.hold_out is {hold_out} of {len(PUZZLES)} puzzles"):
        prepare(SudokuDataConfig(train=str(file), hold_out=hold_out), tmp_path)


def test_nothing_to_train_on_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"no puzzles|generate.train"):
        prepare(SudokuDataConfig(), tmp_path)
