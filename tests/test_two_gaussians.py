"""Two peaks per unit: density, quantiles, innovations."""

import pytest
import torch

from ladder_vae.maths.gaussian import Gaussian
from ladder_vae.maths.two_gaussians import TwoGaussians

CASES = [(0.3, 1.0, -1.0, 0.4), (-9.0, 2.0, -2.0, 0.01), (0.0, 1.0, 1.0, 1.0), (30.0, 0.9, -0.9, 0.1)]


def density(case, dtype=torch.float64):
    logit, first, second, variance = (torch.tensor([value], dtype=dtype) for value in case)
    return TwoGaussians(logit, first, second, torch.log(variance), 1)


@pytest.mark.parametrize("case", CASES)
def test_it_is_a_density_with_its_moments(case):
    p = density(case)
    z = torch.linspace(-8, 8, 400_001, dtype=torch.float64)[:, None]
    mass = p.log_prob(z).exp() * 16 / 400_000
    assert float(mass.sum()) == pytest.approx(1, abs=1e-6)
    mean = (mass * z[:, 0]).sum()
    assert float(mean) == pytest.approx(float(p.mean), abs=1e-6)
    assert float((mass * (z[:, 0] - mean) ** 2).sum()) == pytest.approx(float(p.log_var.exp()), rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_draws_have_the_density(case):
    p = density(case)
    e = torch.linspace(-6, 6, 20_001, dtype=torch.float64)[:, None]
    z = p.rsample(e)
    assert (z.diff(dim=0) >= 0).all()
    # p(z) dz = N(e) de
    steps = z[2:] - z[:-2]
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(e[1:-1]).exp() * (e[2:] - e[:-2])
    inside = (steps > 1e-6) & (steps < 1e-2)  # between peaks z leaps
    torch.testing.assert_close(
        (p.unit_log_prob(z[1:-1]).exp() * steps)[inside], normal[inside], rtol=2e-2, atol=1e-9
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_innovations_are_the_noise_of_a_draw(case, dtype):
    p = density(case, dtype)
    e = torch.linspace(-5, 5, 101, dtype=dtype)[:, None]
    found = p.innovation(p.rsample(e))
    # where z leaps from one peak to the other, float32 cannot tell quantiles apart
    tolerance = 1e-6 if dtype == torch.float64 else 2e-2
    close = (found - e).abs() < tolerance
    assert close.double().mean() > (0.97 if dtype == torch.float64 else 0.85)


def test_far_out_nothing_overflows():
    p = density(CASES[0], torch.float32)
    z = torch.tensor([[-300.0], [-40.0], [40.0], [300.0]])
    assert torch.isfinite(p.innovation(z)).all()
    assert torch.isfinite(p.log_prob(z)).all()
    assert p.innovation(z)[1].item() == pytest.approx((-40 + 1) / 0.4**0.5, rel=0.02)


def test_with_equal_peaks_it_is_a_gaussian():
    p = density(CASES[2])
    same = Gaussian(torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    z = torch.randn(50, 1, dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(z), same.log_prob(z))
    torch.testing.assert_close(p.rsample(z), same.rsample(z))
    torch.testing.assert_close(p.innovation(z), same.innovation(z))
