"""Diagonal Gaussians, the only distribution of latents."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ladder_vae.maths.elementary import exp_beyond_line

LOG_2PI = math.log(2 * math.pi)
# exp(88) is finite in float32, exp(89) is not.
MAX_EXPONENT = 88.0
# Log-variances up to this size stay as they are; larger ones are bent toward twice this size.
PLAIN_LOG_VAR = 20.0


@dataclass(frozen=True, repr=False)
class Gaussian:
    r"""A diagonal Gaussian $N(\mu, \sigma^2)$ over the last ``event_dims`` axes.

    Args:
        mean: $\mu$, shape ``(*batch, *event)``.
        log_var: $\log \sigma^2$, broadcastable with ``mean``.
        event_dims: Number of trailing axes that form one variable; densities sum over them.

    Half-precision parameters are promoted to float32, so that no sum over units is taken in bfloat16 or
    float16, even if autocast ran the nets in half precision.
    """

    mean: Tensor
    log_var: Tensor
    event_dims: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", full_precision(self.mean))
        object.__setattr__(self, "log_var", full_precision(self.log_var))

    def __repr__(self) -> str:
        return f"Gaussian(mean of shape {tuple(self.mean.shape)})"

    @property
    def std(self) -> Tensor:
        """Standard deviation, shape of ``log_var``."""
        return torch.exp(0.5 * self.log_var)

    def expand_as(self, z: Tensor) -> Gaussian:
        """The same density with parameters of the shape of ``z``, as views."""
        return Gaussian(self.mean.expand_as(z), self.log_var.expand_as(z), self.event_dims)

    def rsample(self, noise: Tensor) -> Tensor:
        """Reparameterized draw ``mean + std * noise`` from standard-normal ``noise`` (broadcast)."""
        return self.mean + self.std * noise

    def innovation(self, z: Tensor) -> Tensor:
        """The standard-normal noise of which ``z`` is the draw, ``(z - mean) / std``."""
        return (z - self.mean) / self.std

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of ``z``, nats, shape ``(*batch,)``."""
        return self._sum_event(self.unit_log_prob(z))

    def unit_log_prob(self, z: Tensor) -> Tensor:
        """Log-density of each unit of ``z``, nats, shape ``(*batch, *event)``."""
        squared = (z - self.mean) ** 2 * self._precision()
        return -0.5 * (squared + self.log_var + LOG_2PI)

    def kl(self, other: Gaussian) -> Tensor:
        r"""$KL(\text{self} \| \text{other})$ in closed form, nats, shape ``(*batch,)``."""
        return self._sum_event(self.unit_kl(other))

    def unit_kl(self, other: Gaussian) -> Tensor:
        r"""The closed-form KL of each unit, nats, shape ``(*batch, *event)``.

        $\frac12 [\,e^d - 1 - d + (\mu - \mu_o)^2 / \sigma_o^2\,]$ with
        $d = \log\sigma^2 - \log\sigma_o^2$. The KL of two equal Gaussians is exactly zero, however narrow or
        wide they are.
        """
        d = self.log_var - other.log_var
        squared = (self.mean - other.mean) ** 2 * other._precision()
        return 0.5 * (exp_beyond_line(d) + squared)

    def _precision(self) -> Tensor:
        r"""$1 / \sigma^2$, kept finite because zero times infinity would be NaN.

        For log-variances below -88, which no head produces, it is smaller than it should be.
        """
        return torch.exp(-self.log_var.clamp(min=-MAX_EXPONENT))

    def _sum_event(self, value: Tensor) -> Tensor:
        return value.sum(tuple(range(-self.event_dims, 0)))  # without a copy, in whatever order it lies


def standard_normal(event_shape: tuple[int, ...], like: Tensor) -> Gaussian:
    """N(0, I) with parameters of shape ``event_shape`` on the device and in the dtype of ``like``."""
    zeros = like.new_zeros(event_shape)
    return Gaussian(zeros, zeros, len(event_shape))


def product(e: Gaussian, p: Gaussian) -> Gaussian:
    r"""Normalized product of two Gaussian densities: the precision-weighted merge of a ladder.

    $1/\sigma_q^2 = 1/\sigma_e^2 + 1/\sigma_p^2$ and
    $\mu_q = \sigma_q^2 (\mu_e/\sigma_e^2 + \mu_p/\sigma_p^2)$
    (Sønderby et al. 2016, arXiv 1602.02282). The result is at least as narrow as the narrower of the two.
    Merging with a flat Gaussian (log-variance of +inf) changes nothing.

    Args:
        e: The evidence. Its parameters broadcast with those of ``p``.
        p: The prior. The result has its ``event_dims``.
    """
    # sigma_q^2 = min * max / (max + min) of the two variances; in this form it is finite if one of them is
    log_var_q = torch.minimum(e.log_var, p.log_var) + torch.log(torch.sigmoid((e.log_var - p.log_var).abs()))
    weight_e = torch.sigmoid(p.log_var - e.log_var)  # sigma_q^2 / sigma_e^2
    weight_p = torch.sigmoid(e.log_var - p.log_var)  # sigma_q^2 / sigma_p^2
    return Gaussian(weight_e * e.mean + weight_p * p.mean, log_var_q, p.event_dims)


def bounded_log_var(log_var: Tensor) -> Tensor:
    """``log_var`` itself between -20 and 20. Outside it is bent, with a continuous slope, toward -40 or 40.

    So no net can produce a variance that overflows or underflows float32. A unit that strayed far can come
    back, because its gradient is small but not zero.
    """
    size = log_var.abs().clamp(min=PLAIN_LOG_VAR)  # keeps the unused branch finite
    beyond = log_var.sign() * (2 * PLAIN_LOG_VAR - PLAIN_LOG_VAR**2 / size)
    return torch.where(log_var.abs() <= PLAIN_LOG_VAR, log_var, beyond)


def full_precision(value: Tensor) -> Tensor:
    """``value`` in float32 if it is in half precision, else unchanged."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
