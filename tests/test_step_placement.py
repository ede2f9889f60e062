"""Where a few steps cost least: against every other choice on a small grid, and closed forms."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from contracts import binary_images

from ladder_vae.analysis import step_placement
from ladder_vae.analysis.step_placement import Look, best_path, costs, look, loss_variances
from ladder_vae.maths.diffusion import by_image, signal
from ladder_vae.models import Diffusion


@pytest.fixture(autouse=True)
def _few_times(monkeypatch):
    monkeypatch.setattr(step_placement, "GRID", 9)


def seen(error):
    gamma = torch.linspace(-3, 8, 9, dtype=torch.float64)
    bins = torch.zeros(9, step_placement.BINS, dtype=torch.float64)
    return Look(gamma, torch.full_like(gamma, 11.0), error, error**2, bins)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
def test_no_other_times_cost_less(steps):
    torch.manual_seed(steps)
    given = seen(torch.rand(9, dtype=torch.float64))
    cost = costs(given, "gaussian")
    path = best_path(given, steps, "gaussian")
    assert (path[0], path[-1], len(path)) == (0, 8, steps + 1)

    def total(levels):
        return sum(float(cost[high, low]) for low, high in itertools.pairwise(levels))

    others = [(0, *middle, 8) for middle in itertools.combinations(range(1, 8), steps - 1)]
    assert total(path) == pytest.approx(min(map(total, others)))


def test_a_step_up_costs_infinitely_much():
    cost = costs(seen(torch.ones(9, dtype=torch.float64)), "gaussian")
    assert torch.isinf(cost[torch.ones(9, 9).triu().bool()]).all()


@pytest.mark.parametrize("transition", ["gaussian", "mixture"])
def test_costs_are_the_rates_that_are_measured(transition):
    """The sum over the steps is the rate of a hierarchy with these steps, but for the draws."""
    torch.manual_seed(3)
    model = Diffusion((1, 4, 3), 5, denoiser="dense", width=4, blocks=1).double().eval()
    x = binary_images(400, (1, 4, 3)).double()
    found = look(model, x, 100, torch.Generator().manual_seed(0))
    path = [0, 3, 5, 8]
    cost = costs(found, transition)
    expected = sum(float(cost[high, low]) for low, high in itertools.pairwise(path))
    times = torch.tensor(path, dtype=torch.float64) / 8
    with torch.no_grad():
        rates = model.with_steps(3, transition, times).infer(x, 40).rates()[:-1].sum(0)
    error = float(rates.std() / math.sqrt(400))
    assert expected == pytest.approx(float(rates.mean()), abs=5 * error + 0.02 * expected)


def test_an_image_has_the_same_noise_at_all_times(monkeypatch):
    """Else a shortest path would go through the times whose draws came out well by chance."""
    model = Diffusion((1, 4, 3), 5, denoiser="dense", width=4, blocks=1).double().eval()
    monkeypatch.setattr(model, "denoise", lambda z, gamma: (z / signal(by_image(gamma)), z))
    found = look(model, binary_images(7, (1, 4, 3)).double(), 3, torch.Generator().manual_seed(0))
    lengths = found.error * torch.exp(-found.gamma)  # of the noise, squared, when nothing else is wrong
    torch.testing.assert_close(lengths, lengths[:1].expand(9))


def test_more_steps_than_times_are_refused():
    with pytest.raises(ValueError, match="between 1 and 8"):
        best_path(seen(torch.ones(9, dtype=torch.float64)), 9, "gaussian")


def test_the_variance_of_the_loss_of_a_known_denoiser():
    """Where all images are guessed equally well, and gamma rises linearly or as it should."""
    gamma = torch.linspace(-3, 8, 9, dtype=torch.float64)
    found = seen(2 * torch.exp(gamma) * 7)  # then the loss is 7 * 11 at each time
    own, linear = loss_variances(found)
    assert own == pytest.approx(0, abs=1e-6)
    assert linear == pytest.approx(0, abs=1e-6)
    error = 2 * torch.exp(gamma) * (gamma + 4)
    own, linear = loss_variances(replace(found, error=error, squared=2 * error**2))
    assert own == linear
    loss = 11 * (gamma + 4)
    expected = torch.trapezoid(2 * loss**2, dx=1 / 8) - torch.trapezoid(loss, dx=1 / 8) ** 2
    assert own == pytest.approx(float(expected))
