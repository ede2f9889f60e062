import pytest
import torch
from contracts import binary_images, small

from ladder_vae.maths.gaussian import Gaussian, standard_normal
from ladder_vae.models import BottomUpVAE, LadderVAE, ResidualVAE
from ladder_vae.models.inference import Inference, Level, Terms
from ladder_vae.system.errors import UserError
from ladder_vae.training.lightning_module import HierarchicalVAE
from ladder_vae.training.objective import Objective, balance
from ladder_vae.training.schedules import warmup_cosine
from ladder_vae.training.step import batch_values

TERMS = Terms(distortion=torch.tensor([[90.0]]), rates=torch.tensor([[[14.0]], [[3.0]], [[0.1]]]))


def test_beta_warms_up_linearly():
    objective = Objective(beta_warmup_epochs=10)
    assert [objective.beta(e) for e in (0, 2.5, 5, 10, 30)] == [0, 0.25, 0.5, 1, 1]
    assert Objective().beta(0) == 1


def test_loss_is_minus_the_elbo_at_beta_one():
    assert Objective().loss(TERMS, 1.0) == -TERMS.elbo


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("free_bits", [0.0, 0.5, 5.0])
def test_loss_with_beta_and_free_bits(beta, free_bits):
    expected = 90 + sum(beta * max(free_bits, rate) for rate in (14, 3, 0.1))
    assert Objective(free_bits=free_bits).loss(TERMS, beta).item() == pytest.approx(expected, rel=1e-6)


def test_free_bits_act_on_the_batch_mean_and_stop_the_gradient_below():
    mean = torch.tensor([[0.1], [2.0]], requires_grad=True)  # rates 0.005 and 2: mean 1.0025 > 1
    q, p = Gaussian(mean, torch.zeros(2, 1)), standard_normal((1,), mean)
    inference = Inference((Level(q.mean[None], q, p),), torch.zeros(1, 2, 1, 1, 1), torch.zeros(1, 2))
    (above,) = torch.autograd.grad(
        Objective(free_bits=1.0).loss(inference.terms(), 1.0), mean, retain_graph=True
    )
    assert (above != 0).all()  # the first image is below lambda, its batch is not
    (below,) = torch.autograd.grad(Objective(free_bits=1.1).loss(inference.terms(), 1.0), mean)
    assert (below == 0).all()


def test_without_free_bits_a_negative_monte_carlo_rate_counts():
    terms = Terms(torch.tensor([[1.0]]), torch.tensor([[[-0.5]]]))
    assert Objective().loss(terms, 1.0) == 0.5


@pytest.mark.parametrize("settings", [{"free_bits": 0.5}, {"balance_rates": True, "beta_warmup_epochs": 1}])
def test_free_bits_are_refused_where_rates_may_be_negative(settings):
    make = lambda cls: HierarchicalVAE(cls((1, 4, 4), 2), Objective(**settings), torch.optim.Adam)  # noqa: E731
    make(LadderVAE)
    with pytest.raises(UserError, match=f"{next(iter(settings))}.*BottomUpVAE"):
        make(BottomUpVAE)


BALANCED = Objective(beta_warmup_epochs=10, balance_rates=True)
UNITS = torch.tensor([64.0, 32.0, 16.0])


def test_a_level_of_a_high_rate_per_unit_costs_more_while_beta_warms_up():
    """By the author's formula in NVlabs/NVAE#26; the weights average one."""
    rates = TERMS.mean().rates
    per_unit = (rates + 0.01) / UNITS
    weights = 3 * per_unit / per_unit.sum()
    torch.testing.assert_close(balance(rates, UNITS), weights)
    expected = 90 + 0.3 * (weights * rates).sum()
    torch.testing.assert_close(BALANCED.loss(TERMS, 0.3, UNITS), expected)
    torch.testing.assert_close(BALANCED.loss(TERMS, torch.tensor(0.3), UNITS), expected)
    assert BALANCED.loss(TERMS, 1.0, UNITS) == BALANCED.loss(TERMS, torch.tensor(1.0), UNITS) == -TERMS.elbo


def test_levels_that_are_used_alike_are_left_alone():
    torch.testing.assert_close(balance(UNITS / 4 - 0.01, UNITS), torch.ones(3))
    torch.testing.assert_close(balance(torch.zeros(3), UNITS).mean(), torch.tensor(1.0))  # and are finite


def test_weights_of_rates_have_no_gradient():
    """The gradient for a rate is its weight, times beta; the smallest push is on the level that sleeps."""
    rates = TERMS.rates.clone().requires_grad_()
    BALANCED.loss(TERMS._replace(rates=rates), 0.5, UNITS).backward()
    torch.testing.assert_close(rates.grad.flatten(), 0.5 * balance(TERMS.mean().rates, UNITS))
    assert rates.grad.argmin() == 2


@pytest.mark.parametrize("cls", [LadderVAE, ResidualVAE])
def test_a_step_knows_the_units_of_its_levels(cls):
    model, x = small(cls), binary_images()
    noise = model.draw_noise(1, len(x), like=x)
    found, plain = (batch_values(model, o)(x, torch.tensor(0.5), *noise) for o in (BALANCED, Objective()))
    assert torch.equal(found.rates, plain.rates)
    weights = balance(plain.rates, torch.tensor([5.0, 4.0, 3.0]))
    torch.testing.assert_close(found.loss, plain.distortion + 0.5 * (weights * plain.rates).sum())
    assert not torch.isclose(found.loss, plain.loss, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "set objective.beta_warmup_epochs above 0"),
        ({"beta_warmup_epochs": 10, "free_bits": 0.5}, "both keep levels in use"),
        ({"importance_samples": 3}, "has no place for balance_rates=True; set objective.balance_rates=0"),
    ],
)
def test_where_balancing_would_do_nothing_or_something_else(settings, said):
    with pytest.raises(ValueError, match=said):
        Objective(balance_rates=True, **settings)


@pytest.mark.parametrize(
    "settings",
    [{"free_bits": -1}, {"beta_warmup_epochs": -0.5}, {"free_bits": float("nan")}, {"spectral": -0.1}],
)
def test_negative_settings_are_refused(settings):
    with pytest.raises(ValueError, match="at least 0"):
        Objective(**settings)


def test_cosine_with_warmup():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = warmup_cosine(optimizer, total_steps=30, warmup_steps=10)
    rates = []
    for _ in range(31):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[20] == pytest.approx(1.0)
    assert rates[30] == pytest.approx(0.0, abs=1e-12)


def test_a_cosine_may_end_at_a_share_of_the_first_rate():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-2)
    shares = warmup_cosine(optimizer, total_steps=30, warmup_steps=10, final_factor=0.01).lr_lambdas[0]
    assert [shares(step) for step in (0, 9, 10)] == pytest.approx([0.1, 1, 1])
    assert shares(20) == pytest.approx((1 + 0.01) / 2)
    assert shares(30) == shares(99) == 0.01


@pytest.mark.parametrize("final_factor", [-0.1, 1.5])
def test_a_share_lies_between_0_and_1(final_factor):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-2)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        warmup_cosine(optimizer, total_steps=30, final_factor=final_factor)
