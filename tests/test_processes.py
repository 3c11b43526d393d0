"""Several processes against one: the same rows, the same answers, the same end.

Processes are forks of the test's own, see `together`; one test goes the whole way through the command.
"""

import json
import os
import signal
import socket
import time
from datetime import timedelta
from pathlib import Path

import cluster
import pytest
import tiny
import tiny_arc
import together
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from test_train import config, metrics
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader, load
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from trm import cli, processes
from trm.config import Effort, ModelConfig, dump_config
from trm.errors import UserError
from trm.inference import solver
from trm.inference.solver import Solver
from trm.models import build
from trm.processes import ALONE, Processes
from trm.recipe import RunConfig
from trm.training import checkpoint
from trm.training.loop import _Run, train
from trm.training.step import TrainingStep

EXACT = {"compute": {"dtype": "float64"}, "loss": {"tokens": "stablemax64"}}
CHANGES = {
    "attention": {"model": {"mixing": "attention", "positions": "rope"}, "optimizer": {"name": "adamw"}},
    "hrm": {"model": {"kind": "hrm"}, "supervision": {"continue_loss": True, "exploration": 0.5}},
    "puzzles": {"model": {"prefix": 2, "puzzle_width": 20}, "optimizer": {"puzzle_lr": 0.01}},
    "search": {
        "model": {
            "kind": "candidates",
            "mixing": "relations",
            "halting": "every",
            "conflict_head": True,
            "inner": 16,
            "heads": 1,
        },
        "supervision": {
            "start_noise": 1.0,
            "noise": 0.1,
            "hints": 0.5,
            "first_hints": 2,
            "decisions": 0.5,
            "contradictions": 0.2,
        },
    },
}


@pytest.fixture(scope="module", autouse=True)
def forks_inherit_what_is_compiled(tmp_path_factory) -> None:
    train(short(train={"steps": 1}), tmp_path_factory.mktemp("first") / "run")


def short(**changes: dict) -> RunConfig:
    """Four steps, with an evaluation and a checkpoint in the middle."""
    train = {"steps": 4, "log_every": 1, "eval_every": 2, "checkpoint_every": 2, "loggers": ()}
    return config(**EXACT | changes | {"train": train | changes.get("train", {})})


def by(count: int, settings: RunConfig | None, folder: Path, stop_after: int | None = None) -> Path:
    """A run in a folder, resumed where there is no configuration; weights and all in float64."""

    def work() -> None:
        torch.set_default_dtype(torch.float64)
        train(settings, folder, stop_after)

    together.together(count, work, folder.with_suffix(".log"))
    return folder


def state(folder: Path) -> dict[str, Tensor]:
    """All tensors of the newest checkpoint."""
    path = checkpoint.checkpoint_path(
        folder / "checkpoints", checkpoint.steps_saved(folder / "checkpoints")[-1]
    )
    kept = FileSystemReader(path).read_metadata().state_dict_metadata
    found = {name: torch.empty(each.size, dtype=each.properties.dtype) for name, each in kept.items()}
    with checkpoint._one_process():
        load(found, checkpoint_id=path, no_dist=True)
    return found


def assert_the_same_run(folder: Path, alone: Path) -> None:
    """Rows and all that is drawn for them to the bit, numbers up to the order in which they were added."""
    ours, theirs = state(folder), state(alone)
    assert set(ours) == set(theirs)
    for name, wanted in theirs.items():
        if name != "counters.seconds":
            close = {"rtol": 0, "atol": 1e-11 if wanted.is_floating_point() else 0}
            torch.testing.assert_close(ours[name], wanted, **close, msg=lambda m, n=name: f"{n}: {m}")
    for kind in ("train", "eval"):
        for line, other in zip(metrics(folder, kind), metrics(alone, kind), strict=True):
            for name in set(other) - {"kind", "seconds"}:
                assert line[name] == pytest.approx(other[name], rel=1e-5), name
    weights = [load_file(each / "last" / "model.safetensors") for each in (folder, alone)]
    assert all(torch.allclose(weights[0][name], w, atol=1e-11) for name, w in weights[1].items())


@pytest.mark.parametrize(("name", "count"), [("attention", 2), ("hrm", 2), ("puzzles", 3), ("search", 2)])
def test_several_processes_train_as_one(tmp_path: Path, name: str, count: int):
    settings = short(**CHANGES[name])
    alone, several = by(1, settings, tmp_path / "alone"), by(count, settings, tmp_path / "several")
    assert_the_same_run(several, alone)  # 8 rows, of which three processes have 2, 3 and 3
    assert not (tmp_path / "several.log1").read_text()


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path):
    settings = short(**CHANGES["search"])
    alone, changing = by(1, settings, tmp_path / "alone"), tmp_path / "changing"
    by(3, settings, changing, 3)
    by(2, None, changing)
    assert_the_same_run(changing, alone)


def test_only_puzzle_embeddings_are_trained_by_two(tmp_path: Path):
    settings = short(
        model={"prefix": 2, "puzzle_width": 20}, optimizer={"puzzle_lr": 0.01, "only_puzzles": True}
    )
    alone, both = by(1, settings, tmp_path / "alone"), by(2, settings, tmp_path / "both")
    assert_the_same_run(both, alone)


def test_float32_differs_by_its_rounding(tmp_path: Path):
    settings = config(train={"steps": 4, "log_every": 1, "eval_every": 4, "loggers": ()})
    for count in (1, 2):
        folder = tmp_path / str(count)
        together.together(count, lambda folder=folder: train(settings, folder) and None, tmp_path / "log")
    losses = [[line["loss"] for line in metrics(tmp_path / each, "train")] for each in "12"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert metrics(tmp_path / "2", "eval")[0]["n"] == 12


LONG = {"steps": 100_000, "eval_every": 100_000, "checkpoint_every": 2, "log_every": 1, "loggers": ()}


def begun(folder: Path, ids: list[int], seconds: float = 120) -> None:
    """Wait until a run has saved something."""
    deadline = time.monotonic() + seconds
    while not checkpoint.steps_saved(folder / "checkpoints"):
        assert time.monotonic() < deadline and not os.waitpid(ids[0], os.WNOHANG)[0]
        time.sleep(0.01)


def test_a_signal_to_one_stops_all_at_the_same_step(tmp_path: Path):
    folder, settings = tmp_path / "run", config(train=LONG)

    def work() -> int:
        outcome = train(settings, folder)
        print(outcome.step)
        return outcome.signal or 0

    ids = together.start(2, work, tmp_path / "log")
    begun(folder, ids)
    os.kill(ids[1], signal.SIGTERM)
    assert together.join(ids) == [signal.SIGTERM] * 2
    steps = [int((tmp_path / f"log{rank}").read_text().split()[-1]) for rank in range(2)]
    assert steps == [checkpoint.steps_saved(folder / "checkpoints")[-1]] * 2


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_others_and_the_run_goes_on(tmp_path: Path, victim: int):
    folder = tmp_path / "run"
    ids = together.start(2, lambda: train(config(train=LONG), folder) and None, tmp_path / "log")
    begun(folder, ids)
    os.kill(ids[victim], signal.SIGKILL)
    started = time.monotonic()
    codes = together.join(ids)
    assert time.monotonic() - started < 30 and codes[victim] == -signal.SIGKILL and codes[1 - victim] == 2
    said = (tmp_path / f"log{1 - victim}").read_text()
    assert ("UserError" if victim else "SaidElsewhere") + ": another of the 2 processes has ended" in said
    last = checkpoint.steps_saved(folder / "checkpoints")[-1]
    by(2, None, folder, last + 1)
    assert checkpoint.steps_saved(folder / "checkpoints")[-1] == last + 1


@pytest.mark.parametrize("missing", [0, 1])
def test_a_process_that_never_comes_is_not_waited_for_long(tmp_path: Path, monkeypatch, missing: int):
    monkeypatch.setattr(processes, "MEETING", timedelta(seconds=1.2))

    def work() -> None:
        if os.environ["RANK"] == str(missing):
            os._exit(7)
        with processes.joined("cpu"):
            pass

    codes = together.join(together.start(2, work, tmp_path / "log"), 30)
    assert (codes[missing], codes[1 - missing]) == (7, 2)
    words = "not all of the 2 processes came within 0.02 minutes; start them again"
    assert words in (tmp_path / f"log{1 - missing}").read_text()


def test_where_the_processes_cannot_meet_is_said(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(processes, "MEETING", timedelta(seconds=20))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"

        def work() -> None:
            if os.environ["RANK"] == "1":
                return
            os.environ["MASTER_PORT"] = place.partition(":")[2]
            with processes.joined("cpu"):
                pass

        assert together.join(together.start(2, work, tmp_path / "log"), 30) == [2, 0]
    assert f"the processes could not meet at {place} (" in (tmp_path / "log0").read_text()


def test_those_who_have_met_wait_longer_than_for_a_meeting(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(processes, "MEETING", timedelta(seconds=2))

    def work() -> None:
        with processes.joined("cpu") as group:
            time.sleep(3 if group.first else 0)
            assert group.largest(group.rank) == 1

    together.together(2, work, tmp_path / "log")


def test_a_run_that_torchrun_starts_again_goes_on(tmp_path: Path, monkeypatch):
    settings, folder = (
        config(train={"steps": 3, "checkpoint_every": 1, "log_every": 1, "loggers": ()}),
        tmp_path / "run",
    )
    train(settings, folder, stop_after=2)
    with pytest.raises(UserError, match="holds another run"):
        train(settings, folder)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert train(settings, folder).finished
    assert [line["step"] for line in metrics(folder, "train")] == [1, 2, 3]
    assert train(settings, tmp_path / "another", stop_after=1).step == 1


def test_a_full_disk_of_the_first_is_an_error_of_all(tmp_path: Path, monkeypatch):
    def full(*_: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(checkpoint, "save", full)
    ids = together.start(2, lambda: train(short(), tmp_path / "run") and None, tmp_path / "log")
    assert together.join(ids) == [2, 2]
    assert (tmp_path / "log0").read_text() == "UserError: the disk is full\n"
    assert "SaidElsewhere: the disk is full" in (tmp_path / "log1").read_text()


def test_an_error_of_another_than_the_first_names_its_process(tmp_path: Path, monkeypatch):
    def work() -> None:
        with processes.joined("cpu") as group:
            if group.rank == 1:
                raise UserError("no such file")
            group.largest(1)

    ids = together.start(2, work, tmp_path / "log")
    assert together.join(ids) == [2, 2]
    assert (tmp_path / "log1").read_text() == "UserError: process 1 of 2: no such file\n"


def test_weights_that_have_come_apart_are_not_saved(tmp_path: Path, monkeypatch):
    step = _Run.one_step

    def drift(self: _Run) -> None:
        step(self)
        if self.group.rank == 1 and self.step == 1:
            self.module.answer_head.weight.data[0, 0] += 1e-6

    monkeypatch.setattr(_Run, "one_step", drift)
    ids = together.start(2, lambda: train(short(), tmp_path / "run") and None, tmp_path / "log")
    assert together.join(ids) == [2, 2]
    assert "at step 2 the processes no longer have the same weights" in (tmp_path / "log0").read_text()
    assert not checkpoint.steps_saved(tmp_path / "run" / "checkpoints")


def test_a_batch_must_have_a_row_for_each_process():
    assert [list(Processes(rank, 3).share(8)) for rank in range(3)] == [[0, 1], [2, 3, 4], [5, 6, 7]]
    with pytest.raises(UserError, match="a batch of 2 rows has too few for 3 processes"):
        Processes(0, 3).share(2)


def test_what_processes_say_to_each_other(tmp_path: Path):
    def work() -> None:
        with processes.joined("cpu") as group:
            rank = group.rank
            own = group.share(7)
            for dtype in (torch.bool, torch.int32, torch.float64, torch.bfloat16):
                whole = (torch.arange(14).view(7, 2) % 3).to(dtype)
                assert torch.equal(group.whole(whole[own.start : own.stop], 7), whole)
            tensors = [torch.tensor([1.0, rank]), torch.tensor(2.0)]
            group.add_up(tensors)
            assert [each.tolist() for each in tensors] == [[3.0, 3.0], 6.0]
            assert group.largest(-rank) == 0
            assert group.by_first(lambda: {"said": rank}) == {"said": 0}
            assert group.alike([torch.ones(3)]) and not group.alike([torch.ones(3) * rank])
            dealt = list(group.deal(range(7), lambda item: [item, item * item] if item != 4 else []))
            assert dealt == [each for item in range(7) if item != 4 for each in (item, item * item)]

    together.together(3, work, tmp_path / "log")


def test_alone_nothing_is_exchanged():
    with processes.joined("cpu") as group:
        assert group is ALONE
    tensor = torch.ones(3)
    assert ALONE.whole(tensor, 3) is tensor and list(ALONE.share(3)) == [0, 1, 2]
    assert list(ALONE.deal([1, 2], lambda n: [n] * n)) == [1, 2, 2]


def test_a_slurm_job_is_several_processes(tmp_path: Path, monkeypatch):
    def work() -> None:
        rank, port = os.environ["RANK"], os.environ["MASTER_PORT"]
        for name in [name for name in os.environ if name.startswith("TORCHELASTIC")]:
            del os.environ[name]
        os.environ |= {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
        os.environ |= {
            "SLURM_PROCID": rank,
            "SLURM_LOCALID": rank,
            "SLURM_NODEID": "0",
            "SLURM_JOB_NAME": "job",
        }
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        with processes.joined("cpu") as group:
            assert (group.rank, group.count) == (int(rank), 2) and group.largest(group.rank) == 1

    together.together(2, work, tmp_path / "log")
    monkeypatch.setenv("SLURM_NTASKS", "2")  # the script of a job, outside srun
    with processes.joined("cpu") as group:
        assert group is ALONE


def test_the_command_starts_processes_and_says_which_one_died(tmp_path: Path, monkeypatch):
    (tmp_path / "long.yaml").write_text(dump_config(config(train=LONG)))
    monkeypatch.chdir(tmp_path)
    command = ["train", "long.yaml", "--out", "run", "--processes", "2"]
    (process,) = together.start(1, lambda: cli.main(command), tmp_path / "log")
    try:
        begun(tmp_path / "run", [process], 240)
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        ranks = {}
        for child in map(int, children):
            environment = Path(f"/proc/{child}/environ").read_bytes().decode().split("\0")
            ranks |= {
                int(each.removeprefix("RANK=")): child for each in environment if each.startswith("RANK=")
            }
        assert sorted(ranks) == [0, 1]
        os.kill(ranks[1], signal.SIGKILL)
    except BaseException:
        os.kill(process, signal.SIGTERM)
        raise
    finally:
        (code,) = together.join([process])
    said = (tmp_path / "log0").read_text()
    assert code == 2, said
    assert "process 1 of 2 was killed (SIGKILL) and the others were ended; what was saved is good" in said
    assert "resume with `trm train --resume run --processes 2`" in said and "Traceback" not in said
    assert json.loads((tmp_path / "run" / "data.json").read_text())["train"]["rows"] == 40


def test_two_nodes_of_two_processes_train_as_one(tmp_path: Path):
    """What torchrun runs on each machine, twice on this one; the nodes meet at an address."""
    settings, port = short(**CHANGES["puzzles"]), together.free_port()
    alone, folder = by(1, settings, tmp_path / "alone"), tmp_path / "run"

    def worker() -> tuple[str, str, str]:
        torch.set_default_dtype(torch.float64)
        train(settings, folder)
        return os.environ["GROUP_RANK"], os.environ["LOCAL_RANK"], os.environ["RANK"]

    def node() -> None:
        how = LaunchConfig(
            min_nodes=2,
            max_nodes=2,
            nproc_per_node=2,
            run_id="test",
            rdzv_backend="c10d",
            rdzv_endpoint=f"127.0.0.1:{port}",
            start_method="fork",
            max_restarts=0,
            monitor_interval=0.05,
        )
        print(sorted(elastic_launch(how, worker)().values()))

    ids = [*together.start(1, node, tmp_path / "a"), *together.start(1, node, tmp_path / "b")]
    codes = together.join(ids)
    said = [(tmp_path / name).read_text() for name in ("a0", "b0")]
    assert codes == [0, 0], said
    nodes = [[(node, local, str(2 * int(node) + int(local))) for local in "01"] for node in "01"]
    assert sorted(text.splitlines()[-1] for text in said) == [str(each) for each in nodes]
    assert_the_same_run(folder, alone)


def test_a_step_hands_as_many_bytes_to_sums_as_the_cost_model_says(tmp_path: Path):
    settings, sizes = short(**CHANGES["puzzles"]), []
    add_up, step = dist.all_reduce, TrainingStep.__call__

    def counted(tensor: Tensor, *options: object) -> None:
        sizes.append(tensor.nbytes)
        add_up(tensor, *options)

    def checked(self: TrainingStep, number: int) -> None:
        sizes.clear()
        step(self, number)
        assert sizes == cluster.handed(settings, self.model)

    def work() -> None:
        dist.all_reduce, TrainingStep.__call__ = counted, checked
        assert train(settings, tmp_path / "run", 1).step == 1

    together.together(2, work, tmp_path / "log")


# --- evaluating, solving and voting


def said(count: int, folder: Path, *arguments: str) -> tuple[list[int], str]:
    """Exit codes of a command by so many processes, and what the first prints; the others are silent."""
    ids = together.start(count, lambda: cli.main(list(arguments)), folder / "said")
    codes = together.join(ids)
    assert not any((folder / f"said{rank}").read_text() for rank in range(1, count) if not codes[rank])
    return codes, (folder / "said0").read_text()


def without_speed(values: object) -> object:
    """A report without what depends on the clock."""
    if isinstance(values, dict):
        return {name: without_speed(each) for name, each in values.items() if name != "puzzles_per_second"}
    return values


@pytest.fixture
def small_batches(monkeypatch) -> None:
    """Batches of two puzzles, so that eight are dealt in several rounds."""
    monkeypatch.setattr(solver, "CPU_CHUNK", 2)


@pytest.fixture
def puzzles(tmp_path: Path) -> Path:
    """Puzzles as a file, and a model of them beside it."""
    tiny.save(tmp_path / "model")
    rows = [f"{puzzle},{tiny.ANSWER}" for puzzle in (*tiny.PUZZLES, tiny.PUZZLES[0])]
    (tmp_path / "puzzles.csv").write_text("\n".join(["question,answer", *rows]) + "\n")
    return tmp_path


def test_an_evaluation_is_the_same_by_several(puzzles: Path, small_batches: None):
    asked = ["eval", str(puzzles / "model"), "--data", str(puzzles / "puzzles.csv"), "--json", "--all-steps"]
    asked += ["--dtype", "bfloat16", "--rollouts", "3", "--select", "vote", "--noise", "0.5"]
    (one, alone), (codes, shared) = (said(count, puzzles, *asked) for count in (1, 3))
    assert one + codes == [0] * 4
    assert without_speed(json.loads(shared)) == without_speed(json.loads(alone))
    assert json.loads(shared)["n"] == 9


def test_puzzles_are_solved_by_several_in_their_order(puzzles: Path, small_batches: None):
    asked = ["solve", "--file", str(puzzles / "puzzles.csv"), "--model", str(puzzles / "model"), "--json"]
    (one, alone), (codes, shared) = (said(count, puzzles, *asked) for count in (1, 2))
    assert codes == one * 2 and shared == alone and len(alone.splitlines()) == 9
    codes, words = said(2, puzzles, *asked[:-1])
    assert codes == [2, 2] and "pictures of the way are for one process" in words
    codes, words = said(2, puzzles, "solve", "-", *asked[3:])
    assert codes == [2, 2] and "standard input is for one process" in words


def test_a_search_is_the_same_by_several(tmp_path: Path, small_batches: None, monkeypatch):
    monkeypatch.setattr(solver, "_PARTS", 1)
    torch.manual_seed(0)
    config = ModelConfig(kind="candidates", mixing="relations", halting="every", width=8, heads=1, layers=1)
    model = build(config, tiny.TASK.problem(), tiny.EXACT)
    asked = list(tiny.PUZZLES)
    alone = Solver(model, tiny.TASK, 4).solve(asked, Effort(search=50))

    def work() -> None:
        shared = Solver(model, tiny.TASK, 4)
        with processes.joined("cpu") as shared.processes:
            assert shared.solve(asked, Effort(search=50)) == alone

    together.together(2, work, tmp_path / "log")
    assert all(answer.verified for answer in alone)


def test_votes_are_the_same_by_several(tmp_path: Path, monkeypatch):
    tasks = [tiny_arc.made("a"), tiny_arc.made("b", test=2)]
    tiny_arc.write(tmp_path / "tasks.json", tasks)
    recipe = tiny_arc.config(data={"train": str(tmp_path / "tasks.json")})
    assert train(recipe, tmp_path / "run").finished
    monkeypatch.setattr(solver, "CPU_CHUNK", 4)
    asked = ["arc", "eval", str(tmp_path / "run"), "--data", str(tmp_path / "tasks.json"), "--allow-leaks"]
    asked += ["--submission", str(tmp_path / "submission.json"), "--json"]
    found = []
    for count in (1, 3):
        codes, words = said(count, tmp_path, *asked)
        assert codes == [0] * count
        found.append((words, (tmp_path / "submission.json").read_bytes()))
        (tmp_path / "submission.json").unlink()
    assert found[0] == found[1]


def rounded(lines: str) -> list[dict]:
    """Answers without the last digits, which depend on the puzzles that share a batch."""
    answers = [json.loads(line) for line in lines.splitlines()]
    return [each | {"halt_probability": round(each["halt_probability"], 5)} for each in answers]


@pytest.mark.parametrize("count", [1, 2])
def test_answers_in_a_file_go_on_where_they_stopped(puzzles: Path, small_batches: None, count: int):
    out = puzzles / "answers.jsonl"
    asked = ["solve", "--file", str(puzzles / "puzzles.csv"), "--model", str(puzzles / "model")]
    _, whole = said(1, puzzles, *asked, "--json")
    asked += ["--out", str(out)]
    for kept in (0, len(whole) - 1, len(whole)) if count == 1 else (len(whole) // 2,):
        out.write_bytes(whole.encode()[:kept])
        codes, words = said(count, puzzles, *asked)
        assert rounded(out.read_text()) == rounded(whole) and codes == [1] * count, words
    assert "9 answers" in words
    out.write_text(whole.replace("\n", "", 1))
    codes, words = said(count, puzzles, *asked)
    assert codes == [2] * count and "line 1 does not answer puzzle 1" in words
    assert out.read_text() == whole.replace("\n", "", 1)
    assert said(1, puzzles, *asked, "--json")[0] == [2]
