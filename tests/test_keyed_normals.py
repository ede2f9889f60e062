"""Noise as a function of keys: standard normal, unrelated between all keys, the same wherever it is made."""

import pytest
import torch
from scipy.stats import kstest, norm

from ladder_vae.maths.keyed_normals import _normal, fold, keyed_normals

LEVELS = ((6,), (5,), (2, 3, 3))


def keys(seed=0, images=100, draws=100):
    """Of so many draws of so many images, ``(draws, images)``."""
    of_images = fold(torch.tensor(seed), torch.arange(images))
    return fold(of_images, torch.arange(draws)[:, None])


def noise(*args, levels=LEVELS, **kwargs):
    """All units of all levels in a row, float64, ``(draws, images, units)``."""
    found = keyed_normals(keys(*args, **kwargs), levels)
    return torch.cat([level.flatten(2) for level in found], -1).double()


def test_the_first_draws_are_those_that_were_recorded():
    """Every evaluation of this version rests on them; others need another VERSION."""
    first, second = keyed_normals(keys(1, 2, 2), [(3,), (1,)])
    recorded = torch.tensor(
        [
            [[0.5789236, 0.13956924, -0.96752256, 0.7599317], [0.49263063, 1.7515844, 1.0378687, -1.1774496]],
            [
                [0.1797952, -0.2809549, 0.78385663, -1.0504949],
                [-1.0885888, -0.40148428, -0.5933502, 1.096673],
            ],
        ]
    )
    assert torch.equal(torch.cat([first, second], -1), recorded)


def test_a_draw_depends_on_its_keys_alone():
    whole = keyed_normals(keys(), LEVELS)
    some = keyed_normals(keys()[7:9, 40:41], LEVELS)
    other = keyed_normals(keys(), [*LEVELS[:2], (4, 8), (3,)])  # of a model with other upper levels
    for level, event in enumerate(LEVELS):
        assert whole[level].shape == (100, 100, *event)
        assert whole[level].dtype == torch.float32
        assert torch.equal(some[level], whole[level][7:9, 40:41])
    assert torch.equal(other[0], whole[0])
    assert torch.equal(other[1], whole[1])
    assert torch.equal(other[2].flatten(2)[..., :18], whole[2].flatten(2))


def test_they_are_standard_normal():
    z = noise(images=300).flatten()
    assert len(z) == 870_000
    assert kstest(z.numpy(), "norm").pvalue > 0.01
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15)):
        moments = z**power
        assert abs(moments.mean() - moment) < 4 * moments.std() / len(z) ** 0.5, power


@pytest.mark.slow
def test_tails_to_five_sigma():
    counts, total = torch.zeros(4, dtype=torch.float64), 0
    limits = torch.tensor([3.0, 4.0, 4.5, 5.0], dtype=torch.float64)
    for seed in range(20):
        z = noise(seed, images=1000, levels=[(16,)]).abs().flatten()
        counts += torch.stack([(z > a).sum() for a in limits])
        total += len(z)
    expected = 2 * total * torch.from_numpy(norm.sf(limits.numpy()))  # 86,000 down to 18
    assert ((counts - expected).abs() < 4 * expected.sqrt()).all()


def test_inversion_is_as_exact_in_the_tails():
    bits = torch.cat([torch.arange(1, 2**17), 2**17 + 997 * torch.arange(2_000_000)]).int()
    z = _normal(bits)
    exact = torch.from_numpy(norm.isf(bits.double().numpy() / 2**32))
    assert (z.double() - exact).abs().max() < 6e-7
    assert torch.equal(_normal(-bits), -z)
    ends = _normal(torch.tensor([0, 1, -(2**31), 2**31 - 1], dtype=torch.int32))
    assert ends.tolist() == pytest.approx([6.12, 6.23, 0, 0], abs=0.01)


def test_a_compiler_that_fuses_product_and_sum_changes_nothing():
    """Slopes times rests are exact in float32, so that only the sum is rounded."""
    from ladder_vae.maths.keyed_normals import REST, _table

    slopes = _table(torch.device("cpu")).view(torch.float32).view(-1, 2)[:, 1]
    rests = torch.arange(1 << REST)[::61]
    exact = slopes.double()[:, None] * rests
    assert torch.equal((slopes[:, None] * rests.float()).double(), exact)


@pytest.mark.parametrize("apart", ["draws", "images", "units", "seeds"])
def test_neighbors_are_unrelated(apart):
    """Correlations of the draws, and of their squares, with those one and two further."""
    z = noise(images=200)
    for lag in (1, 2):
        if apart == "seeds":
            one, two = z, noise(lag, images=200)
        else:
            axis = {"draws": 0, "images": 1, "units": 2}[apart]  # units: of other levels, too
            one, two = z.narrow(axis, 0, z.shape[axis] - lag), z.narrow(axis, lag, z.shape[axis] - lag)
        for power in (1, 2):
            a, b = (each**power - (each**power).mean() for each in (one, two))
            correlation = (a * b).mean() / (a.std() * b.std())
            assert abs(correlation) < 4 / a.numel() ** 0.5
            by_unit = (a * b).mean((0, 1)) / (a.var() * b.var()).sqrt()
            if apart == "units":  # each pair of neighbors, those of one word among them
                assert (by_unit.abs() < 5 / (a.numel() / a.shape[2]) ** 0.5).all()


def test_a_bit_of_a_key_turns_half_of_the_bits():
    """Of the keys, and of the words that noise is made of."""
    numbers = torch.arange(2000)
    for flip in range(0, 63, 3):
        turned = fold(torch.tensor(5), numbers) ^ fold(torch.tensor(5 ^ (1 << flip)), numbers)
        share = torch.stack([(turned >> bit) & 1 for bit in range(64)]).double().mean(1)
        assert (share - 0.5).abs().max() < 5 * 0.5 / len(numbers) ** 0.5
