import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from ladder_vae.gaussian import Gaussian, product, standard_normal
from ladder_vae.likelihood import Bernoulli

torch.manual_seed(0)


def random_gaussian(*shape: int) -> Gaussian:
    return Gaussian(torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64))


def reference(g: Gaussian) -> Independent:
    return Independent(Normal(g.mean, g.std), g.event_dims)


def test_log_prob_and_kl_against_torch_distributions():
    q, p, z = random_gaussian(7, 5), random_gaussian(7, 5), torch.randn(3, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(z), reference(q).log_prob(z), rtol=0, atol=1e-10)
    torch.testing.assert_close(q.kl(p), kl_divergence(reference(q), reference(p)), rtol=0, atol=1e-10)


def test_event_dims_sum_over_maps():
    mean, log_var = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3)
    q, p = Gaussian(mean, log_var, 3), standard_normal((2, 3, 3), mean)
    assert q.kl(p).shape == q.log_prob(mean).shape == (4,)
    torch.testing.assert_close(
        q.kl(p), Gaussian(mean.flatten(1), log_var.flatten(1)).kl(standard_normal((18,), mean))
    )


def test_kl_against_monte_carlo():
    q, p = random_gaussian(4), random_gaussian(4)
    z = q.rsample(torch.randn(200_000, 4, dtype=torch.float64))
    draws = q.log_prob(z) - p.log_prob(z)
    error = draws.std() / math.sqrt(len(draws))
    assert abs(draws.mean() - q.kl(p)) < 4 * error


def test_kl_keeps_its_precision_where_it_is_tiny():
    p = standard_normal((1,), torch.zeros(()))
    q = Gaussian(torch.zeros(1), torch.full((1,), 1e-3))  # KL = d^2 / 4 to first order
    assert q.kl(p).item() == pytest.approx(2.5e-7, rel=1e-2)


def test_product_is_the_product_of_densities():
    e, p = random_gaussian(5), random_gaussian(5)
    q = product(e, p)
    z = torch.randn(10, 5, dtype=torch.float64)
    offset = e.log_prob(z) + p.log_prob(z) - q.log_prob(z)  # the log normalizer: one constant
    torch.testing.assert_close(offset, offset[0].expand(10), rtol=0, atol=1e-10)
    torch.testing.assert_close(torch.exp(-q.log_var), torch.exp(-e.log_var) + torch.exp(-p.log_var))


@pytest.mark.parametrize("log_var", [200.0, math.inf])
def test_a_flat_partner_changes_nothing(log_var):
    p = random_gaussian(5)
    flat = Gaussian(
        torch.full((5,), 3.0, dtype=torch.float64), torch.full((5,), log_var, dtype=torch.float64)
    )
    for q in (product(flat, p), product(p, flat)):
        torch.testing.assert_close(q.mean, p.mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(q.log_var, p.log_var, rtol=0, atol=1e-12)


def test_half_precision_is_promoted_before_any_sum():
    q = Gaussian(torch.randn(2, 300).bfloat16(), torch.randn(2, 300).bfloat16())
    assert q.log_prob(torch.zeros(2, 300)).dtype == q.kl(q).dtype == torch.float32


def test_bernoulli_sums_to_one_over_all_images_of_a_few_pixels():
    logits = torch.randn(1, 1, 1, 2, 3, dtype=torch.float64) * 3
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 6).view(64, 1, 2, 3)
    log_p = Bernoulli().log_prob(logits, images)  # (1, 64)
    assert torch.logsumexp(log_p, 1).item() == pytest.approx(0, abs=1e-12)


def test_bernoulli_is_finite_for_extreme_logits():
    logits = torch.tensor([-1e4, 1e4]).view(1, 1, 1, 1, 2)
    right, wrong = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    assert Bernoulli().log_prob(logits, right.view(1, 1, 1, 2)).item() == 0
    assert Bernoulli().log_prob(logits, wrong.view(1, 1, 1, 2)).item() == -2e4


def test_bernoulli_sums_in_float32_under_bfloat16_logits():
    logits = torch.randn(1, 4, 1, 28, 28).bfloat16()
    x = torch.randint(0, 2, (4, 1, 28, 28)).float()
    assert Bernoulli().log_prob(logits, x).dtype == torch.float32
    torch.testing.assert_close(Bernoulli().log_prob(logits, x), Bernoulli().log_prob(logits.float(), x))
