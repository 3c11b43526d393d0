"""What the fused kernels share: products, the gates, and the choice of block sizes."""

import triton
import triton.language as tl

from trm.kernels import plain

EPS = tl.constexpr(plain.EPS)
INTERPRETED = triton.knobs.runtime.interpret
WIDEN = tl.constexpr(INTERPRETED)


def configs(*choices: tuple[dict[str, int], int, int]) -> list[triton.Config]:
    """Block sizes, warps and pipeline stages to try on the first call; the interpreter tries nothing."""
    if INTERPRETED:  # its time goes by the number of blocks; small sizes must still be several of them
        sizes = {"BD": 16, "BM": 64, "BK": 64, "BI": 128, "BN": 128}
        return [triton.Config({name: sizes[name] for name in choices[0][0]})]
    return [triton.Config(blocks, num_warps=warps, num_stages=stages) for blocks, warps, stages in choices]


@triton.jit
def dot(a, b):
    """The product of two blocks, in float32."""
    return dot_add(a, b, tl.zeros((a.shape[0], b.shape[1]), tl.float32))


@triton.jit
def dot_add(a, b, sum):
    """A product added to a sum."""
    if WIDEN:  # Triton's interpreter multiplies bfloat16 numbers as if they were integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, sum, input_precision="ieee")


@triton.jit
def rest_of_sum(n, along):
    """The part of c that eps leaves: sum(dt t)."""
    return EPS * n * n * along


@triton.jit
def silu(g):
    """Sigmoid of g, and g times it."""
    sigmoid = 1 / (1 + tl.exp(-g))
    return sigmoid, g * sigmoid


@triton.jit
def gate_backward(g, u, da, k, NORMED: tl.constexpr):
    """Gradients of g and u, and a itself; k broadcasts."""
    sigmoid, swish = silu(g)
    dg = da * u * sigmoid * (1 + g - swish)
    du = da * swish
    if NORMED:
        dg += k * g * u * u
        du += k * g * g * u
    return dg, du, swish * u
