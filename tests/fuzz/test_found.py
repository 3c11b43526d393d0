"""Faults that damaged files, or the search for them, have brought to light: each stays mended."""

import io
import json
from pathlib import Path

import doors
import numpy as np
import pytest
import tiny
import tiny_arc
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from trm import cli, pretrained
from trm.errors import UserError, one_line
from trm.puzzles.grid.family import split_cells
from trm.terminal import bar


def changed(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("family: {name: [sudoku]}", "needs a name"),
        ("task: {name: maze}\ncompute: 7\nmodel: {compile: true}", "compute"),
        ("task: {name: maze}\ndata: {7: 1, generate_train: 3}", "data"),
        ("task: {name: maze}\ndata: {generate: [], generate_train: 3}", "generate"),
        ("[" * 3000, "not valid YAML"),
        ("name: 2001-99-99", "not valid YAML"),
        ("name: &a x\nseed: *a", "alias"),
        ("seed: " + "9" * 5000, "not valid YAML"),
        ("model: {T: 1000000000000}", "model.T"),
        ("train: {steps: 9223372036854775808}", "64 bits"),
        ('data: {train: "a\\0b"}', "control character"),
        ("train: {loggers: [\0]}", "not valid YAML"),
    ],
)
def test_recipes(text: str, words: str, tmp_path: Path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        doors.load_config(tmp_path / "x.yaml")


@pytest.mark.parametrize("weight", [torch.full((6, 16), torch.nan), torch.zeros(6, 16, dtype=torch.int32)])
def test_weights_that_are_no_finite_numbers(weight: torch.Tensor, tmp_path: Path):
    tiny.save(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    save_file(load_file(path) | {"embed.tokens": weight}, path)
    with pytest.raises(UserError, match=r"embed\.tokens holds numbers that are not finite"):
        pretrained.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"puzzles": -5}, "puzzles"),
        ({"family": {"name": {}}}, "needs a name"),
        ({"model": doors.MODEL | {"width": 17}}, "another architecture"),
    ],
)
def test_what_weights_say_of_themselves(changes: dict, words: str, tmp_path: Path):
    tiny.save(tmp_path)
    changed(tmp_path / "config.json", **changes)
    with pytest.raises(UserError, match=words):
        pretrained.load(tmp_path)


def test_a_recipe_that_weights_name_and_that_is_none(tmp_path: Path, capsys):
    tiny.save(tmp_path / "model", recipe=["x"])
    doors.make_tables(tmp_path)
    arguments = ["eval", str(tmp_path / "model"), "--data", str(tmp_path / "sudoku.csv"), "--device", "cpu"]
    assert cli.main(arguments) == 2
    assert "the recipe of" in capsys.readouterr().err


@pytest.mark.parametrize("values", [[], {"names": "abc", "pairs": [], "inputs": []}, {"names": [["a"]]}])
def test_records_of_what_was_seen(values: object, tmp_path: Path):
    (tmp_path / "seen.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="damaged"):
        doors.Seen.load(tmp_path / "seen.json")


def test_tables_of_variants(tmp_path: Path):
    table = doors.variants.make([tiny_arc.made("a")], 2, 0)
    tables = {"first_N": torch.from_numpy(table.first_N), "dihedral_P": torch.zeros(3, dtype=torch.uint8)}
    tables |= {"colours_PC": torch.zeros(3, 10, dtype=torch.bfloat16)}
    save_file(tables, tmp_path / "x", {"names": "[]"})
    with pytest.raises(UserError, match="damaged"):
        doors.variants.Variants.load(tmp_path / "x")
    top = np.iinfo(np.int64).max
    wraps = doors.variants.Variants(("a", "b"), np.array([top, -top, 3]), table.dihedral_P, table.colours_PC)
    wraps.save(tmp_path / "y")
    with pytest.raises(UserError, match="no table of variants"):
        doors.variants.Variants.load(tmp_path / "y")


def test_embeddings_for_fewer_puzzles_than_are_named(tmp_path: Path):
    doors.make_arc_weights(tmp_path)
    folder = tmp_path / "run" / "last"
    weights = load_file(folder / "model.safetensors")
    for name in ("model", "raw"):
        path = folder / f"{name}.safetensors"
        table = {"embed.puzzle.weight": weights["embed.puzzle.weight"][:2].clone()}
        if name == "model" or "embed.puzzle.weight" in load_file(path):
            save_file(load_file(path) | table, path)
    changed(folder / "config.json", puzzles=2)
    with pytest.raises(UserError, match="more puzzle ids than it has embeddings"):
        doors.read_arc_weights(tmp_path)


@pytest.mark.parametrize("content", [[], {"train": "x", "validation": 7}])
def test_records_of_the_data_of_a_run(content: object, tmp_path: Path):
    doors.make_run(tmp_path)
    (tmp_path / "data.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="not those that this run was started with"):
        doors.read_run(tmp_path)


def test_figures_that_are_none(tmp_path: Path):
    doors.make_run(tmp_path)
    path = tmp_path / "metrics.jsonl"
    good = path.read_text()
    odd = ["[]", "5", "{}", '{"step": "x"}', '{"step": 1e999}', "[" * 5000, "\xff"]
    path.write_text(good + "\n".join(odd) + "\n", encoding="latin-1")
    doors.read_run(tmp_path)
    assert path.read_text() == good


def test_the_parts_of_a_checkpoint_are_files_of_its_folder(tmp_path: Path):
    doors.make_checkpoint(tmp_path)
    path = tmp_path / "step-00000001" / "manifest.json"
    for values in ([], {}, {".metadata": {}, "../x": {}}):
        path.write_text(json.dumps(values))
        with pytest.raises(UserError, match="damaged"):
            doors.read_manifest(tmp_path)


def test_a_first_line_that_no_table_could_have(tmp_path: Path, capsys):
    (tmp_path / "x.txt").write_text("1" * 200_000)
    tiny.save(tmp_path / "model")
    arguments = ["solve", "--file", str(tmp_path / "x.txt"), "--model", str(tmp_path / "model")]
    assert cli.main(arguments) == 2
    assert "200000 cells" in capsys.readouterr().err


def test_names_of_tasks_that_cannot_be_written(tmp_path: Path):
    tasks = json.loads(Path(tiny_arc.write(tmp_path / "x.json", [tiny_arc.made("a")])).read_text())
    (tmp_path / "x.json").write_text(json.dumps({"\ud800": tasks["a"]}))
    with pytest.raises(UserError, match="cannot be printed"):
        doors.arc.read(str(tmp_path / "x.json"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": "x"}, "hidden_size"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"seq_len": -1}, "seq_len"),
        ({"loss": ["x"]}, "loss"),
        ({"loss": {"loss_type": ["x"]}}, "loss"),
    ],
)
def test_configurations_of_the_original(changes: dict, words: str, tmp_path: Path):
    with pytest.raises(UserError, match=words):
        doors.original.describe(doors.ARCH | changes, {"inner.H_init"})


def test_a_set_that_is_named_twice(tmp_path: Path):
    doors.make_folder(tmp_path)
    changed(tmp_path / "sudoku" / "train" / "dataset.json", sets=["all", "all"])
    with pytest.raises(UserError, match="names a set twice"):
        doors.sources.read(str(tmp_path / "sudoku" / "train"), tiny.TASK)


def test_a_name_is_no_markup():
    screen = Console(file=io.StringIO(), force_terminal=True)
    with bar(screen, "[/] [red]x", 3) as progress:
        progress.at(1)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("12/34", ["12", "34"]),
        (" 1 2 \n\n 3 4 ", ["12", "34"]),
        ("12 /\n 34", ["12", "34"]),
        ("12\n/34", ["12", "34"]),
        ("12//34", ["12", "", "34"]),
        ("12/ /34", ["12", "", "34"]),
        ("/12", ["", "12"]),
        ("12\r\n34\r\n", ["12", "34"]),
        ("", [""]),
        (" ", [""]),
    ],
)
def test_rows_of_cells(text: str, rows: list[str]):
    assert ["".join(row) for row in split_cells(text)] == rows


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n  b", "a b"),
        ("a\x1b[2Jb\0", r"a\x1b[2Jb\x00"),
        ("\ud800\u202e", r"\ud800\u202e"),
        ("é", "é"),
        ("x" * 5000, "x" * 1000 + " ..."),
    ],
)
def test_one_line(text: str, line: str):
    assert one_line(UserError(text)) == line
