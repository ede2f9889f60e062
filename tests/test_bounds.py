"""Importance-weighted bounds and active units where the answer is known."""

import math

import pytest
import torch
from contracts import DENSE, MODELS, sizes
from test_linear_gaussian import PIXELS, LinearBottomUp, LinearTopDown, exact_log_px, images

from ladder_vae.maths.bounds import importance_bound
from ladder_vae.models import ConvolutionalVAE, LadderVAE
from ladder_vae.models.evaluator import Settings, image_statistics, unit_counts
from ladder_vae.models.statistics import IMAGE_FIELDS, UnitStatistics
from ladder_vae.models.summary import summarize

LINEAR = [LinearTopDown, LinearBottomUp]
SIZES = (1, 10, 100, 1000)


def measured(model, x, settings, units):
    """What is told of all images together."""
    return summarize(image_statistics(model, x, range(len(x)), settings), settings, units)


def known_gap(model) -> float:
    """log p(x) - ELBO of a linear model whose conditional means are all off by ``offset``."""
    if isinstance(model, LinearTopDown):
        variances, offset = [rung.variance for rung in model.rungs], model.rungs[0].offset
    else:
        variances, offset = [variance for _, variance in model.conditionals], model.offset
    return sum(0.5 * PIXELS * offset**2 / variance for variance in variances)


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("pathway", LINEAR)
def test_bounds_of_a_known_likelihood(pathway, num_layers):
    torch.manual_seed(0)
    x = images(20, num_layers)
    model = pathway(num_layers, 0.2)
    statistics = image_statistics(model, x, range(20), Settings(4000, SIZES))
    metrics = summarize(statistics, Settings(4000, SIZES), unit_counts(model))
    exact = float(exact_log_px(x, num_layers).mean())
    weight_variance = math.expm1(2 * known_gap(model))  # of w / p(x): log-normal
    for k in SIZES:
        short = exact - metrics[f"test/log_px/K={k}"]
        error = 4 * metrics[f"test/log_px/K={k}_mc_stderr"]
        assert -error < short < error + weight_variance / (2 * k), k
    assert metrics["test/elbo"] == pytest.approx(metrics["test/log_px/K=1"], abs=1e-9)
    assert abs(exact - known_gap(model) - metrics["test/elbo"]) < 4 * metrics["test/log_px/K=1_mc_stderr"]
    bounds = [metrics[f"test/log_px/K={k}"] for k in SIZES]
    assert bounds == sorted(bounds)
    assert metrics["test/gap/K=1000"] == pytest.approx(bounds[-1] - bounds[0])
    # every image, not only their mean, has a bound that does not fall with K
    assert (statistics.log_px.diff(dim=1) >= 0).all()


def test_the_error_over_draws_is_what_other_draws_show():
    torch.manual_seed(0)
    x = images(10, 2)
    model = LinearTopDown(2, 0.3)
    sizes = (1, 10, 200)  # the last is a single block
    found = [measured(model, x, Settings(200, sizes, seed), [PIXELS, PIXELS]) for seed in range(60)]
    for k in sizes:
        spread = torch.tensor([metrics[f"test/log_px/K={k}"] for metrics in found]).std()
        claimed = sum(metrics[f"test/log_px/K={k}_mc_stderr"] for metrics in found) / len(found)
        assert 0.7 < spread / claimed < 1.4, k  # the spread of 60 is known to a tenth


@pytest.mark.parametrize("num_layers", [1, 2, 5])
@pytest.mark.parametrize("pathway", LINEAR)
def test_the_exact_posterior_has_no_variance_at_any_k(pathway, num_layers):
    torch.manual_seed(0)
    x = images(5, num_layers)
    statistics = image_statistics(pathway(num_layers), x, range(5), Settings(200, (1, 10, 200)))
    expected = exact_log_px(x, num_layers)[:, None].expand(5, 3)
    torch.testing.assert_close(statistics.log_px, expected, rtol=0, atol=1e-9)
    assert (statistics.draw_var < 1e-18).all()
    torch.testing.assert_close(statistics.ess, torch.tensor([[1.0, 10.0, 200.0]]).double().expand(5, 3))


@pytest.mark.parametrize("kind", [*DENSE, ConvolutionalVAE])
def test_one_level_of_two_units_against_quadrature(kind):
    torch.manual_seed(0)
    shape, two = ((1, 3, 4), sizes(kind, [2], [8]))
    if kind is ConvolutionalVAE:
        shape, two = (1, 4, 4), {"levels": [(1, 1)], "latent_channels": [(1, 2)], "width": 8}
    model = kind(shape, 1, **two).double().eval()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(2)  # images that depend on z
    x = (torch.rand(4, *shape) < 0.5).double()
    axis = torch.linspace(-8, 8, 321, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)  # (grid, 2)
    with torch.no_grad():
        hold = {0: z.view(len(z), *model.event_shapes[0])}
        params = model.generate(len(z), hold=hold).params  # (grid, *shape)
        log_px = model.likelihood.log_prob(params[:, None], x)  # (grid, 4)
    log_prior = -0.5 * (z**2).sum(1) - math.log(2 * math.pi)
    cell = 2 * math.log(float(axis[1] - axis[0]))
    exact = (log_px + log_prior[:, None] + cell).logsumexp(0)
    settings = Settings(20_000, (100, 20_000))
    statistics = image_statistics(model, x, range(4), settings)
    for i, k in enumerate(settings.sample_sizes):
        short = exact - statistics.log_px[:, i]
        bias = statistics.draw_var[:, -1] * 20_000 / (2 * k)  # Var(w / p(x)) / 2K
        error = 4 * statistics.draw_var[:, i].sqrt()
        assert (short > -error).all()
        assert (short < error + bias).all()


def tiny_model(kind=LadderVAE):
    torch.manual_seed(0)
    x = (torch.rand(6, 1, 12, 16) < 0.5).float()
    model = kind((1, 12, 16), num_layers=2, **sizes(kind, [4, 3], [16, 8]))
    model.infer(x, 3)  # batch norm sees data
    return model.eval(), x


@pytest.mark.parametrize("kind", MODELS)
def test_the_size_of_a_chunk_changes_nothing(kind):
    model, x = tiny_model(kind)
    sizes = (1, 10, 150)
    tolerance = {"rtol": 1e-4, "atol": 1e-4 if kind in DENSE else 1e-3}  # thousands of units round more
    reference = image_statistics(model, x, range(6), Settings(150, sizes))
    for chunk in (1, 7, 100, 333):
        settings = Settings(150, sizes, chunk_size=chunk)
        for start, stop in ((5, 6), (2, 4), (0, 6)):
            found = image_statistics(model, x[start:stop], range(start, stop), settings)
            for name in IMAGE_FIELDS:
                expected = getattr(reference, name)[start:stop]
                torch.testing.assert_close(getattr(found, name), expected, **tolerance)
        for name, value in vars(found.units).items():  # of all six images
            torch.testing.assert_close(value, getattr(reference.units, name), rtol=1e-4, atol=1e-4)


def test_a_model_of_full_size_in_chunks_and_in_double_precision():
    torch.manual_seed(0)
    model = LadderVAE((1, 28, 28), num_layers=5)
    x = (torch.rand(2, 1, 28, 28) < 0.3).float()
    model.infer(x, 4)  # batch norm sees data
    model.eval()
    sizes = (1, 100)
    many, few = (image_statistics(model, x, [0, 1], Settings(100, sizes, 0, c)).log_px for c in (1000, 7))
    torch.testing.assert_close(many, few, rtol=0, atol=1e-4)
    exact = image_statistics(model.double(), x.double(), [0, 1], Settings(100, sizes)).log_px
    torch.testing.assert_close(many, exact, rtol=0, atol=1e-3)


def test_noise_differs_between_seeds_images_and_blocks():
    model, x = tiny_model()
    same = x[:1].expand(2, -1, -1, -1)

    def bounds(*settings):
        return image_statistics(model, same, [0, 1], Settings(*settings)).log_px[:, 0]

    first = bounds(100, (1,))
    assert (first[0] - first[1]).abs() > 1e-3
    assert (first - bounds(100, (1,), 1)).abs().min() > 1e-3
    # twice the same block of 100 would leave the mean where it was
    assert (first - bounds(200, (1,))).abs().min() > 1e-3


@pytest.mark.parametrize(("images", "chunk"), [(6, 120), (6, 1), (1, 30)])
def test_what_a_pass_holds_does_not_grow_with_the_draws(monkeypatch, images, chunk):
    model, x = tiny_model()
    calls, rows = [], []
    encode, infer = model.encode, model.infer
    monkeypatch.setattr(model, "encode", lambda x: calls.append(1) or encode(x))
    monkeypatch.setattr(
        model, "infer", lambda x, **kw: rows.append(kw["noise"][0].shape[:2]) or infer(x, **kw)
    )
    image_statistics(model, x[:images], range(images), Settings(500, (500,), chunk_size=chunk))
    assert len(calls) == 1  # what the image alone decides is computed once
    assert max(k * n for k, n in rows) <= max(chunk, images)
    assert sum(k for k, _ in rows) == 500


def test_single_precision_is_enough():
    model, x = tiny_model()
    settings = Settings(200, (1, 200))
    single = image_statistics(model, x, range(6), settings).log_px
    double = image_statistics(model.double(), x.double(), range(6), settings).log_px
    torch.testing.assert_close(single, double, rtol=0, atol=1e-4)


def test_huge_log_weights_do_not_overflow():
    log_weights = torch.tensor([[-5000.0], [-5000.0 + math.log(3.0)]], dtype=torch.float64)
    bound = importance_bound(log_weights, 2)
    assert float(bound.log_px) == pytest.approx(-5000 + math.log(2), abs=1e-9)
    assert float(bound.ess) == pytest.approx(16 / 10)


@pytest.mark.parametrize("pathway", LINEAR)
def test_variance_of_units_of_a_known_posterior(pathway):
    """Var_x(E[z | x]) is cov(z, x)^2 / var(x) in a linear-Gaussian hierarchy with the exact posterior."""
    from test_linear_gaussian import joint_covariance

    torch.manual_seed(0)
    x = images(3000, 3)
    statistics = image_statistics(pathway(3), x, range(3000), Settings(10, (10,)))
    cov = joint_covariance(3)
    expected = (cov[0, 1:] ** 2 / cov[0, 0]).repeat_interleave(PIXELS)
    torch.testing.assert_close(statistics.units.variance(), expected.double(), rtol=0.12, atol=0.0)


@pytest.mark.parametrize("pathway", LINEAR)
def test_draws_of_other_levels_are_no_activity(pathway):
    """All images alike: no unit tells them apart, though posterior means move with the draws."""
    x = images(1, 3).expand(2000, -1, -1, -1)
    statistics = image_statistics(pathway(3), x, range(2000), Settings(1, (1,)))
    assert (statistics.units.spread / 1999).max() > 0.01  # would count as active
    assert statistics.units.variance().abs().max() < 0.01
    assert summarize(statistics, Settings(1, (1,)), [PIXELS] * 3)["test/active_units_var"] == 0


def test_units_of_parts_are_those_of_the_whole():
    torch.manual_seed(0)
    values = [1e3 + torch.randn(7, 3, dtype=torch.float64) for _ in range(3)]  # of 7 images, 3 units

    def units(part):
        rate, mean, draw_var = (value[part] for value in values)
        spread = ((mean - mean.mean(0)) ** 2).sum(0)
        images = torch.tensor(float(len(mean)), dtype=torch.float64)
        return UnitStatistics(images, rate.mean(0), rate.mean(0), mean.mean(0), spread, draw_var.mean(0))

    merged = UnitStatistics.merge([units(slice(0, 1)), units(slice(1, 5)), units(slice(5, 7))])
    for name, value in vars(units(slice(None))).items():
        torch.testing.assert_close(getattr(merged, name), value)
    expected = values[1].var(0) - values[2].mean(0)
    torch.testing.assert_close(merged.variance(), expected)


@pytest.mark.parametrize("kind", MODELS)
def test_rates_of_units_add_up_to_those_of_levels(kind):
    model, x = tiny_model(kind)
    inference = model.infer(x, 5)
    by_unit = torch.stack([level.unit_rate().flatten(2).sum(-1) for level in inference.levels])
    torch.testing.assert_close(by_unit, inference.rates())


def test_units_that_copy_the_prior_are_not_active():
    model, x = tiny_model()
    with torch.no_grad():  # evidence so flat that the posterior is the prior, in z1
        head = model.evidence[0]
        head.weight.zero_()
        head.bias[:4] = 0.0
        head.bias[4:] = 1e6
    metrics = measured(model, x, Settings(100, (100,)), [4, 3])
    assert metrics["test/active_units/z1"] == 0
    assert metrics["test/variance_ratio/z1"] == pytest.approx(1, abs=1e-4)
    assert metrics["test/rate/z1"] == pytest.approx(0, abs=1e-3)
    assert metrics["test/active_units"] == metrics["test/active_units/z2"]
