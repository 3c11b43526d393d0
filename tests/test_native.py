"""The native block over candidates against its plain twin in float64, forward and backward."""

import functools
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trm.kernels import compiled, native, plain

needs_compiler = pytest.mark.skipif(
    not native.available(), reason="no C++ compiler that builds trm/kernels/native.cpp"
)
# Distances in norm. Measured: at most 6e-7, and 1.3e-6 where weight gradients sum over 4096 candidates.
BOUND = 2e-6


def sudoku(rows: int, columns: int) -> Tensor:
    """Cell, row, column and box relations of a Sudoku with boxes of that size."""
    n = rows * columns
    row, column, digit = (each.flatten() for each in torch.meshgrid(*[torch.arange(n)] * 3, indexing="ij"))
    box = row // rows * rows + column // columns
    return torch.stack([row * n + column, row * n + digit, column * n + digit, box * n + digit]).int()


def uneven() -> Tensor:
    """Groups of any sizes, one of them empty, and a relation of one group."""
    return torch.stack([torch.arange(53) % 7 * 2, torch.arange(53) ** 2 % 11, torch.zeros(53)]).int()


GROUPS = {
    "sudoku_4x4": sudoku(2, 2),
    "sudoku_6x6": sudoku(2, 3),
    "sudoku_9x9": sudoku(3, 3),
    "sudoku_16x16": sudoku(4, 4),
    "latin_5x5": sudoku(1, 5)[:3],
    "uneven": uneven(),
}


def draw(group: Tensor, rows: int, width: int, pooled: int, inner: int, scale: float = 1.5) -> list[Tensor]:
    """The float32 tensors h and weights."""
    relations, candidates = group.shape
    torch.manual_seed(width)
    return [
        torch.randn(rows, candidates, width),
        torch.randn(relations, 2 * pooled, width) * scale * width**-0.5,
        torch.randn(relations, width, pooled) * scale * pooled**-0.5,
        torch.randn(2 * inner, width) * scale * width**-0.5,
        torch.randn(width, inner) * scale * inner**-0.5,
    ]


def run(block, group: Tensor, given: list[Tensor]) -> list[Tensor]:
    """Result and gradients."""
    h, *weights = own = [each.clone().requires_grad_() for each in given]
    out = block(h, group, *weights)
    out.backward(torch.sin(torch.arange(out.numel())).view(out.shape).to(out))
    return [out.detach(), *(each.grad for each in own)]


def distance(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape and a.isfinite().all()
    return ((a.double() - b).norm() / b.norm()).item()


def compare(group: Tensor, given: list[Tensor], bound: float = BOUND) -> None:
    truth = run(plain.candidates, group, [each.double() for each in given])
    result = run(native.block, group, given)
    distances = [distance(r, t) for r, t in zip(result, truth, strict=True)]
    assert max(distances) < bound, distances
    with torch.no_grad():
        assert torch.equal(native.block(given[0], group, *given[1:]), result[0])


@needs_compiler
@pytest.mark.parametrize("widths", [(32, 32, 64), (16, 24, 8), (24, 8, 40)], ids=str)
@pytest.mark.parametrize("name", GROUPS)
def test_equals_the_plain_twin(name: str, widths: tuple[int, int, int]):
    rows = 1 if name == "sudoku_16x16" else 3
    compare(GROUPS[name], draw(GROUPS[name], rows, *widths))


@needs_compiler
@pytest.mark.parametrize("widths", [(8, 8, 8), (48, 48, 96), (64, 32, 128)], ids=str)
def test_other_widths(widths: tuple[int, int, int]):
    compare(GROUPS["sudoku_6x6"], draw(GROUPS["sudoku_6x6"], 2, *widths))


@needs_compiler
def test_gates_far_beyond_the_exponential():
    """Gates of several hundreds: exp(-g) is beyond float32 on one side, and nothing on the other."""
    group = GROUPS["sudoku_4x4"]
    h, pool_up, pool_down, up, down = draw(group, 2, 32, 32, 64)
    compare(group, [h, 200 * pool_up, pool_down, 200 * up, down], 1e-5)


@needs_compiler
def test_eps_counts_where_numbers_are_small():
    group = GROUPS["sudoku_4x4"]
    h, *weights = draw(group, 2, 32, 32, 64)
    compare(group, [1e-3 * h, *weights])


@needs_compiler
def test_gradients_are_slopes():
    """Without autograd's help: a small step along any direction."""
    group = GROUPS["sudoku_4x4"]
    given = draw(group, 2, 16, 16, 32)
    out, *gradients = run(native.block, group, given)
    weight = torch.sin(torch.arange(out.numel())).view(out.shape).double()
    for i, gradient in enumerate(gradients):
        direction = torch.randn_like(given[i])
        ends = []
        for step in (1e-3, -1e-3):
            moved = [each + step * direction if i == j else each for j, each in enumerate(given)]
            ends.append((native.block(moved[0], group, *moved[1:]).double() * weight).sum())
        slope = (ends[0] - ends[1]).item() / 2e-3
        assert slope == pytest.approx((gradient * direction).sum().item(), rel=5e-3)


@needs_compiler
def test_the_same_bits_for_any_number_of_threads(monkeypatch):
    group = GROUPS["sudoku_6x6"]
    given = draw(group, 7, 32, 32, 64)
    results = []
    for threads in (1, 1, 2, 3, 16):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(run(native.block, group, given))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@needs_compiler
def test_rows_share_nothing():
    """A row is computed as if it were alone, and a row of nan stays the only one."""
    group = GROUPS["sudoku_6x6"]
    h, *weights = draw(group, 3, 32, 32, 64)
    together = native.block(h, group, *weights)
    assert torch.equal(native.block(h[1:2], group, *weights), together[1:2])
    h[1] = torch.nan
    broken = native.block(h, group, *weights)
    assert broken[1].isnan().all() and torch.equal(broken[::2], together[::2])
    assert native.block(h[:0], group, *weights).shape == h[:0].shape


@needs_compiler
def test_strided_tensors():
    group = GROUPS["sudoku_4x4"]
    h, *weights = draw(group, 2, 32, 32, 64)
    expected = run(native.block, group, [h, *weights])
    strided = [each.transpose(0, -1).contiguous().transpose(0, -1) for each in (h, *weights)]
    assert not strided[0].is_contiguous()
    for a, b in zip(run(native.block, group, strided), expected, strict=True):
        assert torch.equal(a, b)


@needs_compiler
def test_the_operator_is_registered_as_torch_wants_it():
    group = GROUPS["sudoku_4x4"]
    h, *weights = draw(group, 2, 16, 16, 32)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_static")
    given = [h.requires_grad_(), h.detach(), h.detach(), group, *(each[None] for each in weights)]
    torch.library.opcheck(native._recursion, (given, 2, True), test_utils=tests)


@needs_compiler
@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore::DeprecationWarning")  # of torch's compiler
def test_within_a_compiled_function():
    group = GROUPS["sudoku_4x4"]
    given = draw(group, 2, 16, 16, 32)

    def twice(h: Tensor, group: Tensor, *weights: Tensor) -> Tensor:
        for _ in range(2):
            if native.fits(h, weights[1], weights[3]):
                h = native.block(h, group, *weights) + h
        return h

    expected = run(twice, group, given)
    traced = torch.compile(twice, backend="aot_eager", fullgraph=True)
    for a, b in zip(run(traced, group, given), expected, strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        assert torch.equal(traced(given[0], group, *given[1:]), expected[0])


@needs_compiler
def test_what_fits():
    h, _, pool_down, _, down = draw(GROUPS["sudoku_4x4"], 1, 16, 8, 24)
    assert native.fits(h, pool_down, down)
    assert not native.fits(h.double(), pool_down, down)
    assert not native.fits(h, pool_down, down.bfloat16())
    assert not native.fits(h.to("meta"), pool_down, down)
    assert not native.fits(h, pool_down[..., :4], down)
    assert not native.fits(h, pool_down, down[:, :20])


@needs_compiler
def test_what_would_be_misread_is_refused():
    group = GROUPS["sudoku_4x4"]
    h, *weights = draw(group, 1, 16, 8, 24)
    with pytest.raises(ValueError, match="expected"):
        native.block(h, group, *weights[:3], weights[3].T)
    with pytest.raises(ValueError, match="int32"):
        native.block(h, group.long(), *weights)
    with pytest.raises(ValueError, match="float32"):
        native.block(h.double(), group, *weights)
    for wrong in (-1, 64):
        with pytest.raises(ValueError, match="numbers of groups"):
            native.block(h, torch.full_like(group, wrong), *weights)


# A whole cycle


def cycle(block, y: Tensor, z: Tensor, x: Tensor, group: Tensor, *weights: Tensor, n: int):
    """The cycle, block by block."""

    def network(h: Tensor) -> Tensor:
        for each in zip(*weights, strict=True):
            h = block(h, group, *each)
        return h

    for _ in range(n):
        z = network(z + (y + x))
    return network(y + z), z


def run_cycle(compute, group: Tensor, given: list[Tensor], n: int) -> list[Tensor]:
    own = [each.clone().requires_grad_() for each in given]
    y, z = compute(*own[:3], group, *own[3:], n=n)
    direction = torch.sin(torch.arange(y.numel())).view(y.shape).to(y)
    (y * direction + z * direction.flip(0)).sum().backward()
    return [y.detach(), z.detach(), *(each.grad for each in own)]


@needs_compiler
@pytest.mark.parametrize(("blocks", "n"), [(1, 1), (2, 3), (3, 2)], ids=str)
def test_a_cycle_is_its_blocks(blocks: int, n: int):
    group = GROUPS["sudoku_6x6"]
    weights = [draw(group, 1, width, width, 2 * width)[1:] for width in [16] * blocks]
    torch.manual_seed(n)
    weights = [torch.stack(each) + 0.1 for each in zip(*weights, strict=True)]
    given = [*(torch.randn(3, 216, 16) for _ in range(3)), *weights]
    twin = run_cycle(functools.partial(cycle, plain.candidates), group, [each.double() for each in given], n)
    by_block = run_cycle(functools.partial(cycle, native.block), group, given, n)
    at_once = run_cycle(native.cycle, group, given, n)
    distances = [distance(a, b) for a, b in zip(at_once, twin, strict=True)]
    assert max(distances) < 10 * BOUND, distances
    for a, b in zip(at_once[:2], by_block[:2], strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        for a, b in zip(native.cycle(*given[:3], group, *given[3:], n=n), at_once, strict=False):
            assert torch.equal(a, b)


# Building it


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Nothing built yet, and an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native._built.cache_clear()
    yield tmp_path
    native._built.cache_clear()


def test_without_a_compiler(fresh: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(fresh))
    assert not native.available() and "no C++ compiler found" in native.why_not()
    group = GROUPS["sudoku_4x4"]
    h, *weights = draw(group, 1, 16, 8, 24)
    assert not native.fits(h, weights[1], weights[3])
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler found"):
        native.block(h, group, *weights)


@pytest.mark.skipif(os.name != "posix", reason="the compiler of this test is a shell script")
def test_a_compiler_that_fails_is_quoted(fresh: Path, monkeypatch):
    (fresh / "c++").write_text("#!/bin/sh\necho out of order >&2\nexit 1\n")
    (fresh / "c++").chmod(0o755)
    monkeypatch.setenv("PATH", str(fresh))
    assert not native.available() and "out of order" in native.why_not()


@needs_compiler
def test_the_library_is_built_once(fresh: Path):
    source = fresh / "seven.cpp"
    source.write_text('extern "C" int seven() { return 7; }')
    for _ in range(2):
        library, log = compiled.load(source)
        assert library.seven() == 7 and log == ""
        assert len(list((fresh / "cache" / "trm").iterdir())) == 1
    source.write_text('extern "C" int seven() { return 8; }')
    assert compiled.load(source)[0].seven() == 8
    assert len(list((fresh / "cache" / "trm").iterdir())) == 2


@needs_compiler
@pytest.mark.parametrize("damage", ["no folder", "no library"])
def test_a_cache_that_cannot_be_used(fresh: Path, damage: str):
    source = fresh / "seven.cpp"
    source.write_text('extern "C" int seven() { return 7; }')
    if damage == "no folder":
        (fresh / "cache").write_text("a file where the folder should be")
    else:
        compiled.load(source)
        for each in (fresh / "cache" / "trm").iterdir():
            each.unlink()
            each.write_bytes(b"not a library")
    assert compiled.load(source)[0].seven() == 7
