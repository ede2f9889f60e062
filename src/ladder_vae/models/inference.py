"""What a model says of images: latents, posteriors and priors by level, and what follows from them.

Levels are numbered from the data up: index 0 is z_1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ladder_vae.maths.gaussian import Gaussian


@dataclass(frozen=True)
class Level:
    """One latent level under the posterior.

    Args:
        z: The sample, ``(K, B, *event)``.
        q: The Gaussian it was drawn from.
        p: What the generative model expects there, given the levels above.
        closed_form: Whether ``p`` was settled before ``z`` was drawn. Only then is KL(q || p) the
            level's rate: a ``p`` that reads levels drawn from ``z`` moves with it.
    """

    z: Tensor
    q: Gaussian
    p: Gaussian
    closed_form: bool = True

    def rate(self, *, monte_carlo: bool = False) -> Tensor:
        """KL(q || p) where ``closed_form`` allows it, else log q(z) - log p(z); nats, ``(K, B)``.

        The latter may be negative for a single draw; below the top of a bottom-up model even in the
        mean, for there only the sum over levels is a divergence.
        """
        if self.closed_form and not monte_carlo:
            return self.q.kl(self.p)
        return self.q.log_prob(self.z) - self.p.log_prob(self.z)

    def unit_rate(self) -> Tensor:
        """The rate of each unit; their sum is :meth:`rate`. Nats, ``(K, B, *event)``."""
        if self.closed_form:
            return self.q.unit_kl(self.p).expand_as(self.z)
        return self.q.unit_log_prob(self.z) - self.p.unit_log_prob(self.z)


@dataclass(frozen=True)
class Inference:
    """What a model says of ``B`` images from ``K`` posterior samples each.

    Args:
        levels: ``levels[0]`` is z_1.
        params: Decoder output, ``(K, B, C, H, W)``; logits for Bernoulli pixels.
        log_px: log p(x | z), nats per image, ``(K, B)``.
    """

    levels: tuple[Level, ...]
    params: Tensor
    log_px: Tensor

    def rates(self, *, monte_carlo: bool = False) -> Tensor:
        """Rate of each level, nats, ``(L, K, B)``; ELBO = mean of ``log_px`` minus their sum over levels."""
        return torch.stack(
            [level.rate(monte_carlo=monte_carlo).expand_as(self.log_px) for level in self.levels]
        )

    def log_weights(self) -> Tensor:
        """Importance log-weights log p(x, z) - log q(z | x), nats, ``(K, B)``."""
        return self.log_px - self.rates(monte_carlo=True).sum(0)


@dataclass(frozen=True)
class Generation:
    """Images from the prior, and the latents that they came from.

    Args:
        params: Decoder output, ``(n, C, H, W)``; logits for Bernoulli pixels.
        z: Sample of each level, ``(n, *event)``.
        p: Prior of each level, given the levels above.
    """

    params: Tensor
    z: tuple[Tensor, ...]
    p: tuple[Gaussian, ...]


@dataclass(frozen=True)
class Elbo:
    """The ELBO of a batch and its parts, all in nats per image, means over images and samples.

    Args:
        distortion: -E_q[log p(x | z)], shape ``()``.
        rates: Rate of each level, ``(L,)``; index 0 is z_1.
    """

    distortion: Tensor
    rates: Tensor

    @property
    def rate(self) -> Tensor:
        """Total rate, shape ``()``."""
        return self.rates.sum()

    @property
    def elbo(self) -> Tensor:
        """-(rate + distortion), shape ``()``; higher is better."""
        return -(self.rate + self.distortion)


def elbo(inference: Inference, *, monte_carlo: bool = False) -> Elbo:
    """Batch means of distortion and rates; ``monte_carlo`` replaces closed-form rates by log q - log p."""
    rates = inference.rates(monte_carlo=monte_carlo)  # (L, K, B)
    return Elbo(-inference.log_px.mean(), rates.mean((1, 2)))
