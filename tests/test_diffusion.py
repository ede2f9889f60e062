"""Diffusion as a hierarchy: closed forms of Gaussian data, the sums over levels, the limit."""

import math

import pytest
import torch
from contracts import binary_images
from diffusions import HIGHEST, LOWEST, MEAN, SHAPE, VARIANCE, smallest_error, tiny

from ladder_vae.maths.diffusion import (
    added_precision,
    by_image,
    mixture_rate,
    noised,
    pixel_evidence,
    reverse,
    step_rate,
)
from ladder_vae.maths.logistic_mixture import LogisticMixture
from ladder_vae.models import Diffusion
from ladder_vae.models.evaluator import Settings, image_statistics, unit_counts
from ladder_vae.models.summary import summarize

pytestmark = pytest.mark.usefixtures("float64")


def best_guess(z, gamma):
    """E[x | z_t] for x from N(MEAN, VARIANCE)."""
    gamma = by_image(gamma)
    precision = 1 / VARIANCE + torch.exp(-gamma)
    return (MEAN / VARIANCE + torch.sigmoid(-gamma).sqrt() / torch.sigmoid(gamma) * z) / precision


def closed_bound(steps):
    """The mean bound of T steps for a pixel of Gaussian data, with exact q(z_T) and p(x | z_0)."""
    gamma = torch.linspace(LOWEST, HIGHEST, steps + 1)
    rate = 0.5 * (added_precision(gamma[1:], gamma[:-1]) * smallest_error(gamma[1:])).sum()
    log_px = -0.5 * torch.log(2 * math.pi * math.e * smallest_error(gamma[0]))
    top = 0.5 * torch.log1p(VARIANCE * torch.exp(-gamma[-1]))
    return log_px - top - rate


def test_the_bound_of_gaussian_data_rises_to_log_px_as_steps_double():
    bounds = torch.stack([closed_bound(2**i) for i in range(15)])
    exact = -0.5 * math.log(2 * math.pi * math.e * VARIANCE)
    assert (bounds.diff() > 0).all()
    assert bounds[-1] < exact
    assert bounds[-1] == pytest.approx(exact, abs=3e-4)
    gaps = exact - bounds
    assert gaps[-2] / gaps[-1] == pytest.approx(2, abs=0.01)  # the gap is proportional to 1 / T


def test_sampled_rates_have_the_closed_mean():
    """The KL of a level, on draws of x and z, against the mean that Gaussian data have."""
    x = MEAN + math.sqrt(VARIANCE) * torch.randn(200_000, 1, 1, 1)
    t, s = torch.tensor(1.2), torch.tensor(0.4)
    z = noised(x, t).rsample(torch.randn_like(x))
    q, p = reverse(z, x, t, s), reverse(z, best_guess(z, t), t, s)
    rate = q.kl(p)
    torch.testing.assert_close(rate, step_rate(x, best_guess(z, t), added_precision(t, s)))
    expected = 0.5 * float(added_precision(t, s) * smallest_error(t))
    assert float(rate.mean()) == pytest.approx(expected, abs=5 * float(rate.std()) / math.sqrt(len(x)))


@pytest.mark.parametrize("steps", [1, 4, 16, None])
def test_training_sums_up_the_rates_of_gaussian_data(steps, monkeypatch):
    """With the best guess in place of the net; None: in the limit."""
    model = tiny((steps or 1) + 1, continuous=steps is None, gamma_min=LOWEST, gamma_max=HIGHEST)
    monkeypatch.setattr(Diffusion, "scaled", lambda self, x: x)
    monkeypatch.setattr(Diffusion, "denoise", lambda self, z, gamma: (best_guess(z, gamma),) * 2)
    x = MEAN + math.sqrt(VARIANCE) * torch.randn(20_000, *SHAPE)
    rate = model.terms(x, model.terms_noise(1, len(x), like=x)).rates[:-1].sum((0, 1)).detach()
    if steps is None:
        expected = 0.5 * math.log((1 + VARIANCE * math.exp(-LOWEST)) / (1 + VARIANCE * math.exp(-HIGHEST)))
    else:
        gamma = torch.linspace(LOWEST, HIGHEST, steps + 1)
        expected = float(0.5 * (added_precision(gamma[1:], gamma[:-1]) * smallest_error(gamma[1:])).sum())
    error = float(rate.std()) / math.sqrt(len(x))
    assert float(rate.mean()) == pytest.approx(expected * math.prod(SHAPE), abs=5 * error)


def test_what_a_noisy_pixel_says_of_itself():
    z, gamma = torch.randn(2, *SHAPE), torch.tensor([-2.0, 1.5])
    on, off = noised(torch.ones_like(z), gamma), noised(-torch.ones_like(z), gamma)
    torch.testing.assert_close(pixel_evidence(z, gamma), on.unit_log_prob(z) - off.unit_log_prob(z))
    model = tiny()
    lowest = model.schedule.lowest.detach().expand(2)
    torch.testing.assert_close(model.decoder(z), pixel_evidence(z, lowest))


def test_a_net_that_knows_noise_and_image_guesses_256_values():
    """Its output is the velocity, alpha e - sigma x."""
    model = tiny(likelihood=LogisticMixture(2))
    x, e, gamma = torch.randn(2, *SHAPE), torch.randn(2, *SHAPE), torch.tensor([-4.0, 1.5])
    alpha, sigma = (by_image(torch.sigmoid(sign * gamma).sqrt()) for sign in (-1, 1))
    object.__setattr__(model, "denoiser", lambda z, gamma: alpha * e - sigma * x)
    torch.testing.assert_close(model.denoise(noised(x, gamma).rsample(e), gamma)[0], x)


def test_the_rate_of_a_level_in_noise():
    """0.5 expm1(gamma_t - gamma_s) |e - e_hat|^2 (Kingma et al. 2021, eq. 14)."""
    x, guess, e = torch.randn(3, 2, 1, 4, 4)
    t, s = torch.tensor(1.5), torch.tensor(-0.7)
    z = noised(x, t).rsample(e)
    alpha, sigma = torch.sigmoid(-t).sqrt(), torch.sigmoid(t).sqrt()
    e_hat = (z - alpha * guess) / sigma
    expected = 0.5 * torch.expm1(t - s) * (e - e_hat).square().sum((1, 2, 3))
    torch.testing.assert_close(step_rate(x, guess, added_precision(t, s)), expected)


def test_a_step_down_from_a_noised_image_is_a_less_noised_image():
    """q(z_t | x) and q(z_s | z_t, x) together have q(z_s | x) as a margin."""
    x = torch.randn(1, 1, 1, 1).expand(400_000, 1, 1, 1)
    t, s = torch.tensor(0.9), torch.tensor(-0.3)
    z_t = noised(x, t).rsample(torch.randn(x.shape))
    z_s = reverse(z_t, x, t, s).rsample(torch.randn(x.shape))
    wanted = noised(x[:1], s)
    assert float(z_s.mean()) == pytest.approx(float(wanted.mean), abs=0.01)
    assert float(z_s.std()) == pytest.approx(float(wanted.std), abs=0.01)
    # Their covariance is that of the Markov chain, alpha_t / alpha_s sigma_s^2.
    alpha = torch.sigmoid(-torch.stack([t, s])).sqrt()
    covariance = float(((z_t - z_t.mean()) * (z_s - z_s.mean())).mean())
    assert covariance == pytest.approx(float(alpha[0] / alpha[1] * torch.sigmoid(s)), abs=0.01)


@pytest.mark.parametrize("transition", ["gaussian", "mixture"])
@pytest.mark.parametrize("times", [None, torch.tensor([0.0, 0.1, 0.5, 1.0])])
def test_the_levels_of_an_inference_sum_to_the_loss_of_all_steps(transition, times):
    """What is sampled a level at a time estimates, without bias, what ``infer`` measures at all levels."""
    model, x = tiny().with_steps(3, transition, times), binary_images(3, SHAPE).double()
    with torch.no_grad():
        exact = model.infer(x, 20_000).terms()
        sampled = model.terms(x, model.terms_noise(20_001, 3, like=x))
    for one, other in ((exact.rates, sampled.rates), (exact.distortion[None], sampled.distortion[None])):
        difference = one.mean(1) - other.mean(1)
        error = ((one.var(1) / one.shape[1]) + (other.var(1) / other.shape[1])).sqrt()
        assert (difference.abs() < 5 * error + 1e-9).all()


def test_estimates_go_through_all_levels():
    """Every level has as many draws as any other, so that a level that has no rate is never over-counted."""
    model, x = tiny().with_steps(6), binary_images(2, SHAPE).double()
    seen = []
    denoise = model.denoise
    object.__setattr__(model, "denoise", lambda z, gamma: (seen.append(gamma), denoise(z, gamma))[1])
    found = model.estimate(x, torch.tensor([5, 6]), 12, per_pass=5)
    gammas = torch.cat(seen)  # (12, 2)
    for image in range(2):
        assert [int((gammas[:, image] == gamma).sum()) for gamma in model.gammas()[1:]] == [2] * 6
    again = model.estimate(x, torch.tensor([5, 6]), 12, per_pass=12)
    torch.testing.assert_close(found.rates, again.rates)
    other = model.estimate(x[1:], torch.tensor([6]), 12, per_pass=12)
    torch.testing.assert_close(other.rates, again.rates[:, 1:])  # the noise is the image's own


@pytest.mark.parametrize("continuous", [False, True])
def test_the_error_of_an_estimate_holds_that_of_looking_at_few_levels(continuous):
    """Of copies of an image, which differ in nothing else, against the scatter from seed to seed."""
    model, copies = tiny(201, continuous=continuous), 400
    x = binary_images(1, SHAPE).double().expand(copies, -1, -1, -1)
    found = []
    for seed in range(100):
        settings = Settings(10, (), seed)
        statistics = image_statistics(model, x, range(copies), settings)
        found.append(summarize(statistics, settings, unit_counts(model)))
    stated = math.sqrt(sum(one["test/elbo_stderr"] ** 2 for one in found) / len(found))
    assert float(torch.tensor([one["test/elbo"] for one in found]).std()) == pytest.approx(stated, rel=0.25)


@pytest.mark.parametrize("transition", ["gaussian", "mixture"])
def test_many_steps_approach_the_limit(transition):
    model, x = tiny(continuous=True), binary_images(4, SHAPE).double()
    keys = torch.arange(4)
    bounds = []
    for limited in (*(model.with_steps(steps, transition) for steps in (1, 8, 64, 512)), model):
        found = limited.estimate(x, keys, 4_096, per_pass=4_096)
        bounds.append(-float((found.distortion + found.rates.sum(0)).mean()))
    *finite, limit = bounds
    gaps = [abs(limit - bound) for bound in finite]
    assert gaps[3] < 0.15
    if transition == "gaussian":
        assert gaps[1] > 4 * gaps[2] - 0.03
        assert finite[0] < finite[1] < finite[2] < finite[3] + 0.03


def test_a_mixture_is_better_than_a_gaussian_where_steps_are_few():
    model, x = tiny(), binary_images(4, SHAPE).double()
    elbos = [
        model.with_steps(2, kind).infer(x, 2_000).terms().mean().elbo for kind in ("gaussian", "mixture")
    ]
    assert elbos[1] > elbos[0] + 0.5


@pytest.mark.parametrize("transition", ["gaussian", "mixture"])
def test_the_probabilities_of_all_images_sum_to_one(transition):
    """By importance weights: a wrong density, prior, or level counted twice would show."""
    torch.manual_seed(5)
    shape = (1, 2, 1)
    # One Gaussian for two values of a pixel needs small steps, or hardly any draw lies where it is.
    kinds = {"gaussian": (17, -0.5, 1.5), "mixture": (3, -3.0, 8.0)}
    levels, lowest, highest = kinds[transition]
    ends = {"gamma_min": lowest, "gamma_max": highest}
    model = Diffusion(shape, levels, False, transition, denoiser="dense", width=4, blocks=1, **ends).eval()
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 2).view(-1, *shape)
    with torch.no_grad():
        weights = model.infer(images, 30_000).log_weights().exp()
    error = float((weights.var(0) / len(weights)).sum().sqrt())
    assert float(weights.mean(0).sum()) == pytest.approx(1, abs=5 * error)
    assert error < 0.02


def test_generated_images_have_the_probabilities_that_inference_gives():
    torch.manual_seed(5)
    shape = (1, 2, 1)
    model = Diffusion(shape, 4, False, "mixture", denoiser="dense", width=4, blocks=1).eval()
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 2).view(-1, *shape)
    with torch.no_grad():
        probability = model.infer(images, 60_000).log_weights().exp().mean(0)
        drawn = model.likelihood.sample(model.generate(60_000).params).flatten(1)
    index = (drawn * torch.tensor([2.0, 1.0])).sum(1).long()
    share = torch.bincount(index, minlength=4) / len(drawn)
    torch.testing.assert_close(share, probability, atol=0.015, rtol=0)


def test_the_log_ratio_of_a_mixture_in_closed_form():
    model, x = tiny(2).with_steps(1, "mixture"), binary_images(3, SHAPE).double()
    image, e, z = model.scaled(x), torch.randn(3, *SHAPE), torch.randn(3, *SHAPE)
    t, s = torch.full((3,), 1.1), torch.tensor(-0.8)
    with torch.no_grad():
        q, p = reverse(z, image, t, s), model.transition_from(z, t, s)
        drawn = q.rsample(image * e)  # away from the other value
        own = image * model.denoise(z, t)[1]
    found = mixture_rate(own, by_image(added_precision(t, s)), e)
    torch.testing.assert_close(found, q.unit_log_prob(drawn) - p.unit_log_prob(drawn))


def test_the_log_ratio_of_a_mixture_keeps_its_digits():
    """In float32, for pixels that are sure, right or wrong, and steps that are tiny or huge."""
    a = torch.tensor([-80.0, -9.0, -0.1, 0.1, 9.0, 80.0])[:, None, None]
    precision = torch.tensor([1e-6, 1e-2, 1.0, 400.0])[:, None]
    e = torch.tensor([-4.0, -0.3, 0.0, 2.0])
    exact = -torch.logaddexp(
        torch.nn.functional.logsigmoid(a),
        torch.nn.functional.logsigmoid(-a) - 2 * precision - 2 * precision.sqrt() * e,
    )
    narrow = [v.float().requires_grad_() for v in (a, precision, e)]
    found = mixture_rate(*narrow)
    torch.testing.assert_close(found.double(), exact, rtol=2e-4, atol=1e-9)
    found.sum().backward()
    assert all(torch.isfinite(v.grad).all() for v in narrow)


def test_eight_bits_and_color():
    likelihood = LogisticMixture(2)
    model = Diffusion((3, 5, 4), 4, False, denoiser="unet", width=8, blocks=1, likelihood=likelihood)
    x = likelihood.prepare(torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)).double()
    terms = model.infer(x, 2).terms()
    assert terms.rates.shape == (4, 2, 2)
    assert torch.isfinite(terms.elbo).all()
    assert float(terms.distortion.detach().mean()) < 5 * x[0].numel()  # nats: z_1 tells most of each value
    assert model.generate(2).mean.shape == (2, 3, 5, 4)


def test_what_a_noisy_value_tells_of_256_values():
    """It is the logistic around the value, as wide as the noise."""
    likelihood = LogisticMixture(3)
    values = likelihood.prepare(torch.arange(256, dtype=torch.uint8)).double()[:, None, None, None]
    noisy = torch.full((1, 1, 1, 1, 1), 0.2)
    params = likelihood.of_noisy(noisy, torch.tensor(-5.0))
    p = likelihood.log_prob(params.expand(1, 256, -1, 1, 1), values)[0].exp()
    assert float(p.sum()) == pytest.approx(1)
    values = values.flatten()
    mean = float((p * values).sum())
    assert mean == pytest.approx(0.2, abs=1e-3)
    assert float((p * (values - mean) ** 2).sum()) == pytest.approx(math.exp(-5), rel=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_layers": 1}, "num_layers=1 must be between 2"),
        ({"gamma_min": 9.0}, "gamma_min=9 to gamma_max=8"),
        ({"transition": "cubic"}, "transition=cubic is unknown"),
        ({"schedule": "cosine"}, "schedule=cosine is unknown"),
        ({"denoiser": "tree"}, "denoiser=tree is unknown"),
        ({"width": 0}, "width=0"),
        ({"transition": "mixture", "likelihood": LogisticMixture()}, "transition=mixture is for binary"),
    ],
)
def test_what_makes_no_diffusion_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Diffusion(SHAPE, **settings)


def test_questions_without_an_answer_are_refused():
    model, x = tiny(), binary_images(2, SHAPE).double()
    with pytest.raises(ValueError, match="no log q - log p"):
        model.terms(x, model.terms_noise(1, 2, like=x), monte_carlo=True)
    for times in ([0.0, 1.0, 0.5], [0.1, 0.5, 1.0], [0.0, 0.5, 0.9], [0.0, math.nan, 1.0], [0.0, 1.0]):
        with pytest.raises(ValueError, match="rising numbers from 0 to 1"):
            model.with_steps(2, times=torch.tensor(times))
    with pytest.raises(ValueError, match="num_layers=1 "):
        model.with_steps(0)
    assert not model.has_weights
    assert model.with_steps(4).has_weights
    assert not model.with_steps(500).has_weights


def test_a_transition_that_does_not_exist_is_refused():
    for make in (lambda: tiny().with_steps(3, "foo"), lambda: Diffusion(SHAPE, 3, transition="foo")):
        with pytest.raises(ValueError, match="transition=foo is unknown; choose gaussian, mixture"):
            make()
