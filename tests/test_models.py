"""Models: the contract for every kind and option, and the mathematics against a plain reimplementation."""

import math
import shutil
from collections.abc import Callable

import pytest
import tiny
import torch
from torch import Tensor

from trm import rng
from trm.config import ModelConfig
from trm.kernels.plain import rms_norm
from trm.models import Problem, RecursiveModel, State, build
from trm.models.layers import Attention, Block, GatedUnit, Rope, inner_width, trunc_normal_

PROBLEM = Problem(vocab_size=7, length=6, puzzles=4)
SMALL = {"width": 16, "heads": 2, "layers": 2, "T": 2, "n": 2, "expansion": 2, "dtype": "float64"}
VARIANTS: dict[str, dict] = {
    "attention": {},
    "mixer": {"mixing": "mixer", "positions": "none"},
    "one_cycle": {"T": 1, "n": 1},
    "separate_networks": {"separate_networks": True},
    "answer_layers": {"separate_networks": True, "answer_layers": 1},
    "last_update": {"gradient": "last_update", "n": 3},
    "single_latent": {"single_latent": True},
    "single_latent_mixer": {"single_latent": True, "mixing": "mixer"},
    "hrm": {"kind": "hrm"},
    "hrm_answer_layers": {"kind": "hrm", "answer_layers": 1, "n": 3},
    "hrm_mixer": {"kind": "hrm", "mixing": "mixer"},
    "transformer": {"kind": "transformer"},
    "learned": {"positions": "learned", "prefix": 1},
    "no_positions": {"positions": "none"},
    "registers": {"prefix": 3},
    "puzzle_narrow": {"prefix": 1, "puzzle_width": 5},
    "puzzle_equal": {"prefix": 1, "puzzle_width": 16},
    "puzzle_wide": {"prefix": 3, "puzzle_width": 20, "positions": "learned"},
    "normed": {"gate": "normed", "mixing": "mixer"},
    "float32": {"dtype": "float32", "prefix": 1},
    "bfloat16": {"dtype": "bfloat16", "prefix": 2, "puzzle_width": 16, "positions": "learned"},
    "bfloat16_mixer": {"dtype": "bfloat16", "mixing": "mixer", "gate": "normed"},
}
every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())


def make(options: dict, seed: int = 0, problem: Problem = PROBLEM) -> RecursiveModel:
    torch.manual_seed(seed)
    model = tiny.make(SMALL | options, problem)
    torch.nn.init.normal_(model.halting_head.weight)
    if model.embed.puzzle is not None:
        torch.nn.init.normal_(model.embed.puzzle.weight)
    return model


def puzzles(batch: int = 3, problem: Problem = PROBLEM) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(problem.vocab_size, (batch, problem.length), generator=generator)
    return tokens, torch.arange(batch) % problem.puzzles


def first_step(model: RecursiveModel, batch: int = 3):
    tokens, ids = puzzles(batch)
    return model.step(model.initial_state(batch), model.encode(tokens, ids))


# The contract


@every_variant
def test_shapes_and_dtypes(options: dict):
    model = make(options)
    c, dtype = model.config, model.dtype
    tokens = c.prefix + PROBLEM.length
    z_width = 0 if c.single_latent or c.kind == "transformer" else c.width
    x = model.encode(*puzzles())
    assert x.shape == (3, tokens, c.width) and x.dtype == dtype
    initial = model.initial_state(3)
    state, out = model.step(initial, x)
    for each in (initial, state):
        assert each.y_BSD.shape == (3, tokens, c.width) and each.z_BSD.shape == (3, tokens, z_width)
        assert each.y_BSD.dtype == each.z_BSD.dtype == dtype
        assert not each.y_BSD.requires_grad and not each.z_BSD.requires_grad
    assert out.logits_BLV.shape == (3, PROBLEM.length, PROBLEM.vocab_size)
    assert out.halt_B.shape == out.continue_B.shape == (3,)
    assert out.logits_BLV.dtype == dtype and out.halt_B.dtype == torch.float32
    assert out.logits_BLV.requires_grad and out.halt_B.requires_grad
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert out.logits_BLV.isfinite().all()


@every_variant
def test_a_step_is_deterministic_and_leaves_its_inputs_alone(options: dict):
    model = make(options)
    x, state = model.encode(*puzzles()), model.initial_state(3)
    copies = [each.clone() for each in (x, *state)]
    (one, out_one), (two, out_two) = model.step(state, x), model.step(state, x)
    assert all(torch.equal(a, b) for a, b in zip((*one, *out_one), (*two, *out_two), strict=True))
    assert all(torch.equal(a, b) for a, b in zip((x, *state), copies, strict=True))
    assert not torch.equal(one.y_BSD, state.y_BSD)
    called, out_called = model(*puzzles(), state)
    assert torch.equal(called.y_BSD, one.y_BSD) and torch.equal(out_called.logits_BLV, out_one.logits_BLV)


@every_variant
def test_rows_do_not_see_each_other(options: dict):
    model = make(options | {"dtype": "float64"})
    tokens, ids = puzzles(3)
    _, together = model.step(model.initial_state(3), model.encode(tokens, ids))
    for i in range(3):
        row = slice(i, i + 1)
        _, alone = model.step(model.initial_state(1), model.encode(tokens[row], ids[row]))
        torch.testing.assert_close(alone.logits_BLV, together.logits_BLV[row])


@every_variant
def test_gradient_reaches_every_trained_parameter_and_never_the_puzzle_table(options: dict):
    model = make(options).train()
    _, out = first_step(model)
    (out.logits_BLV.double().square().sum() + out.halt_B.sum() + out.continue_B.sum()).backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    table = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert table == ({"embed.puzzle.weight"} if model.config.puzzle_width else set())
    for name, p in trained.items():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0, name
    if table:
        ids, rows = model.embed.puzzle.looked_up
        assert model.embed.puzzle.weight.grad is None
        assert torch.equal(ids, puzzles()[1]) and rows.grad.abs().sum(-1).min() > 0


def test_the_second_step_sends_no_gradient_into_the_first():
    model = make({})
    x = model.encode(*puzzles())
    middle, _ = model.step(model.initial_state(3), x)
    _, out = model.step(middle, x.detach().requires_grad_())
    out.logits_BLV.sum().backward()
    assert model.embed.tokens.grad is None
    assert model.answer_head.weight.grad is not None


def test_states_pick_rows():
    a, b = (State(torch.full((3, 2, 4), v), torch.full((3, 2, 0), v)) for v in (1.0, 2.0))
    mixed = a.where(torch.tensor([True, False, True]), b)
    assert mixed.y_BSD[:, 0, 0].tolist() == [1, 2, 1] and mixed.z_BSD.shape == (3, 2, 0)
    assert mixed.rows(torch.tensor([1])).y_BSD.unique().tolist() == [2]
    assert mixed.rows(torch.tensor([True, False, True])).y_BSD.unique().tolist() == [1]


def test_the_normals_of_a_state_have_its_shape_and_follow_their_keys():
    state = State(torch.zeros(50, 7, 5, dtype=torch.float64), torch.zeros(50, 7, 3, dtype=torch.float64))
    key_B = rng.fold(rng.stream("test"), torch.arange(50))
    y, z = normals = state.normals(key_B)
    assert y.shape == state.y_BSD.shape and z.shape == state.z_BSD.shape and y.dtype == torch.float64
    drawn_BN = torch.cat([each.flatten(1) for each in normals], 1)
    assert torch.equal(drawn_BN.float(), rng.normal(key_B, 56)), "y first, then z"
    assert drawn_BN.std().item() == pytest.approx(1, abs=0.05)
    alone = state.rows(torch.tensor([9])).normals(key_B[[9]])
    assert torch.equal(alone.y_BSD[0], y[9]) and torch.equal(alone.z_BSD[0], z[9])
    empty = State(torch.zeros(2, 7, 5), torch.zeros(2, 7, 0)).normals(key_B[:2])
    assert empty.y_BSD.shape == (2, 7, 5) and empty.z_BSD.shape == (2, 7, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_multiple_of_a_state_is_added_row_by_row(dtype: torch.dtype):
    a, b = (State(torch.full((3, 2, 4), v).to(dtype), torch.full((3, 2, 0), v).to(dtype)) for v in (1.0, 2.0))
    y, z = a.plus(b, torch.tensor([0.0, 1.0, -0.5]))
    assert y[:, 1, 3].tolist() == [1, 3, 0] and y.dtype == dtype
    assert z.shape == (3, 2, 0) and z.dtype == dtype


# Input embedding


def test_encoding_by_hand():
    tokens, ids = puzzles()
    model = make({"prefix": 3, "puzzle_width": 20})
    table = model.embed.tokens.double()
    x = model.encode(tokens, ids)
    torch.testing.assert_close(x[:, 3:], 4 * table[tokens])
    flat = x[:, :3].flatten(1)
    torch.testing.assert_close(flat[:, :20], 4 * model.embed.puzzle.weight.double()[ids])
    assert (flat[:, 20:] == 0).all()

    model = make({"prefix": 2, "positions": "learned"})
    together = torch.cat((model.embed.registers.expand(3, 2, 16), model.embed.tokens[tokens]), 1)
    expected = 4 * math.sqrt(0.5) * (together + model.embed.positions).double()
    torch.testing.assert_close(model.encode(tokens, ids), expected, rtol=1e-6, atol=1e-6)


def test_the_puzzle_table_hands_out_leaves_in_training_only():
    embedding = make({"prefix": 1, "puzzle_width": 5}).embed.puzzle
    ids = torch.tensor([2, 2])
    embedding.eval()(ids)
    with torch.no_grad():
        embedding.train()(ids)
    assert embedding.looked_up is None
    rows = embedding.train()(ids)
    assert rows.is_leaf and rows.requires_grad and embedding.looked_up[1] is rows


# The mathematics, written again from the formulas


def norm(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def gated(h: Tensor, unit: GatedUnit) -> Tensor:
    up, down = unit.up.weight.to(h.dtype), unit.down.weight.to(h.dtype)
    inner = down.shape[1]
    g, u = h @ up[:inner].T, h @ up[inner:].T
    if unit.gate == "normed":
        return (norm(g * u) / (1 + torch.exp(-g))) @ down.T
    return (g / (1 + torch.exp(-g)) * u) @ down.T


def rotate(x_SK: Tensor) -> Tensor:
    """RoPE one pair (k, k + K/2) at a time, as a rotation of complex numbers."""
    s, width = x_SK.shape
    pairs = torch.complex(*x_SK.chunk(2, -1))
    angle = torch.arange(s).view(-1, 1) * 10_000.0 ** (-2 * torch.arange(width // 2) / width)
    turned = pairs * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag), -1)


def attention(h_BSD: Tensor, layer: Attention) -> Tensor:
    qkv, out = layer.qkv.weight.to(h_BSD.dtype), layer.out.weight.to(h_BSD.dtype)
    d = out.shape[0]
    k_width = d // layer.heads
    rows = []
    for h_SD in h_BSD:
        heads = []
        for i in range(layer.heads):
            at = slice(i * k_width, (i + 1) * k_width)
            q, k, v = (h_SD @ w[at].T for w in qkv.split(d))
            if layer.rope is not None:
                q, k = rotate(q), rotate(k)
            weight = torch.exp(q @ k.T / math.sqrt(k_width))
            heads.append(weight / weight.sum(-1, keepdim=True) @ v)
        rows.append(torch.cat(heads, -1) @ out.T)
    return torch.stack(rows)


def block(h: Tensor, layer: Block) -> Tensor:
    if isinstance(layer.mix, GatedUnit):
        mixed = h.mT + gated(h.mT, layer.mix)
        h = norm(mixed).mT
    else:
        h = norm(h + attention(h, layer.mix))
    return norm(h + gated(h, layer.mlp))


def stack(network) -> Callable[[Tensor], Tensor]:
    def run(h: Tensor) -> Tensor:
        for layer in network.blocks:
            h = block(h, layer)
        return h

    return run


def recursion(model: RecursiveModel, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """One supervision step from the pseudo-code of the papers; returns the logits."""
    c = model.config
    if c.kind == "transformer":
        y = stack(model.answer_network)(y + x)
    else:
        latent = stack(model.latent_network)
        answer = latent if model.answer_network is None else stack(model.answer_network)
        updates = [kind for _ in range(c.T) for kind in ["z"] * c.n + ["y"]]
        one_step = c.kind == "hrm" or c.gradient == "last_update"
        with_gradient = 2 if one_step else c.n + 1
        for i, kind in enumerate(updates):
            if i == len(updates) - with_gradient:
                y, z = y.detach(), z.detach()
            x_now = x.detach() if i < len(updates) - with_gradient else x
            if c.single_latent:
                y = latent(y + x_now) if kind == "z" else answer(y)
            elif kind == "z":
                z = latent(x_now + y + z)
            else:
                y = answer(y + z)
    return y[:, c.prefix :] @ model.answer_head.weight.to(y.dtype).T


def gradients(model: RecursiveModel, logits: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    logits.sin().sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


MATHEMATICS = {k: o for k, o in VARIANTS.items() if "dtype" not in o}


@pytest.mark.parametrize("options", MATHEMATICS.values(), ids=MATHEMATICS.keys())
def test_a_step_and_its_gradient_equal_the_formulas(options: dict):
    model = make(options)
    x = model.encode(*puzzles())
    _, out = model.step(model.initial_state(3), x)
    y, z = (v.double().expand(3, model.seq_len, -1) for v in (model.y_init, model.z_init))
    torch.testing.assert_close(out.logits_BLV, recursion(model, x, y, z), rtol=1e-5, atol=1e-5)
    ours = gradients(model, out.logits_BLV)
    plain = gradients(model, recursion(model, model.encode(*puzzles()), y, z))
    plain = {n: g for n, g in plain.items() if not n.startswith("halting")}
    assert ours.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(
            ours[name], gradient, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_gradient_horizons_differ():
    """The comparison above would see a wrong horizon: the three give different gradients."""
    grown = []
    for options in ({"T": 1, "n": 4}, {"T": 2, "n": 2}, {"T": 2, "n": 2, "gradient": "last_update"}):
        model = make(options)
        grown.append(
            gradients(model, first_step(model)[1].logits_BLV)["latent_network.blocks.0.mlp.up.weight"]
        )
    assert all((a - b).abs().max() > 1e-2 for a, b in [(grown[0], grown[1]), (grown[1], grown[2])])


def test_halting_reads_the_first_position_of_y():
    model = make({"prefix": 2})
    state, out = first_step(model)
    w, b = model.halting_head.weight.double(), model.halting_head.bias.double()
    expected = state.y_BSD[:, 0] @ w.T + b
    torch.testing.assert_close(
        torch.stack((out.halt_B, out.continue_B), 1).double(), expected, rtol=1e-6, atol=1e-6
    )


def test_rms_norm_by_hand():
    out = rms_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(out, torch.tensor([[3.0, 4.0], [0.0, 0.0]]) / math.sqrt(12.5 + 1e-5))
    torch.manual_seed(0)
    x = torch.randn(2, 5, 7).double() * 1e-3  # small, so that eps counts
    torch.testing.assert_close(rms_norm(x), norm(x))


@pytest.mark.parametrize("gate", ["swiglu", "normed"])
def test_gated_unit(gate):
    torch.manual_seed(0)
    unit, h = GatedUnit(16, 2, gate), torch.randn(2, 5, 16).double()
    torch.testing.assert_close(unit(h), gated(h, unit))
    # Only the normed gate is bounded: twice the input cannot make it grow fourfold.
    growth = unit(100 * h).norm() / unit(h).norm()
    assert (growth < 10) == (gate == "normed")


@pytest.mark.parametrize("rope", [True, False])
def test_attention(rope: bool):
    torch.manual_seed(0)
    layer, h = Attention(16, 2, 8, Rope(8, 5) if rope else None), torch.randn(2, 5, 16).double()
    torch.testing.assert_close(layer(h), attention(h, layer), rtol=1e-6, atol=1e-6)


def test_rope_depends_on_distance_alone():
    torch.manual_seed(0)
    rope, (q, k) = Rope(8, 12), torch.randn(2, 1, 1, 1, 8).double()
    q, k = (rope(each.expand(1, 1, 12, 8))[0, 0] for each in (q, k))
    scores = q @ k.T
    for distance in (-3, 0, 5):
        along = scores.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-5, atol=1e-5)
    assert (scores[0, 0] - scores[0, 3]).abs() > 1e-2


# Sizes and initial values


@pytest.mark.parametrize(
    ("width", "expansion", "inner"), [(97, 4, 512), (96, 4, 256), (512, 4, 1536), (16, 1, 256), (81, 4, 256)]
)
def test_inner_width_is_rounded_up_to_256s(width: int, expansion: float, inner: int):
    unit = GatedUnit(width, inner_width(width, expansion), "swiglu")
    assert unit.up.weight.shape == (2 * inner, width) and unit.down.weight.shape == (width, inner)


def test_initial_values():
    problem = Problem(vocab_size=200, length=30, puzzles=5)
    torch.manual_seed(0)
    options = {"width": 128, "mixing": "mixer", "positions": "learned", "prefix": 2, "puzzle_width": 200}
    model = tiny.make(SMALL | options, problem)
    seen = set()
    for name, p in model.state_dict().items():
        if name == "embed.puzzle.weight" or name == "halting_head.weight":
            assert (p == 0).all(), name
        elif name == "halting_head.bias":
            assert (p == -5).all(), name
        elif name.endswith("_init"):
            assert 0.7 < p.std() < 1.3 and len(p.unique()) > 100, name
        else:
            std = 128**-0.5 if name.startswith("embed.") else p.shape[1] ** -0.5
            assert abs(p.std() / std - 1) < 0.06, name
            assert p.abs().max() < 2.28 * std, name  # cut at two sigma of the wider normal
            assert abs(p.mean()) < 5 * std / math.sqrt(p.numel()), name
            seen.add(name.rpartition(".")[0].rpartition(".")[2] or name)
    assert {"up", "down", "answer_head", "embed"} <= seen


def test_truncated_normal_has_the_std_it_was_given():
    torch.manual_seed(0)
    t = trunc_normal_(torch.empty(400_000), std=0.3)
    assert abs(t.std() / 0.3 - 1) < 0.005
    # A normal cut at +-2 has std 0.87962566.
    assert 0.99 < t.abs().max() / (2 * 0.3 / 0.87962566) <= 1


@every_variant
def test_starting_points_are_saved_but_not_trained(options: dict):
    model = make(options)
    assert {"y_init", "z_init"} <= model.state_dict().keys()
    assert not {"y_init", "z_init"} & dict(model.named_parameters()).keys()
    state = model.initial_state(2)
    expected = model.y_init.to(model.dtype).expand(2, model.seq_len, -1)
    assert torch.equal(state.y_BSD, expected)
    if model.z_init.numel():
        assert torch.equal(state.z_BSD, model.z_init.to(model.dtype).expand(2, model.seq_len, -1))
        assert not torch.equal(model.y_init, model.z_init)
    other = make(options, seed=1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(first_step(other)[1].logits_BLV, first_step(model)[1].logits_BLV)


def test_the_seed_decides_the_weights():
    a, b, c = (make({}, seed).answer_head.weight for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_networks_are_shared_or_separate_as_configured():
    def blocks(**options) -> list[int]:
        model = make(options)
        networks = (getattr(model, name, None) for name in ("latent_network", "answer_network"))
        return [len(network.blocks) for network in networks if network is not None]

    assert blocks() == [2]
    assert blocks(separate_networks=True) == [2, 2]
    assert blocks(separate_networks=True, answer_layers=3) == [2, 3]
    assert blocks(kind="hrm", answer_layers=1) == [2, 1]
    assert blocks(kind="transformer", layers=3) == [3]


def test_parameter_count_of_the_paper():
    """The paper's 5M (mixer, 97 tokens) and 7M (attention) networks; on the meta device, so at no cost."""
    with torch.device("meta"):
        problem = Problem(11, 81)
        mixer = build(ModelConfig(mixing="mixer", positions="none", prefix=16, puzzle_width=512), problem)
        attention_ = build(ModelConfig(prefix=16, puzzle_width=512), problem)
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (mixer, attention_)]
    per_block = 3 * 512 * 1536
    heads = 11 * 512 * 2 + 2 * 512 + 2
    assert counts == [2 * (per_block + 3 * 97 * 512) + heads, 2 * (per_block + 4 * 512**2) + heads]


# Symmetry under the order of tokens


@pytest.mark.parametrize(("options", "equivariant"), [({"positions": "none"}, True), ({}, False)])
def test_attention_without_positions_is_permutation_equivariant(options: dict, equivariant: bool):
    model = make(options)
    (tokens, ids), order = puzzles(), torch.tensor([3, 1, 5, 0, 4, 2])
    _, out = model.step(model.initial_state(3), model.encode(tokens, ids))
    _, moved = model.step(model.initial_state(3), model.encode(tokens[:, order], ids))
    distance = (moved.logits_BLV - out.logits_BLV[:, order]).abs().max()
    assert distance < 1e-10 if equivariant else distance > 1e-2


@pytest.mark.parametrize("options", [{"positions": "learned"}, {"mixing": "mixer", "positions": "none"}])
def test_learned_positions_and_the_mixer_know_the_order(options: dict):
    test_attention_without_positions_is_permutation_equivariant(options, False)


# Compiled blocks and cycles


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses what torch deprecates
def test_compiled_blocks_compute_the_same():
    options = {"layers": 1, "T": 1, "n": 1, "mixing": "mixer", "dtype": "float32"}
    eager, compiled = make(options), make(options | {"compile": "block"})
    assert eager.state_dict().keys() == compiled.state_dict().keys()
    with torch.no_grad():
        (a, out_a), (b, out_b) = first_step(eager), first_step(compiled)
    torch.testing.assert_close(b.y_BSD, a.y_BSD)
    torch.testing.assert_close(out_b.logits_BLV, out_a.logits_BLV, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore::DeprecationWarning")  # of torch's compiler
@pytest.mark.parametrize("options", [{"n": 3}, {"kind": "hrm", "n": 3}], ids=["trm", "hrm"])
def test_compiled_cycles_are_few_graphs_and_compute_the_same(options: dict, monkeypatch):
    """Three cycles of a TRM are two graphs, with and without gradient; HRM has a third for what lies between.

    Traced only: what is made of a graph is torch's affair.
    """
    options |= {"T": 3, "layers": 1, "dtype": "float32"}
    graphs = []

    def count(graph, example_inputs):
        graphs.append(graph)
        return graph

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: compile_(f, backend=count, fullgraph=True))
    eager, compiled = make(options), make(options | {"compile": "cycle"})
    assert eager.state_dict().keys() == compiled.state_dict().keys()
    start = State(*(each.clone() for each in eager.initial_state(3)))  # in memory as all later states are
    (_, a), (_, b) = (model.step(start, model.encode(*puzzles())) for model in (eager, compiled))
    assert len(graphs) == (3 if "kind" in options else 2)
    torch.testing.assert_close(b.logits_BLV, a.logits_BLV, rtol=1e-5, atol=1e-5)
    ours, plain = gradients(compiled, b.logits_BLV), gradients(eager, a.logits_BLV)
    assert ours.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5)
