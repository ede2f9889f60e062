"""Hierarchies whose exact posterior is known: a wrong rate, sign or sample shows at once.

z_L ~ N(0, 1), z_l = a_l z_{l+1} + s_l e, x = b z_1 + t e, each pixel with its own scalar chain. Every
conditional is Gaussian; the joint covariance gives exact conditionals by Gaussian elimination.
"""

import math

import pytest
import torch
from torch import Tensor

from ladder_vae.maths.gaussian import Gaussian
from ladder_vae.maths.likelihoods import Likelihood
from ladder_vae.models.hierarchy import BottomUp, TopDown
from ladder_vae.models.rung import Rung

PIXELS = 3
A = [0.8, -1.3, 0.6, 1.1]  # map from z_{l+1} to z_l, index 0 next to the data
S = [0.5, 0.9, 1.2, 0.7]  # its noise
B, T = 1.5, 0.4  # map from z_1 to x, its noise


def joint_covariance(num_layers: int) -> Tensor:
    """Covariance of (x, z_1, ..., z_L) for one pixel."""
    n = num_layers + 1
    maps, noise = torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    maps[0, 1], noise[0] = B, T**2
    for level in range(num_layers - 1):
        maps[level + 1, level + 2], noise[level + 1] = A[level], S[level] ** 2
    noise[n - 1] = 1.0
    inverse = torch.linalg.inv(torch.eye(n, dtype=torch.float64) - maps)  # v = maps v + e
    return inverse @ torch.diag(noise) @ inverse.T


def conditional(cov: Tensor, target: int, given: list[int]) -> tuple[Tensor, float]:
    """Weights and variance of v_target | v_given, all zero-mean."""
    weights = torch.linalg.solve(cov[given][:, given], cov[given, target])
    return weights, float(cov[target, target] - weights @ cov[given, target])


class LinearRung(Rung):
    def __init__(self, level: int, num_layers: int, offset: float):
        super().__init__((PIXELS,), None)
        self.level, self.top, self.offset = level, level == num_layers - 1, offset
        cov = joint_covariance(num_layers)
        given = [0] if self.top else [0, level + 2]
        self.weights, self.variance = conditional(cov, level + 1, given)

    def prior(self, state):
        if self.top:
            return super().prior(state)
        return Gaussian(A[self.level] * state, torch.full_like(state, 2 * math.log(S[self.level])))

    def posterior(self, evidence, state, p):
        mean = self.weights[0] * evidence
        if not self.top:
            mean = mean + self.weights[1] * state
        mean = mean + self.offset
        return Gaussian(mean, torch.full_like(mean, math.log(self.variance)))


class Decode(torch.nn.Module):
    def forward(self, z):
        return B * z[..., None, None, :]  # (K, B, 1, 1, pixels)


class NormalPixels(Likelihood):
    def prepare(self, images):
        return images.double()

    def sample(self, params, generator=None):
        return params + T * torch.randn(params.shape, generator=generator, dtype=params.dtype)

    def log_prob(self, params, x):
        return Gaussian(params, torch.full_like(params, 2 * math.log(T)), 3).log_prob(x)

    def mean(self, params):
        return params


class LinearTopDown(TopDown):
    def __init__(self, num_layers, offset=0.0):
        rungs = [LinearRung(level, num_layers, offset) for level in range(num_layers)]
        super().__init__(rungs, Decode(), NormalPixels())

    def encode(self, x):
        return [x.flatten(1)] * self.num_layers


class LinearBottomUp(BottomUp):
    """q(z_l | z_{l-1}) is exact here: given z_{l-1}, nothing nearer to the image says more of z_l."""

    def __init__(self, num_layers, offset=0.0):
        rungs = [LinearRung(level, num_layers, offset) for level in range(num_layers)]
        super().__init__(rungs, Decode(), NormalPixels())
        cov = joint_covariance(num_layers)
        self.conditionals = [conditional(cov, level + 1, [level]) for level in range(num_layers)]
        self.offset = offset

    def recognize(self, level, below):
        weights, variance = self.conditionals[level]
        below = below.flatten(1) if level == 0 else below
        mean = weights[0] * below + self.offset
        return Gaussian(mean, torch.full_like(mean, math.log(variance)))


def images(n: int, num_layers: int) -> Tensor:
    scale = joint_covariance(num_layers)[0, 0].sqrt()
    return scale * torch.randn(n, 1, 1, PIXELS, dtype=torch.float64)


def exact_log_px(x: Tensor, num_layers: int) -> Tensor:
    var = joint_covariance(num_layers)[0, 0].log().expand(PIXELS)
    return Gaussian(torch.zeros(PIXELS, dtype=torch.float64), var).log_prob(x.flatten(1))


@pytest.mark.parametrize("num_layers", [1, 2, 3, 5])
@pytest.mark.parametrize("pathway", [LinearTopDown, LinearBottomUp])
def test_exact_posterior_gives_log_px_for_every_draw(pathway, num_layers):
    torch.manual_seed(0)
    x = images(4, num_layers)
    log_weights = pathway(num_layers).infer(x, 16).log_weights()
    expected = exact_log_px(x, num_layers).expand(16, 4)
    torch.testing.assert_close(log_weights, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("offset", [0.0, 0.3])
@pytest.mark.parametrize("pathway", [LinearTopDown, LinearBottomUp])
def test_elbo_against_closed_form(pathway, offset):
    """With posterior means shifted by a constant, ELBO = log p(x) - KL(q || exact), known in closed form."""
    num_layers = 3
    torch.manual_seed(1)
    x = images(1, num_layers)
    model = pathway(num_layers, offset)
    inference = model.infer(x, 20_000)
    per_draw = (inference.log_px - inference.rates().sum(0))[:, 0]
    # chain rule: both chains differ by the offset of each conditional's mean alone
    if pathway is LinearTopDown:
        variances = [rung.variance for rung in model.rungs]
    else:
        variances = [variance for _, variance in model.conditionals]
    gap = sum(0.5 * PIXELS * offset**2 / variance for variance in variances)
    expected = exact_log_px(x, num_layers)[0] - gap
    error = per_draw.std() / math.sqrt(len(per_draw))
    assert abs(per_draw.mean() - expected) < 4 * error + 1e-9
    terms = inference.terms().mean()
    torch.testing.assert_close(terms.elbo, per_draw.mean(), rtol=0, atol=1e-9)


def test_closed_form_kl_would_be_wrong_bottom_up():
    """The test above has teeth: the closed form below the top level misses by far more than noise."""
    torch.manual_seed(2)
    x = images(1, 2)
    inference = LinearBottomUp(2).infer(x, 20_000)
    wrong = torch.stack([level.q.kl(level.p).expand(20_000, 1) for level in inference.levels]).sum(0)
    right = inference.rates().sum(0)
    difference = (wrong - right)[:, 0]
    assert abs(difference.mean()) > 10 * difference.std() / math.sqrt(len(difference))
