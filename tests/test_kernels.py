"""Fused kernels against plain PyTorch in float64, forward and backward.

On a CUDA device they run there. Elsewhere Triton's interpreter runs them (see `conftest`).
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from trm.errors import UserError
from trm.kernels import choose, plain
from trm.models import Problem

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
runs = pytest.mark.skipif(find_spec("triton") is None, reason="needs the package triton")

# The kernels' float32 is exact; bfloat16 rounds to 2^-9, and the interpreter cuts instead of rounding.
BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 2e-2}
dtypes = pytest.mark.parametrize("dtype", BOUNDS, ids=["float32", "bfloat16"])
gates = pytest.mark.parametrize("gate", ["swiglu", "normed"])


def sizes(name: str, *values: int) -> pytest.MarkDecorator:
    """Each size in both dtypes, and of each pair of neighbours every dtype with every gate."""
    turns = [
        (size, dtype, ("swiglu", "normed")[(i + j) % 2])
        for i, size in enumerate(values)
        for j, dtype in enumerate(BOUNDS)
    ]
    return pytest.mark.parametrize((name, "dtype", "gate"), turns)


def draw(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, dtype=torch.float64)


def distance(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape and a.isfinite().all()
    return ((a.cpu().double() - b).norm() / b.norm()).item()


def run(name: str, kind: str, dtype: torch.dtype, given: list[Tensor], *options: str) -> list[Tensor]:
    """Result and gradients; h and what is added to it in `dtype`, the weights in float32 (or float64)."""
    weights = torch.float64 if dtype == torch.float64 else torch.float32
    kinds = [dtype if each.ndim == 3 else weights for each in given]
    device = "cpu" if kind == "torch" else DEVICE
    own = [each.to(device, k).clone().requires_grad_() for each, k in zip(given, kinds, strict=True)]
    y = getattr(choose(kind), name)(*own, *options)
    y.backward(torch.sin(torch.arange(y.numel())).view(y.shape).to(y))
    return [y.detach(), *(each.grad for each in own)]


def compare(name: str, dtype: torch.dtype, given: list[Tensor], *options: str) -> None:
    given = [each.to(dtype).double() if each.ndim == 3 else each.float().double() for each in given]
    truth = run(name, "torch", torch.float64, given, *options)
    fused = run(name, "triton", dtype, given, *options)
    assert fused[0].dtype == fused[1].dtype == dtype
    distances = [distance(f, t) for f, t in zip(fused, truth, strict=True)]
    assert max(distances) < BOUNDS[dtype], distances
    with torch.no_grad():
        own = [each.to(DEVICE, dtype if each.ndim == 3 else torch.float32) for each in given]
        without_gradient = getattr(choose("triton"), name)(*own, *options)
        assert distance(without_gradient, truth[0]) < BOUNDS[dtype]
        # On a device another choice of blocks may sum in another order.
        assert DEVICE == "cuda" or torch.equal(without_gradient, fused[0])


@runs
@sizes("tokens", 5, 40, 97)
def test_mix_tokens(tokens: int, dtype: torch.dtype, gate: str):
    """Tokens padded to one part (16, 128) and to two (32 + 16); 24 channels are a block and a bit."""
    torch.manual_seed(tokens)
    up, down = draw(512, tokens, scale=1.5 * tokens**-0.5), draw(tokens, 256, scale=256**-0.5)
    compare("mix_tokens", dtype, [draw(2, tokens, 24), up, down], gate)


@runs
@sizes("width", 24, 64, 80)
def test_mix_channels(width: int, dtype: torch.dtype, gate: str):
    """Widths below, at and above a block of 64; 66 rows are a block and a bit."""
    torch.manual_seed(width)
    up, down = draw(512, width, scale=1.5 * width**-0.5), draw(width, 256, scale=256**-0.5)
    compare("mix_channels", dtype, [draw(6, 11, width), up, down], gate)


@runs
@dtypes
@pytest.mark.parametrize("width", [24, 64], ids="D{}".format)
def test_add_rms_norm(width: int, dtype: torch.dtype):
    torch.manual_seed(width)
    compare("add_rms_norm", dtype, [draw(3, 5, width), draw(3, 5, width)])


@runs
def test_eps_counts_where_numbers_are_small():
    """The part of the gradient that only eps leaves over: 1e-3 squared is a tenth of eps."""
    torch.manual_seed(0)
    up, down = draw(512, 5, scale=0.5), draw(5, 256, scale=256**-0.5)
    compare("mix_tokens", torch.float32, [draw(2, 5, 24, scale=1e-3), up, down], "normed")
    compare("mix_channels", torch.float32, [draw(2, 24, 5, scale=1e-3), up, down], "normed")
    compare("add_rms_norm", torch.float32, [draw(2, 24, 5, scale=1e-3), draw(2, 24, 5, scale=1e-3)])


@runs
def test_long_sequences_are_left_to_plain():
    torch.manual_seed(0)
    compare("mix_tokens", torch.float32, [draw(1, 129, 4), draw(512, 129), draw(129, 256)], "swiglu")


@runs
@gates
def test_the_operators_are_registered_as_torch_wants_them(gate: str):
    """Shapes without running, gradients, and tracing: what torch.compile relies on."""
    from trm.kernels import fused

    torch.manual_seed(0)
    h = draw(2, 16, 16).to(DEVICE, torch.float32).requires_grad_()
    up, down = draw(512, 16).to(h.device, h.dtype), draw(16, 256).to(h.device, h.dtype)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_static")
    normed = gate == "normed"
    torch.library.opcheck(fused.tokens.mix, (h, up, down, normed), test_utils=tests)
    torch.library.opcheck(fused.channels.mix, (h, up, down, normed, True), test_utils=tests)
    torch.library.opcheck(fused.channels.add_norm, (h, h.detach()), test_utils=tests)


MIXER = {"mixing": "mixer", "positions": "none"}


@runs
@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore::DeprecationWarning")  # of torch's compiler
@pytest.mark.parametrize(
    ("options", "traced"),
    [
        (MIXER, False),
        ({"kind": "hrm", "prefix": 2}, False),
        (MIXER | {"gate": "normed", "dtype": "bfloat16"}, True),
        ({"prefix": 2}, True),
    ],
    ids=["mixer", "hrm", "mixer_traced", "attention_traced"],
)
def test_models_compute_the_same_with_fused_kernels(options: dict, traced: bool):
    """A whole step and its gradient; also as a graph that torch.compile traced through the kernels."""
    small = {"width": 16, "heads": 2, "layers": 1, "T": 2, "n": 1, "expansion": 1} | options
    results = []
    for kernels in ("torch", "triton"):
        torch.manual_seed(0)
        model = tiny.make(small | {"kernels": kernels}, Problem(7, 6))
        torch.nn.init.normal_(model.halting_head.weight)
        model = model.to("cpu" if kernels == "torch" else DEVICE)
        if traced and kernels == "triton":
            model._cycle = torch.compile(model.cycle, backend="aot_eager", fullgraph=True)
        tokens = torch.arange(12, device=model.y_init.device).view(2, 6) % 7
        state, out = model(tokens, tokens[:, 0], model.initial_state(2))
        (out.logits_BLV.square().sum() + out.halt_B.sum()).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append({"y": state.y_BSD, "logits": out.logits_BLV.detach(), "halt": out.halt_B} | gradients)
    plain_, fused = results
    assert plain_.keys() == fused.keys()
    for name in plain_:
        bound = 0.1 if "dtype" in options else 1e-4
        assert distance(fused[name], plain_[name].detach().double()) < bound, name


# Choosing them


def test_they_can_be_made_without_the_interpreter():
    """As on a machine that has Triton and no GPU: nothing runs, and the reason is given."""
    pytest.importorskip("triton")
    code = (
        "import sys, torch, tiny; from trm.errors import UserError; from trm.models import Problem\n"
        "model = tiny.make({'width': 16, 'heads': 2, 'kernels': 'triton'}, Problem(5, 4))\n"
        "tokens = torch.zeros(2, 4, dtype=torch.long)\n"
        "try: model(tokens, tokens[:, 0], model.initial_state(2))\n"
        "except UserError as error: sys.exit(str(error))"
    )
    plain_environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    where = {"env": plain_environment, "cwd": Path(__file__).parent}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **where)
    assert (done.returncode, done.stderr) == (1, "kernels triton needs a CUDA device, not cpu: use torch\n")


def test_plain_is_the_default():
    assert tiny.make({"width": 16, "heads": 2}, Problem(5, 4)).latent_network.blocks[0].kernels is plain
    assert choose("torch") is plain


def test_without_triton_the_reason_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in [name for name in sys.modules if name.startswith("trm.kernels.fused")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match="needs the package triton"):
        tiny.make({"kernels": "triton"}, Problem(5, 4))


@runs
@pytest.mark.parametrize("options", [{"mixing": "mixer"}, {}], ids=["mixer", "attention"])
def test_without_a_cuda_device_the_reason_is_given(options: dict, monkeypatch):
    from trm.kernels import fused

    monkeypatch.setattr(fused, "INTERPRETED", False)  # which needs no device
    model = tiny.make({"width": 16, "heads": 2, "kernels": "triton"} | options, Problem(5, 4))
    tokens = torch.zeros(2, 4, dtype=torch.long)
    with pytest.raises(UserError, match="needs a CUDA device, not cpu"):
        model(tokens, tokens[:, 0], model.initial_state(2))
