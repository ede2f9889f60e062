import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from ladder_vae.maths.gaussian import Gaussian, bounded_log_var, product, standard_normal
from ladder_vae.maths.likelihoods import Bernoulli
from ladder_vae.models.layers import GaussianHead, SoftplusHead

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


EXTREMES = [0.0, 20.0, 88.0, 89.0, 100.0, 1e5, 1e30, torch.finfo(torch.float32).max]


@pytest.mark.parametrize("log_var", [*EXTREMES, *(-value for value in EXTREMES)])
def test_equal_gaussians_are_at_no_distance_however_narrow_or_wide(log_var):
    mean = torch.tensor([[2.0, -3e38]], requires_grad=True)
    spread = torch.full((1, 2), log_var, requires_grad=True)
    divergence = Gaussian(mean, spread).kl(Gaussian(mean.detach(), spread.detach()))
    assert divergence.item() == 0
    for gradient in torch.autograd.grad(divergence, (mean, spread)):
        assert (gradient == 0).all()


def test_second_derivatives_of_the_divergence():
    """By hand, of 0.5 [e^d - 1 - d + (mu - mu_o)^2 / var_o]."""
    log_var = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    mean = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    other = Gaussian(torch.tensor([-0.2], dtype=torch.float64), torch.tensor([0.25], dtype=torch.float64))

    def divergence(mean, log_var):
        return Gaussian(mean, log_var).kl(other)

    assert torch.autograd.gradgradcheck(divergence, (mean, log_var))
    hessian = torch.func.hessian(divergence, argnums=(0, 1))(mean.detach(), log_var.detach())
    assert hessian[0][0].item() == pytest.approx(math.exp(-0.25), rel=1e-12)
    assert hessian[1][1].item() == pytest.approx(0.5 * math.exp(0.45), rel=1e-12)  # 0.784
    assert hessian[0][1].item() == hessian[1][0].item() == 0


def test_function_transforms_go_through_densities():
    q, p = random_gaussian(6, 5), random_gaussian(6, 5)
    each = torch.func.vmap(lambda *g: Gaussian(*g[:2]).kl(Gaussian(*g[2:])))(
        q.mean, q.log_var, p.mean, p.log_var
    )
    torch.testing.assert_close(each, q.kl(p))
    logits, x = torch.randn(6, 1, 1, 1, 4, dtype=torch.float64), torch.ones(1, 1, 1, 4, dtype=torch.float64)
    each = torch.func.vmap(lambda a: torch.func.grad(lambda b: Bernoulli().log_prob(b, x).sum())(a))(logits)
    torch.testing.assert_close(each, 1 - torch.sigmoid(logits))


def test_a_head_is_as_it_says_up_to_20_and_bounded_beyond():
    inside = torch.linspace(-20, 20, 4001, requires_grad=True)
    bounded = bounded_log_var(inside)
    assert torch.equal(bounded, inside)
    (slope,) = torch.autograd.grad(bounded.sum(), inside)
    assert (slope == 1).all()
    far = torch.tensor([20.001, 30.0, 1e3, 1e30, torch.finfo(torch.float32).max, math.inf])
    far = torch.cat([-far.flip(0), far]).requires_grad_()
    bounded = bounded_log_var(far)
    (slope,) = torch.autograd.grad(bounded.sum(), far)
    assert (bounded.diff() >= 0).all()
    assert (bounded.abs() <= 40).all()
    assert ((slope >= 0) & (slope < 1)).all()
    assert (slope[far.abs() < 1e4] > 0).all()  # it finds back
    ends = torch.tensor([20.0, math.nextafter(20.0, 21.0)], dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(bounded_log_var(ends).sum(), ends)
    torch.testing.assert_close(slopes, torch.ones(2, dtype=torch.float64))  # the same slope where they meet


@pytest.mark.parametrize("head", [GaussianHead, SoftplusHead])
@pytest.mark.parametrize("spread", [v for e in EXTREMES for v in (e, -e)])
def test_no_head_makes_what_float32_does_not_hold(head, spread):
    net = head(1, 1)
    net.weight.data[:], net.bias.data[:] = torch.tensor([[0.5], [spread]]), 0.0
    q = net(torch.ones(1, 1))
    p = standard_normal((1,), q.mean)
    z = q.rsample(torch.full((1, 1), 3.0))
    total = q.kl(p) + p.kl(q) + q.log_prob(z) - p.log_prob(z)
    assert total.isfinite().all()
    for gradient in torch.autograd.grad(total.sum(), net.parameters()):
        assert gradient.isfinite().all()


def test_gradient_of_the_likelihood_everywhere_and_compiled():
    """x - sigmoid(a) at every logit, at 0 and far out too, by the graph that a compiler gets as well."""
    a = torch.tensor([-1e30, -200.0, -30.0, -1.0, -0.0, 0.0, 1e-9, 2.0, 25.0, 200.0, 1e30])
    for dtype in (torch.float32, torch.float64):
        logits = a.to(dtype).view(1, 1, 1, 1, -1).requires_grad_()
        for x in (torch.zeros(1, 1, 1, 11, dtype=dtype), torch.ones(1, 1, 1, 11, dtype=dtype)):
            for log_prob in (Bernoulli().log_prob, torch.compile(Bernoulli().log_prob, backend="aot_eager")):
                (gradient,) = torch.autograd.grad(log_prob(logits, x).sum(), logits)
                torch.testing.assert_close(gradient, x - torch.sigmoid(logits), rtol=1e-6, atol=1e-7)
    logits = torch.randn(1, 1, 1, 1, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda a: Bernoulli().log_prob(a, x[..., :5]), (logits,))


def test_densities_of_maps_are_summed_where_they_lie():
    """A latent ``(C, H, W)`` lies channels last in memory; putting it in order would copy it."""
    mean, z = (torch.randn(2, 3, 5, 5, 4).movedim(-1, -3) for _ in range(2))
    q = Gaussian(mean, torch.zeros_like(mean), 3)
    with torch.profiler.profile() as profile:
        q.log_prob(z)
    assert "aten::clone" not in {event.key for event in profile.key_averages()}
