"""The benchmark that runs the original beside ours: with a checkout all of it, else what is around it.

Set TRM_ORIGINAL to a checkout of the published code for the comparison itself, which takes two minutes.
"""

import io
import json
import math
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import checkout
import numpy as np
import parity
import pytest
import torch
from parity import Row
from rich.console import Console
from tiny_arc import SIDE, made

from trm.errors import UserError
from trm.kernels import plain
from trm.original import folders
from trm.puzzles.arc.config import ArcConfig
from trm.puzzles.arc.family import Arc
from trm.puzzles.arc.rows import rows_of
from trm.puzzles.arc.variants import make
from trm.puzzles.sudoku.config import SudokuConfig

ORIGINAL = os.environ.get("TRM_ORIGINAL", "")
needs_original = pytest.mark.skipif(not ORIGINAL, reason=f"TRM_ORIGINAL names no checkout of {checkout.NAME}")
SCRIPT = Path(parity.__file__)


# With a checkout


@needs_original
def test_ours_agrees_with_the_original(capsys):
    assert parity.main(original=Path(ORIGINAL), json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] and all(row["ok"] for row in report["rows"])
    judged = [row for row in report["rows"] if row["allowed"] is not None]
    assert {row["part"] for row in judged} == set(parity.PARTS)
    assert all(
        len([row for row in judged if row["part"] == part]) >= parity.LEAST[part] for part in parity.PARTS
    )


@needs_original
def test_a_fault_is_found(monkeypatch, capsys):
    monkeypatch.setattr(plain, "EPS", 1e-6)
    assert parity.main(original=Path(ORIGINAL), only=("steps",)) == 1
    assert "too far" in capsys.readouterr().out


# Tolerances


@pytest.mark.parametrize(
    ("difference", "allowed", "ok"),
    [(0, 0, True), (1, 0, False), (1e-5, 1e-5, True), (1.1e-5, 1e-5, False), (math.nan, 1, False),
     (math.inf, 1, False), (5, None, True), (None, 0, True)],
)  # fmt: skip
def test_what_is_near_enough(difference: float | None, allowed: float | None, ok: bool):
    assert Row("steps", "a", "b", difference, allowed).ok is ok


def test_steps_are_judged_until_rounding_decides():
    row = Row("steps", "mixer", "steps in a row", None)
    near, rest = parity.judged(row, [0.0, 2e-4, 5.0], [1e-9, 1e-4, 2e-3], 1e-5)
    assert near == Row("steps", "mixer", "2 steps in a row", 2e-4, pytest.approx(1e-3), 1e-4)
    assert rest == Row("steps", "mixer", "all 3 steps in a row", 5.0, None, 2e-3)
    (whole,) = parity.judged(row, [0.0, 2e-4], [1e-9, 1e-8], 1e-5)
    assert whole == Row("steps", "mixer", "2 steps in a row", 2e-4, 1e-5, 1e-8)
    assert not whole.ok
    first, _ = parity.judged(row, [0.5, 0.0], [math.nan, 0.0], 1e-5)  # where it is no number, nothing is near
    assert first.compared == "1 steps in a row" and not first.ok


def test_a_difference_is_relative_to_the_largest_value():
    assert parity.relative(torch.tensor([1.0, 4.5]), torch.tensor([1.0, -4.0])) == 8.5 / 4
    assert parity.relative(torch.tensor([0.5]), torch.zeros(1)) == 0.5


# The table and the exit code


def votes(*differences: float) -> dict[str, Callable[..., Iterator[Row]]]:
    def part(original: object, home: Path, seed: int) -> Iterator[Row]:
        assert home.is_dir() and seed == 3
        yield from (Row("votes", f"case {n}", "4 rows", each) for n, each in enumerate(differences))

    return {"votes": part}


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """Something that has the files of a checkout, and nothing of the original in them."""
    for name in checkout._NEEDED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "pretrain.py").write_text(
        "import coolname, hydra, numpy, torch, wandb\n"
        "from adam_atan2 import AdamATan2\n"
        "from argdantic import ArgParser\n"
        "from omegaconf import DictConfig\n"
        "@ArgParser().command(singleton=True)\n"
        "@hydra.main(config_path='config', version_base=None)\n"
        "def launch(config: DictConfig):\n"
        "    print('printed by the original')\n"
        "    with torch.device('cuda'):\n"
        "        return torch.zeros(2).cuda()\n"
        "numpy.random.seed(0)\n"
        "print('printed by the original')\n"
    )
    (tmp_path / "models/layers.py").write_text("import torch\ndef narrow(x): return x.to(torch.float32)\n")
    (tmp_path / "models/losses.py").write_text("import something_that_is_not_here\n")
    return tmp_path


@pytest.mark.parametrize(("differences", "code"), [((0, 0), 0), ((0, 2), 1)])
def test_the_exit_code_says_whether_all_is_near_enough(monkeypatch, capsys, fake, differences, code):
    monkeypatch.setattr(parity, "PARTS", votes(*differences))
    arguments = {"original": fake, "only": ("votes", "votes"), "seed": 3}
    assert parity.main(**arguments) == code
    shown = capsys.readouterr().out
    assert shown.count("case 0") == 1 and "original unknown, seed 3" in shown
    assert ("too far" in shown) == ("1 of 2 comparisons" in shown) == bool(code)
    assert parity.main(**arguments, json=True) == code
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is not code and report["original"] == "unknown"
    assert [row["difference"] for row in report["rows"]] == list(differences)
    assert report["rows"][1]["ok"] is not code


def test_the_table_says_how_far_and_what_is_not_judged():
    console = Console(width=100, record=True, file=io.StringIO())
    lines = [
        Row("steps", "attention", "16 steps", 1.25e-6, 1e-5, 3e-6),
        Row("steps", "mixer", "all 16 steps", 1.5, None, 1.25),
        Row("steps", "single z", "not in this checkout", None),
        Row("folders", "Maze", "48 rows", 3),
    ]
    for table in parity.tables(lines):
        console.print(table)
    shown = [line.split() for line in console.export_text().splitlines() if line.strip()]
    assert ["attention", "16", "steps", "1.3e-06", "3.0e-06", "1.0e-05", "ok"] in shown
    assert ["mixer", "all", "16", "steps", "1.5e+00", "1.2e+00", "not", "judged"] in shown
    assert ["single", "z", "not", "in", "this", "checkout", "not", "judged"] in shown
    assert ["Maze", "48", "rows", "3", "0", "too", "far"] in shown
    assert ["steps"] in [line[:1] for line in shown] and ["folders"] in [line[:1] for line in shown]


# What is refused


def test_a_folder_that_is_no_checkout_is_one_line(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--original", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and not out
    assert len(err.splitlines()) == 1
    assert f"error: {tmp_path} is not a checkout of {checkout.NAME}: it has no " in err


def test_a_file_that_is_missing_is_named(fake: Path):
    (fake / "models/losses.py").unlink()
    with pytest.raises(UserError, match=r"it has no models/losses\.py; clone that repository"):
        parity.main(original=fake)
    with pytest.raises(UserError, match="is not a checkout"):
        parity.main(original=fake / "nowhere")


def test_a_seed_that_the_original_cannot_take_is_refused(fake: Path):
    with pytest.raises(UserError, match=r"--seed is 4294967296: give 0 to 4294967295"):
        parity.main(original=fake, seed=2**32)


# The checkout


def test_a_checkout_is_opened_without_cuda_and_leaves_nothing_behind(fake: Path, capsys, monkeypatch):
    monkeypatch.delenv("DISABLE_COMPILE", raising=False)
    np.random.seed(1)  # noqa: NPY002
    before, paths, cuda = dict(sys.modules), list(sys.path), torch.Tensor.cuda
    with checkout.opened(fake) as original:
        assert original.commit == "unknown"
        pretrain = original.module("pretrain")
        assert pretrain.launch({}).device.type == "cpu"
        assert pretrain.AdamATan2 is checkout.PlainAdamATan2
        assert os.environ["DISABLE_COMPILE"] == "1"
        assert original.has("models.losses") and not original.has("models.recursive_reasoning.hrm")
    assert capsys.readouterr().out == ""
    assert sys.path == paths and torch.Tensor.cuda is cuda and "DISABLE_COMPILE" not in os.environ
    assert not {"pretrain", "models", "models.layers", "wandb", "argdantic"} & (
        sys.modules.keys() - before.keys()
    )
    state = np.random.get_state()[1]  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_a_module_that_cannot_be_imported_is_a_user_error(fake: Path):
    with (
        checkout.opened(fake) as original,
        pytest.raises(UserError, match=r"cannot import models\.losses of .*: No"),
    ):
        original.module("models.losses")


def test_its_layers_compute_in_float64_where_that_is_asked_for(fake: Path):
    with checkout.opened(fake) as original:
        layers, wide = original.module("models.layers"), torch.ones(1, dtype=torch.float64)
        with original.exactly(True):
            assert layers.narrow(wide).dtype == torch.zeros(1).dtype == torch.float64
        with original.exactly(False):
            assert layers.narrow(wide).dtype == torch.zeros(1).dtype == torch.float32
        assert layers.narrow(wide).dtype == torch.float32


def test_the_commit_of_a_checkout(tmp_path: Path):
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "first")
    clean = checkout.commit(tmp_path)
    assert len(clean) == 7 and set(clean) <= set("0123456789abcdef")
    (tmp_path / "a").write_text("2")
    assert checkout.commit(tmp_path) == clean + "+"


def test_the_optimizer_that_stands_in_takes_the_step_worked_by_hand():
    p = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    optimizer = checkout.PlainAdamATan2([p], lr=0.1, betas=(0.9, 0.95), weight_decay=0.5)
    p.grad = torch.tensor([3.0, -4.0], dtype=torch.float64)
    optimizer.step()
    # m is a tenth of g, and the root of the corrected v is its size: atan2(0.3, 3) and atan2(-0.4, 4).
    first = 0.1 / 0.1 * math.atan(0.1)
    assert p.tolist() == pytest.approx([0.95 - first, 1.9 + first], abs=1e-15)
    p.grad = torch.tensor([1.0, 0.0], dtype=torch.float64)
    optimizer.step()
    m, v = 0.9 * 0.3 + 0.1, 0.95 * 0.45 + 0.05
    second = 0.1 / 0.19 * math.atan2(m, math.sqrt(v / (1 - 0.95**2)))
    assert p[0].item() == pytest.approx((0.95 - first) * 0.95 - second, abs=1e-15)


def test_axes_are_permuted_by_name():
    x = torch.arange(24).view(1, 2, 3, 4)
    assert torch.equal(checkout.permuted(x, "B S H D -> B H S D"), x.transpose(1, 2))


def test_networks_that_a_checkout_does_not_have_are_not_compared(fake: Path):
    def compare(case: parity.Case, dtype: str) -> Iterator[Row]:
        assert torch.get_default_dtype() == getattr(torch, dtype)
        yield Row("steps", case.name, dtype, 0)

    with checkout.opened(fake) as original:
        found = list(parity._each("steps", original, compare))
    compared = [(row.what, row.compared) for row in found if row.difference is not None]
    own = ("attention", "learned positions", "mixer")
    assert compared == [(name, dtype) for name in own for dtype in ("float32", "float64")]
    others = [row for row in found if row.difference is None]
    assert [row.what for row in others] == ["single z", "HRM", "transformer"]
    assert {row.compared for row in others} == {"not in this checkout"}


# What is compared


def test_files_are_the_same_whatever_the_width_of_their_integers(tmp_path: Path):
    one, other = tmp_path / "a.npy", tmp_path / "b.npy"
    np.save(one, np.arange(4, dtype=np.int64))
    np.save(other, np.arange(4, dtype=np.uint8))
    assert parity._same_file(one, other) and not parity._same_file(one, tmp_path / "missing.npy")
    np.save(other, np.arange(1, 5, dtype=np.uint8))
    assert not parity._same_file(one, other)
    one, other = tmp_path / "a.json", tmp_path / "b.json"
    one.write_text(json.dumps({"total_puzzles": 2, "seq_len": 81}))
    other.write_text(json.dumps({"total_puzzles": 16, "seq_len": 81}))
    assert parity._same_file(one, other)
    other.write_text(json.dumps({"total_puzzles": 2, "seq_len": 80}))
    assert not parity._same_file(one, other)


# What both are given


def test_weights_move_by_one_unit_in_the_last_place():
    weights = {"a": torch.randn(50), "b": torch.randn(50, dtype=torch.float64)}
    moved = parity.nudged(weights, 0)
    for name, weight in weights.items():
        up, down = (torch.nextafter(weight, torch.full_like(weight, end)) for end in (math.inf, -math.inf))
        assert ((moved[name] == up) | (moved[name] == down)).all()
        assert (moved[name] == up).any() and (moved[name] == down).any()
    assert all(
        torch.equal(a, b) for a, b in zip(moved.values(), parity.nudged(weights, 0).values(), strict=True)
    )


def test_a_start_has_nothing_at_zero_and_fits_float32():
    zeros = {name: torch.zeros(3, 4, dtype=torch.float64) for name in ("q_head.weight", "puzzle_emb.weights")}
    begun = parity.start(
        zeros | {"q_head.bias": torch.full((2,), -5.0), "w": torch.full((2,), 0.1).double()}, 0
    )
    assert begun["q_head.bias"].tolist() == [-1, -1] and begun["w"].dtype == torch.float64
    for name in zeros:
        assert begun[name].all() and torch.equal(begun[name].float().double(), begun[name])


def test_the_training_folder_has_ids_with_several_rows(tmp_path: Path):
    parity.write_training_folder(tmp_path / "data", 0)
    rows = folders.read(tmp_path / "data", "train", SudokuConfig(box_rows=2, box_cols=2).build())
    assert np.bincount(rows.puzzle_N).tolist() == [0] + [3] * 8
    assert rows.group_N is not None and np.bincount(rows.group_N).tolist() == [6] * 4


def test_predictions_are_for_the_most_part_near_the_answer():
    family, tasks = Arc(ArcConfig(side=SIDE, variants=6)), [made("a"), made("b", test=2)]
    table = make(tasks, 6, 0)
    asked = [(pair, puzzle) for task in tasks for puzzle in table.ids(task.name) for pair in task.test]
    rows = rows_of([pair for pair, _ in asked], SIDE, np.array([puzzle for _, puzzle in asked]))
    canvas_NL, halt_N = parity.predictions(rows, table, tasks, family, 0)
    assert canvas_NL.shape == rows.answers_NL.shape and halt_N.shape == (18,)
    assert all(family.grid(canvas_L).size for canvas_L in canvas_NL)
    again = parity.predictions(rows, table, tasks, family, 0)
    assert np.array_equal(canvas_NL, again[0]) and not np.array_equal(canvas_NL[0], canvas_NL[1])
