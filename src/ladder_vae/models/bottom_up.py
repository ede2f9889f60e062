"""The hierarchical VAE that the Ladder VAE was compared with: it has the same sizes and infers bottom-up."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ladder_vae.maths.gaussian import Gaussian
from ladder_vae.maths.likelihoods import Bernoulli, Likelihood
from ladder_vae.models.hierarchy import BottomUp
from ladder_vae.models.markov import mirrored_generator, recognition
from ladder_vae.models.rung import Rung
from ladder_vae.models.sizes import image_shape, params_shape, published_sizes


class BottomUpVAE(BottomUp):
    """Bottom-up inference: q(z_l | z_{l-1}) = N(MLP(z_{l-1})) reads the sample of the level below.

    The generative model and all sizes are those of :class:`~ladder_vae.models.LadderVAE`. With one level the
    two models are the same, down to the names of their parameters. This is the "VAE" of the tables in
    Sønderby et al. 2016.

    Args:
        input_shape: Image shape (C, H, W).
        num_layers: Number of latent levels L, 1 to 64. The other sizes have defaults.
        latent_sizes: Latents per level, z_1 first (default ``max(64 >> l, 4)``, l from 0).
        hidden_sizes: MLP width per level, z_1 first (default ``max(512 >> l, 32)``).
        batch_norm: Whether MLP layers are batch-normalized.
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
        batch_norm: bool = True,
        likelihood: Likelihood | None = None,
    ) -> None:
        image, likelihood = image_shape(input_shape), likelihood or Bernoulli()
        latents, hidden = published_sizes(latent_sizes, hidden_sizes, num_layers)
        shape = params_shape(image, likelihood)
        generator = mirrored_generator(shape, latents, hidden, Rung, batch_norm=batch_norm)
        super().__init__(*generator, likelihood)
        inputs = [math.prod(image), *latents[:-1]]
        self.encoder, self.evidence = recognition(inputs, hidden, latents, batch_norm=batch_norm)

    def recognize(self, level: int, below: Tensor) -> Gaussian:
        below = below.flatten(1) if level == 0 else below
        return self.evidence[level](self.encoder[level](below))
