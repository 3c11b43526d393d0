"""Random numbers: pure functions of their key, equal to SplitMix64, and distributed as they should be."""

import math

import pytest
import torch

from trm import rng

MASK = (1 << 64) - 1


def keys(count: int, name: str = "test") -> torch.Tensor:
    return rng.fold(rng.stream(name), torch.arange(count))


def mix64(z: int) -> int:
    """The finaliser of SplitMix64, in Python's own integers."""
    z &= MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def splitmix64(seed: int, count: int) -> list[int]:
    """The generator as published: a counter that grows by the golden gamma, then the finaliser."""
    return [mix64(seed + i * 0x9E3779B97F4A7C15) for i in range(1, count + 1)]


def chi_square(counts: torch.Tensor) -> float:
    """Standardised chi-square of counts that should be equal: about a standard normal."""
    expected = counts.sum() / len(counts)
    freedom = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom).item() / math.sqrt(2 * freedom)


@pytest.mark.parametrize("seed", [0, 1, 1234567, 2**63 - 1, -1, -(2**63)])
def test_bits_are_splitmix64(seed: int):
    ours = [x & MASK for x in rng.bits(torch.tensor(seed), 20).tolist()]
    assert ours == splitmix64(seed, 20)


def test_the_published_first_outputs_of_splitmix64():
    ours = [x & MASK for x in rng.bits(torch.tensor(1234567), 5).tolist()]
    assert ours == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_fold_hashes_key_and_value():
    key, value = -7, 123
    expected = mix64(3 * key + value + 0x9E3779B97F4A7C15)
    assert rng.fold(torch.tensor(key), value).item() & MASK == expected


@pytest.mark.parametrize("draw", [rng.bits, rng.uniform, rng.normal, rng.permutation])
def test_a_row_depends_on_its_key_alone(draw):
    few, many = draw(keys(5), 7), draw(keys(50), 7)
    assert few.shape == (5, 7)
    assert torch.equal(few, many[:5])
    assert torch.equal(draw(keys(50)[[3]], 7)[0], many[3])
    assert torch.equal(draw(keys(50).view(5, 10), 7), many.view(5, 10, 7))
    assert len({tuple(row) for row in many.tolist()}) > 45
    assert torch.equal(draw(keys(5), 7), few)


def test_fewer_bits_are_the_first_of_more():
    assert torch.equal(rng.bits(keys(4), 9)[:, :3], rng.bits(keys(4), 3))


def test_keys_of_streams_seeds_and_steps_all_differ():
    seeds, steps = torch.arange(100).view(-1, 1), torch.arange(100)
    roots = [rng.stream(name) for name in ("data", "explore", "noise")]
    all_keys = torch.stack([rng.fold(rng.fold(root, seeds), steps) for root in roots])
    assert all_keys.unique().numel() == 3 * 100 * 100


def test_global_generator_is_left_alone():
    before = torch.get_rng_state()
    rng.normal(keys(3), 3), rng.permutation(keys(3), 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(1, 100_000), (100_000, 1), (1000, 100)])
def test_uniform_moments(shape: tuple[int, int]):
    """Long rows, many keys, and both: each must look random."""
    u = rng.uniform(keys(shape[0]), shape[1]).flatten()
    assert u.dtype == torch.float32
    assert u.min() >= 0 and u.max() < 1
    assert torch.equal(u * 2**24, (u * 2**24).round())
    assert abs(u.mean() - 1 / 2) < 4 * math.sqrt(1 / 12 / len(u))
    assert abs(u.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / len(u))
    assert abs(chi_square(torch.histc(u, 100, 0, 1))) < 4
    assert abs(torch.corrcoef(torch.stack((u[1:], u[:-1])))[0, 1]) < 4 / math.sqrt(len(u))


def test_uniform_values_by_hand():
    expected = [x / 2**24 for x in (z >> 40 for z in splitmix64(42, 6))]
    assert rng.uniform(torch.tensor(42), 6).tolist() == expected


@pytest.mark.parametrize("shape", [(1, 100_000), (100_000, 1), (33_333, 3), (1000, 100)])
def test_normal_moments(shape: tuple[int, int]):
    x = rng.normal(keys(shape[0]), shape[1]).flatten().double()
    n = len(x)
    assert x.isfinite().all()
    assert abs(x.mean()) < 4 / math.sqrt(n)
    assert abs(x.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs((x**3).mean()) < 4 * math.sqrt(15 / n)
    assert abs((x**4).mean() - 3) < 4 * math.sqrt(96 / n)
    inside = (x.abs() < 1).double().mean()
    assert abs(inside - math.erf(math.sqrt(0.5))) < 4 * math.sqrt(0.22 / n)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_normal_values_by_hand(n: int):
    """Box-Muller: every 64 bits give a radius and an angle; all cosines come first, then the sines."""
    half = (n + 1) // 2
    expected = []
    for z in splitmix64(42, half):
        radius = math.sqrt(-2 * math.log(1 - (z >> 40) / 2**24))
        angle = 2 * math.pi * ((z >> 16) % 2**24) / 2**24
        expected.append((radius * math.cos(angle), radius * math.sin(angle)))
    cosines, sines = zip(*expected, strict=True)
    x = rng.normal(torch.tensor(42), n)
    assert x.shape == (n,) and x.dtype == torch.float32
    assert x.tolist() == pytest.approx([*cosines, *sines][:n], rel=1e-5, abs=1e-6)
    assert torch.equal(x, rng.normal(torch.tensor(42), 2 * half)[:n]), "an odd number leaves out the last"


def test_the_two_normals_of_a_pair_say_nothing_of_each_other():
    """Nor do their squares: the same radius is in both."""
    size = 200_000
    pairs = rng.normal(keys(size), 2).double().T
    for each in (pairs, pairs.square(), pairs.abs(), torch.stack((pairs[0], pairs[1].square()))):
        assert abs(torch.corrcoef(each)[0, 1]) < 4 / math.sqrt(size)
    angle = torch.atan2(pairs[1], pairs[0])
    assert abs(chi_square(torch.histc(angle, 64, -math.pi, math.pi))) < 4


def test_no_bits_make_a_normal_that_is_not_finite(monkeypatch):
    ends = torch.tensor([0, -1, 1 << 40, -(1 << 40), (1 << 40) - 1])
    monkeypatch.setattr(rng, "bits", lambda key_B, n: ends)
    x = rng.normal(torch.tensor(0), 10)
    assert x.isfinite().all() and 5.7 < x.abs().max() < 5.8


def test_permutations_are_permutations_and_all_are_equally_likely():
    assert torch.equal(rng.permutation(keys(50), 30).sort(-1).values, torch.arange(30).expand(50, 30))
    p = rng.permutation(keys(48_000), 4)
    index = (p * torch.tensor([64, 16, 4, 1])).sum(-1)
    counts = torch.bincount(index, minlength=256)
    counts = counts[counts > 0]
    assert len(counts) == 24
    assert abs(chi_square(counts.double())) < 4


@pytest.mark.parametrize(("low", "high"), [(0, 1), (2, 17), (-3, 4)])
def test_randint_bounds_and_uniformity(low: int, high: int):
    x = rng.randint(keys(30_000), low, high)
    assert x.shape == (30_000,) and x.dtype == torch.int64
    assert x.min() == low and x.max() == high - 1
    if high - low > 1:
        assert abs(chi_square(torch.bincount(x - low).double())) < 4


def test_randint_takes_one_bound_per_key():
    high = torch.arange(1, 1001)
    x = rng.randint(keys(1000), 0, high)
    assert (x >= 0).all() and (x < high).all()
    assert torch.equal(x[:10], torch.stack([rng.randint(keys(10)[i], 0, i + 1) for i in range(10)]))
