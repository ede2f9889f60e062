"""A mixture of discretized logistics: the likelihood of images whose pixels have 256 values."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ladder_vae.maths.gaussian import full_precision
from ladder_vae.maths.likelihoods import Likelihood

HALF = 1 / 255  # half the distance between two values of a pixel, on the scale from -1 to 1
LEAST_LOG_SCALE = -7.0  # as published; narrower logistics put all on one value


class LogisticMixture(Likelihood):
    r"""Each pixel is a mixture of logistics, rounded to its 256 values.

    All channels of a pixel belong to one component m, with weight $\pi_m$ (Salimans et al. 2017, PixelCNN++,
    arXiv 1701.05517, sections 2.1 and 2.2). The first channel is logistic with mean $\mu_{m,1}$ and scale
    $s_{m,1}$. The mean of a later channel c depends linearly on the channels before it:
    $\mu_{m,c} + \sum_{b<c} a_{m,cb} x_b$. The value of a pixel stands for all numbers that round to it, and
    the two outermost values for all that lies beyond. A model sees pixels from -1 to 1.

    Args:
        components: Number of components M.

    Raises:
        ValueError: If there is none.
    """

    bits = True
    span = (-1.0, 1.0)

    def __init__(self, components: int = 10) -> None:
        if components < 1:
            raise ValueError(f"components={components} must be at least 1")
        self.components = components

    def channels(self, image_channels: int) -> int:
        """M times a weight, and for each channel a mean, a scale and a factor of each channel before it."""
        return self.components * (1 + 2 * image_channels + math.comb(image_channels, 2))

    def prepare(self, images: Tensor) -> Tensor:
        """From -1 for a byte of 0 to 1 for 255."""
        return images.float() / 127.5 - 1

    def intensities(self, x: Tensor) -> Tensor:
        """From 0 to 1."""
        return (x + 1) / 2

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Sum over pixels of the log-probability of their values."""
        mixture, value = self._mixture(params), x.unsqueeze(-4)  # (*lead, M, C, H, W) and (B, 1, C, H, W)
        centered, narrowness = value - mixture.means_given(value), torch.exp(-mixture.log_scales)
        above, below = narrowness * (centered + HALF), narrowness * (centered - HALF)
        # s(above) - s(below) = s(above) s(-below) (1 - exp(below - above)), in which nothing cancels
        left, right = F.logsigmoid(above), F.logsigmoid(-below)
        inside = left + right + torch.log(-torch.expm1(-2 * HALF * narrowness))
        log_p = torch.where(value < HALF - 1, left, torch.where(value > 1 - HALF, right, inside))
        return torch.logsumexp(mixture.log_weights + log_p.sum(-3), -3).flatten(-2).sum(-1)

    def mean(self, params: Tensor) -> Tensor:
        """Approximately E[x | z]: the mean of each component is clamped to [0, 1], not each of its values."""
        mixture = self._mixture(params)
        means = torch.zeros_like(mixture.means)
        for channel in range(means.shape[-3]):  # linear in those before, so that their means are enough
            means[..., channel, :, :] = mixture.means_given(means)[..., channel, :, :].clamp(-1, 1)
        return self.intensities((mixture.log_weights.exp().unsqueeze(-3) * means).sum(-4))

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Choose a component, then draw channel after channel and round each to a value."""
        mixture = self._mixture(params)

        def uniform(like: Tensor) -> Tensor:
            source = generator.device if generator else like.device
            drawn = torch.rand(like.shape, generator=generator, device=source)
            return drawn.to(like.device).clamp(1e-7, 1 - 1e-7)

        gumbel = -torch.log(-torch.log(uniform(mixture.log_weights)))
        chosen = (mixture.log_weights + gumbel).argmax(-3, keepdim=True).unsqueeze(-3)  # (*lead, 1, 1, H, W)
        logistic = torch.logit(uniform(mixture.means[..., 0, :, :, :]))  # the same for every component
        x = torch.zeros_like(logistic)  # (*lead, C, H, W)
        for channel in range(x.shape[-3]):
            means = mixture.means_given(x.unsqueeze(-4)).take_along_dim(chosen, -4)[..., 0, channel, :, :]
            scale = mixture.log_scales.take_along_dim(chosen, -4)[..., 0, channel, :, :].exp()
            drawn = (means + scale * logistic[..., channel, :, :]).clamp(-1, 1)
            x[..., channel, :, :] = self.prepare(((drawn + 1) * 127.5).round())
        return x

    def of_noisy(self, image: Tensor, log_var: Tensor) -> Tensor:
        """Each component is the same logistic around the noisy value, as wide as the noise."""
        # The variance of a logistic is (pi s)^2 / 3; then what the bound of log-scales makes of it is undone.
        log_scale = 0.5 * (log_var + math.log(3)) - math.log(math.pi)
        above = (log_scale - LEAST_LOG_SCALE).clamp(min=1e-3)
        narrow = (LEAST_LOG_SCALE + above + torch.log(-torch.expm1(-above))).expand_as(image)
        lead, (channels, height, width) = image.shape[:-3], image.shape[-3:]
        weight = image.new_zeros(*lead, 1, height, width)
        factors = image.new_zeros(*lead, math.comb(channels, 2), height, width)
        component = torch.cat([weight, image, narrow, factors], -3)
        return component.repeat(*[1] * len(lead), self.components, 1, 1)

    def _mixture(self, params: Tensor) -> _Mixture:
        """Cut the decoder's output into its parts."""
        parts = full_precision(params).unflatten(-3, (self.components, -1))
        image_channels = next(c for c in range(1, parts.shape[-3]) if c * (c + 3) // 2 + 1 == parts.shape[-3])
        sizes = [1, image_channels, image_channels, math.comb(image_channels, 2)]
        weights, means, log_scales, factors = parts.split(sizes, -3)
        bounded = LEAST_LOG_SCALE + F.softplus(log_scales - LEAST_LOG_SCALE)
        return _Mixture(weights.squeeze(-3).log_softmax(-3), means, bounded, torch.tanh(factors))


class _Mixture(NamedTuple):
    """What the decoder's output means, component by component.

    Args:
        log_weights: ``(*lead, M, H, W)``.
        means: Before what other channels add, ``(*lead, M, C, H, W)``.
        log_scales: ``(*lead, M, C, H, W)``.
        factors: Of the channels before each one, those of the second channel first; from -1 to 1, as
            published, ``(*lead, M, C (C - 1) / 2, H, W)``.
    """

    log_weights: Tensor
    means: Tensor
    log_scales: Tensor
    factors: Tensor

    def means_given(self, x: Tensor) -> Tensor:
        """The means, given the values of the channels before each, ``(*lead, M or 1, C, H, W)``."""
        means, at = [], 0
        for channel in range(self.means.shape[-3]):
            factors = self.factors[..., at : at + channel, :, :]
            means.append(self.means[..., channel, :, :] + (factors * x[..., :channel, :, :]).sum(-3))
            at += channel
        return torch.stack(torch.broadcast_tensors(*means), -3)
