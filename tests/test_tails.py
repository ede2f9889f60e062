"""Pareto k-hat against an independent implementation, and where the tail is known."""

import math

import pytest
import torch

from ladder_vae.maths.tails import pareto_khat, tail_length

# k-hat by psislw of arviz 0.23.4 for the quantiles of a logistic distribution at (i + 1/2) / N, times a scale
REFERENCE = {
    (60, 0.5): 0.46909425893489654,
    (60, 2.0): 1.1924582356255244,
    (60, 4.0): 2.160030846054512,
    (1000, 0.5): 0.4837074858940169,
    (1000, 2.0): 1.8314768745196177,
    (4000, 0.5): 0.49142180887905473,
    (4000, 4.0): 3.9088428542156146,
}


@pytest.mark.parametrize(("draws", "scale"), REFERENCE)
def test_the_same_as_arviz(draws, scale):
    u = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    log_weights = scale * torch.logit(u)
    order = torch.randperm(draws, generator=torch.Generator().manual_seed(0))
    for shift in (0.0, -5000.0):  # neither the order nor the scale of weights matters
        found = pareto_khat((log_weights[order] + shift)[:, None])
        assert found.item() == pytest.approx(REFERENCE[draws, scale], rel=1e-9)


@pytest.mark.parametrize("k", [0.3, 0.7, 1.2])
def test_the_shape_of_pareto_weights_is_found(k):
    torch.manual_seed(0)
    log_weights = -k * torch.log(torch.rand(4000, 300, dtype=torch.float64))  # P(w > u) = u^(-1/k)
    found = pareto_khat(log_weights)
    expected = (tail_length(4000) * k + 10 * 0.5) / (tail_length(4000) + 10)  # the weak prior pulls
    assert found.mean().item() == pytest.approx(expected, abs=4 * found.std().item() / 300**0.5 + 0.01)


def test_gaussian_log_weights_of_growing_spread():
    torch.manual_seed(0)
    noise = torch.randn(2000, 50, dtype=torch.float64)
    found = [pareto_khat(scale * noise).mean().item() for scale in (0.2, 1.0, 3.0, 10.0)]
    assert found == sorted(found)
    assert found[0] < 0.4
    assert found[-1] > 1
    far = [pareto_khat(scale * noise).median().item() for scale in (20.0, 40.0, 100.0)]
    assert found[-1] < far[0] < far[1] < far[2]  # where the tail spans more than any rounding


def test_what_cannot_be_told():
    assert pareto_khat(torch.randn(20, 3)).isnan().all()
    assert pareto_khat(torch.randn(21, 3)).isfinite().all()
    assert (pareto_khat(torch.full((100, 2), -80.0)) == 0).all()  # the exact posterior has no tail
    assert pareto_khat(torch.tensor([0.0] * 99 + [50.0])[:, None]).isfinite().all()
    assert tail_length(5000) == math.ceil(3 * 5000**0.5)
    assert tail_length(50) == 10
