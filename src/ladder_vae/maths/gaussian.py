"""Diagonal Gaussians: the only distribution that stands on a latent level."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)
# exp(88) is finite in float32, exp(89) is not.
MAX_EXPONENT = 88.0
# Log-variances up to here are what a head says they are; beyond, they approach twice as much.
PLAIN_LOG_VAR = 20.0


@dataclass(frozen=True)
class Gaussian:
    r"""A diagonal Gaussian $N(\mu, \sigma^2)$ over the last ``event_dims`` axes.

    Args:
        mean: $\mu$, shape ``(*batch, *event)``.
        log_var: $\log \sigma^2$, broadcastable with ``mean``.
        event_dims: How many trailing axes make one variable; densities sum over them.

    Half-precision parameters are promoted to float32, so that no sum over units is ever taken in
    bfloat16 or float16, whatever autocast did in the nets.
    """

    mean: Tensor
    log_var: Tensor
    event_dims: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", full_precision(self.mean))
        object.__setattr__(self, "log_var", full_precision(self.log_var))

    @property
    def std(self) -> Tensor:
        """Standard deviation, shape of ``log_var``."""
        return torch.exp(0.5 * self.log_var)

    def rsample(self, noise: Tensor) -> Tensor:
        """Reparameterized draw ``mean + std * noise`` from standard-normal ``noise`` (broadcast)."""
        return self.mean + self.std * noise

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
        r"""The closed-form divergence of each unit, nats, shape ``(*batch, *event)``.

        $\frac12 [\,e^d - 1 - d + (\mu - \mu_o)^2 / \sigma_o^2\,]$ with
        $d = \log\sigma^2 - \log\sigma_o^2$; ``expm1`` loses less of a small difference
        than ``exp`` would. Zero for two equal Gaussians, however narrow or wide.
        """
        d = self.log_var - other.log_var
        squared = (self.mean - other.mean) ** 2 * other._precision()
        return 0.5 * (torch.expm1(d) - d + squared)

    def _precision(self) -> Tensor:
        r"""$1 / \sigma^2$, finite: zero times an infinite one would be NaN.

        Below a log-variance of -88, which no head makes, it is smaller than it should be.
        """
        return torch.exp(-self.log_var.clamp(min=-MAX_EXPONENT))

    def _sum_event(self, value: Tensor) -> Tensor:
        return value.flatten(-self.event_dims).sum(-1)


def standard_normal(event_shape: tuple[int, ...], like: Tensor) -> Gaussian:
    """N(0, I) with parameters of shape ``event_shape`` on the device and in the dtype of ``like``."""
    zeros = like.new_zeros(event_shape)
    return Gaussian(zeros, zeros, len(event_shape))


def product(e: Gaussian, p: Gaussian) -> Gaussian:
    r"""Normalized product of two Gaussian densities: the precision-weighted merge of a ladder.

    $1/\sigma_q^2 = 1/\sigma_e^2 + 1/\sigma_p^2$ and
    $\mu_q = \sigma_q^2 (\mu_e/\sigma_e^2 + \mu_p/\sigma_p^2)$
    (Sønderby et al. 2016, arXiv 1602.02282). The result is at least as sure as the surer of the two;
    a flat partner (log-variance of +inf) leaves the other as it is.
    """
    # sigma_q^2 is the smaller variance times max / (max + min): finite where one of them is not
    log_var_q = torch.minimum(e.log_var, p.log_var) + torch.log(torch.sigmoid((e.log_var - p.log_var).abs()))
    weight_e = torch.sigmoid(p.log_var - e.log_var)  # sigma_q^2 / sigma_e^2
    weight_p = torch.sigmoid(e.log_var - p.log_var)  # sigma_q^2 / sigma_p^2
    return Gaussian(weight_e * e.mean + weight_p * p.mean, log_var_q, p.event_dims)


def bounded_log_var(log_var: Tensor) -> Tensor:
    """``log_var`` up to 20 either way; beyond, what approaches 40, with the same slope where the two meet.

    No net can then make a variance that float32 does not hold, and a unit that strayed far finds back: its
    gradient is small, not zero.
    """
    size = log_var.abs().clamp(min=PLAIN_LOG_VAR)  # keeps the branch that is not taken finite
    beyond = log_var.sign() * (2 * PLAIN_LOG_VAR - PLAIN_LOG_VAR**2 / size)
    return torch.where(log_var.abs() <= PLAIN_LOG_VAR, log_var, beyond)


def full_precision(value: Tensor) -> Tensor:
    """``value`` in float32 if it came in half precision, else as it is."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
