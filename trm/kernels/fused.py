"""The parts of a block as Triton kernels; `plain` holds the same functions to read and to test against.

What the kernels save is traffic: the gated unit's inner activations (3 to 6 times the size of h) and the
transposes of the token mixer never reach memory in a pass without gradient.

With a = silu(g) * u, both gates are one form, as the normed gate only scales each row of it:

    sigmoid(g) * rmsnorm(g * u) = r a,   r = (mean(g^2 u^2) + eps)^-1/2

A scale of rows moves through the product that follows: m = r (a @ down^T). Backward through
y = n t with t = h + m and n = (mean(t^2) + eps)^-1/2:

    dt = n (dy - y mean(dy y))
    da = (r dt) @ down,   c = sum(dt m) = eps n^2 sum(dy y) - sum(dt h),   k = -c r^2 / I
    dg = da u silu'(g) + k g u^2
    du = da silu(g) + k g^2 u

(c reads m = t - h; sum(dt t) is 0 but for eps, so that nothing is lost by y being rounded.) Sums run in
float32 and in a fixed order: with the same sizes of blocks, equal inputs give equal bits. (The sizes are
chosen by trial on the first call.)

The mixer's kernels hold a sample's tokens and a block of its channels on the chip. They pad the tokens to
a power of two plus a smaller one (81 and 96 to 64 + 32, 97 to 128), up to 128; above, `plain` computes.

Shapes: B batch, S tokens (P of them padded), D width, M = B S rows, I inner width, E = 2 I. In kernels
SA and SB are the two parts of P, and BD, BI, BM, BN, BK the sizes of blocks.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trm.errors import UserError
from trm.kernels import Gate, plain

EPS = tl.constexpr(plain.EPS)
MOST_TOKENS = 128
# Partial sums of the mixer's weight gradients: enough programs to fill a large GPU with I / BI = 8 blocks.
SLICES = 32
INTERPRETED = triton.knobs.runtime.interpret
WIDEN = tl.constexpr(INTERPRETED)


def _configs(*choices: tuple[dict[str, int], int, int]) -> list[triton.Config]:
    """Block sizes, warps and pipeline stages to try on the first call; the interpreter tries nothing."""
    if INTERPRETED:
        return [triton.Config({name: 16 if name == "BD" else 64 for name in choices[0][0]})]
    return [triton.Config(blocks, num_warps=warps, num_stages=stages) for blocks, warps, stages in choices]


@triton.jit
def _dot(a, b):
    return _dot_add(a, b, tl.zeros((a.shape[0], b.shape[1]), tl.float32))


@triton.jit
def _dot_add(a, b, sum):
    if WIDEN:  # Triton's interpreter multiplies bfloat16 numbers as if they were integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, sum, input_precision="ieee")


@triton.jit
def _rest_of_sum(n, along):
    """The part of c that eps leaves: sum(dt t)."""
    return EPS * n * n * along


# Token mixer


@triton.jit
def _silu(g):
    sigmoid = 1 / (1 + tl.exp(-g))
    return sigmoid, g * sigmoid


@triton.autotune(
    _configs(
        ({"BD": 128, "BI": 64}, 8, 3),
        ({"BD": 128, "BI": 32}, 8, 3),
        ({"BD": 64, "BI": 64}, 4, 2),
        ({"BD": 64, "BI": 32}, 4, 3),
    ),
    key=["S", "D", "INNER", "NORMED"],
)
@triton.jit
def _tokens_forward(
    h_ptr, up_ptr, down_ptr, y_ptr, n_ptr, r_ptr, S, D, INNER: tl.constexpr, NORMED: tl.constexpr,
    SA: tl.constexpr, SB: tl.constexpr, BD: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    P: tl.constexpr = SA + SB
    b = tl.program_id(0).to(tl.int64)
    h_ptr += b * S * D
    y_ptr += b * S * D
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    sa, i = tl.arange(0, SA), tl.arange(0, BI)
    at_a, in_a = sa[:, None] * D + d[None, :], (sa[:, None] < S) & (d[None, :] < D)
    ha = tl.trans(tl.load(h_ptr + at_a, in_a, 0.0))
    m_a = tl.zeros((BD, SA), tl.float32)
    if SB > 0:
        sb = SA + tl.arange(0, SB)
        at_b, in_b = sb[:, None] * D + d[None, :], (sb[:, None] < S) & (d[None, :] < D)
        hb = tl.trans(tl.load(h_ptr + at_b, in_b, 0.0))
        m_b = tl.zeros((BD, SB), tl.float32)
    squares = tl.zeros((BD,), tl.float32)
    for start in range(0, INNER, BI):
        row_a = (start + i)[:, None] * P + sa[None, :]
        g = _dot(ha, tl.trans(tl.load(up_ptr + row_a)))
        u = _dot(ha, tl.trans(tl.load(up_ptr + INNER * P + row_a)))
        if SB > 0:
            row_b = (start + i)[:, None] * P + sb[None, :]
            g = _dot_add(hb, tl.trans(tl.load(up_ptr + row_b)), g)
            u = _dot_add(hb, tl.trans(tl.load(up_ptr + INNER * P + row_b)), u)
        a = (_silu(g)[1] * u).to(ha.dtype)
        if NORMED:
            squares += tl.sum(g * g * u * u, 1)
        m_a = _dot_add(a, tl.load(down_ptr + row_a), m_a)
        if SB > 0:
            m_b = _dot_add(a, tl.load(down_ptr + row_b), m_b)
    r = tl.rsqrt(squares / INNER + EPS) if NORMED else tl.full((BD,), 1.0, tl.float32)
    # h is read again: it need not stay in registers through the loop.
    t_a = tl.trans(m_a * r[:, None]) + tl.load(h_ptr + at_a, in_a, 0.0).to(tl.float32)
    total = tl.sum(t_a * t_a, 0)
    if SB > 0:
        t_b = tl.trans(m_b * r[:, None]) + tl.load(h_ptr + at_b, in_b, 0.0).to(tl.float32)
        total += tl.sum(t_b * t_b, 0)
    n = tl.rsqrt(total / S + EPS)
    tl.store(y_ptr + at_a, (t_a * n[None, :]).to(y_ptr.dtype.element_ty), in_a)
    if SB > 0:
        tl.store(y_ptr + at_b, (t_b * n[None, :]).to(y_ptr.dtype.element_ty), in_b)
    tl.store(n_ptr + b * D + d, n, d < D)
    if NORMED:
        tl.store(r_ptr + b * D + d, r, d < D)


@triton.jit
def _gate_backward(g, u, da, k, NORMED: tl.constexpr):
    """Gradients of g and u, and a itself; k broadcasts."""
    sigmoid, silu = _silu(g)
    dg = da * u * sigmoid * (1 + g - silu)
    du = da * silu
    if NORMED:
        dg += k * g * u * u
        du += k * g * g * u
    return dg, du, silu * u


@triton.autotune(
    _configs(
        ({"BD": 128, "BI": 32}, 8, 2),
        ({"BD": 64, "BI": 32}, 4, 2),
        ({"BD": 64, "BI": 64}, 8, 2),
        ({"BD": 64, "BI": 32}, 8, 3),
    ),
    key=["S", "D", "INNER", "NORMED"],
)
@triton.jit
def _tokens_backward_input(
    h_ptr, up_ptr, down_ptr, y_ptr, n_ptr, r_ptr, dy_ptr, dh_ptr, dm_ptr, k_ptr, S, D, INNER: tl.constexpr,
    NORMED: tl.constexpr, SA: tl.constexpr, SB: tl.constexpr, BD: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    P: tl.constexpr = SA + SB
    b = tl.program_id(0).to(tl.int64)
    h_ptr += b * S * D
    y_ptr += b * S * D
    dy_ptr += b * S * D
    dh_ptr += b * S * D
    dm_ptr += b * S * D
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    sa, i = tl.arange(0, SA), tl.arange(0, BI)
    at_a, in_a = sa[:, None] * D + d[None, :], (sa[:, None] < S) & (d[None, :] < D)
    n = tl.load(n_ptr + b * D + d, d < D, 0.0)
    r = tl.load(r_ptr + b * D + d, d < D, 0.0) if NORMED else tl.full((BD,), 1.0, tl.float32)
    y_a = tl.load(y_ptr + at_a, in_a, 0.0).to(tl.float32)
    dy_a = tl.load(dy_ptr + at_a, in_a, 0.0).to(tl.float32)
    along = tl.sum(y_a * dy_a, 0)
    if SB > 0:
        sb = SA + tl.arange(0, SB)
        at_b, in_b = sb[:, None] * D + d[None, :], (sb[:, None] < S) & (d[None, :] < D)
        y_b = tl.load(y_ptr + at_b, in_b, 0.0).to(tl.float32)
        dy_b = tl.load(dy_ptr + at_b, in_b, 0.0).to(tl.float32)
        along += tl.sum(y_b * dy_b, 0)
    h_a = tl.load(h_ptr + at_a, in_a, 0.0)
    dt_a = n[None, :] * (dy_a - y_a * (along / S)[None, :])
    dm_a = (dt_a * r[None, :]).to(h_a.dtype)
    c = _rest_of_sum(n, along) - tl.sum(dt_a * h_a.to(tl.float32), 0)
    tl.store(dm_ptr + at_a, dm_a, in_a)
    ha, dma, dh_a = tl.trans(h_a), tl.trans(dm_a), tl.trans(dt_a)
    if SB > 0:
        h_b = tl.load(h_ptr + at_b, in_b, 0.0)
        dt_b = n[None, :] * (dy_b - y_b * (along / S)[None, :])
        dm_b = (dt_b * r[None, :]).to(h_b.dtype)
        c -= tl.sum(dt_b * h_b.to(tl.float32), 0)
        tl.store(dm_ptr + at_b, dm_b, in_b)
        hb, dmb, dh_b = tl.trans(h_b), tl.trans(dm_b), tl.trans(dt_b)
    k = -c * r * r / INNER
    if NORMED:
        tl.store(k_ptr + b * D + d, k, d < D)
    for start in range(0, INNER, BI):
        row_a = (start + i)[:, None] * P + sa[None, :]
        wg_a, wu_a = tl.load(up_ptr + row_a), tl.load(up_ptr + INNER * P + row_a)
        g = _dot(ha, tl.trans(wg_a))
        u = _dot(ha, tl.trans(wu_a))
        da = _dot(dma, tl.trans(tl.load(down_ptr + row_a)))
        if SB > 0:
            row_b = (start + i)[:, None] * P + sb[None, :]
            wg_b, wu_b = tl.load(up_ptr + row_b), tl.load(up_ptr + INNER * P + row_b)
            g = _dot_add(hb, tl.trans(wg_b), g)
            u = _dot_add(hb, tl.trans(wu_b), u)
            da = _dot_add(dmb, tl.trans(tl.load(down_ptr + row_b)), da)
        dg, du, _ = _gate_backward(g, u, da, k[:, None], NORMED)
        dg, du = dg.to(ha.dtype), du.to(ha.dtype)
        dh_a = _dot_add(dg, wg_a, dh_a)
        dh_a = _dot_add(du, wu_a, dh_a)
        if SB > 0:
            dh_b = _dot_add(dg, wg_b, dh_b)
            dh_b = _dot_add(du, wu_b, dh_b)
    tl.store(dh_ptr + at_a, tl.trans(dh_a).to(dh_ptr.dtype.element_ty), in_a)
    if SB > 0:
        tl.store(dh_ptr + at_b, tl.trans(dh_b).to(dh_ptr.dtype.element_ty), in_b)


@triton.autotune(
    _configs(
        ({"BD": 64, "BI": 64}, 8, 2),
        ({"BD": 64, "BI": 64}, 8, 3),
        ({"BD": 32, "BI": 64}, 8, 3),
        ({"BD": 32, "BI": 64}, 4, 3),
    ),
    key=["S", "D", "INNER", "NORMED"],
)
@triton.jit
def _tokens_backward_weights(
    h_ptr, up_ptr, down_ptr, dm_ptr, k_ptr, dw_ptr, B: tl.constexpr, S, D: tl.constexpr, INNER: tl.constexpr,
    NORMED: tl.constexpr, SA: tl.constexpr, SB: tl.constexpr, SLICES: tl.constexpr, BD: tl.constexpr,
    BI: tl.constexpr,
):  # fmt: skip
    P: tl.constexpr = SA + SB
    i = tl.program_id(0) * BI + tl.arange(0, BI)
    sa = tl.arange(0, SA)
    row_a = i[:, None] * P + sa[None, :]
    wg_a, wu_a, wd_a = tl.load(up_ptr + row_a), tl.load(up_ptr + INNER * P + row_a), tl.load(down_ptr + row_a)
    dwg_a = tl.zeros((BI, SA), tl.float32)
    dwu_a, dwd_a = dwg_a, dwg_a
    if SB > 0:
        sb = SA + tl.arange(0, SB)
        row_b = i[:, None] * P + sb[None, :]
        wg_b, wu_b, wd_b = (
            tl.load(up_ptr + row_b),
            tl.load(up_ptr + INNER * P + row_b),
            tl.load(down_ptr + row_b),
        )
        dwg_b = tl.zeros((BI, SB), tl.float32)
        dwu_b, dwd_b = dwg_b, dwg_b
    for step in range(tl.cdiv(B * tl.cdiv(D, BD), SLICES)):
        # Programs that run side by side read the same block of h: it comes from memory once.
        tile = step * SLICES + tl.program_id(1)
        b = (tile // tl.cdiv(D, BD)).to(tl.int64)
        d = tile % tl.cdiv(D, BD) * BD + tl.arange(0, BD)
        inside = d < tl.where(b < B, D, 0)
        at_a, in_a = sa[:, None] * D + d[None, :], (sa[:, None] < S) & inside[None, :]
        h_a, dm_a = (
            tl.load(h_ptr + b * S * D + at_a, in_a, 0.0),
            tl.load(dm_ptr + b * S * D + at_a, in_a, 0.0),
        )
        k = tl.load(k_ptr + b * D + d, inside, 0.0) if NORMED else tl.zeros((BD,), tl.float32)
        g = _dot(wg_a, h_a)
        u = _dot(wu_a, h_a)
        da = _dot(wd_a, dm_a)
        if SB > 0:
            at_b, in_b = sb[:, None] * D + d[None, :], (sb[:, None] < S) & inside[None, :]
            h_b, dm_b = (
                tl.load(h_ptr + b * S * D + at_b, in_b, 0.0),
                tl.load(dm_ptr + b * S * D + at_b, in_b, 0.0),
            )
            g = _dot_add(wg_b, h_b, g)
            u = _dot_add(wu_b, h_b, u)
            da = _dot_add(wd_b, dm_b, da)
        dg, du, a = _gate_backward(g, u, da, k[None, :], NORMED)
        dg, du, a = dg.to(h_a.dtype), du.to(h_a.dtype), a.to(h_a.dtype)
        dwg_a = _dot_add(dg, tl.trans(h_a), dwg_a)
        dwu_a = _dot_add(du, tl.trans(h_a), dwu_a)
        dwd_a = _dot_add(a, tl.trans(dm_a), dwd_a)
        if SB > 0:
            dwg_b = _dot_add(dg, tl.trans(h_b), dwg_b)
            dwu_b = _dot_add(du, tl.trans(h_b), dwu_b)
            dwd_b = _dot_add(a, tl.trans(dm_b), dwd_b)
    dw_ptr += tl.program_id(1) * 3 * INNER * P
    tl.store(dw_ptr + row_a, dwg_a)
    tl.store(dw_ptr + INNER * P + row_a, dwu_a)
    tl.store(dw_ptr + 2 * INNER * P + row_a, dwd_a)
    if SB > 0:
        tl.store(dw_ptr + row_b, dwg_b)
        tl.store(dw_ptr + INNER * P + row_b, dwu_b)
        tl.store(dw_ptr + 2 * INNER * P + row_b, dwd_b)


def _parts(tokens: int) -> tuple[int, int]:
    """Padded tokens as a power of two and a smaller one (or none); products need at least 16."""
    whole = max(16, triton.next_power_of_2(tokens))
    rest = triton.next_power_of_2(max(16, tokens - whole // 2))
    return (whole // 2, rest) if whole // 2 >= 32 and rest < whole // 2 else (whole, 0)


def _padded(up_ES: Tensor, down_SI: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights as the kernels read them: both with the tokens last, padded with zeros."""
    width = sum(_parts(len(down_SI)))
    up_EP = up_ES.new_zeros(len(up_ES), width, dtype=dtype)
    down_IP = up_ES.new_zeros(down_SI.shape[1], width, dtype=dtype)
    up_EP[:, : up_ES.shape[1]] = up_ES
    down_IP[:, : len(down_SI)] = down_SI.T
    return up_EP, down_IP


@torch.library.custom_op("trm::mix_tokens", mutates_args=())
def _mix_tokens(h: Tensor, up: Tensor, down: Tensor, normed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The result y, and what backward needs of the norms: n_BD and (if normed) r_BD."""
    h = h.contiguous()
    (B, S, D), (inner, _) = h.shape, down.T.shape
    SA, SB = _parts(S)
    y = torch.empty_like(h)
    n = h.new_empty(B, D, dtype=torch.float32)
    r = h.new_empty((B, D) if normed else (0,), dtype=torch.float32)
    grid = lambda at: (B, triton.cdiv(D, at["BD"]))  # noqa: E731
    _tokens_forward[grid](h, *_padded(up, down, h.dtype), y, n, r, S, D, inner, normed, SA, SB)
    return y, n, r


@_mix_tokens.register_fake
def _(h: Tensor, up: Tensor, down: Tensor, normed: bool) -> tuple[Tensor, Tensor, Tensor]:
    B, _, D = h.shape
    n = h.new_empty(B, D, dtype=torch.float32)
    r = h.new_empty((B, D) if normed else (0,), dtype=torch.float32)
    return torch.empty_like(h, memory_format=torch.contiguous_format), n, r


@torch.library.custom_op("trm::mix_tokens_backward", mutates_args=())
def _mix_tokens_backward(
    dy: Tensor, h: Tensor, up: Tensor, down: Tensor, y: Tensor, n: Tensor, r: Tensor, normed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dy, h = dy.contiguous(), h.contiguous()
    (B, S, D), (inner, _) = h.shape, down.T.shape
    SA, SB = _parts(S)
    up_EP, down_IP = _padded(up, down, h.dtype)
    dh, dm, k = torch.empty_like(h), torch.empty_like(h), torch.empty_like(r)
    grid = lambda at: (B, triton.cdiv(D, at["BD"]))  # noqa: E731
    _tokens_backward_input[grid](h, up_EP, down_IP, y, n, r, dy, dh, dm, k, S, D, inner, normed, SA, SB)
    slices = min(SLICES, B)
    parts = h.new_empty(slices, 3 * inner, SA + SB, dtype=torch.float32)
    grid = lambda at: (inner // at["BI"], slices)  # noqa: E731
    _tokens_backward_weights[grid](h, up_EP, down_IP, dm, k, parts, B, S, D, inner, normed, SA, SB, slices)
    dw = parts.sum(0)[:, :S]
    return dh, dw[: 2 * inner].to(up.dtype, copy=True), dw[2 * inner :].T.contiguous().to(down.dtype)


@_mix_tokens_backward.register_fake
def _(
    dy: Tensor, h: Tensor, up: Tensor, down: Tensor, y: Tensor, n: Tensor, r: Tensor, normed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(y), torch.empty_like(up), torch.empty_like(down)


def _save_tokens(ctx, inputs, output):
    h, up, down, ctx.normed = inputs
    ctx.save_for_backward(h, up, down, *output)


def _tokens_gradients(ctx, dy, *_):
    return *_mix_tokens_backward(dy, *ctx.saved_tensors, ctx.normed), None


_mix_tokens.register_autograd(_tokens_gradients, setup_context=_save_tokens)


# Gated unit over channels, and norms


@triton.autotune(
    _configs(
        ({"BM": 128, "BN": 64, "BK": 64}, 4, 3),
        ({"BM": 128, "BN": 128, "BK": 64}, 8, 3),
        ({"BM": 128, "BN": 128, "BK": 64}, 8, 4),
        ({"BM": 128, "BN": 64, "BK": 64}, 8, 4),
    ),
    key=["D", "INNER", "SAVE", "NORMED"],
)
@triton.jit
def _gate_up(
    h_ptr, up_ptr, a_ptr, gu_ptr, squares_ptr, M, D: tl.constexpr, INNER: tl.constexpr, SAVE: tl.constexpr,
    NORMED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """A = silu(h @ gate^T) * (h @ value^T), both products in one pass over h."""
    # Blocks of one set of rows run side by side, and all of the weights stay in the cache.
    first, block = (tl.program_id(0) // (INNER // BN)).to(tl.int64) * BM, tl.program_id(0) % (INNER // BN)
    m, k = tl.arange(0, BM), tl.arange(0, BK)
    i = block * BN + tl.arange(0, BN)
    rows = m < M - first
    h_ptr += first * D
    at_h, at_w = m[:, None] * D + k[None, :], i[None, :] * D + k[:, None]
    g, u = tl.zeros((BM, BN), tl.float32), tl.zeros((BM, BN), tl.float32)
    for start in range(0, D, BK):
        if D % BK == 0:
            h = tl.load(h_ptr + start + at_h, rows[:, None], 0.0)
            wg, wu = tl.load(up_ptr + start + at_w), tl.load(up_ptr + INNER * D + start + at_w)
        else:
            rest = k < D - start
            h = tl.load(h_ptr + start + at_h, rows[:, None] & rest[None, :], 0.0)
            wg = tl.load(up_ptr + start + at_w, rest[:, None], 0.0)
            wu = tl.load(up_ptr + INNER * D + start + at_w, rest[:, None], 0.0)
        g = _dot_add(h, wg, g)
        u = _dot_add(h, wu, u)
    kind = a_ptr.dtype.element_ty
    at = m[:, None] * INNER + i[None, :]
    tl.store(a_ptr + first * INNER + at, (_silu(g)[1] * u).to(kind), rows[:, None])
    if SAVE:
        at += m[:, None] * INNER
        tl.store(gu_ptr + first * 2 * INNER + at, g.to(kind), rows[:, None])
        tl.store(gu_ptr + first * 2 * INNER + INNER + at, u.to(kind), rows[:, None])
    if NORMED:
        # One row of sums for every 64 columns, whatever BN: the rows that it leaves over are zero.
        squares = tl.sum(g * g * u * u, 1)
        for row in tl.static_range(BN // 64):
            at_s = (block * (BN // 64) + row) * M + first + m
            tl.store(squares_ptr + at_s, squares if row == 0 else tl.zeros_like(squares), rows)


@triton.jit
def _gate_back(
    gu_ptr, da_ptr, k_ptr, dgu_ptr, M, INNER: tl.constexpr, NORMED: tl.constexpr,
    BM: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    i = tl.program_id(1) * BI + tl.arange(0, BI)
    rows = m[:, None] < M
    at_g = m[:, None] * 2 * INNER + i[None, :]
    g = tl.load(gu_ptr + at_g, rows, 0.0).to(tl.float32)
    u = tl.load(gu_ptr + at_g + INNER, rows, 0.0).to(tl.float32)
    da = tl.load(da_ptr + m[:, None] * INNER + i[None, :], rows, 0.0).to(tl.float32)
    k = tl.load(k_ptr + m, m < M, 0.0) if NORMED else tl.zeros((BM,), tl.float32)
    dg, du, _ = _gate_backward(g, u, da, k[:, None], NORMED)
    tl.store(dgu_ptr + at_g, dg.to(dgu_ptr.dtype.element_ty), rows)
    tl.store(dgu_ptr + at_g + INNER, du.to(dgu_ptr.dtype.element_ty), rows)


@triton.jit
def _norm_forward(
    h_ptr, m_ptr, r_ptr, y_ptr, n_ptr, M, D, SCALED: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr
):
    """Y = rmsnorm(h + r m), with the rows' scale r if SCALED; n is the norm's factor."""
    row, d = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM), tl.arange(0, BD)
    at, inside = row[:, None] * D + d[None, :], (row[:, None] < M) & (d[None, :] < D)
    m = tl.load(m_ptr + at, inside, 0.0).to(tl.float32)
    if SCALED:
        m *= tl.load(r_ptr + row, row < M, 0.0)[:, None]
    t = tl.load(h_ptr + at, inside, 0.0).to(tl.float32) + m
    n = tl.rsqrt(tl.sum(t * t, 1) / D + EPS)
    tl.store(y_ptr + at, (t * n[:, None]).to(y_ptr.dtype.element_ty), inside)
    tl.store(n_ptr + row, n, row < M)


@triton.jit
def _norm_backward(
    dy_ptr, y_ptr, n_ptr, h_ptr, r_ptr, dt_ptr, dm_ptr, k_ptr, M, D, INNER, SCALED: tl.constexpr,
    BM: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Dt, and if SCALED also r dt and k."""
    row, d = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM), tl.arange(0, BD)
    at, inside = row[:, None] * D + d[None, :], (row[:, None] < M) & (d[None, :] < D)
    y = tl.load(y_ptr + at, inside, 0.0).to(tl.float32)
    dy = tl.load(dy_ptr + at, inside, 0.0).to(tl.float32)
    n = tl.load(n_ptr + row, row < M, 0.0)
    along = tl.sum(y * dy, 1)
    dt = n[:, None] * (dy - y * (along / D)[:, None])
    tl.store(dt_ptr + at, dt.to(dt_ptr.dtype.element_ty), inside)
    if SCALED:
        r = tl.load(r_ptr + row, row < M, 0.0)
        tl.store(dm_ptr + at, (dt * r[:, None]).to(dm_ptr.dtype.element_ty), inside)
        h = tl.load(h_ptr + at, inside, 0.0).to(tl.float32)
        c = _rest_of_sum(n, along) - tl.sum(dt * h, 1)
        tl.store(k_ptr + row, -c * r * r / INNER, row < M)


def _norm(h_MD: Tensor, m_MD: Tensor, r_M: Tensor) -> tuple[Tensor, Tensor]:
    M, D = h_MD.shape
    y_MD, n_M = torch.empty_like(h_MD), h_MD.new_empty(M, dtype=torch.float32)
    BD = triton.next_power_of_2(D)
    BM = max(1, 2048 // BD)
    _norm_forward[(triton.cdiv(M, BM),)](h_MD, m_MD, r_M, y_MD, n_M, M, D, r_M.numel() > 0, BM, BD)
    return y_MD, n_M


def _norm_gradients(
    dy_MD: Tensor, y_MD: Tensor, n_M: Tensor, h_MD: Tensor, r_M: Tensor, inner: int
) -> tuple[Tensor, Tensor, Tensor]:
    """dt, r dt (dt itself without a scale) and k."""
    M, D = y_MD.shape
    scaled = r_M.numel() > 0
    dt_MD, k_M = torch.empty_like(y_MD), torch.empty_like(r_M)
    dm_MD = torch.empty_like(y_MD) if scaled else dt_MD
    BD = triton.next_power_of_2(D)
    BM = max(1, 2048 // BD)
    _norm_backward[(triton.cdiv(M, BM),)](
        dy_MD, y_MD, n_M, h_MD, r_M, dt_MD, dm_MD, k_M, M, D, inner, scaled, BM, BD
    )
    return dt_MD, dm_MD, k_M


@torch.library.custom_op("trm::add_rms_norm", mutates_args=())
def _add_rms_norm(h: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    y, n = _norm(h.contiguous().flatten(0, -2), m.contiguous().flatten(0, -2), h.new_empty(0))
    return y.view(h.shape), n


@_add_rms_norm.register_fake
def _(h: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    y = torch.empty_like(h, memory_format=torch.contiguous_format)
    return y, h.new_empty(h.shape[:-1].numel(), dtype=torch.float32)


@torch.library.custom_op("trm::add_rms_norm_backward", mutates_args=())
def _add_rms_norm_backward(dy: Tensor, y: Tensor, n: Tensor) -> Tensor:
    y_MD = y.flatten(0, -2)
    return _norm_gradients(dy.contiguous().flatten(0, -2), y_MD, n, y_MD, n[:0], 1)[0].view(y.shape)


@_add_rms_norm_backward.register_fake
def _(dy: Tensor, y: Tensor, n: Tensor) -> Tensor:
    return torch.empty_like(y)


def _add_rms_norm_gradients(ctx, dy, _):
    dt = _add_rms_norm_backward(dy, *ctx.saved_tensors)
    return dt, dt


_add_rms_norm.register_autograd(
    _add_rms_norm_gradients, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*output)
)


@torch.library.custom_op("trm::mix_channels", mutates_args=())
def _mix_channels(
    h: Tensor, up: Tensor, down: Tensor, normed: bool, save: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The result y, and what backward needs if `save`: n_M, r_M (if normed), gu_ME and a_MI."""
    h_MD = h.contiguous().flatten(0, -2)
    (M, D), inner = h_MD.shape, down.shape[1]
    a_MI = h_MD.new_empty(M, inner)
    gu_ME = h_MD.new_empty((M, 2 * inner) if save else (0,))
    squares = h_MD.new_empty((inner // 64, M) if normed else (0,), dtype=torch.float32)
    grid = lambda at: (triton.cdiv(M, at["BM"]) * (inner // at["BN"]),)  # noqa: E731
    _gate_up[grid](h_MD, up.to(h.dtype), a_MI, gu_ME, squares, M, D, inner, save, normed)
    r_M = (squares.sum(0) / inner + plain.EPS).rsqrt() if normed else squares
    y_MD, n_M = _norm(h_MD, a_MI @ down.to(h.dtype).T, r_M)
    return y_MD.view(h.shape), n_M, r_M, gu_ME, a_MI if save else h_MD.new_empty(0)


@_mix_channels.register_fake
def _(
    h: Tensor, up: Tensor, down: Tensor, normed: bool, save: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    M, inner = h.shape[:-1].numel(), down.shape[1]
    n = h.new_empty(M, dtype=torch.float32)
    r = h.new_empty((M,) if normed else (0,), dtype=torch.float32)
    gu, a = h.new_empty((M, 2 * inner) if save else (0,)), h.new_empty((M, inner) if save else (0,))
    return torch.empty_like(h, memory_format=torch.contiguous_format), n, r, gu, a


@torch.library.custom_op("trm::mix_channels_backward", mutates_args=())
def _mix_channels_backward(
    dy: Tensor,
    h: Tensor,
    up: Tensor,
    down: Tensor,
    y: Tensor,
    n: Tensor,
    r: Tensor,
    gu_ME: Tensor,
    a_MI: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    dy_MD, h_MD, y_MD = (each.contiguous().flatten(0, -2) for each in (dy, h, y))
    M, inner = a_MI.shape
    dt_MD, dm_MD, k_M = _norm_gradients(dy_MD, y_MD, n, h_MD, r, inner)
    da_MI = dm_MD @ down.to(h.dtype)
    dgu_ME = torch.empty_like(gu_ME)
    grid = (triton.cdiv(M, 8), inner // 256)
    _gate_back[grid](gu_ME, da_MI, k_M, dgu_ME, M, inner, r.numel() > 0, 8, 256)
    dh_MD = torch.addmm(dt_MD, dgu_ME, up.to(h.dtype))
    return dh_MD.view(h.shape), (dgu_ME.T @ h_MD).to(up.dtype), (dm_MD.T @ a_MI).to(down.dtype)


@_mix_channels_backward.register_fake
def _(
    dy: Tensor,
    h: Tensor,
    up: Tensor,
    down: Tensor,
    y: Tensor,
    n: Tensor,
    r: Tensor,
    gu_ME: Tensor,
    a_MI: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(y), torch.empty_like(up), torch.empty_like(down)


def _save_channels(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3], *output)


def _channels_gradients(ctx, dy, *_):
    return *_mix_channels_backward(dy, *ctx.saved_tensors), None, None


_mix_channels.register_autograd(_channels_gradients, setup_context=_save_channels)


# What blocks call


def mix_tokens(h_BSD: Tensor, up_ES: Tensor, down_SI: Tensor, gate: Gate) -> Tensor:
    """The gated unit over tokens, residual and norm over tokens; `plain` above `MOST_TOKENS` tokens."""
    if h_BSD.shape[1] > MOST_TOKENS:
        return plain.mix_tokens(h_BSD, up_ES, down_SI, gate)
    _check(h_BSD)
    return _mix_tokens(h_BSD, up_ES, down_SI, gate == "normed")[0]


def mix_channels(h_BSD: Tensor, up_ED: Tensor, down_DI: Tensor, gate: Gate) -> Tensor:
    """The gated unit over channels, residual and norm over channels."""
    _check(h_BSD)
    return _mix_channels(h_BSD, up_ED, down_DI, gate == "normed", torch.is_grad_enabled())[0]


def add_rms_norm(h_BSD: Tensor, m_BSD: Tensor) -> Tensor:
    """Residual and norm over channels."""
    _check(h_BSD)
    return _add_rms_norm(h_BSD, m_BSD)[0]


def _check(h: Tensor) -> None:
    if h.device.type != "cuda" and not INTERPRETED:
        raise UserError(f"model.kernels triton needs a CUDA device, not {h.device.type}: use torch")
