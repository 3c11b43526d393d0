"""Blocks over candidates, and a recursion of them, as native code for the CPU; `plain.candidates` is a block.

    h1  = rmsnorm(h + sum over relations of gated(mean of h over the candidate's group))
    out = rmsnorm(h1 + gated(h1))

Both gated units are swiglu, all numbers float32. `native.cpp` is compiled by the system's C++ compiler
when it is first asked for. Without a compiler `available()` is false (`why_not()` tells the reason) and
plain PyTorch computes the same. Equal inputs give equal bits, for any number of threads.

Shapes: B batch, S candidates, D width, R relations, P inner width of a relation's unit, Q = 2 P (the gate's
rows, then the values' rows), I inner width of the channels' unit, E = 2 I, L blocks.
"""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from trm.kernels import compiled

MULTIPLE = 8  # floats in a vector
LINE = 16  # floats in a line of the cache


@functools.cache
def _built() -> tuple[ctypes.CDLL | None, str]:
    return compiled.load(Path(__file__).with_suffix(".cpp"))


def available() -> bool:
    """Whether the native code could be built."""
    return _built()[0] is not None


# What torch.compiler.assume_constant_result does, which would import the whole compiler.
available.__dict__["_dynamo_marked_constant"] = True


def why_not() -> str:
    """What the compilers said that failed; empty where all went well."""
    return _built()[1]


def fits(h_BSD: Tensor, pool_down_RDP: Tensor, down_DI: Tensor) -> bool:
    """Whether native code takes these (float32 on the CPU, widths multiples of 8) and could be built."""
    floats = (h_BSD, pool_down_RDP, down_DI)
    widths = (*pool_down_RDP.shape[-2:], *down_DI.shape[-2:])
    return (
        all(each.dtype == torch.float32 and each.device.type == "cpu" for each in floats)
        and all(width % MULTIPLE == 0 for width in widths)
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
    weights = [each.unsqueeze(0) for each in (pool_up_RQD, pool_down_RDP, up_ED, down_DI)]
    none = h_BSD.new_empty(0)
    return _call([h_BSD, none, none, group_RS, *weights], 0)[0]


def cycle(
    y_BSD: Tensor,
    z_BSD: Tensor,
    x_BSD: Tensor,
    group_RS: Tensor,
    pool_up_LRQD: Tensor,
    pool_down_LRDP: Tensor,
    up_LED: Tensor,
    down_LDI: Tensor,
    n: int,
) -> tuple[Tensor, Tensor]:
    """The new y and z: n times z = network(z + (y + x)), then y = network(y + z); the network is L blocks.

    Faster than calling the blocks, as a row stays in the cache all the while: it never waits for the others.
    """
    weights = (pool_up_LRQD, pool_down_LRDP, up_LED, down_LDI)
    y_BSD, z_BSD, _ = _call([y_BSD, z_BSD, x_BSD, group_RS, *weights], n)
    return y_BSD, z_BSD


def _call(given: list[Tensor], n: int) -> list[Tensor]:
    save = torch.is_grad_enabled() and any(each.requires_grad for each in given)
    if save or torch.compiler.is_compiling():
        return _recursion(given, n, save)
    return _forward(given, n, save)  # calling an operator takes a fifth of a small batch's time


def _forward(given: list[Tensor], n: int, save: bool) -> list[Tensor]:
    """The new y and z, and what backward needs if `save`; given are y, z, x, the groups and the weights."""
    given = [each.contiguous() for each in given]
    results = _empty(given, n, save)
    _run("forward", given, n, *results)
    return results


_recursion = torch.library.custom_op("trm::candidates", _forward, mutates_args=())


@_recursion.register_fake
def _empty(given: list[Tensor], n: int, save: bool) -> list[Tensor]:
    y, z, *_, up, _ = given
    B, S, D = y.shape
    numbers = -(-2 * S * (D + 1) // LINE) * LINE  # see save_size
    saved = (B, n + 1, len(up), numbers) if save else (0,)
    return [y.new_empty(y.shape), z.new_empty(z.shape), y.new_empty(saved)]


@torch.library.custom_op("trm::candidates_backward", mutates_args=())
def _backward(dy: Tensor, dz: Tensor, saved: Tensor, given: list[Tensor], n: int) -> list[Tensor]:
    """Gradients of all that was given, but for the groups."""
    dy, dz, given = dy.contiguous(), dz.contiguous(), [each.contiguous() for each in given]
    results = _gradients_like(dy, dz, saved, given, n)
    _run("backward", given, n, *results, dy, dz, saved)
    return results


@_backward.register_fake
def _gradients_like(dy: Tensor, dz: Tensor, saved: Tensor, given: list[Tensor], n: int) -> list[Tensor]:
    y, z, x, _, *weights = given
    return [each.new_empty(each.shape) for each in (y, z, x, *weights)]


def _save(ctx, inputs, output):
    given, ctx.n, _ = inputs
    ctx.set_materialize_grads(False)  # `saved` is the largest of all tensors; its gradient is never needed
    ctx.save_for_backward(output[2], *given)


def _gradients(ctx, gradients):
    saved, *given = ctx.saved_tensors
    results = zip(gradients[:2], given[:2], strict=True)
    dy, dz = (torch.zeros_like(each) if d is None else d for d, each in results)
    dy, dz, dx, *weights = _backward(dy, dz, saved, given, ctx.n)
    return [dy, dz, dx, None, *weights], None, None


_recursion.register_autograd(_gradients, setup_context=_save)


def _run(name: str, given: list[Tensor], n: int, *others: Tensor) -> None:
    """Call the native function of that name; refuses what it would misread."""
    y, z, x, group, pool_up, pool_down, up, down = given
    (B, S, D), (L, R, _, P), I = y.shape, pool_down.shape, down.shape[-1]  # noqa: E741
    for each, shape in (
        *((each, y.shape if n else (0,)) for each in (z, x)),
        *((group, (R, S)), (pool_up, (L, R, 2 * P, D)), (pool_down, (L, R, D, P))),
        *((up, (L, 2 * I, D)), (down, (L, D, I))),
    ):
        if each.shape != shape:
            raise ValueError(f"shape {tuple(each.shape)} where {tuple(shape)} is expected")
        if each.device.type != "cpu" or each.dtype != (torch.int32 if each is group else torch.float32):
            raise ValueError("native code takes float32 on the CPU, and groups in int32")
    if y.device.type != "cpu" or y.dtype != torch.float32 or D % MULTIPLE or P % MULTIPLE or I % MULTIPLE:
        raise ValueError(f"native code takes float32 on the CPU, and widths that are multiples of {MULTIPLE}")
    library, log = _built()
    if library is None:
        raise RuntimeError(log)
    # Arrays that are read as the structs Given and Sizes.
    sizes = (ctypes.c_long * 9)(n, L, B, S, D, R, P, I, torch.get_num_threads())
    if library[f"trm_candidates_{name}"](_pointers(given), sizes, *map(ctypes.c_void_p, _pointers(others))):
        raise ValueError("the numbers of groups must lie between 0 and the number of candidates")


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array:
    return (ctypes.c_void_p * len(tensors))(*(each.data_ptr() if each.numel() else None for each in tensors))
