"""Every kind of file that `trm` reads, good ones to damage, and the door through which it reads them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tiny
import tiny_arc
import torch
import yaml
from damage import Files

from trm import cli, pretrained
from trm.commands import train as train_command
from trm.config import ComputeConfig, Effort, dump_config, parse
from trm.data import sources
from trm.data.layout import lay_out
from trm.errors import UserError
from trm.inference.solver import Solver
from trm.models import build
from trm.original import checkpoints as original
from trm.original import folders
from trm.puzzles.arc import readers as arc
from trm.puzzles.arc import variants
from trm.puzzles.arc.readers import Seen
from trm.puzzles.futoshiki.config import FutoshikiConfig
from trm.puzzles.grid.readers import infer, read_rows
from trm.puzzles.maze.config import MazeConfig
from trm.puzzles.table import from_arrays
from trm.recipe import RunConfig, load_config, load_recipe
from trm.training import checkpoint, loop

CPU = ComputeConfig(device="cpu")
MODEL = tiny.MODEL.model_dump()
RUN = {
    "name": "small",
    "family": {"name": "sudoku", "box_rows": 2, "box_cols": 2},
    "data": {"generate": {"train": 8, "validation": 4, "extra_clues": 2}},
    "model": {"width": 8, "heads": 1, "layers": 1, "expansion": 1, "T": 1, "n": 1, "mixing": "mixer"},
    "supervision": {"steps": 2},
    "ema": {"decay": 0.9},
    "train": {"batch": 2, "steps": 2, "log_every": 1, "eval_every": 2, "checkpoint_every": 1, "loggers": []},
}


class Door(NamedTuple):
    """Files of one kind."""

    make: Callable[[Path], None]
    """Writes good files into a folder."""
    damage: tuple[str, ...]
    """Patterns of those that are damaged."""
    read: Callable[[Path], object]
    """Reads the folder as the command does."""
    command: tuple[str, ...]
    """A command that reads it, with `{}` for the folder."""


# --- weights


def make_weights(folder: Path) -> None:
    tiny.save(folder, recipe=RUN, step=3)


def read_weights(folder: Path) -> None:
    found = pretrained.load(folder, CPU)
    pretrained.step_of(folder)
    c = found.config.model
    if c.T * c.n * c.layers * c.width * found.family.length < 10**5 and found.family.length == 16:
        Solver(found.model, found.family, found.config.steps).solve(tiny.PUZZLES[0], Effort(steps=2))


def make_arc_weights(folder: Path) -> None:
    tiny_arc.write(folder / "tasks.json", [tiny_arc.made("a"), tiny_arc.made("b")])
    loop.train(
        tiny_arc.config(data={"train": str(folder / "tasks.json")}, train={"loggers": []}), folder / "run"
    )


def read_arc_weights(folder: Path) -> None:
    cli._parse(
        [
            "arc",
            "eval",
            str(folder / "run"),
            "--data",
            str(folder / "tasks.json"),
            "--allow-leaks",
            "--votes",
            "2",
            "--steps",
            "1",
            "--device",
            "cpu",
            "--json",
        ]
    )()


# --- recipes and runs


def make_recipe(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RUN))
    (folder / "whole.yaml").write_text(dump_config(load_recipe("sudoku-9x9")))
    old = {
        "task": {"name": "maze"},
        "data": {"generate_train": 3, "min_path": 3},
        "model": {"compile": True, "kernels": "torch"},
    }
    (folder / "old.yaml").write_text(yaml.safe_dump(old))


def read_recipe(folder: Path) -> None:
    faults = []
    for name in ("recipe.yaml", "whole.yaml", "old.yaml"):
        try:
            load_config(folder / name)
            cli._parse(["train", str(folder / name), "--out", str(folder / "out")])
        except UserError as error:
            faults.append(error)
    if faults:
        raise faults[0]


def make_run(folder: Path) -> None:
    loop.train(parse(RunConfig, RUN, "test"), folder, stop_after=1)


def read_run(folder: Path) -> None:
    _mark(folder / "checkpoints" / "step-00000001")
    loop.train(None, folder, 1, {"device": "cpu"})


def read_run_config(folder: Path) -> None:
    """What is asked for is not looked at further where it asks for much."""
    config = load_config(folder / "config.yaml")
    train_command.command(config)
    sizes = (
        config.model.width,
        config.model.layers,
        config.model.T,
        config.model.n,
        config.supervision.steps,
    )
    data = config.data.generator()
    if max(sizes) <= 16 and config.train.batch < 100 and (data is None or max(data.counts().values()) < 20):
        loop.train(None, folder, 1, {"device": "cpu"})


def _mark(path: Path) -> None:
    """Write the manifest anew, where it is not what is damaged itself, so that other files are looked at."""
    manifest = path / "manifest.json"
    if manifest.exists():
        files = [each for each in sorted(path.iterdir()) if each != manifest]
        manifest.write_text(json.dumps({each.name: checkpoint._fingerprint(each) for each in files}))


def _state() -> dict[str, Any]:
    return {
        "model": {"w": torch.arange(12.0).view(3, 4), "b": torch.zeros(4, dtype=torch.float64)},
        "count": torch.tensor(3),
        "flag": torch.tensor([True, False]),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }


def make_checkpoint(folder: Path) -> None:
    checkpoint.save(folder, 1, _state(), 2)


def read_checkpoint(folder: Path) -> None:
    _mark(folder / "step-00000001")
    checkpoint.load(folder, _state())


def read_manifest(folder: Path) -> None:
    checkpoint.load(folder, _state())


# --- puzzles


def make_tables(folder: Path) -> None:
    sudoku = "".join(f"s,{each},{tiny.ANSWER},{i}\n" for i, each in enumerate(tiny.PUZZLES))
    (folder / "sudoku.csv").write_text("source,question,answer,rating\n" + sudoku)
    (folder / "maze.csv").write_text("question,answer,puzzle\nS.#..G###,So#.oG###,1\n")
    question, answer = (
        "/-------/".join(rows) for rows in ([".-.-.-."] * 4, ["1-2-3-4", "2-1-4-3", "3-4-1-2", "4-3-2-1"])
    )
    (folder / "futoshiki.csv").write_text(f"question,answer\n{question},{answer}\n")
    (folder / "own.csv").write_text(
        "question,answer,puzzle\n" + "1./.2,12/12,one\n.1/..,11/11,\n" + "2 1/. .,2 1/2 1,one\n"
    )


def read_tables(folder: Path) -> None:
    faults = []
    boards = {
        "sudoku": tiny.CONFIG,
        "maze": MazeConfig(height=3, width=3),
        "futoshiki": FutoshikiConfig(side=4),
    }
    for name, board in boards.items():
        try:
            sources.first_question(str(folder / f"{name}.csv"), board.build())
            sources.read(str(folder / f"{name}.csv"), board.build())
        except UserError as error:
            faults.append(error)
    try:
        _own(folder / "own.csv")
    except UserError as error:
        faults.append(error)
    if faults:
        raise faults[0]


def make_lines(folder: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"question": "1./.2", "answer": "12/12", "puzzle": "one"},
        {"question": [[1, 0], [0, 2]], "answer": [[1, 2], [1, 2]], "puzzle": 7},
        {"question": ["1 .", ". ."], "answer": ["1 2", "1 1"]},
        {"question": [1, 2, 3, 4], "answer": [1, 2, 3, 1]},
    ]
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_lines(folder: Path) -> None:
    _own(folder / "own.jsonl")


def _own(path: Path) -> None:
    rows = read_rows(path)
    infer(rows)
    out = path.parent / "out"
    try:
        lay_out(rows, out, load_recipe("mini"), validation=1, test=0)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def make_text(folder: Path) -> None:
    make_weights(folder / "weights")
    (folder / "lines.txt").write_text("\n".join(tiny.PUZZLES[:3]) + "\n")
    (folder / "grids.txt").write_text("12|34\n34|12\n-----\n21|43\n43|2.\n\n1234|3412|2143|432.\n")
    (folder / "table.csv").write_text(f"question,x\n{tiny.PUZZLES[0]},1\n")


def read_text(folder: Path) -> None:
    for name in ("lines.txt", "grids.txt", "table.csv"):
        _solve(folder / name, "--model", str(folder / "weights"))


def _solve(path: Path, *options: str) -> None:
    cli._parse(["solve", "--file", str(path), "--json", "--steps", "1", "--device", "cpu", *options])()


# --- ARC


def make_arc(folder: Path) -> None:
    tasks = [tiny_arc.made("a"), tiny_arc.made("b", test=2)]
    tiny_arc.write(folder / "x_challenges.json", [tiny_arc.unanswered(task) for task in tasks])
    outputs = {
        task.name: [pair.output.tolist() for pair in task.test if pair.output is not None] for task in tasks
    }
    (folder / "x_solutions.json").write_text(json.dumps(outputs))
    (folder / "one").mkdir()
    tiny_arc.write(folder / "one" / "t.json", tasks[:1])
    values = json.loads((folder / "one" / "t.json").read_text())["a"]
    (folder / "one" / "t.json").write_text(json.dumps(values | {"name": "c"}))
    (folder / "theirs").mkdir()
    tiny_arc.write(folder / "theirs" / "test_puzzles.json", tasks)
    Seen.of(tasks).save(folder / "seen.json")


def read_arc(folder: Path) -> None:
    faults = []
    for name in ("x_challenges.json", "one", "theirs", "x_challenges.json,one"):
        try:
            tasks = arc.read(",".join(str(folder / each) for each in name.split(",")))
            Seen.load(folder / "seen.json").leaks(tasks)
            variants.make(tasks, 3, 0).digest()
            data = parse(
                RunConfig,
                {"family": {"name": "arc", "variants": 2}, "data": {"train": str(folder / "one")}},
                "x",
            )
            data.family.build().prepare(data.data, 0)
        except UserError as error:
            faults.append(error)
    if faults:
        raise faults[0]


# --- the original's folders and checkpoints


def make_folder(folder: Path) -> None:
    tokens_NL = np.stack([tiny.TASK.parse(each) for each in tiny.PUZZLES])
    answers_NL = np.stack([tiny.TASK.parse(tiny.ANSWER)] * len(tiny.PUZZLES))
    folders.write(folder / "sudoku", {"train": from_arrays(tokens_NL, answers_NL)}, tiny.TASK)
    task = tiny_arc.TASK
    tokens_NL = np.stack([task.parse("12/21"), task.parse("3/4"), task.parse("0"), task.parse("1")])
    puzzle_N = np.array([1, 1, 2, 3])
    names = ["<blank>", "a", "a|||t3|||0132456789", "b"]
    puzzles = from_arrays(tokens_NL, tokens_NL, None, puzzle_N)
    folders.write(
        folder / "arc", {"train": puzzles, "test": puzzles.take(slice(3, 4))}, task, identifiers=names
    )


def read_folder(folder: Path) -> None:
    faults = []
    for name, family in (("sudoku", tiny.TASK), ("arc", tiny_arc.TASK)):
        home = folder / name
        try:
            folders.sizes(home)
            config = family.config.data(train=str(home / "train"), hold_out=1)
            sources.prepare(config, family, 0, home / "out", lambda done: None)
        except UserError as error:
            faults.append(error)
    if faults:
        raise faults[0]


ARCH = {
    "batch_size": 3,
    "seq_len": 4,
    "vocab_size": 5,
    "num_puzzle_identifiers": 2,
    "puzzle_emb_ndim": 8,
    "hidden_size": 8,
    "num_heads": 2,
    "expansion": 1,
    "pos_encodings": "rope",
    "halt_max_steps": 5,
    "forward_dtype": "bfloat16",
    "causal": False,
    "H_cycles": 3,
    "L_cycles": 4,
    "H_layers": 0,
    "L_layers": 1,
    "mlp_t": False,
    "puzzle_emb_len": 1,
    "no_ACT_continue": True,
    "loss": {"loss_type": "stablemax_cross_entropy"},
}


def make_theirs(folder: Path) -> None:
    described = original.describe(ARCH, {"inner.H_init"})
    torch.manual_seed(0)
    weights = original.to_original(build(described.model, described.problem, described.compute))
    torch.save(weights, folder / "step.pt")
    torch.save(weights, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    (folder / "arch.json").write_text(json.dumps(ARCH))


def read_theirs(folder: Path) -> None:
    try:
        arch = json.loads((folder / "arch.json").read_text())
        assert isinstance(arch, dict)
    except (ValueError, AssertionError):
        arch = ARCH
    faults = []
    for name in ("step.pt", "legacy.pth"):
        try:
            original.build_original(arch, original.load_pt(folder / name))
        except UserError as error:
            faults.append(error)
    if faults:
        raise faults[0]


DOORS = {
    "weights": Door(make_weights, ("config.json", "model.safetensors"), read_weights, ("info", "{}")),
    "weights of arc": Door(
        make_arc_weights,
        ("run/last/*", "tasks.json"),
        read_arc_weights,
        ("arc", "eval", "{}/run", "--data", "{}/tasks.json", "--allow-leaks", "--steps", "1"),
    ),
    "recipe": Door(
        make_recipe,
        ("*.yaml",),
        read_recipe,
        ("train", "{}/recipe.yaml", "--out", "{}/out", "--stop-after", "1", "--train.steps", "1"),
    ),
    "run": Door(
        make_run,
        ("data.json", "metrics.jsonl", "data/*", "checkpoints/*/.metadata", "checkpoints/*/*.distcp"),
        read_run,
        ("train", "--resume", "{}", "--stop-after", "1"),
    ),
    "config of a run": Door(
        make_run, ("config.yaml",), read_run_config, ("train", "--resume", "{}", "--stop-after", "1")
    ),
    "checkpoint": Door(
        make_checkpoint, ("*/.metadata", "*/*.distcp"), read_checkpoint, ("train", "--resume", "{}")
    ),
    "manifest": Door(make_checkpoint, ("*/*",), read_manifest, ("train", "--resume", "{}")),
    "tables": Door(
        make_tables,
        ("*.csv",),
        read_tables,
        ("data", "grid", "{}/own.csv", "--out", "{}/out", "--validation", "1", "--test", "0"),
    ),
    "lines": Door(
        make_lines,
        ("*.jsonl",),
        read_lines,
        ("data", "grid", "{}/own.jsonl", "--out", "{}/out", "--validation", "1", "--test", "0"),
    ),
    "text": Door(
        make_text,
        ("lines.txt", "grids.txt", "table.csv"),
        read_text,
        ("solve", "--file", "{}/lines.txt", "--model", "{}/weights", "--steps", "1"),
    ),
    "arc": Door(
        make_arc,
        ("*.json", "*/*.json"),
        read_arc,
        ("data", "arc", "--train", "{}/x_challenges.json", "--variants", "2"),
    ),
    "folder": Door(
        make_folder,
        ("*/*", "*/*/*"),
        read_folder,
        (
            "train",
            "mini",
            "--family.box-rows",
            "2",
            "--family.box-cols",
            "2",
            "--data.train",
            "{}/sudoku/train",
            "--data.hold-out",
            "1",
            "--out",
            "{}/out",
            "--stop-after",
            "1",
        ),
    ),
    "original": Door(make_theirs, ("step.pt", "legacy.pth", "arch.json"), read_theirs, ()),
}


def files_of(folder: Path) -> Files:
    """All files of a folder, by their path in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def put(files: Files, folder: Path) -> None:
    """Make a folder hold these files and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
