"""The gated unit over channels and the norms as kernels around matrix products.

Shapes: B batch, S tokens, D width, M = B S rows, I inner width, E = 2 I. In kernels
BM, BN and BK are sizes of blocks.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trm.kernels import plain
from trm.kernels.fused.common import EPS, configs, dot_add, gate_backward, rest_of_sum, silu


@triton.autotune(
    configs(
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
        g = dot_add(h, wg, g)
        u = dot_add(h, wu, u)
    kind = a_ptr.dtype.element_ty
    at = m[:, None] * INNER + i[None, :]
    tl.store(a_ptr + first * INNER + at, (silu(g)[1] * u).to(kind), rows[:, None])
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
    dg, du, _ = gate_backward(g, u, da, k[:, None], NORMED)
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
        c = rest_of_sum(n, along) - tl.sum(dt * h, 1)
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
def add_norm(h: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """rmsnorm(h + m), and what its backward pass needs."""
    y, n = _norm(h.contiguous().flatten(0, -2), m.contiguous().flatten(0, -2), h.new_empty(0))
    return y.view(h.shape), n


@add_norm.register_fake
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


add_norm.register_autograd(
    _add_rms_norm_gradients, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*output)
)


@torch.library.custom_op("trm::mix_channels", mutates_args=())
def mix(
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


@mix.register_fake
def _(
    h: Tensor, up: Tensor, down: Tensor, normed: bool, save: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    M, inner = h.shape[:-1].numel(), down.shape[1]
    n = h.new_empty(M, dtype=torch.float32)
    r = h.new_empty((M,) if normed else (0,), dtype=torch.float32)
    gu, a = h.new_empty((M, 2 * inner) if save else (0,)), h.new_empty((M, inner) if save else (0,))
    return torch.empty_like(h, memory_format=torch.contiguous_format), n, r, gu, a


@torch.library.custom_op("trm::mix_channels_backward", mutates_args=())
def _mix_backward(
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


@_mix_backward.register_fake
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
    return *_mix_backward(dy, *ctx.saved_tensors), None, None


mix.register_autograd(_channels_gradients, setup_context=_save_channels)
