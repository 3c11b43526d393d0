"""What docs/EXTENDING.md shows is run: a family, a mixing layer, an optimizer and a logger."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from rich.console import Console

from trm.config import ModelConfig, OptimizerConfig, parse
from trm.models import Problem, build
from trm.models.mixing import MIXINGS
from trm.puzzles import FAMILIES, config_classes
from trm.recipe import RunConfig
from trm.training.loggers import LOGGERS, Logger
from trm.training.loop import train
from trm.training.optim import OPTIMIZERS, Optimizer

PAGE = (Path(__file__).parent.parent / "docs" / "EXTENDING.md").read_text(encoding="utf-8")
FAMILY, LINE, TRAINING, MIXING, OPTIMIZER, LOGGER = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(autouse=True)
def registries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder to work in; what an example adds is gone after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    tables = (FAMILIES, MIXINGS, OPTIMIZERS, LOGGERS)
    before = [dict(table) for table in tables]
    yield
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)
    sys.modules.pop("lights", None)
    config_classes.cache_clear()


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, "EXTENDING.md", "exec"), names)  # our own text, and the point of the test
    return names


def test_a_family(capsys):
    Path("lights.py").write_text(FAMILY)
    run(LINE)
    names = run(TRAINING)
    assert names["run"].finished
    out = capsys.readouterr().out
    assert "answer=" in out and "verified=" in out
    family = parse(RunConfig, names["recipe"], "test").family.build()
    pressed_L = family.parse("#........")
    assert family.verify(family.parse("##.#....."), pressed_L) is True
    assert family.verify(family.parse("##......."), pressed_L) is False


def test_a_mixing_layer():
    run(MIXING)
    config = ModelConfig(mixing="mixer", width=16, T=1, n=1).model_copy(update={"mixing": "mean"})
    torch.manual_seed(0)
    model = build(config, Problem(5, 4))
    tokens_BL, ids_B = torch.randint(5, (3, 4)), torch.zeros(3, dtype=torch.int64)
    _, out = model(tokens_BL, ids_B, model.initial_state(3))
    out.logits_BLV.square().sum().backward()
    gradients = [p.grad for name, p in model.named_parameters() if ".mix.map" in name]
    assert gradients and all(gradient.abs().sum() > 0 for gradient in gradients)


def test_an_optimizer():
    run(OPTIMIZER)
    model = tiny.model()
    config = OptimizerConfig(lr=0.1, warmup=0).model_copy(update={"name": "momentum"})
    optimizer = Optimizer(config, model, steps=10)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sum(p.square().sum() for p in model.parameters()).backward()
    optimizer.step(0)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {name for name, p in before.items() if p.abs().sum() > 0} == moved


def settings(*loggers: str) -> RunConfig:
    values = {
        "family": {"name": "sudoku", "box_rows": 2, "box_cols": 2},
        "data": {"generate": {"train": 8, "validation": 4, "extra_clues": 4}},
        "model": {"width": 16, "heads": 2, "T": 1, "n": 1, "mixing": "mixer"},
        "supervision": {"steps": 2},
        "train": {"batch": 4, "steps": 4, "log_every": 1, "eval_every": 2, "loggers": loggers},
    }
    return parse(RunConfig, values, "test")


def test_a_logger(tmp_path: Path):
    run(LOGGER)
    train(settings("best"), tmp_path / "run")
    assert re.fullmatch(r"0\.\d{3} at step 4\n", (tmp_path / "run" / "best.txt").read_text())


class Broken(Logger):
    """Works once."""

    def __init__(self, folder: Path, step: int):
        self.lines = 0

    def write(self, kind, step, values):
        self.lines += 1
        if self.lines > 1:
            raise OSError("the network is down\nand stays down")


def test_a_logger_that_fails_is_left_out_and_the_run_goes_on(tmp_path: Path, capsys):
    LOGGERS["broken"] = Broken
    assert train(settings("broken"), tmp_path / "run", console=Console(width=200)).finished
    assert capsys.readouterr().out.count("logger broken failed and is left out: the network is down\n") == 1
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 6


def test_a_logger_that_cannot_start_is_left_out(tmp_path: Path, capsys):
    def refuses(folder: Path, step: int) -> Logger:
        raise RuntimeError("no account")

    def missing(folder: Path, step: int) -> Logger:
        raise ImportError("no such package")

    LOGGERS.update(refuses=refuses, missing=missing)
    assert train(settings("refuses", "missing"), tmp_path / "run", console=Console(width=200)).finished
    said = capsys.readouterr().out
    assert "logger refuses failed and is left out: no account\n" in said
    assert "logger missing is not installed and is left out: no such package\n" in said


def test_an_unknown_logger_is_named(tmp_path: Path):
    from trm.errors import UserError

    with pytest.raises(UserError, match=r"unknown logger 'tensorbord'; known: tensorboard"):
        train(settings("tensorbord"), tmp_path / "run")
