"""Training: learning, exact resume in every way a run can end, and clear words when it cannot go on.

Runs of a few steps of a tiny model; forks of this process where a signal or a kill is part of the matter.
"""

import io
import json
import math
import os
import pickle
import re
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
import together
import torch
from rich.console import Console
from safetensors.torch import load_file

import trm
from trm import cli, pretrained, terminal
from trm.config import dump_config, parse
from trm.errors import UserError
from trm.files import git_commit, held
from trm.recipe import RunConfig, load_config
from trm.training import checkpoint
from trm.training.loop import train
from trm.training.step import TrainingStep

SMALL = {
    "name": "small",
    "family": {"name": "sudoku", "box_rows": 2, "box_cols": 2},
    "data": {"generate": {"train": 40, "validation": 12, "test": 4, "extra_clues": 2}},
    "model": {"width": 16, "heads": 2, "T": 2, "n": 1, "mixing": "mixer", "positions": "none"},
    "supervision": {"steps": 3},
    "optimizer": {"lr": 1e-3, "weight_decay": 0.1, "warmup": 3, "clip": 1.0},
    "ema": {"decay": 0.9, "start": 2},
    "train": {"batch": 8, "steps": 14, "log_every": 2, "eval_every": 7, "checkpoint_every": 5},
}


def config(**changes: dict) -> RunConfig:
    values = {k: dict(v) if isinstance(v, dict) else v for k, v in SMALL.items()}
    for section, options in changes.items():
        values[section] = values.get(section, {}) | options
    return parse(RunConfig, values, "test")


def weights(folder: Path) -> dict[str, bytes]:
    """The bytes of the weights a run ends with: average and raw."""
    return {name: (folder / "last" / name).read_bytes() for name in ("model.safetensors", "raw.safetensors")}


def metrics(folder: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """A run of all steps without interruption."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    assert train(config(), folder).finished
    return folder


def test_a_run_leaves_what_it_promises(reference: Path):
    names = {path.name for path in reference.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "data", "checkpoints", "best", "last"} <= names
    assert checkpoint.steps_saved(reference / "checkpoints") == [10, 14]
    assert [line["step"] for line in metrics(reference, "eval")] == [7, 14]
    assert [line["step"] for line in metrics(reference, "train")] == [2, 4, 5, 6, 7, 8, 10, 12, 14]
    assert all(line["loss"] > 0 for line in metrics(reference, "train"))
    average = load_file(reference / "last" / "model.safetensors")
    raw = load_file(reference / "last" / "raw.safetensors")
    assert not torch.equal(average["answer_head.weight"], raw["answer_head.weight"])
    assert set(average) - set(raw) == {"y_init", "z_init"}  # what is never trained has no raw form


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(reference: Path, tmp_path: Path):
    train(config(), tmp_path / "again")
    assert weights(tmp_path / "again") == weights(reference)
    other = parse(RunConfig, config().model_dump() | {"seed": 1}, "test")
    train(other, tmp_path / "other")
    assert weights(tmp_path / "other") != weights(reference)


@pytest.mark.parametrize("stops", [(1,), (5,), (9, 11)])
def test_resume_after_stop_is_exact(reference: Path, tmp_path: Path, stops: tuple[int, ...]):
    folder = tmp_path / "run"
    outcome = train(config(), folder, stop_after=stops[0])
    for stop in stops[1:]:
        assert not outcome.finished
        outcome = train(None, folder, stop_after=stop)
    assert outcome.step == stops[-1]
    assert train(None, folder).finished
    assert weights(folder) == weights(reference)
    evals = [[{**line, "seconds": 0} for line in metrics(each, "eval")] for each in (folder, reference)]
    assert evals[0] == evals[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {"name": "muon", "schedule": "cosine", "muon_lr": 0.01}},
        {"optimizer": {"name": "adamw"}},
        {"model": {"prefix": 2, "puzzle_width": 20}, "optimizer": {"puzzle_lr": 0.01}},
        {"model": {"kind": "hrm"}, "supervision": {"continue_loss": True}},
        {"model": {"kind": "transformer"}, "ema": {"decay": 0}},
        {"model": {"single_latent": True}, "supervision": {"act": False}},
    ],
    ids=["muon", "adamw", "puzzle_embedding", "hrm", "transformer", "single_latent"],
)
def test_every_kind_of_state_is_resumed_exactly(tmp_path: Path, changes: dict):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = config(**changes, train={"steps": 6, "eval_every": 6, "checkpoint_every": 6})
    train(settings, whole)
    train(settings, parts, stop_after=3)
    train(None, parts)
    name = "model.safetensors"
    assert (whole / "last" / name).read_bytes() == (parts / "last" / name).read_bytes()


def test_kill_at_any_moment_loses_nothing_that_was_saved(tmp_path: Path):
    """SIGKILL at four moments of a run that spends much of its time saving; then it goes on to the end."""
    settings = config(train={"steps": 40, "checkpoint_every": 1, "eval_every": 3})
    whole, folder = tmp_path / "whole", tmp_path / "run"
    train(settings, whole)
    reached: list[int] = []
    for delay in (0.02, 0.11, 0.26, 0.05):
        before = checkpoint.steps_saved(folder / "checkpoints")
        going_on = None if before else settings
        (process,) = together.start(1, lambda new=going_on: train(new, folder), tmp_path / "log")
        while checkpoint.steps_saved(folder / "checkpoints")[-1:] == before[-1:]:  # it is in the loop
            assert not os.waitpid(process, os.WNOHANG)[0], (tmp_path / "log0").read_text()
            time.sleep(0.01)
        time.sleep(delay)
        os.kill(process, signal.SIGKILL)
        assert together.join([process]) == [-signal.SIGKILL]
        reached.append(checkpoint.steps_saved(folder / "checkpoints")[-1])
    assert reached == sorted(reached) and reached[0] < reached[-1]
    assert train(None, folder).finished
    assert weights(folder) == weights(whole)
    assert not [path for path in folder.glob("**/.*") if path.name != ".metadata"], "drafts were left behind"
    logged = [line["step"] for line in metrics(folder, "train")]
    assert logged == list(range(1, 41)), "every step is logged once"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_and_say_how_to_go_on(tmp_path: Path, monkeypatch, number: signal.Signals):
    folder = tmp_path / "run"
    endless = {"steps": 100_000, "eval_every": 100_000, "checkpoint_every": 100_000, "log_every": 1}
    (tmp_path / "long.yaml").write_text(dump_config(config(train=endless)))
    monkeypatch.chdir(tmp_path)
    command = ["train", "long.yaml", "--out", "run"]
    (process,) = together.start(1, lambda: cli.main(command), tmp_path / "log")
    deadline = time.monotonic() + 60
    while not (folder / "metrics.jsonl").exists() or not metrics(folder, "train"):
        assert time.monotonic() < deadline and not os.waitpid(process, os.WNOHANG)[0]
        time.sleep(0.05)
    os.kill(process, number)
    assert together.join([process], 30) == [128 + number]
    output = (tmp_path / "log0").read_text()
    assert "saved; resume it with `trm train --resume run`" in output
    (step,) = checkpoint.steps_saved(folder / "checkpoints")
    assert f"stopped at step {step}" in output


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(tmp_path: Path):
    folder = tmp_path / "run"
    train(config(), folder, stop_after=5)
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("lr: 0.001", "lr: 1.0e+30"))
    with pytest.raises(UserError, match=r"not finite at step \d+; the last good checkpoint is step 5"):
        train(None, folder)
    assert checkpoint.steps_saved(folder / "checkpoints") == [5]
    state = load_file(folder / "last" / "raw.safetensors")
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_a_full_disk_stops_with_the_last_good_checkpoint(tmp_path: Path):
    """The limit on file size stands in for the disk: the checkpoint does not fit, small files do."""
    folder, whole = tmp_path / "run", tmp_path / "whole"
    settings = config(train={"eval_every": 14})
    train(settings, whole)
    train(settings, folder, stop_after=5)
    before = weights(folder)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, old[1]))
    try:
        with pytest.raises(
            UserError, match=r"disk is full.*step 10 was not written.*last good one is step 5"
        ):
            train(None, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, previous)
    assert checkpoint.steps_saved(folder / "checkpoints") == [5]
    assert weights(folder) == before
    assert train(None, folder).finished
    assert weights(folder) == weights(whole)


def test_damaged_checkpoints_are_refused_with_a_remedy(reference: Path, tmp_path: Path):
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", reference, folder], check=True)
    newest = checkpoint.checkpoint_path(folder / "checkpoints", 14)
    (shard,) = newest.glob("*.distcp")
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(UserError, match=r"damaged .*delete .*step-00000014 to resume from step 10"):
        train(None, folder)
    subprocess.run(["rm", "-r", newest], check=True)
    assert train(None, folder).finished
    assert weights(folder) == weights(reference)


def test_a_checkpoint_of_another_architecture_is_refused(reference: Path, tmp_path: Path):
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", reference, folder], check=True)
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("width: 16", "width: 32"))
    with pytest.raises(UserError, match="does not fit this run"):
        train(None, folder)


def test_folders_that_hold_something_else_are_left_alone(reference: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"holds another run; resume it with `trm train --resume"):
        train(config(), reference)
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="not empty and holds no run"):
        train(config(), tmp_path)
    with pytest.raises(UserError, match="holds no run"):
        train(None, tmp_path)


def test_a_run_killed_before_its_first_checkpoint_starts_again(reference: Path, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(dump_config(config()))
    assert train(None, tmp_path).finished
    assert weights(tmp_path) == weights(reference)


def test_weights_for_use_catch_up_with_the_checkpoint(reference: Path, tmp_path: Path):
    """A kill may come after the last checkpoint and before the weights for use are written."""
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", reference, folder], check=True)
    path = folder / "last" / "config.json"
    path.write_text(path.read_text().replace('"step": 14', '"step": 10'))
    (folder / "last" / "model.safetensors").write_bytes(b"older")
    assert train(None, folder).finished
    assert weights(folder) == weights(reference)


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, monkeypatch):
    """The loss of a step is taken before its update: it says nothing of the weights after it."""
    step = TrainingStep.__call__

    def poison(self, number: int) -> None:
        step(self, number)
        if number == 6:
            self.optimizer.parameters[0].data[0] = torch.nan

    monkeypatch.setattr(TrainingStep, "__call__", poison)
    with pytest.raises(UserError, match=r"not finite at step 7; the last good checkpoint is step 6"):
        train(config(train={"checkpoint_every": 1, "keep": 1, "eval_every": 14}), tmp_path / "run")
    assert checkpoint.steps_saved(tmp_path / "run" / "checkpoints") == [6]


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_a_checkpoint_that_is_no_plain_tensors_is_refused(reference: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", reference, folder], check=True)
    newest = checkpoint.checkpoint_path(folder / "checkpoints", 14)
    (newest / ".metadata").write_bytes(pickle.dumps(Bomb()))
    manifest = {path.name: checkpoint._fingerprint(path) for path in newest.iterdir()}
    del manifest["manifest.json"]
    (newest / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"holds more than tensors and was not loaded.*system"):
        train(None, folder)
    assert not (tmp_path / "exploded").exists()


def test_weights_for_use_do_not_ask_for_the_machine_they_were_trained_on(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: None)
    train(config(compute={"compile": "block"}), tmp_path / "run", stop_after=1)
    saved = json.loads((tmp_path / "run" / "last" / "config.json").read_text())
    assert "compute" not in saved and saved["about"]["recipe"]["compute"]["compile"] == "block"


def test_a_run_of_another_machine_goes_on_here_after_saying_so(tmp_path: Path):
    """A CUDA device, its graphs and its kernels are missing here; the precision may change as well."""
    folder, said = tmp_path / "run", io.StringIO()
    train(config(compute={"dtype": "bfloat16"}), folder, stop_after=3)
    text = (folder / "config.yaml").read_text()
    there = {"device": "cuda", "cuda_graph": "true", "kernels": "triton"}
    for option, value in there.items():
        text = re.sub(rf"\n  {option}: \w+\n", rf"\n  {option}: {value}\n", text)
    (folder / "config.yaml").write_text(text)
    assert load_config(folder / "config.yaml").compute.cuda_graph
    outcome = train(None, folder, stop_after=5, console=Console(file=said, width=200))
    assert outcome.step == 5
    says = "computing on cpu, as there is no cuda here, without a CUDA graph, without triton kernels\n"
    assert says in said.getvalue()
    assert train(None, folder, compute={"dtype": "float32", "device": "cpu"}).finished
    assert load_config(folder / "config.yaml").compute.dtype == "bfloat16", (
        "the run stays as it was asked for"
    )


def test_a_device_that_was_asked_for_must_be_there(tmp_path: Path):
    train(config(), tmp_path / "run", stop_after=1)
    device = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(UserError, match=f"no device '{device}' here"):
        train(None, tmp_path / "run", compute={"device": device})


def test_tiny_learns(tmp_path: Path):
    """The recipe for tests reaches on unseen classes what no untrained or memorising model could."""
    values = trm.load_recipe("tiny").model_dump()
    values["train"] |= {"steps": 200, "eval_every": 200}
    outcome = train(parse(RunConfig, values, "test"), tmp_path / "run")
    assert outcome.best > 0.9
    losses = [line["loss"] for line in metrics(tmp_path / "run", "train")]
    assert losses[-1] < 0.2 * losses[0]


# --- the folder of a run, and its data


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "extra", [".vimrc.old", ".notes.draft", "letter.txt", "data/train.csv", ".x.y.draft/z"]
)
def test_nothing_of_somebody_elses_folder_is_touched(tmp_path: Path, extra: str):
    (tmp_path / extra).parent.mkdir(exist_ok=True)
    (tmp_path / extra).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(UserError, match="choose another folder with --out"):
        train(config(), tmp_path)
    assert tree(tmp_path) == before


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path: Path):
    with pytest.raises(UserError, match=r"cannot read nothing\.csv"):
        train(config(data={"train": "nothing.csv", "hold_out": 2}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_new_run_takes_over_what_a_killed_one_left(reference: Path, tmp_path: Path):
    folder = tmp_path / "run"
    folder.mkdir()
    subprocess.run(["cp", "-r", reference / "data", folder / "data"], check=True)
    (folder / ".config.yaml.draft").write_text("half")
    (folder / ".data.abcdefgh.draft").mkdir()
    assert train(config(), folder).finished
    assert weights(folder) == weights(reference)
    assert not list(folder.glob(".*"))


def test_own_files_in_the_folder_of_a_run_stay(reference: Path, tmp_path: Path):
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", reference, folder], check=True)
    (folder / ".notes.draft").write_text("mine")
    (folder / ".vimrc.old").write_text("mine")
    assert train(None, folder).finished
    assert {path.name for path in folder.glob(".*")} == {".notes.draft", ".vimrc.old"}


def test_a_run_that_goes_on_finds_its_own_data_or_stops(reference: Path, tmp_path: Path):
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", reference, folder], check=True)
    lines = (folder / "data/train.csv").read_text().splitlines()
    (folder / "data/train.csv").write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    with pytest.raises(UserError, match=r"the train puzzles are not those .* \(40 then, 39 now\)"):
        train(None, folder)
    (folder / "data/train.csv").write_text("\n".join(lines) + "\n")
    assert train(None, folder).finished
    (folder / "data.json").unlink()  # a run of an earlier version kept no record
    assert train(None, folder).finished


def test_a_run_on_files_can_be_moved_with_them(reference: Path, tmp_path: Path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "mine").mkdir(parents=True)
    for name in ("train", "validation"):
        subprocess.run(["cp", reference / "data" / f"{name}.csv", here / "mine"], check=True)
    options = {"train": "train.csv", "validation": "validation.csv", "generate": {}}
    (here / "mine" / "recipe.yaml").write_text(dump_config(config(data=options)))
    monkeypatch.chdir(here)
    settings = load_config(Path("mine/recipe.yaml"))
    assert settings.data.train == "mine/train.csv"
    assert not train(settings, Path("runs/a"), 7).finished
    monkeypatch.chdir(tmp_path)
    here.rename(there)
    assert train(None, there / "runs" / "a").finished
    validation = there / "mine" / "validation.csv"
    validation.write_text(validation.read_text().replace("0\n", "1\n"))  # ratings play no part
    assert train(None, there / "runs" / "a").finished
    (there / "mine" / "train.csv").write_text(validation.read_text())
    with pytest.raises(UserError, match=r"equivalent to|are not those that this run"):
        train(None, there / "runs" / "a")


def test_no_two_processes_train_one_run(reference: Path, tmp_path: Path):
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", reference, folder], check=True)
    before = tree(folder)
    with (
        held(folder / "run.lock", "busy"),
        pytest.raises(UserError, match=r"is being trained \(another process holds .*run\.lock\)"),
    ):
        train(None, folder)
    assert tree(folder) == before
    assert train(None, folder).finished


def test_weights_say_the_commit_they_were_trained_with(reference: Path):
    assert pretrained.find(reference)[1].about["commit"] == git_commit(Path(trm.__file__))


def test_a_missing_file_of_a_run_is_named_with_the_place_that_names_it(
    reference: Path, tmp_path: Path, monkeypatch
):
    for name in ("train", "validation"):
        subprocess.run(["cp", reference / "data" / f"{name}.csv", tmp_path], check=True)
    monkeypatch.chdir(tmp_path)
    train(
        config(data={"train": "train.csv", "validation": "validation.csv", "generate": {}}), Path("runs/a"), 5
    )
    Path("validation.csv").rename("other.csv")
    with pytest.raises(
        UserError,
        match=r"config\.yaml names the file \.\./\.\./validation\.csv \(data\.validation\).*put it back",
    ):
        train(None, Path("runs/a"))
    Path("other.csv").rename("validation.csv")
    # A run of an earlier version named files from the folder where it was started.
    path = Path("runs/a/config.yaml")
    path.write_text(path.read_text().replace("../../", ""))
    assert train(None, Path("runs/a")).finished


def test_a_run_named_by_an_absolute_path_moves_with_the_data_beside_it(reference: Path, tmp_path: Path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    for name in ("train", "validation"):
        subprocess.run(["cp", reference / "data" / f"{name}.csv", here], check=True)
    options = {"train": str(here / "train.csv"), "validation": str(here / "validation.csv"), "generate": {}}
    assert not train(config(data=options), here / "run", 7).finished
    here.rename(there)
    assert train(None, there / "run").finished


def test_a_finished_run_made_longer_is_the_longer_run(reference: Path, tmp_path: Path):
    longer, whole, said = tmp_path / "longer", tmp_path / "whole", io.StringIO()
    subprocess.run(["cp", "-r", reference, longer], check=True)
    screen = Console(file=said, width=200)
    for steps in (14, 3):
        with pytest.raises(UserError, match=r"has done 14 steps: give more with --train\.steps, such as 28"):
            train(None, longer, steps=steps)
    outcome = train(None, longer, steps=20, console=screen)
    assert (outcome.start, outcome.step, outcome.finished) == (14, 20, True)
    assert "14 steps are now 20; the learning rate stays constant" in said.getvalue()
    train(config(train={"steps": 20}), whole)
    assert weights(longer) == weights(whole)
    assert load_config(longer / "config.yaml").train.steps == 20
    assert train(None, longer).start == 20  # nothing is left to do


def test_the_schedule_of_a_run_made_longer_is_that_of_the_whole(tmp_path: Path):
    said = io.StringIO()
    settings = config(optimizer={"schedule": "cosine"}, train={"steps": 4, "eval_every": 100})
    train(settings, tmp_path / "run")
    train(
        None, tmp_path / "run", steps=8, compute={"dtype": "bfloat16"}, console=Console(file=said, width=200)
    )
    new = load_config(tmp_path / "run" / "config.yaml")
    factor = 0.5 * (1 + math.cos(math.pi / 5))  # three steps of warm-up, and one of the five after it
    assert f"at step 4 the learning rate goes from 0 % to {100 * factor:.3g} % of its peak" in said.getvalue()
    assert (new.train.steps, new.compute.dtype) == (8, "float32")  # how it was computed now is not kept


def test_what_is_no_terminal_gets_a_line_now_and_then(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(terminal, "pause", lambda seconds: 0)
    said = io.StringIO()
    train(config(), tmp_path / "run", console=Console(file=said, width=200))
    lines = [line for line in said.getvalue().splitlines() if line.startswith("small ")]
    assert re.fullmatch(r"small 2/14  [\d.]+/s  eta \d+:\d\d:\d\d  loss [\d.]+  exact [\d.]+ %", lines[1])
    assert lines[-1].startswith("small 14/14")
    monkeypatch.undo()
    assert [terminal.pause(seconds) for seconds in (0, 400, 86_400)] == [10, 20, 300]
    assert "small" not in silent(tmp_path / "again")


def silent(folder: Path) -> str:
    said = io.StringIO()
    train(config(), folder, console=Console(file=said, quiet=True))
    return said.getvalue()
