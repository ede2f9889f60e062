"""The mixture of discretized logistics: a probability, exact where it is known, and sampled as it says."""

import itertools
import json
import math

import pytest
import torch

from ladder_vae.evaluation.results import EVALUATED
from ladder_vae.maths.logistic_mixture import LogisticMixture


def params_of(likelihood, channels, *lead, size=(1, 1), spread=1.0, seed=0):
    torch.manual_seed(seed)
    return spread * torch.randn(*lead, likelihood.channels(channels), *size)


def every_value(*shape):
    return torch.arange(256, dtype=torch.uint8).view(256, *shape)


@pytest.mark.parametrize("spread", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("components", [1, 5])
def test_probabilities_of_gray_values_sum_to_one(components, spread):
    likelihood = LogisticMixture(components)
    x = likelihood.prepare(every_value(1, 1, 1))
    log_p = likelihood.log_prob(params_of(likelihood, 1, 3, 1, spread=spread).double(), x.double())
    assert log_p.shape == (3, 256)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(3).double())


def test_probabilities_of_two_channels_sum_to_one():
    likelihood = LogisticMixture(3)
    grid = torch.cartesian_prod(torch.arange(256), torch.arange(256)).byte()
    x = likelihood.prepare(grid[:, :, None, None]).double()
    total = likelihood.log_prob(params_of(likelihood, 2, 1, 1).double(), x).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_probabilities_of_colors_sum_to_one():
    """Over all 16.8 million colors."""
    likelihood = LogisticMixture(2)
    params = params_of(likelihood, 3, 1, 1)
    total = 0.0
    grid = torch.cartesian_prod(torch.arange(256, dtype=torch.uint8), torch.arange(256, dtype=torch.uint8))
    for first in range(256):
        colors = torch.cat([torch.full((len(grid), 1), first, dtype=torch.uint8), grid], 1)
        log_p = likelihood.log_prob(params, likelihood.prepare(colors[:, :, None, None]))
        total += log_p.double().exp().sum().item()
    assert total == pytest.approx(1, abs=1e-4)


def test_a_single_logistic_is_the_difference_of_its_distribution_function():
    likelihood = LogisticMixture(1)
    mean, log_scale = 0.2, -2.0
    params = torch.tensor([0.0, mean, log_scale]).view(1, 1, 3, 1, 1).double()
    x = every_value(1, 1, 1).double() / 127.5 - 1
    found = likelihood.log_prob(params, x)[0].exp()
    scale = likelihood._mixture(params).log_scales.exp().squeeze()
    edges = torch.linspace(-1 + 1 / 255, 1 - 1 / 255, 255, dtype=torch.float64)
    below = torch.cat([torch.zeros(1), torch.sigmoid((edges - mean) / scale), torch.ones(1)])
    torch.testing.assert_close(found, below.diff())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_extreme_parameters_have_finite_values_and_gradients(dtype, value):
    likelihood = LogisticMixture(1)
    x = likelihood.prepare(torch.full((1, 1, 1, 1), value, dtype=torch.uint8)).to(dtype)
    for mean, log_scale in itertools.product((-30.0, 0.0, 30.0), (-50.0, -7.0, 0.0, 20.0)):
        params = torch.tensor([0.0, mean, log_scale], dtype=dtype).view(1, 1, 3, 1, 1).requires_grad_()
        log_p = likelihood.log_prob(params, x)
        assert log_p.isfinite().all()
        assert (log_p <= 0).all()
        assert torch.autograd.grad(log_p.sum(), params)[0].isfinite().all()


def test_samples_have_the_frequencies_that_the_density_says():
    likelihood = LogisticMixture(3)
    params = params_of(likelihood, 1, 1, 1, spread=1.5, seed=3)
    drawn = likelihood.sample(params.expand(200_000, 1, *params.shape[2:]), torch.Generator().manual_seed(1))
    bytes_ = ((drawn + 1) * 127.5).round().long().flatten()
    torch.testing.assert_close(likelihood.prepare(bytes_.byte()), drawn.flatten())  # values of bytes
    found = torch.bincount(bytes_, minlength=256) / len(bytes_)
    p = likelihood.log_prob(params, likelihood.prepare(every_value(1, 1, 1)))[0].exp()
    off = (found - p).abs() / (p * (1 - p) / len(bytes_)).sqrt().clamp(min=1e-6)
    assert off.max() < 5  # standard errors


def test_channels_of_samples_depend_on_each_other_as_the_density_says():
    """Entropy by the density of samples, and its mean over the exact distribution of two channels."""
    likelihood = LogisticMixture(2)
    params = params_of(likelihood, 2, 1, 1, seed=5)
    drawn = likelihood.sample(params.expand(50_000, 1, *params.shape[2:]), torch.Generator().manual_seed(1))
    log_p = likelihood.log_prob(params, drawn[:, 0])[0]
    grid = torch.cartesian_prod(torch.arange(256), torch.arange(256)).byte()
    exact = likelihood.log_prob(params, likelihood.prepare(grid[:, :, None, None]))[0].double()
    entropy = (exact.exp() * exact).sum()
    assert log_p.mean().item() == pytest.approx(entropy.item(), abs=5 * log_p.std().item() / 50_000**0.5)


def test_the_mean_is_that_of_the_values():
    likelihood = LogisticMixture(4)
    params = params_of(likelihood, 1, 6, 1, spread=0.3)
    params[..., 2::3, :, :] -= 4  # scales: narrow, so that next to nothing lies beyond the ends
    x = likelihood.prepare(every_value(1, 1, 1))
    weights = likelihood.log_prob(params, x).exp()
    exact = (weights * likelihood.intensities(x).flatten()).sum(1)
    torch.testing.assert_close(likelihood.mean(params).flatten(), exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("channels", "needed"), [(1, 30), (2, 60), (3, 100), (4, 150)])
def test_channels_of_the_decoder(channels, needed):
    likelihood = LogisticMixture()
    assert likelihood.channels(channels) == needed
    params = params_of(likelihood, channels, 2, 3, size=(4, 5))
    x = torch.rand(3, channels, 4, 5) * 2 - 1
    assert likelihood.log_prob(params, x).shape == (2, 3)
    assert likelihood.mean(params).shape == likelihood.sample(params).shape == (2, 3, channels, 4, 5)


def test_a_mixture_of_nothing_is_refused():
    with pytest.raises(ValueError, match="components=0 must be at least 1"):
        LogisticMixture(0)


@pytest.mark.usefixtures("undrawn", "short_judge")
def test_a_run_on_gray_values_from_training_to_the_report(train, command):
    """Nats and bits per dimension beside each other: after training, after an evaluation, in a report."""
    run = train("likelihood=logistic_mixture", "likelihood.components=2")
    assert command("evaluate", f"run={run}", "num_samples=10")[0] == 0
    metrics = json.loads((run / "metrics.json").read_text())
    per_nat = 1 / (12 * 16 * math.log(2))
    assert metrics["test/bits_per_dim"] == pytest.approx(-per_nat * metrics["test/elbo"])
    of_bounds = [name.removeprefix("test/") for name in metrics if "/K=" in name]
    assert all(name.startswith(EVALUATED) for name in of_bounds)  # else they would outlive other draws
    assert metrics["test/bits_per_dim/K=10"] == pytest.approx(-per_nat * metrics["test/log_px/K=10"])
    assert metrics["train_eval/bits_per_dim"] == pytest.approx(-per_nat * metrics["train_eval/elbo"])
    assert 6 < metrics["test/bits_per_dim"] < 12  # noise has 8
    code, out, err = command("analyze", f"run={run}", "classifier_dir=judge", "draws=1", "levels=[z1]")
    assert code == 0, err
    code, out, err = command("report", run, "--output", "out")
    assert code == 0, err
    assert f"{metrics['test/bits_per_dim']:.3f}" in out


def test_bits_are_only_of_values(trained):
    assert not [name for name in json.loads((trained() / "metrics.json").read_text()) if "bits" in name]
