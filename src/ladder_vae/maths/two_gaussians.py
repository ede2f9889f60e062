"""A density of latents with two equally wide peaks per unit: what a noisy binary pixel has."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ladder_vae.maths.gaussian import LOG_2PI, full_precision

SQRT_HALF = math.sqrt(0.5)
HALVINGS = 28  # of the interval in which a quantile lies


@dataclass(frozen=True)
class TwoGaussians:
    r"""Independent units, each $\pi N(\mu_1, \sigma^2) + (1 - \pi) N(\mu_2, \sigma^2)$.

    It has the methods of :class:`~ladder_vae.maths.gaussian.Gaussian`, but for divergences, which have no
    closed form.

    Args:
        logit: Of $\pi$, ``(*batch, *event)``.
        first: $\mu_1$, broadcastable with it.
        second: $\mu_2$, likewise; not above $\mu_1$.
        peak_log_var: $\log \sigma^2$, broadcastable.
        event_dims: Number of trailing axes that form one variable; densities sum over them.
    """

    logit: Tensor
    first: Tensor
    second: Tensor
    peak_log_var: Tensor
    event_dims: int = 1

    def __post_init__(self) -> None:
        for name in ("logit", "first", "second", "peak_log_var"):
            object.__setattr__(self, name, full_precision(getattr(self, name)))

    @property
    def mean(self) -> Tensor:
        """Mean of each unit."""
        share = torch.sigmoid(self.logit)
        return share * self.first + (1 - share) * self.second

    @property
    def log_var(self) -> Tensor:
        """Logarithm of the variance of each unit, within the peaks and between them."""
        share = torch.sigmoid(self.logit)
        between = share * (1 - share) * (self.first - self.second) ** 2
        return torch.log(torch.exp(self.peak_log_var) + between)

    @property
    def std(self) -> Tensor:
        """Standard deviation of each unit."""
        return torch.exp(0.5 * self.log_var)

    def expand_as(self, z: Tensor) -> TwoGaussians:
        """The same density with parameters of the shape of ``z``, as views."""
        logit, first, second, peak_log_var = (
            part.expand_as(z) for part in (self.logit, self.first, self.second, self.peak_log_var)
        )
        return TwoGaussians(logit, first, second, peak_log_var, self.event_dims)

    def rsample(self, noise: Tensor) -> Tensor:
        r"""The draw at the same quantile as ``noise`` has in N(0, 1): $F^{-1}(\Phi(e))$, without a gradient.

        It lies between the draws of the two peaks, $\mu_2 + \sigma e$ and $\mu_1 + \sigma e$, where it is
        found by halving. It grows with the noise, and :meth:`innovation` turns it back.
        """
        with torch.no_grad():
            width = torch.exp(0.5 * self.peak_log_var)
            low, high = self.second + width * noise, self.first + width * noise
            low, high, noise = torch.broadcast_tensors(low, high, noise)
            # On the side of the nearer tail, where probabilities keep their digits.
            sign = torch.where(noise > 0, 1.0, -1.0).to(noise.dtype)
            wanted = torch.special.erfc(sign * noise * SQRT_HALF)  # twice the probability beyond the noise
            share, scale = torch.sigmoid(self.logit), SQRT_HALF * sign / width
            for _ in range(HALVINGS):
                middle = 0.5 * (low + high)
                first = share * torch.special.erfc(scale * (middle - self.first))
                second = (1 - share) * torch.special.erfc(scale * (middle - self.second))
                below = sign * (first + second - wanted) > 0
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
            return 0.5 * (low + high)

    def innovation(self, z: Tensor) -> Tensor:
        r"""$\Phi^{-1}(F(z))$ of each unit: N(0, 1) if ``z`` is drawn from this density."""
        sign = torch.where(z > self.mean, -1.0, 1.0).to(z.dtype)
        tail = self._log_tail(z, sign)
        return sign * _log_ndtri(tail)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of ``z``, nats, shape ``(*batch,)``."""
        return self.unit_log_prob(z).sum(tuple(range(-self.event_dims, 0)))

    def unit_log_prob(self, z: Tensor) -> Tensor:
        """Log-density of each unit of ``z``, nats, shape ``(*batch, *event)``."""
        precision = torch.exp(-self.peak_log_var)
        first = F.logsigmoid(self.logit) - 0.5 * precision * (z - self.first) ** 2
        second = F.logsigmoid(-self.logit) - 0.5 * precision * (z - self.second) ** 2
        return torch.logaddexp(first, second) - 0.5 * (self.peak_log_var + LOG_2PI)

    def _log_tail(self, z: Tensor, sign: Tensor) -> Tensor:
        """Logarithm of the probability below ``z`` where ``sign`` is 1, above it where it is -1."""
        narrowness = torch.exp(-0.5 * self.peak_log_var)
        first = F.logsigmoid(self.logit) + torch.special.log_ndtr(sign * narrowness * (z - self.first))
        second = F.logsigmoid(-self.logit) + torch.special.log_ndtr(sign * narrowness * (z - self.second))
        return torch.logaddexp(first, second)


def _log_ndtri(log_p: Tensor) -> Tensor:
    """The x below which N(0, 1) has probability exp(log_p), for all that float32 can hold."""
    x = torch.special.ndtri(torch.exp(log_p.double()))
    # Far out exp underflows: there log_ndtr(x) is about -x^2 / 2 - log(-x) - log(2 pi) / 2.
    far = -torch.sqrt((-2 * log_p.double() - LOG_2PI).clamp(min=1))
    x = torch.where(log_p < -700, far, x)
    for _ in range(2):  # Newton's steps on log_ndtr
        value = torch.special.log_ndtr(x)
        slope = torch.exp(-0.5 * x**2 - 0.5 * LOG_2PI - value)
        x = x - (value - log_p.double()) / slope
    return x.to(log_p.dtype)
