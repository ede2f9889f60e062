"""p(x | z): what the decoder's output means as a distribution over images."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ladder_vae.maths.gaussian import full_precision


class Likelihood(Protocol):
    """A distribution over images ``(B, C, H, W)``, given the decoder's output ``(K, B, C, H, W)``."""

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x | z), nats per image, shape ``(K, B)``."""
        ...

    def mean(self, params: Tensor) -> Tensor:
        """E[x | z], the shape of ``params``."""
        ...


class Bernoulli:
    """Independent Bernoulli pixels; ``params`` are logits."""

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Sum over pixels of ``x * logit - softplus(logit)``, at least in float32, shape ``(K, B)``."""
        logits = full_precision(params)
        # x log s(a) + (1 - x) log s(-a) = x a - softplus(a): finite for every logit.
        return (x * logits - F.softplus(logits)).flatten(-3).sum(-1)

    def mean(self, params: Tensor) -> Tensor:
        """Probability that a pixel is on."""
        return torch.sigmoid(full_precision(params))
