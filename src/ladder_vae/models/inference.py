"""What a model says of images: latents, posteriors and priors by level, and what follows from them.

Levels are numbered from the data up: index 0 is z_1. Axes: K posterior samples, B images, L levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ladder_vae.maths.gaussian import Gaussian
from ladder_vae.system.naming import z_name


@dataclass(frozen=True)
class Level:
    """One latent level on the way from the top to the image.

    Args:
        z: The latent, ``(K, B, *event)``; ``(n, *event)`` where images are generated.
        q: The Gaussian it was drawn from: the posterior; where images are generated, ``p`` itself.
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


class Terms(NamedTuple):
    """The two parts of minus the ELBO, nats per image.

    Args:
        distortion: -log p(x | z), ``(K, B)``; a mean over draws and images, ``()``.
        rates: Rate of each level, z_1 first, ``(L, K, B)``; means, ``(L,)``.
    """

    distortion: Tensor
    rates: Tensor

    @property
    def rate(self) -> Tensor:
        """Rate of all levels together, the shape of ``distortion``."""
        return self.rates.sum(0)

    @property
    def elbo(self) -> Tensor:
        """-(rate + distortion), the shape of ``distortion``; higher is better."""
        return -(self.rate + self.distortion)

    def mean(self) -> Terms:
        """Means over draws and images."""
        return Terms(self.distortion.mean(), self.rates.mean((1, 2)))

    def named(self, stage: str) -> dict[str, Tensor]:
        """``STAGE/elbo``, ``/rate``, ``/distortion``, ``/rate/z1``, ...: the names of ``metrics.json``."""
        named = {"elbo": self.elbo, "rate": self.rate, "distortion": self.distortion}
        named |= {f"rate/{z_name(level)}": rate for level, rate in enumerate(self.rates)}
        return {f"{stage}/{name}": value for name, value in named.items()}


@dataclass(frozen=True)
class Inference:
    """What a model says of ``B`` images from ``K`` posterior samples each.

    Args:
        levels: ``levels[0]`` is z_1.
        params: Decoder output, ``(K, B, channels, H, W)``; logits for Bernoulli pixels.
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

    def terms(self, *, monte_carlo: bool = False) -> Terms:
        """Distortion and rates; ``monte_carlo`` replaces closed-form rates by log q - log p."""
        return Terms(-self.log_px, self.rates(monte_carlo=monte_carlo))

    def log_weights(self) -> Tensor:
        """Importance log-weights log p(x, z) - log q(z | x), nats, ``(K, B)``."""
        return self.log_px - self.rates(monte_carlo=True).sum(0)


@dataclass(frozen=True)
class Generation:
    """Images from the prior, and the latents that they came from.

    Args:
        params: Decoder output, ``(n, channels, H, W)``; logits for Bernoulli pixels.
        mean: E[x | z] as intensities in [0, 1], ``(n, C, H, W)``.
        levels: Latent and prior of each, ``levels[0]`` is z_1.
    """

    params: Tensor
    mean: Tensor
    levels: tuple[Level, ...]

    @property
    def z(self) -> tuple[Tensor, ...]:
        """Latent of each level, ``(n, *event)``."""
        return tuple(level.z for level in self.levels)

    @property
    def p(self) -> tuple[Gaussian, ...]:
        """Prior of each level, given the levels above."""
        return tuple(level.p for level in self.levels)
