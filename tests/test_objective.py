import pytest
import torch

from ladder_vae.maths.gaussian import Gaussian, standard_normal
from ladder_vae.models import BottomUpVAE, LadderVAE
from ladder_vae.models.inference import Inference, Level, Terms
from ladder_vae.system.errors import UserError
from ladder_vae.training.lightning_module import HierarchicalVAE
from ladder_vae.training.objective import Objective
from ladder_vae.training.schedules import warmup_cosine

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


def test_free_bits_are_refused_where_rates_may_be_negative():
    make = lambda cls: HierarchicalVAE(cls((1, 4, 4), 2), Objective(free_bits=0.5), torch.optim.Adam)  # noqa: E731
    make(LadderVAE)
    with pytest.raises(UserError, match="BottomUpVAE"):
        make(BottomUpVAE)


@pytest.mark.parametrize(
    "settings", [{"free_bits": -1}, {"beta_warmup_epochs": -0.5}, {"free_bits": float("nan")}]
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
