"""The textbook hierarchical VAE: top-down inference by concatenation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ladder_vae.maths.gaussian import Gaussian
from ladder_vae.maths.likelihoods import Bernoulli, Likelihood
from ladder_vae.models.hierarchy import TopDown
from ladder_vae.models.layers import GaussianHead, ImageDecoder
from ladder_vae.models.rung import Rung
from ladder_vae.models.sizes import image_shape, level_sizes, params_shape


class ConcatRung(Rung):
    """q(z_l | x, z_{l+1}) = N(Linear([h_l, z_{l+1}])); at the top q(z_L | x) = N(Linear(h_L))."""

    def __init__(self, hidden: int, latents: int, above: int | None) -> None:
        super().__init__((latents,), None if above is None else GaussianHead(above, latents))
        self.posterior_net = GaussianHead(hidden + (above or 0), latents)

    def posterior(self, evidence: Tensor, state: Tensor | None, p: Gaussian) -> Gaussian:
        if state is None:
            return self.posterior_net(evidence)
        h = evidence.expand(*state.shape[:-1], -1)  # (K, B, hidden)
        return self.posterior_net(torch.cat([h, state], dim=-1))


class TextbookVAE(TopDown):
    r"""The posterior reads $[h_l, z_{l+1}]$, the prior $z_{l+1}$; $h_l = ReLU(Linear(h_{l-1}))$, $h_0 = x$.

    All Gaussians have linear means and linear log-variances. The decoder has two hidden ReLU layers.

    Args:
        input_shape: Image shape (C, H, W).
        num_layers: Number of latent levels L, 1 to 64. The other sizes have defaults.
        latent_sizes: Latents per level, z_1 first (default ``max(32 >> l, 4)``, l from 0).
        hidden_sizes: Width of h per level, z_1 first (default 256). The first is the decoder's width, too.
        likelihood: The distribution p(x | z) of the pixels; None means Bernoulli.

    Raises:
        ValueError: If sizes do not fit the number of levels.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_layers: int = 5,
        latent_sizes: Sequence[int] | None = None,
        hidden_sizes: Sequence[int] | None = None,
        likelihood: Likelihood | None = None,
    ) -> None:
        image, likelihood = image_shape(input_shape), likelihood or Bernoulli()
        latents = level_sizes("latent", latent_sizes, lambda level: max(32 >> level, 4), num_layers)
        hidden = level_sizes("hidden", hidden_sizes, lambda level: 256, num_layers)
        width = hidden[0]
        body = nn.Sequential(nn.Linear(latents[0], width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        super().__init__(
            [
                ConcatRung(h, size, above)
                for h, size, above in zip(hidden, latents, [*latents[1:], None], strict=True)
            ],
            ImageDecoder(body, width, params_shape(image, likelihood)),
            likelihood,
        )
        self.encoder = nn.ModuleList(
            nn.Linear(below, above) for below, above in pairwise([math.prod(image), *hidden])
        )

    def encode(self, x: Tensor) -> list[Tensor]:
        h = x.flatten(1)  # (B, pixels)
        features = []
        for layer in self.encoder:
            h = torch.relu(layer(h))  # (B, hidden of the level)
            features.append(h)
        return features
