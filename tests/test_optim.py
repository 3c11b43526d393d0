"""Optimizers, schedule and average against their formulas in numpy, and sparse updates worked by hand."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from trm.config import EmaConfig, ModelConfig, OptimizerConfig
from trm.models import Problem, RecursiveModel, build
from trm.models.embedding import PuzzleEmbedding
from trm.training.optim import (
    AdamATan2,
    Ema,
    Muon,
    Optimizer,
    SignSgd,
    learning_rate_factor,
    parameter_groups,
    torch_optimizers,
)

NAMES = ["adam_atan2", "adamw", "muon"]
PUZZLE = {"prefix": 1, "puzzle_width": 8, "positions": "learned"}


def make(**options) -> RecursiveModel:
    torch.manual_seed(0)
    small = {"width": 16, "heads": 2, "layers": 1, "expansion": 1, "T": 1, "n": 1}
    return build(ModelConfig(**(small | options)), Problem(5, 4, puzzles=6)).train()


def backward(model: RecursiveModel, ids: tuple[int, ...] = (0, 2, 2)) -> None:
    ids_B = torch.tensor(ids)
    tokens = torch.arange(4 * len(ids)).view(len(ids), 4) % 5
    _, out = model(tokens, ids_B, model.initial_state(len(ids)))
    (out.logits_BLV.square().sum() + out.halt_B.sum()).backward()


# AdamATan2


def test_adam_atan2_equals_its_formula():
    rng = np.random.default_rng(0)
    start, gradients = (
        rng.normal(size=(3, 4)),
        rng.normal(size=(6, 3, 4)) * 10.0 ** np.arange(-4, 2)[:, None, None],
    )
    lr, beta1, beta2, decay = 0.01, 0.9, 0.95, 0.5
    p = nn.Parameter(torch.tensor(start))
    optimizer = AdamATan2([p], lr=lr, betas=(beta1, beta2), weight_decay=decay)
    w, m, v = start.copy(), np.zeros((3, 4)), np.zeros((3, 4))
    for t, g in enumerate(gradients, start=1):
        p.grad = torch.tensor(g)
        optimizer.step()
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        w = w * (1 - lr * decay)
        w = w - lr / (1 - beta1**t) * np.arctan2(m, np.sqrt(v) / np.sqrt(1 - beta2**t))
        np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-9)
        assert torch.equal(p.grad, torch.tensor(g)), "the gradient is left alone"


def test_the_first_step_of_adam_atan2_by_hand():
    """With m = 0.1 g and |g| as the corrected root, the first step is lr / 0.1 * atan(0.1), whatever g is."""
    p = nn.Parameter(torch.tensor([1.0, 1.0, 1.0, 1.0]))
    p.grad = torch.tensor([1e-20, -3.0, 1e6, 0.0])
    AdamATan2([p], lr=0.1, betas=(0.9, 0.95)).step()
    move = 0.1 / 0.1 * math.atan(0.1)
    torch.testing.assert_close(p.detach()[1:], torch.tensor([1 + move, 1 - move, 1.0]))
    assert p.detach().isfinite().all()


def test_parameters_without_gradient_stay():
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    AdamATan2([p, q], lr=0.1, weight_decay=1.0).step()
    assert (p < 1).all() and (q == 1).all()


@pytest.mark.parametrize("kind", ["atan2", "sign"])
def test_closures_are_refused(kind: str):
    optimizer = AdamATan2([nn.Parameter(torch.ones(1))], lr=1) if kind == "atan2" else sign_sgd()[1]
    with pytest.raises(ValueError, match="closure"):
        optimizer.step(lambda: 0.0)


# SignSgd


def sign_sgd(lr: float = 0.1, weight_decay: float = 0.5) -> tuple[PuzzleEmbedding, SignSgd]:
    embedding = PuzzleEmbedding(5, 2)
    embedding.weight.copy_(torch.arange(1.0, 11.0).view(5, 2))
    return embedding.train(), SignSgd(embedding, lr, weight_decay)


def test_sign_sgd_by_hand_with_duplicate_ids():
    embedding, optimizer = sign_sgd()
    rows = embedding(torch.tensor([3, 1, 3]))
    rows.backward(torch.tensor([[5.0, -1.0], [0.0, 2.0], [-2.0, 1.0]]))
    optimizer.step()
    expected = torch.arange(1.0, 11.0).view(5, 2)
    expected[3] = torch.tensor([7.0, 8.0]) * 0.95 - 0.1 * torch.tensor([1.0, 0.0])  # 5 - 2 > 0, -1 + 1 = 0
    expected[1] = torch.tensor([3.0, 4.0]) * 0.95 - 0.1 * torch.tensor([0.0, 1.0])
    torch.testing.assert_close(embedding.weight, nn.Parameter(expected, requires_grad=False))
    assert torch.equal(embedding.weight[[0, 2, 4]], expected[[0, 2, 4]]), "other rows stay, to the bit"


def test_sign_sgd_without_lookup_or_gradient_does_nothing():
    embedding, optimizer = sign_sgd()
    before = embedding.weight.clone()
    optimizer.step()
    embedding(torch.tensor([0, 1]))
    optimizer.step()
    assert torch.equal(embedding.weight, before)


def test_zero_grad_forgets_the_lookup():
    embedding, optimizer = sign_sgd()
    embedding(torch.tensor([0])).sum().backward()
    optimizer.step()
    once = embedding.weight.clone()
    optimizer.zero_grad()
    optimizer.step()
    assert torch.equal(embedding.weight, once)


# Groups


@pytest.mark.parametrize(
    "options",
    [
        PUZZLE,
        {"kind": "hrm"},
        {"kind": "transformer", "prefix": 2},
        {"separate_networks": True, "mixing": "mixer"},
    ],
    ids=["trm", "hrm", "transformer", "mixer"],
)
def test_muon_gets_the_matrices_of_the_blocks_and_everything_is_trained_once(options: dict):
    model = make(**options)
    names = {id(p): n for n, p in model.named_parameters()}
    matrices, others = ([names[id(p)] for p in group] for group in parameter_groups(model))
    assert matrices and all("_network.blocks." in name for name in matrices)
    kept = {"answer_head.weight", "halting_head.weight", "halting_head.bias"}
    kept |= {n for n in names.values() if n.startswith("embed.")} - {"embed.puzzle.weight"}
    assert set(others) == kept
    trained = sorted(n for n, p in model.named_parameters() if p.requires_grad)
    assert sorted(matrices + others) == trained
    for name in NAMES:
        optimizers = torch_optimizers(OptimizerConfig(name=name), model)
        held = [names[id(p)] for o in optimizers for g in o.param_groups for p in g["params"]]
        assert sorted(held) == sorted([*trained, *(n for n in names.values() if n == "embed.puzzle.weight")])
        if name == "muon":
            assert [names[id(p)] for p in optimizers[0].param_groups[0]["params"]] == matrices
            assert isinstance(optimizers[0], torch.optim.Muon)


def test_every_option_reaches_its_optimizer():
    config = OptimizerConfig(
        name="muon", lr=0.1, weight_decay=0.2, betas=(0.3, 0.4), muon_lr=0.5, muon_weight_decay=0.6,
        muon_momentum=0.7, muon_newton_schulz=4, puzzle_lr=0.8, puzzle_weight_decay=0.9,
    )  # fmt: skip
    muon, adamw, sign = (o.param_groups[0] for o in torch_optimizers(config, make(**PUZZLE)))
    assert (adamw["lr"], adamw["weight_decay"], adamw["betas"]) == (0.1, 0.2, (0.3, 0.4))
    assert (muon["lr"], muon["weight_decay"], muon["momentum"], muon["ns_steps"]) == (0.5, 0.6, 0.7, 4)
    assert muon["nesterov"] and (sign["lr"], sign["weight_decay"]) == (0.8, 0.9)
    (atan2,) = torch_optimizers(config.model_copy(update={"name": "adam_atan2"}), make())
    group = atan2.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (0.1, 0.2, (0.3, 0.4))


@pytest.mark.parametrize("shape", [(48, 12), (12, 48), (16, 16)], ids=["tall", "wide", "square"])
def test_muon_with_its_rate_on_the_device_equals_torchs(shape: tuple[int, int]):
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(4, *shape)
    ends = []
    for rate in (0.02, torch.tensor(0.02)):
        p = nn.Parameter(start.clone())
        optimizer = Muon([p], weight_decay=0.1, momentum=0.6, ns_steps=3, adjust_lr_fn="original", lr=0.02)
        optimizer.param_groups[0]["lr"] = rate
        for p.grad in gradients:
            optimizer.step()
        ends.append((p.detach(), optimizer.state[p]["momentum_buffer"]))
    for ours, torchs in zip(*reversed(ends), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_state_on_the_device_is_saved_and_loaded(name: str):
    """Through the functions that checkpoints use; the learning rates stay the tensors that a graph reads."""
    model = make(**PUZZLE)
    config = OptimizerConfig(name=name, lr=0.1, warmup=0)
    ends = []
    for interrupted in (False, True):
        model = make(**PUZZLE)
        optimizer = Optimizer(config, model, 10, capturable=True)
        for step in range(4):
            if interrupted and step == 2:
                saved = [get_optimizer_state_dict(model, each) for each in optimizer.optimizers]
                saved = copy.deepcopy(saved)
                optimizer = Optimizer(config, model, 10, capturable=True)
                for each, state in zip(optimizer.optimizers, saved, strict=True):
                    groups = get_optimizer_state_dict(model, each)["param_groups"]
                    set_optimizer_state_dict(model, each, {"state": state["state"], "param_groups": groups})
            backward(model)
            optimizer.step(step)
        rates = [g["lr"] for each in optimizer.optimizers for g in each.param_groups]
        before = [rate.data_ptr() for rate in rates]
        optimizer.schedule(3)
        assert before == [g["lr"].data_ptr() for each in optimizer.optimizers for g in each.param_groups]
        ends.append({n: w.clone() for n, w in model.state_dict().items()})
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


@pytest.mark.parametrize("shape", [(8, 2), (2, 8)])
def test_muon_updates_are_scaled_by_the_root_of_rows_over_columns(shape: tuple[int, int]):
    """From a gradient with equal singular values, Newton-Schulz maps all of them alike, in closed form."""
    torch.manual_seed(0)
    model = nn.ModuleList([make()])
    matrix = nn.Parameter(torch.zeros(shape))
    model[0].latent_network.blocks[0].mlp.up.weight = matrix
    config = OptimizerConfig(name="muon", muon_lr=0.01, warmup=0)
    tall = torch.linalg.qr(torch.randn(8, 2))[0]
    matrix.grad = tall if shape == (8, 2) else tall.mT.contiguous()
    direction = matrix.grad.clone()
    Optimizer(config, model, 10).step(0)
    value = 1 / math.sqrt(2)  # two equal singular values of a matrix of norm 1
    for _ in range(3):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    scale = 0.01 * math.sqrt(max(1, shape[0] / shape[1])) * value
    torch.testing.assert_close(matrix.detach(), -scale * direction, rtol=0.03, atol=1e-4)


# Schedule and clipping


def test_schedule_by_hand():
    constant = OptimizerConfig(warmup=4)
    assert [learning_rate_factor(constant, i, 100) for i in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert learning_rate_factor(constant, 99, 100) == 1
    assert learning_rate_factor(OptimizerConfig(warmup=0), 0, 100) == 1

    cosine = OptimizerConfig(warmup=4, schedule="cosine")
    factors = [learning_rate_factor(cosine, i, 12) for i in range(13)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1, 1]
    assert factors[6] == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert factors[8] == pytest.approx(0.5)
    assert factors[12] == pytest.approx(0, abs=1e-15)
    assert all(a >= b for a, b in pairwise(factors[3:]))
    assert learning_rate_factor(cosine, 50, 12) == pytest.approx(0, abs=1e-15)
    assert learning_rate_factor(cosine, 3, 2) == 1, "a run that is shorter than its warm-up"
    floor = OptimizerConfig(warmup=4, schedule="cosine", lr_min_ratio=0.1)
    floored = [learning_rate_factor(floor, i, 12) for i in range(13)]
    assert floored[:5] == factors[:5]
    assert floored[4:] == pytest.approx([0.1 + 0.9 * factor for factor in factors[4:]])
    assert learning_rate_factor(floor, 50, 12) == pytest.approx(0.1)


def test_warm_up_then_stable_then_decay():
    wsd = OptimizerConfig(warmup=4, schedule="wsd", decay_steps=5)
    factors = [learning_rate_factor(wsd, i, 20) for i in range(20)]
    assert factors == pytest.approx([0.25, 0.5, 0.75] + [1] * 13 + [0.8, 0.6, 0.4, 0.2])
    assert learning_rate_factor(wsd, 20, 20) == 0, "the line ends at the end of the run"
    assert learning_rate_factor(wsd, 25, 20) == 0


def test_a_longer_run_has_only_more_of_the_constant_part():
    wsd = OptimizerConfig(warmup=4, schedule="wsd", decay_steps=5)
    short, long = ([learning_rate_factor(wsd, i, steps) for i in range(steps)] for steps in (20, 50))
    assert long[:15] == short[:15]
    assert set(long[15:45]) == {1.0}
    assert long[45:] == short[15:]


def test_a_run_that_is_all_decay():
    wsd = OptimizerConfig(warmup=0, schedule="wsd", decay_steps=10)
    assert [learning_rate_factor(wsd, i, 4) for i in range(4)] == pytest.approx([0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize("name", NAMES)
def test_the_schedule_scales_every_learning_rate_from_its_peak(name: str):
    model = make(**PUZZLE)
    config = OptimizerConfig(name=name, lr=0.1, muon_lr=0.2, puzzle_lr=0.3, warmup=4)
    optimizer = Optimizer(config, model, 100)
    peaks = [0.2, 0.1, 0.3] if name == "muon" else [0.1, 0.3]
    for step, factor in ((0, 0.25), (2, 0.75), (1, 0.5), (10, 1.0)):
        backward(model)
        optimizer.step(step)
        rates = [g["lr"] for o in optimizer.optimizers for g in o.param_groups]
        assert rates == pytest.approx([peak * factor for peak in peaks])


def test_a_learning_rate_of_zero_changes_nothing():
    model = make(**PUZZLE)
    before = {n: w.clone() for n, w in model.state_dict().items()}
    optimizer = Optimizer(OptimizerConfig(lr=0, puzzle_lr=0), model, 10)
    for step in range(2):
        backward(model)
        optimizer.step(step)
    assert all(torch.equal(w, before[n]) for n, w in model.state_dict().items())


@pytest.mark.parametrize("clip", [0.0, 0.01, 1e6])
def test_clipping_limits_the_norm_of_the_whole_gradient(clip: float):
    model = make()
    optimizer = Optimizer(OptimizerConfig(clip=clip, warmup=0), model, 10)
    backward(model)
    before = {n: p.grad.clone() for n, p in model.named_parameters()}
    seen: dict[str, torch.Tensor] = {}
    optimizer.optimizers[0].register_step_pre_hook(
        lambda *_: seen.update({n: p.grad.clone() for n, p in model.named_parameters()})
    )
    norm = math.sqrt(sum(g.square().sum().item() for g in before.values()))
    assert 0.01 < norm < 1e6
    factor = clip / norm if clip == 0.01 else 1.0
    optimizer.step(0)
    for name, gradient in before.items():
        torch.testing.assert_close(seen[name], factor * gradient, rtol=1e-4, atol=1e-9)


def test_a_step_clears_the_gradient():
    model = make(**PUZZLE)
    backward(model)
    Optimizer(OptimizerConfig(), model, 10).step(0)
    assert all(p.grad is None for p in model.parameters())
    assert model.embed.puzzle.looked_up is None


@pytest.mark.parametrize("name", NAMES)
def test_every_trained_tensor_moves_and_the_state_is_nothing_but_tensors(name: str):
    model = make(**PUZZLE)
    optimizer = Optimizer(
        OptimizerConfig(name=name, lr=0.1, puzzle_lr=0.1, warmup=0, weight_decay=0), model, 10
    )
    before = {n: w.clone() for n, w in model.state_dict().items()}
    for step in range(2):
        backward(model)
        optimizer.step(step)
    moved = {n for n, w in model.state_dict().items() if not torch.equal(w, before[n])}
    assert moved == before.keys() - {"y_init", "z_init"}
    rows = (model.embed.puzzle.weight != before["embed.puzzle.weight"]).any(-1)
    assert rows.tolist() == [True, False, True, False, False, False]
    states = [state for each in optimizer.optimizers for state in each.state.values()]
    assert len(states) == sum(p.requires_grad for p in model.parameters())
    for state in states:
        assert state and all(isinstance(value, torch.Tensor) for value in state.values())


# Average


def test_ema_equals_its_formula_from_its_start():
    model = make(**PUZZLE)
    name, p = "answer_head.weight", model.answer_head.weight
    ema = Ema(EmaConfig(decay=0.9, start=2), model)
    assert torch.equal(ema.averages[name], p)
    rng, average = np.random.default_rng(0), None
    for step in range(6):
        values = rng.normal(size=p.shape).astype(np.float32)
        with torch.no_grad():
            p.copy_(torch.tensor(values))
        ema.update(step)
        average = values if step < 2 else 0.9 * average + 0.1 * values
        np.testing.assert_allclose(ema.averages[name].numpy(), average, rtol=1e-5, atol=1e-6)
        assert torch.equal(p.detach(), torch.tensor(values)), "the weights are left alone"


def test_ema_without_a_start_counts_the_initial_weights():
    model = make()
    p = model.answer_head.weight
    first = p.detach().clone()
    ema = Ema(EmaConfig(decay=0.75), model)
    with torch.no_grad():
        p.add_(1)
    ema.update(0)
    torch.testing.assert_close(ema.averages["answer_head.weight"], first + 0.25)


def test_ema_leaves_out_the_puzzle_table_and_buffers():
    model = make(**PUZZLE)
    ema = Ema(EmaConfig(), model)
    assert ema.averages.keys() == {n for n, p in model.named_parameters() if n != "embed.puzzle.weight"}
    own = {p.data_ptr() for p in model.parameters()}
    assert not own & {a.data_ptr() for a in ema.averages.values()}


def test_applied_averages_are_swapped_in_and_out_even_on_an_exception():
    model = make(**PUZZLE)
    ema = Ema(EmaConfig(decay=0.5), model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    ema.update(0)
    weights = {n: w.clone() for n, w in model.state_dict().items()}
    averages = {n: a.clone() for n, a in ema.averages.items()}

    def as_before() -> bool:
        return all(torch.equal(w, weights[n]) for n, w in model.state_dict().items()) and all(
            torch.equal(a, averages[n]) for n, a in ema.averages.items()
        )

    with ema.applied():
        inside = model.state_dict()
        assert all(torch.equal(inside[n], a) for n, a in averages.items())
        untouched = inside.keys() - averages.keys()
        assert untouched == {"embed.puzzle.weight", "y_init", "z_init"}
        assert all(torch.equal(inside[n], weights[n]) for n in untouched)
    assert as_before()
    with pytest.raises(KeyboardInterrupt), ema.applied():
        raise KeyboardInterrupt
    assert as_before()
