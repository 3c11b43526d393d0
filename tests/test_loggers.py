"""Loggers: what they are told, where a resumed run goes on, and that none of them can stop a run."""

import io
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import tiny
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

import trm
from trm.config import parse
from trm.errors import UserError
from trm.files import git_commit
from trm.inference.picture import refinements
from trm.puzzles.table import from_arrays
from trm.recipe import RunConfig
from trm.terminal import pixels
from trm.training import loggers
from trm.training.loggers import LOGGERS, Logger
from trm.training.loop import train

SMALL = {
    "name": "small",
    "family": {"name": "sudoku", "box_rows": 2, "box_cols": 2},
    "data": {"generate": {"train": 12, "validation": 4, "extra_clues": 3}},
    "model": {"width": 16, "heads": 2, "layers": 1, "expansion": 1, "T": 1, "n": 1},
    "supervision": {"steps": 2},
}


def config(*names: str, steps: int = 4) -> RunConfig:
    often = {"log_every": 1, "eval_every": 2, "checkpoint_every": 2}
    return parse(RunConfig, SMALL | {"train": {"batch": 4, "steps": steps, "loggers": names} | often}, "test")


def go(settings: RunConfig | None, folder: Path, stop_after: int | None = None) -> str:
    """Train; what was said meanwhile."""
    said = io.StringIO()
    train(settings, folder, stop_after, console=Console(file=said, width=300))
    return said.getvalue()


class Service:
    """Stands in for a package that keeps runs elsewhere, with what both have in common."""

    def __init__(self):
        self.calls: list[tuple] = []
        self.broken = ""

    def note(self, name: str, *values: object) -> None:
        if self.broken == name:
            raise ConnectionError("the server\nis gone")
        self.calls.append((name, *values))

    def init(self, **options: object) -> "Service":
        self.note("init", options)
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        self.note("define", name, step_metric)

    def log(self, values: dict, step: int | None = None) -> None:
        self.note("log", values, step)

    def finish(self, exit_code: int | None = None) -> None:
        self.note("finish", exit_code)

    def named(self, name: str) -> list[tuple]:
        return [call[1:] for call in self.calls if call[0] == name]

    def figures(self) -> list[tuple[int, str]]:
        """Step and name of every figure."""
        found = []
        for values, step in self.named("log"):
            at = values["step"] if step is None else step
            found += [(at, name) for name in values if name != "step"]
        return found


@pytest.fixture(params=["wandb", "trackio"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Service]:
    found, module = Service(), ModuleType(request.param)
    module.init, module.Image, module.Settings = found.init, lambda pixels: pixels, SimpleNamespace
    monkeypatch.setitem(sys.modules, request.param, module)
    for name in ("WANDB_PROJECT", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return request.param, found


def test_name_configuration_commit_figures_and_pictures(service, tmp_path: Path):
    name, found = service
    settings = config(name)
    assert go(settings, tmp_path / "run").count("logger") == 0
    ((options,),) = found.named("init")
    own = json.loads((tmp_path / "run" / "logged-as.json").read_text())["id"]
    assert options["project"] == "trm"
    assert (options["name"], options["resume"]) == ("small" if name == "wandb" else f"small-{own}", "allow")
    assert options.get("id", own) == own
    told = options["config"]
    assert told["model"] == settings.model.model_dump(mode="json")
    assert (told["trm"], told["commit"]) == (trm.__version__, git_commit(Path(trm.__file__)))
    figures = found.figures()
    assert {(1, "train/loss"), (4, "train/exact_accuracy"), (2, "eval/exact_accuracy")} <= set(figures)
    assert [step for step, figure in figures if figure == "refined"] == [2, 4]
    shown = next(values["refined"] for values, _ in found.named("log") if "refined" in values)
    assert shown.dtype == np.uint8 and shown.ndim == 3 and len(np.unique(shown)) > 2
    assert found.calls[-1] == ("finish", 0 if name == "wandb" else None)


def test_a_resumed_run_goes_on_in_the_same_place(service, tmp_path: Path):
    name, found = service
    go(config(name), tmp_path / "run", stop_after=2)
    go(None, tmp_path / "run")
    ((first,), (second,)) = found.named("init")
    assert {key: first[key] for key in ("name", "project", "resume")} == {
        key: second[key] for key in ("name", "project", "resume")
    }
    assert first.get("id") == second.get("id")
    assert [step for step, figure in found.figures() if figure == "train/loss"] == [1, 2, 3, 4]
    go(config(name), tmp_path / "other")
    assert (
        found.named("init")[2][0]["name" if name == "trackio" else "id"]
        != first["name" if name == "trackio" else "id"]
    )


@pytest.mark.parametrize("when", ["init", "log", "finish"])
def test_a_service_that_fails_is_said_once_and_stops_nothing(service, tmp_path: Path, when: str):
    name, found = service
    found.broken = when
    said = go(config(name), tmp_path / "run")
    assert said.count(f"logger {name} failed and is left out: the server\n") == 1
    assert said.count("logger") == 1
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_package_that_was_asked_for_and_is_missing_is_named(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    said = go(config(name), tmp_path / "run")
    line = f"logger {name} is not installed and is left out: pip install 'trm[{name}]' adds it\n"
    assert (said.count(line), said.count("logger")) == (1, 1)


def test_tensorboard_is_usual_and_missed_by_nobody(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert "logger" not in go(config("tensorboard"), tmp_path / "run")


def test_an_unknown_logger_is_refused_before_anything_is_made(tmp_path: Path):
    with pytest.raises(UserError, match="unknown logger 'wanda'; known: tensorboard, wandb, trackio"):
        train(config("wanda"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Album(Logger):
    """Keeps pictures."""

    def __init__(self, folder: Path, step: int):
        self.folder = folder

    def write(self, kind: str, step: int, values: object) -> None:
        pass

    def picture(self, step: int, pixels_HWC: np.ndarray) -> None:
        np.save(self.folder / f"{step}.npy", pixels_HWC)

    def close(self, failed: bool = False) -> None:
        (self.folder / "closed.txt").write_text(str(failed))


class Blind(Logger):
    """Has no use for pictures."""

    def __init__(self, folder: Path, step: int):
        pass

    def write(self, kind: str, step: int, values: object) -> None:
        pass


def test_pictures_that_cannot_be_drawn_are_said_once(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(LOGGERS, "album", Album)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = go(config("album"), tmp_path / "a")
    assert said.count("pictures are left out: pip install 'trm[plot]' adds them") == 1
    monkeypatch.undo()
    monkeypatch.setitem(LOGGERS, "album", Album)
    monkeypatch.setattr("trm.training.loop.pixels", lambda drawn: 1 / 0)
    said = go(config("album"), tmp_path / "b")
    assert said.count("pictures failed and is left out: division by zero") == 1


def test_pictures_change_nothing_and_are_drawn_only_for_those_who_show_them(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(LOGGERS, "album", Album)
    monkeypatch.setitem(LOGGERS, "blind", Blind)
    go(config("album"), tmp_path / "a")
    monkeypatch.setattr("trm.training.loop.refinements", lambda *given: pytest.fail("drawn for nobody"))
    go(config("blind"), tmp_path / "b")
    assert (tmp_path / "a/2.npy").exists()
    same = [(tmp_path / run / "last" / "model.safetensors").read_bytes() for run in ("a", "b")]
    assert same[0] == same[1]


def test_a_logger_is_told_whether_the_run_failed(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(LOGGERS, "album", Album)
    go(config("album"), tmp_path / "a")
    assert (tmp_path / "a/closed.txt").read_text() == "False"
    settings = config("album").model_copy(
        update={"optimizer": config().optimizer.model_copy(update={"lr": 1e30, "warmup": 0})}
    )
    with pytest.raises(UserError, match="not finite"):
        train(settings, tmp_path / "b")
    assert (tmp_path / "b/closed.txt").read_text() == "True"


def test_the_tensorboard_gets_pictures_too(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    go(config("tensorboard"), tmp_path / "run")
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    assert [each.step for each in found.Images("refined")] == [2, 4]
    assert [each.step for each in found.Scalars("eval/exact_accuracy")] == [2, 4]


# The pictures themselves


def test_pixels_show_every_character_in_its_place():
    drawn = Panel.fit(Text("ab", style="black on yellow"))
    image = pixels(drawn)
    w, h = 9, 18
    assert image.shape == (3 * h, 6 * w, 3)
    paper = image[h : 2 * h, 2 * w : 4 * w]
    assert (paper == (255, 214, 102)).all(-1).mean() > 0.5
    assert (image[: h // 2 - 4] == 255).all()  # above the frame
    assert not np.array_equal(paper[:, :w], paper[:, w:])  # an a is no b
    blank = pixels(Panel.fit(Text("  ")))
    assert (blank[h : 2 * h, 2 * w : 4 * w] == 255).all()


def test_refinements_show_question_steps_and_solution():
    tokens_NL, answers_NL = (
        np.stack([tiny.TASK.parse(text) for text in texts])
        for texts in (tiny.PUZZLES[:2], (tiny.ANSWER, tiny.ANSWER))
    )
    puzzles = from_arrays(tokens_NL, answers_NL, np.zeros(2, np.int32))
    model = tiny.model().train()
    said = io.StringIO()
    Console(file=said, width=300).print(refinements(model, tiny.TASK, puzzles, steps=6))
    assert model.training  # as it was
    titles = next(line for line in said.getvalue().splitlines() if "puzzle" in line)
    last = tiny.solver(6).solve(tiny.PUZZLES[0])[0].steps
    shown = sorted({1, 2, 4} & set(range(last + 1)) | {last})
    places = [titles.index(f"step {step} ") for step in shown] + [titles.index("solution")]
    assert places == sorted(places)
    assert titles.count("step") == len(shown)
    assert "not yet" in said.getvalue()


def test_identity_is_made_once_and_kept(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("name: mine\nmodel: {width: 3}\n")
    first = loggers.Identity.of(tmp_path)
    assert first == loggers.Identity.of(tmp_path)
    assert len(first.id) == 8
    assert first.config["model"] == {"width": 3}
