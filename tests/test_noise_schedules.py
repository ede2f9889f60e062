"""How noise grows with time: ends that are held, a mean that they alone decide, a shape of least variance."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from contracts import binary_images
from diffusions import HIGHEST, LOWEST, SHAPE, VARIANCE, smallest_error, tiny

from ladder_vae.models.noise_schedules import NoiseSchedule
from ladder_vae.training.lightning_module import HierarchicalVAE
from ladder_vae.training.objective import Objective

pytestmark = pytest.mark.usefixtures("float64")


def test_the_ends_of_the_schedule_are_held_whatever_is_learned_between():
    schedule = NoiseSchedule(-3, 8, pieces=16)
    with torch.no_grad():
        schedule.shape.normal_(std=4)
    t = torch.linspace(0, 1, 1001)
    gamma, slope = schedule.at(t)
    assert gamma[0].item() == -3
    assert gamma[-1].item() == pytest.approx(8, abs=1e-12)
    assert (gamma.diff() > 0).all()
    inside = (t + 1e-7)[:-1]
    numeric = (schedule(inside + 1e-9) - schedule(inside)) / 1e-9
    torch.testing.assert_close(slope[:-1], numeric, rtol=1e-4, atol=1e-4)


def test_the_mean_of_the_limit_depends_on_the_ends_alone_and_its_variance_on_the_rest():
    t = (torch.arange(400_000) + 0.5) / 400_000
    moments = []
    for shape in (torch.zeros(16), torch.randn(16)):
        schedule = NoiseSchedule(LOWEST, HIGHEST, pieces=16)
        schedule.shape.data = shape
        gamma, slope = schedule.at(t)
        loss = 0.5 * slope * torch.exp(-gamma) * smallest_error(gamma)
        moments.append((float(loss.mean()), float(loss.var())))
    assert moments[0][0] == pytest.approx(moments[1][0], rel=1e-4)
    # of the closed integral, too
    exact = 0.5 * math.log((1 + VARIANCE * math.exp(-LOWEST)) / (1 + VARIANCE * math.exp(-HIGHEST)))
    assert moments[0][0] == pytest.approx(exact, rel=1e-4)
    assert abs(moments[0][1] / moments[1][1] - 1) > 0.2


def test_the_shape_that_is_learned_is_the_one_of_the_least_variance():
    """Shares of the time that are proportional to the root of the mean squared loss of each piece."""
    schedule = NoiseSchedule(LOWEST, HIGHEST, pieces=8)
    optimizer = torch.optim.Adam([schedule.shape], lr=0.05)

    def density(gamma):
        return torch.exp(-gamma) * smallest_error(gamma)

    for _ in range(400):
        t = (torch.arange(512) + torch.rand(())) / 512
        gamma, slope = schedule.at(t, shape_fixed=True)
        spread = schedule.spread(t, (slope * density(gamma)) ** 2)
        assert float(spread) == pytest.approx(1)
        optimizer.zero_grad()
        spread.backward()
        optimizer.step()
    edges = torch.linspace(LOWEST, HIGHEST, 9)
    fine = torch.stack([torch.linspace(float(a), float(b), 100) for a, b in pairwise(edges)])
    best = density(fine).square().mean(1).sqrt()
    torch.testing.assert_close(schedule.shares(), best / best.sum(), atol=0.012, rtol=0)


def test_training_lowers_the_variance_and_keeps_the_gradient_of_the_bound():
    model, x = tiny(schedule="learned"), binary_images(6, SHAPE).double()
    noise = model.terms_noise(1, 6, like=x)
    model.terms(x, noise).mean().elbo.backward()
    assert model.schedule.shape.grad.abs().sum() > 0
    gradient = model.schedule.lowest.grad.clone()
    model.zero_grad()
    fixed = tiny()  # the same, but for its shape
    fixed.terms(x, noise).mean().elbo.backward()
    torch.testing.assert_close(gradient, fixed.schedule.lowest.grad)


def test_weight_decay_leaves_the_schedule_alone():
    model = tiny(schedule="learned")
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    module = HierarchicalVAE(model, Objective(), partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5))
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    module.configure_optimizers().step()
    for name, weight in model.named_parameters():
        kept = name.startswith("decoder.schedule.")
        torch.testing.assert_close(weight.detach(), before[name] * (1.0 if kept else 0.95))


@pytest.mark.parametrize(("highest", "moves"), [(8.0, True), (19.9, True), (20.1, False), (30.0, False)])
def test_an_end_where_nothing_is_left_is_carried_no_farther(highest, moves):
    schedule = NoiseSchedule(-3.0, highest, pieces=4)
    torch.testing.assert_close(schedule.highest(), torch.tensor(highest))
    schedule(torch.tensor([0.3, 1.0])).sum().backward()
    assert bool(schedule.log_range.grad) == moves
    assert schedule.lowest.grad != 0
