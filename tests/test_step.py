"""The training step: against the loop written out, with its state on the device, and as a CUDA graph."""

from contextlib import nullcontext

import pytest
import torch
from tiny import PUZZLES, TASK
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trm import rng
from trm.config import parse
from trm.data.batches import Batch, labels
from trm.models import RecursiveModel, build
from trm.recipe import RunConfig
from trm.training.hints import Hints
from trm.training.losses import step_loss
from trm.training.optim import Ema, Optimizer
from trm.training.step import WARM_UP, TrainingStep
from trm.training.supervision import HINTS, empty_slots, supervise

SMALL = {
    "seed": 3,
    "model": {"width": 16, "heads": 2, "T": 2, "n": 1, "mixing": "mixer", "positions": "none"},
    "supervision": {"steps": 3, "exploration": 0.5},
    "optimizer": {"lr": 1e-3, "puzzle_lr": 1e-2, "warmup": 3, "clip": 1.0},
    "ema": {"decay": 0.9, "start": 2},
    "train": {"batch": 6, "steps": 9},
}
CHANGES = {
    "atan2": {},
    "adamw": {"optimizer": {"name": "adamw"}},
    "muon": {"optimizer": {"name": "muon", "schedule": "cosine"}},
    "puzzles": {"model": {"prefix": 2, "puzzle_width": 20}},
    "hrm": {"model": {"kind": "hrm"}, "supervision": {"continue_loss": True}},
    "softmax": {"loss": {"tokens": "softmax", "label_smoothing": 0.1}, "ema": {"decay": 0}},
    "noise": {"supervision": {"start_noise": 1.0, "noise": 0.1}},
    "candidates": {
        "model": {"kind": "candidates", "mixing": "relations", "halting": "every", "inner": 16},
        "supervision": {"start_noise": 1.0, "noise": 0.1, "hints": 0.5, "first_hints": 2},
        "optimizer": {"schedule": "wsd", "decay_steps": 4},
    },
}
every_change = pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES.keys())
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def config(changes: dict) -> RunConfig:
    return parse(RunConfig, SMALL | {k: SMALL.get(k, {}) | v for k, v in changes.items()}, "test")


def make(settings: RunConfig, capturable: bool, device: str = "cpu"):
    torch.manual_seed(settings.seed)
    model = build(settings.model, TASK.problem(4), settings.compute).to(device).train()
    ema = Ema(settings.ema, model, capturable) if settings.ema.decay else None
    return model, Optimizer(settings.optimizer, model, settings.train.steps, capturable), ema


def drawing(settings: RunConfig, device: str = "cpu"):
    """Batches by the number of the step: puzzles in a random order, under a random symmetry."""
    tokens_NL = torch.stack([torch.from_numpy(TASK.parse(each)).long() for each in PUZZLES]).to(device)

    def draw(number: int | Tensor) -> Batch:
        key = rng.fold(rng.fold(rng.stream("batch", device), settings.seed), number)
        row_B = rng.fold(key, torch.arange(settings.train.batch, device=device))
        index_B = rng.randint(row_B, 0, len(tokens_NL))
        tokens_BL = TASK.symmetry(row_B).apply(tokens_NL[index_B])
        return Batch(tokens_BL, labels(tokens_BL.roll(1, 1)), index_B % 4, index_B)

    return draw


def hints_of(settings: RunConfig, device: str = "cpu") -> Hints | None:
    config = settings.supervision
    return Hints(config, len(PUZZLES), settings.train.batch, device) if config.hints else None


def run(settings: RunConfig, capturable: bool, graph: bool = False, device: str = "cpu"):
    model, optimizer, ema = make(settings, capturable, device)
    hints = hints_of(settings, device)
    step = TrainingStep(settings, model, optimizer, ema, drawing(settings, device), graph=graph, hints=hints)
    for number in range(settings.train.steps):
        step(number)
    return outcome(model, ema), step


def outcome(model: RecursiveModel, ema: Ema | None) -> dict[str, Tensor]:
    averages = {f"average of {n}": a for n, a in ema.averages.items()} if ema else {}
    return {n: w.clone() for n, w in (model.state_dict() | averages).items()}


@every_change
def test_the_step_is_the_loop_written_out(changes: dict):
    settings = config(changes)
    model, optimizer, ema = make(settings, capturable=False)
    draw = drawing(settings)
    slots, sums, hints = empty_slots(model, draw(0)), {}, hints_of(settings)
    for number in range(settings.train.steps):
        key = rng.fold(rng.fold(rng.fold(rng.stream("explore"), settings.seed), number), 0)
        offered, hinted_B = draw(number), None
        if hints is not None:
            offered, hinted_B = hints.add(offered, rng.fold(key, HINTS))
        taken = supervise(model, slots, offered, settings.supervision, key)
        loss, values = step_loss(settings.loss, taken)
        (loss.total / settings.train.batch).backward()
        optimizer.step(number)
        if ema is not None:
            ema.update(number)
        if hints is not None:
            hints.learn(slots.halted_B, hinted_B, taken)
        slots = taken.slots
        sums = {name: sums.get(name, 0) + value for name, value in values.items()}
    ours, step = run(settings, capturable=False)
    plain = outcome(model, ema)
    assert all(torch.equal(ours[name], value) for name, value in plain.items())
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            (*step.slots.batch, *step.slots.state, step.slots.steps_B, step.slots.halted_B),
            (*slots.batch, *slots.state, slots.steps_B, slots.halted_B),
            strict=True,
        )
    )
    if hints is not None:
        assert torch.equal(step.hints.level_N, hints.level_N) and (hints.level_N != 2).any()
        assert torch.equal(step.hints.hinted_B, hints.hinted_B)
    assert step.steps_since_reading == settings.train.steps
    assert step.read() == {name: value.item() for name, value in sums.items()}
    assert set(step.read().values()) == {0.0} and step.steps_since_reading == 0


@every_change
def test_state_on_the_device_gives_the_same_weights(changes: dict):
    settings = config(changes)
    plain, ours = run(settings, capturable=False)[0], run(settings, capturable=True)[0]
    assert_close(ours, plain, settings)


def assert_close(ours: dict[str, Tensor], plain: dict[str, Tensor], settings: RunConfig) -> None:
    """To rounding; Muon orthogonalises in bfloat16, where a last bit may decide the next."""
    atol = 1e-2 if settings.optimizer.name == "muon" else 1e-5
    for name, value in plain.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


class NothingIsReadBack(TorchDispatchMode):
    """Refuses what makes the host wait for a device: reading a number, and shapes that depend on values."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal", "item")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name.removeprefix("_") not in [each.removeprefix("_") for each in self.WAITS], name
        return func(*args, **(kwargs or {}))


@every_change
def test_nothing_is_read_back_within_a_step(changes: dict):
    settings = config(changes)
    _, step = run(settings, capturable=True)
    with NothingIsReadBack():
        step._run()
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            step.number.item()


def test_no_two_draws_of_a_step_share_a_key(monkeypatch):
    """Exploration, noise and hints are independent: nothing is drawn from the same bits twice."""
    settings = config(CHANGES["candidates"])
    _, step = run(settings, capturable=False)
    keys = []
    bits = rng.bits
    monkeypatch.setattr(rng, "bits", lambda key_B, n: keys.extend(key_B.flatten().tolist()) or bits(key_B, n))
    step(7)
    assert len(keys) > 6 * settings.train.batch and len(set(keys)) == len(keys)


@cuda
@every_change
def test_a_cuda_graph_replays_the_step(changes: dict):
    settings = config(changes)
    plain = run(settings, capturable=True, device="cuda")[0]
    replayed, step = run(settings, capturable=True, graph=True, device="cuda")
    assert step._graph is not None and settings.train.steps > WARM_UP + 1
    assert_close(replayed, plain, settings)


@cuda
@every_change
def test_on_cuda_the_host_never_waits(changes: dict):
    settings = config(changes)
    _, step = run(settings, capturable=True, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_all_warm_up_steps_share_one_stream(monkeypatch):
    """Each stream keeps its own memory. Nothing of this needs a device, so stand-ins will do."""
    made = []

    class Stream:
        def __init__(self):
            made.append(self)

        def wait_stream(self, other: object) -> None: ...

    now = Stream()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: now)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    settings = config({})
    model, optimizer, ema = make(settings, capturable=True)
    step = TrainingStep(settings, model, optimizer, ema, drawing(settings), graph=True)
    for number in range(WARM_UP):
        step(number)
    assert len(made) == 1 + 1
    plain, other = run(settings, capturable=True)[1], len(made)
    assert plain.steps_since_reading == settings.train.steps and other == 2, "no stream without a graph"
