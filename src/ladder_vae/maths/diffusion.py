r"""Fixed Gaussian noise and its undoing: the formulas of variational diffusion models.

Kingma, Salimans, Poole and Ho 2021, "Variational Diffusion Models", arXiv 2107.00630. *Gamma* is minus the
logarithm of the signal-to-noise ratio, $\gamma = \log(\sigma^2 / \alpha^2)$; it grows with the noise. The
variance is preserved, $\alpha^2 + \sigma^2 = 1$. Images x and noisy images z are ``(*lead, C, H, W)``, and
gammas ``(*lead)`` or scalars.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ladder_vae.maths.gaussian import Gaussian

AXES = 3  # of an image
MODERATE = 20.0  # exponent


def signal(gamma: Tensor) -> Tensor:
    r"""$\alpha = \sqrt{\mathrm{sigmoid}(-\gamma)}$, of the shape of ``gamma``."""
    return torch.sigmoid(-gamma).sqrt()


def noise_log_var(gamma: Tensor) -> Tensor:
    r"""$\log \sigma^2 = \log \mathrm{sigmoid}(\gamma)$, of the shape of ``gamma``."""
    return F.logsigmoid(gamma)


def by_image(gamma: Tensor) -> Tensor:
    """``gamma`` with an axis of size one for each axis of an image, ``(*lead, 1, 1, 1)``."""
    return gamma[..., None, None, None]


def noised(x: Tensor, gamma: Tensor) -> Gaussian:
    r"""$q(z_t \mid x) = N(\alpha_t x, \sigma_t^2)$ (eq. 1)."""
    gamma = by_image(gamma)
    return Gaussian(signal(gamma) * x, noise_log_var(gamma), AXES)


def reverse(z: Tensor, x: Tensor, gamma: Tensor, gamma_below: Tensor) -> Gaussian:
    r"""$q(z_s \mid z_t, x)$ for s below t; with a guess in place of x, $p(z_s \mid z_t)$ (eqs. 25, 32).

    With $c = 1 - e^{\gamma_s - \gamma_t}$, the mean is $\alpha_s [(1 - c) z_t / \alpha_t + c x]$ and the
    variance is $c\,\sigma_s^2$.

    Args:
        z: The noisier image z_t.
        x: The image, or a guess.
        gamma: Gamma at t.
        gamma_below: Gamma at s.
    """
    t, s = by_image(gamma), by_image(gamma_below)
    c = -torch.expm1(s - t)
    of_z = torch.exp(s - t + 0.5 * (F.logsigmoid(-s) - F.logsigmoid(-t)))
    return Gaussian(of_z * z + c * signal(s) * x, noise_log_var(s) + torch.log(c), AXES)


def added_precision(gamma: Tensor, gamma_below: Tensor) -> Tensor:
    r"""$e^{-\gamma_s} - e^{-\gamma_t}$: the signal-to-noise ratio that a step from t down to s adds."""
    return torch.exp(-gamma_below) * -torch.expm1(gamma_below - gamma)


def step_rate(x: Tensor, guess: Tensor, precision: Tensor) -> Tensor:
    r"""$KL(q(z_s \mid z_t, x) \| p(z_s \mid z_t))$, nats, ``(*lead)`` (eq. 13).

    It is $\frac12 \lVert x - \hat x \rVert^2$ times the precision that the step adds
    (:func:`added_precision`). As the number of steps grows, the sum over steps becomes an integral over t, of
    the same formula with $\gamma'(t)\,e^{-\gamma}$ for the precision (eq. 17).

    Args:
        x: The image.
        guess: The denoiser's guess from z_t.
        precision: ``(*lead)`` or a scalar.
    """
    return 0.5 * precision * (x - guess).square().flatten(-AXES).sum(-1)


def pixel_evidence(z: Tensor, gamma: Tensor) -> Tensor:
    r"""$\log q(z_i \mid x_i = 1) - \log q(z_i \mid x_i = -1) = 2 \alpha z_i / \sigma^2$ of each pixel."""
    gamma = by_image(gamma)
    return 2 * torch.exp(0.5 * F.logsigmoid(-gamma) - F.logsigmoid(gamma)) * z


def mixture_rate(own_logit: Tensor, precision: Tensor, e: Tensor) -> Tensor:
    r"""$\log q(z_s \mid z_t, x) - \log p(z_s \mid z_t)$ of binary pixels on a draw, nats, for each pixel.

    p is $\sum_{x_i} \hat p(x_i)\, q(z_{s,i} \mid z_{t,i}, x_i)$, and z_s is drawn from q with the noise e.
    With $\delta$ for the precision that the step adds and a for the logit of the value that the pixel has,
    the log-ratio is $-\log(s(a) + s(-a)\,e^r)$ where s is the sigmoid and
    $r = -2 \delta - 2 \sqrt\delta\,e$. It is written so that float32 keeps its digits if it is small.

    Args:
        own_logit: a, the logit of the pixel's own value.
        precision: $\delta$, broadcastable (:func:`added_precision`).
        e: Standard-normal noise, positive away from the other value; broadcastable.
    """
    r = -2 * precision - 2 * precision.sqrt() * e
    # Each expression is taken where it is exact, and clamped so that it is finite elsewhere.
    likely = -torch.log1p(torch.sigmoid(-own_logit.clamp(min=0)) * torch.expm1(r))
    doubtful = -r - torch.log1p(torch.sigmoid(own_logit.clamp(max=0)) * torch.expm1(-r.clamp(min=-MODERATE)))
    far = F.softplus(-own_logit) - F.softplus(r - own_logit)
    return torch.where(own_logit > 0, likely, torch.where(r > -MODERATE, doubtful, far))
