"""The Ladder VAE of Sønderby et al. 2016, "Ladder Variational Autoencoders", arXiv 1602.02282."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ladder_vae.maths.gaussian import Gaussian, product
from ladder_vae.maths.likelihoods import Bernoulli, Likelihood
from ladder_vae.models.hierarchy import TopDown
from ladder_vae.models.markov import mirrored_generator, recognition
from ladder_vae.models.rung import Rung
from ladder_vae.models.sizes import image_shape, params_shape, published_sizes


class LadderRung(Rung):
    """q(z_l | x, z_>l) is the normalized product of the image's evidence N(m, s^2) and p(z_l | z_{l+1})."""

    def posterior(self, evidence: Gaussian, state: Tensor | None, p: Gaussian) -> Gaussian:
        # As published, the posterior of the top level is the evidence alone; it is not merged with N(0, I).
        return evidence if state is None else product(evidence, p)


class LadderVAE(TopDown):
    r"""The posterior of each level merges the evidence of the image with the prior from the levels above.

    The way up is deterministic: $d_l = MLP(d_{l-1})$ with $d_0 = x$ gives the evidence
    $N(m_l(d_l), s_l^2(d_l))$. On the way down, $MLP(z_{l+1})$ gives the prior
    $p(z_l | z_{l+1}) = N(\mu_p, \sigma_p^2)$; it is as wide as the MLP that leads up to level l+1. All
    variances are a softplus.

    Args:
        input_shape: Image shape (C, H, W).
        num_layers: Number of latent levels L, 1 to 64. The other sizes have defaults.
        latent_sizes: Latents per level, z_1 first (default ``max(64 >> l, 4)``, l from 0).
        hidden_sizes: MLP width per level, z_1 first (default ``max(512 >> l, 32)``).
        batch_norm: Whether MLP layers are batch-normalized.
        likelihood: The distribution p(x | z) of the pixels; None means Bernoulli.

    Raises:
        ValueError: If sizes do not fit the number of levels.

    Example:
        >>> model = LadderVAE((1, 28, 28), num_layers=3)
        >>> model.event_shapes
        ((64,), (32,), (16,))
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
        generator = mirrored_generator(shape, latents, hidden, LadderRung, batch_norm=batch_norm)
        super().__init__(*generator, likelihood)
        inputs = [math.prod(image), *hidden[:-1]]
        self.encoder, self.evidence = recognition(inputs, hidden, latents, batch_norm=batch_norm)

    def encode(self, x: Tensor) -> list[Gaussian]:
        d = x.flatten(1)  # (B, pixels)
        evidence = []
        for mlp, head in zip(self.encoder, self.evidence, strict=True):
            d = mlp(d)  # (B, hidden of the level)
            evidence.append(head(d))
        return evidence
