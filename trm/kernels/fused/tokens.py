"""The token mixer as kernels: a sample's tokens and a block of its channels stay on the chip.

Tokens are padded to a power of two plus a smaller one (81 and 96 to 64 + 32, 97 to 128), up to 128.

Shapes: B batch, S tokens (P of them padded), D width, M = B S rows, I inner width, E = 2 I. In kernels
SA and SB are the two parts of P, and BD, BI, BM, BN, BK the sizes of blocks.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trm.kernels.fused.common import EPS, configs, dot, dot_add, gate_backward, rest_of_sum, silu

MOST_TOKENS = 128
# Partial sums of the mixer's weight gradients: enough programs to fill a large GPU with I / BI = 8 blocks.
SLICES = 32


@triton.autotune(
    configs(
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
        g = dot(ha, tl.trans(tl.load(up_ptr + row_a)))
        u = dot(ha, tl.trans(tl.load(up_ptr + INNER * P + row_a)))
        if SB > 0:
            row_b = (start + i)[:, None] * P + sb[None, :]
            g = dot_add(hb, tl.trans(tl.load(up_ptr + row_b)), g)
            u = dot_add(hb, tl.trans(tl.load(up_ptr + INNER * P + row_b)), u)
        a = (silu(g)[1] * u).to(ha.dtype)
        if NORMED:
            squares += tl.sum(g * g * u * u, 1)
        m_a = dot_add(a, tl.load(down_ptr + row_a), m_a)
        if SB > 0:
            m_b = dot_add(a, tl.load(down_ptr + row_b), m_b)
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


@triton.autotune(
    configs(
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
    c = rest_of_sum(n, along) - tl.sum(dt_a * h_a.to(tl.float32), 0)
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
        g = dot(ha, tl.trans(wg_a))
        u = dot(ha, tl.trans(wu_a))
        da = dot(dma, tl.trans(tl.load(down_ptr + row_a)))
        if SB > 0:
            row_b = (start + i)[:, None] * P + sb[None, :]
            wg_b, wu_b = tl.load(up_ptr + row_b), tl.load(up_ptr + INNER * P + row_b)
            g = dot_add(hb, tl.trans(wg_b), g)
            u = dot_add(hb, tl.trans(wu_b), u)
            da = dot_add(dmb, tl.trans(tl.load(down_ptr + row_b)), da)
        dg, du, _ = gate_backward(g, u, da, k[:, None], NORMED)
        dg, du = dg.to(ha.dtype), du.to(ha.dtype)
        dh_a = dot_add(dg, wg_a, dh_a)
        dh_a = dot_add(du, wu_a, dh_a)
        if SB > 0:
            dh_b = dot_add(dg, wg_b, dh_b)
            dh_b = dot_add(du, wu_b, dh_b)
    tl.store(dh_ptr + at_a, tl.trans(dh_a).to(dh_ptr.dtype.element_ty), in_a)
    if SB > 0:
        tl.store(dh_ptr + at_b, tl.trans(dh_b).to(dh_ptr.dtype.element_ty), in_b)


@triton.autotune(
    configs(
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
        g = dot(wg_a, h_a)
        u = dot(wu_a, h_a)
        da = dot(wd_a, dm_a)
        if SB > 0:
            at_b, in_b = sb[:, None] * D + d[None, :], (sb[:, None] < S) & inside[None, :]
            h_b, dm_b = (
                tl.load(h_ptr + b * S * D + at_b, in_b, 0.0),
                tl.load(dm_ptr + b * S * D + at_b, in_b, 0.0),
            )
            g = dot_add(wg_b, h_b, g)
            u = dot_add(wu_b, h_b, u)
            da = dot_add(wd_b, dm_b, da)
        dg, du, a = gate_backward(g, u, da, k[None, :], NORMED)
        dg, du, a = dg.to(h_a.dtype), du.to(h_a.dtype), a.to(h_a.dtype)
        dwg_a = dot_add(dg, tl.trans(h_a), dwg_a)
        dwu_a = dot_add(du, tl.trans(h_a), dwu_a)
        dwd_a = dot_add(a, tl.trans(dm_a), dwd_a)
        if SB > 0:
            dwg_b = dot_add(dg, tl.trans(h_b), dwg_b)
            dwu_b = dot_add(du, tl.trans(h_b), dwu_b)
            dwd_b = dot_add(a, tl.trans(dm_b), dwd_b)
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
def mix(h: Tensor, up: Tensor, down: Tensor, normed: bool) -> tuple[Tensor, Tensor, Tensor]:
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


@mix.register_fake
def _(h: Tensor, up: Tensor, down: Tensor, normed: bool) -> tuple[Tensor, Tensor, Tensor]:
    B, _, D = h.shape
    n = h.new_empty(B, D, dtype=torch.float32)
    r = h.new_empty((B, D) if normed else (0,), dtype=torch.float32)
    return torch.empty_like(h, memory_format=torch.contiguous_format), n, r


@torch.library.custom_op("trm::mix_tokens_backward", mutates_args=())
def _mix_backward(
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


@_mix_backward.register_fake
def _(
    dy: Tensor, h: Tensor, up: Tensor, down: Tensor, y: Tensor, n: Tensor, r: Tensor, normed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(y), torch.empty_like(up), torch.empty_like(down)


def _save_tokens(ctx, inputs, output):
    h, up, down, ctx.normed = inputs
    ctx.save_for_backward(h, up, down, *output)


def _tokens_gradients(ctx, dy, *_):
    return *_mix_backward(dy, *ctx.saved_tensors, ctx.normed), None


mix.register_autograd(_tokens_gradients, setup_context=_save_tokens)
