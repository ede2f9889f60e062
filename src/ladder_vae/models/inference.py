"""The records that models return: latents, posteriors and priors of each level, and their rates.

Levels are counted from the image: index 0 is z_1. Axes: K posterior samples, B images, L levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ladder_vae.maths.gaussian import Gaussian
from ladder_vae.maths.two_gaussians import TwoGaussians
from ladder_vae.system.naming import level_groups, level_index
from ladder_vae.system.ranks import batch_mean

Density = Gaussian | TwoGaussians


@dataclass(frozen=True, repr=False)
class Level:
    """One latent level: the latent, and the two densities under which it stands.

    Args:
        z: The latent, ``(K, B, *event)`` in inference, ``(n, *event)`` in generation.
        q: The density that ``z`` was drawn from: the posterior in inference, ``p`` itself in generation.
        p: The prior of ``z``, given the levels above. Parameters of ``q`` and ``p`` broadcast to ``z``.
        closed_form: Whether ``p`` was fixed before ``z`` was drawn. Only then is KL(q || p) the rate of
            the level: a ``p`` that reads levels drawn from ``z`` changes with ``z``.
    """

    z: Tensor
    q: Density
    p: Density
    closed_form: bool = True

    def __repr__(self) -> str:
        return f"Level(z of shape {tuple(self.z.shape)})"

    def expanded(self) -> Level:
        """The same level with parameters of ``q`` and ``p`` that have the shape of ``z``, as views."""
        return Level(self.z, self.q.expand_as(self.z), self.p.expand_as(self.z), self.closed_form)

    def rate(self, *, monte_carlo: bool = False) -> Tensor:
        """KL(q || p) if ``closed_form``, else log q(z) - log p(z); nats, broadcastable to ``(K, B)``.

        The log-ratio may be negative for a single draw. Below the top of a bottom-up model even its mean
        may be negative, because there only the sum over levels is a divergence.

        Args:
            monte_carlo: Whether to take the log-ratio even where the closed form exists.
        """
        if self.closed_form and not monte_carlo:
            return self._gaussians[0].kl(self._gaussians[1])
        return self.q.log_prob(self.z) - self.p.log_prob(self.z)

    def unit_rate(self) -> Tensor:
        """The rate of each unit, nats, ``(K, B, *event)``. The units of a level add up to :meth:`rate`."""
        if self.closed_form:
            q, p = self._gaussians
            return q.unit_kl(p).expand_as(self.z)
        return self.q.unit_log_prob(self.z) - self.p.unit_log_prob(self.z)

    @property
    def _gaussians(self) -> tuple[Gaussian, Gaussian]:
        """Posterior and prior, which have a divergence in closed form."""
        assert isinstance(self.q, Gaussian)
        assert isinstance(self.p, Gaussian)
        return self.q, self.p


class Terms(NamedTuple):
    """The two parts of minus the ELBO, nats per image.

    Args:
        distortion: -log p(x | z), ``(K, B)``; after :meth:`mean`, ``()``.
        rates: Rate of each level, z_1 first, ``(L, K, B)``; after :meth:`mean`, ``(L,)``.
    """

    distortion: Tensor
    rates: Tensor

    @property
    def rate(self) -> Tensor:
        """The total rate, summed over levels; it has the shape of ``distortion``."""
        return self.rates.sum(0)

    @property
    def elbo(self) -> Tensor:
        """-(rate + distortion); it has the shape of ``distortion``, and higher is better."""
        return -(self.rate + self.distortion)

    def mean(self) -> Terms:
        """Both parts averaged over draws and images, ``()`` and ``(L,)``.

        Where processes share a batch, these are means over its images in all of them
        (:mod:`ladder_vae.system.ranks`).
        """
        return Terms(batch_mean(self.distortion), batch_mean(self.rates, (1, 2)))

    def named(self, stage: str, most: int | None = None) -> dict[str, Tensor]:
        """``STAGE/elbo``, ``/rate``, ``/distortion``, ``/rate/z1``, ...: the names of ``metrics.json``.

        Args:
            stage: Begins each name: ``train``, ``val``, or a split.
            most: Of deeper models, the rates of neighboring levels are added up, so that no more than this
                many remain (:func:`~ladder_vae.system.naming.level_groups`).
        """
        named = {"elbo": self.elbo, "rate": self.rate, "distortion": self.distortion}
        groups = level_groups(len(self.rates), most)
        named |= {f"rate/{name}": self.rates[levels].sum(0) for name, levels in groups.items()}
        return {f"{stage}/{name}": value for name, value in named.items()}


class Estimate(NamedTuple):
    """What some draws of a model that estimates its rates say of each image.

    Args:
        distortion: Mean over draws, nats, ``(B,)``, float64.
        rates: Mean over draws, nats, ``(L, B)``, float64. Of a single image they are rough.
        reconstruction: E[x | z] of one draw, ``(B, C, H, W)`` in [0, 1].
    """

    distortion: Tensor
    rates: Tensor
    reconstruction: Tensor


@dataclass(frozen=True, repr=False)
class Inference:
    """The result of inference for ``B`` images with ``K`` posterior samples each.

    ``inference["z2"]`` and ``inference[1]`` are the record of z_2.

    Args:
        levels: One record per level; ``levels[0]`` is z_1.
        params: Decoder output, ``(K, B, channels, H, W)``; logits for Bernoulli pixels.
        log_px: log p(x | z), nats per image, ``(K, B)``.
    """

    levels: tuple[Level, ...]
    params: Tensor
    log_px: Tensor

    def __repr__(self) -> str:
        draws, images = self.log_px.shape
        return f"Inference(levels: {len(self.levels)}, draws: {draws}, images: {images})"

    def __getitem__(self, level: int | str) -> Level:
        return self.levels[level_index(level, len(self.levels))]

    def rates(self, *, monte_carlo: bool = False) -> Tensor:
        """Rate of each level, nats, ``(L, K, B)``. The ELBO is the mean of ``log_px - rates().sum(0)``."""
        return torch.stack(
            [level.rate(monte_carlo=monte_carlo).expand_as(self.log_px) for level in self.levels]
        )

    def terms(self, *, monte_carlo: bool = False) -> Terms:
        """Distortion and rates; ``monte_carlo`` replaces closed-form rates by log q(z) - log p(z)."""
        return Terms(-self.log_px, self.rates(monte_carlo=monte_carlo))

    def log_weights(self) -> Tensor:
        """Importance log-weights log p(x, z) - log q(z | x), nats, ``(K, B)``."""
        return self.log_px - self.rates(monte_carlo=True).sum(0)


@dataclass(frozen=True, repr=False)
class Generation:
    """Images generated from the prior, and their latents.

    ``generation["z2"]`` and ``generation[1]`` are the record of z_2.

    Args:
        params: Decoder output, ``(n, channels, H, W)``; logits for Bernoulli pixels.
        mean: E[x | z] as intensities in [0, 1], ``(n, C, H, W)``.
        levels: Latent and prior of each level; ``levels[0]`` is z_1. Empty if they were not kept.
    """

    params: Tensor
    mean: Tensor
    levels: tuple[Level, ...]

    def __repr__(self) -> str:
        return f"Generation(levels: {len(self.levels)}, images: {tuple(self.mean.shape)})"

    def __getitem__(self, level: int | str) -> Level:
        if not self.levels:
            raise ValueError("no levels were kept; generate with keep_levels=True")
        return self.levels[level_index(level, len(self.levels))]

    @property
    def z(self) -> tuple[Tensor, ...]:
        """Latent of each level, ``(n, *event)``."""
        return tuple(level.z for level in self.levels)

    @property
    def p(self) -> tuple[Density, ...]:
        """Prior of each level, given the levels above."""
        return tuple(level.p for level in self.levels)
