"""One block of the network over candidates as native code for the CPU; `plain.candidates` is its twin.

    h1  = rmsnorm(h + sum over relations of gated(mean of h over the candidate's group))
    out = rmsnorm(h1 + gated(h1))

Both gated units are swiglu, all numbers float32. `native.cpp` is compiled by the system's C++ compiler
when it is first asked for. Without a compiler `available()` is false (`why_not()` tells the reason) and
plain PyTorch computes the same. Equal inputs give equal bits, for any number of threads.

Shapes: B batch, S candidates, D width, R relations, P inner width of a relation's unit, Q = 2 P (the gate's
rows, then the values' rows), I inner width of the channels' unit, E = 2 I.
"""

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from trm.kernels import compiled

MULTIPLE = 8  # floats in a vector


@functools.cache
def _built() -> tuple[ctypes.CDLL | None, str]:
    return compiled.load(Path(__file__).with_suffix(".cpp"))


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether the native code could be built."""
    return _built()[0] is not None


def why_not() -> str:
    """What the compilers said that failed; empty where all went well."""
    return _built()[1]


def fits(h_BSD: Tensor, pool_down_RDP: Tensor, down_DI: Tensor) -> bool:
    """Whether `block` takes these: float32 on the CPU, all widths multiples of 8; and it could be built."""
    floats = (h_BSD, pool_down_RDP, down_DI)
    return (
        all(each.dtype == torch.float32 and each.device.type == "cpu" for each in floats)
        and all(width % MULTIPLE == 0 for width in (*pool_down_RDP.shape[1:], *down_DI.shape))
        and available()
    )


def block(
    h_BSD: Tensor,
    group_RS: Tensor,
    pool_up_RQD: Tensor,
    pool_down_RDP: Tensor,
    up_ED: Tensor,
    down_DI: Tensor,
) -> Tensor:
    """The block; group_RS (int32) numbers the groups of each relation from 0 on."""
    given = (h_BSD, group_RS, pool_up_RQD, pool_down_RDP, up_ED, down_DI)
    save = torch.is_grad_enabled() and any(each.requires_grad for each in given)
    if save or torch.compiler.is_compiling():
        return _block(*given, save)[0]
    return _forward(*given, save)[0]  # a quarter of a small batch's time goes to calling an operator


def _pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    """Addresses; the caller keeps the tensors."""
    return [ctypes.c_void_p(each.data_ptr() if each.numel() else None) for each in tensors]


def _sizes(h: Tensor, group: Tensor, pool_up: Tensor, pool_down: Tensor, up: Tensor, down: Tensor) -> list:
    """What the native functions take last; refuses what they would misread."""
    (B, S, D), (R, _, P), I = h.shape, pool_down.shape, down.shape[1]  # noqa: E741
    for each, shape in (
        (group, (R, S)),
        (pool_up, (R, 2 * P, D)),
        (pool_down, (R, D, P)),
        (up, (2 * I, D)),
        (down, (D, I)),
    ):
        if each.shape != shape:
            raise ValueError(f"shape {tuple(each.shape)} where {shape} is expected")
    if group.dtype != torch.int32 or D % MULTIPLE or P % MULTIPLE or I % MULTIPLE:
        raise ValueError(f"group must be int32, and widths {D}, {P}, {I} multiples of {MULTIPLE}")
    if any(
        each.dtype != torch.float32 or each.device.type != "cpu" for each in (h, pool_up, pool_down, up, down)
    ):
        raise ValueError("native code takes float32 on the CPU")
    return [ctypes.c_long(each) for each in (B, S, D, R, P, I, torch.get_num_threads())]


def _call(name: str, *arguments) -> None:
    library, log = _built()
    if library is None:
        raise RuntimeError(log)
    if getattr(library, name)(*arguments):
        raise ValueError("the numbers of groups must lie between 0 and the number of candidates")


def _forward(
    h: Tensor, group: Tensor, pool_up: Tensor, pool_down: Tensor, up: Tensor, down: Tensor, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and what backward needs if `save`: h1_BSD and the factors of both norms."""
    given = [each.contiguous() for each in (h, group, pool_up, pool_down, up, down)]
    results = _empty(h, save)
    _call("trm_block_forward", *_pointers(*results, *given), *_sizes(*given))
    return results


_block = torch.library.custom_op("trm::candidates", _forward, mutates_args=())


def _empty(h: Tensor, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    B, S, D = h.shape
    shapes = ((B, S, D), (B, S, D), (B, 2, S)) if save else ((B, S, D), (0,), (0,))
    out, h1, scale = map(h.new_empty, shapes)
    return out, h1, scale


@_block.register_fake
def _(
    h: Tensor, group: Tensor, pool_up: Tensor, pool_down: Tensor, up: Tensor, down: Tensor, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(h, save)


@torch.library.custom_op("trm::candidates_backward", mutates_args=())
def _block_backward(dout: Tensor, saved: list[Tensor], given: list[Tensor]) -> list[Tensor]:
    """Gradients of h and the weights; `saved` is the result of _block, `given` what it was given."""
    dout, given = dout.contiguous(), [each.contiguous() for each in given]
    results = _gradients_like(given)
    _call("trm_block_backward", *_pointers(*results, dout, *saved, *given), *_sizes(*given))
    return results


@_block_backward.register_fake
def _gradients_fake(dout: Tensor, saved: list[Tensor], given: list[Tensor]) -> list[Tensor]:
    return _gradients_like(given)


def _gradients_like(given: list[Tensor]) -> list[Tensor]:
    h, _, *weights = given
    return [each.new_empty(each.shape) for each in (h, *weights)]


def _save(ctx, inputs, output):
    ctx.save_for_backward(*output, *inputs[:-1])


def _gradients(ctx, dout, *_):
    tensors = list(ctx.saved_tensors)
    dh, *weights = _block_backward(dout, tensors[:3], tensors[3:])
    return dh, None, *weights, None


_block.register_autograd(_gradients, setup_context=_save)
