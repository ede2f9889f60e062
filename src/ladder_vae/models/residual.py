"""A residual stream from the top to the image, read and written by every level."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from ladder_vae.maths.gaussian import Gaussian, product
from ladder_vae.maths.likelihoods import Bernoulli, Likelihood
from ladder_vae.models.hierarchy import Rung, TopDown
from ladder_vae.models.layers import NORMS, GaussianHead, ImageDecoder, ResidualBlock, scale
from ladder_vae.models.sizes import image_shape, level_sizes, params_shape


class StreamRung(Rung):
    """p(z_l | z_>l) reads the stream; q(z_l | x, z_>l) reads the stream and the image, and is free.

    Args:
        latents: Units of z_l.
        width: Of the stream.
        norm: Makes a normalization of so many features.
        blocks: Residual blocks that follow the sample.
        dropout: Share of their hidden units that are left out, in training.
        top: Whether the stream begins here: the prior is N(0, I) then, and the posterior reads the image.
    """

    def __init__(
        self, latents: int, width: int, norm: type[nn.Module], blocks: int, dropout: float, top: bool
    ) -> None:
        prior_net = query = None
        if not top:
            prior_net = nn.Sequential(
                nn.Linear(width, width), norm(width), nn.SiLU(), GaussianHead(width, latents)
            )
            query = nn.Linear(width, width, bias=False)
        super().__init__((latents,), prior_net)
        self.query = query
        self.posterior_net = nn.Sequential(norm(width), nn.SiLU(), GaussianHead(width, latents))
        self.write = nn.Linear(latents, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width, norm, dropout) for _ in range(blocks)))

    def posterior(self, evidence: Tensor, state: Tensor | None, p: Gaussian) -> Gaussian:
        return self.merge(self.read(evidence, state), p)

    def read(self, evidence: Tensor, state: Tensor | None) -> Gaussian:
        """What the image says, given the stream.

        Args:
            evidence: The image's share of a hidden layer, ``(B, width)``.
            state: The stream, ``(K, B, width)``, which has the other share.
        """
        hidden = evidence if self.query is None else evidence + self.query(state)  # (K, B, width)
        return self.posterior_net(hidden)

    def merge(self, e: Gaussian, p: Gaussian) -> Gaussian:
        """The posterior from what was read and the prior."""
        return e

    def descend(self, state: Tensor | None, z: Tensor) -> Tensor:
        written = self.write(z)
        return self.blocks(written if state is None else state + written)


class WeightedRung(StreamRung):
    """The posterior is the precision-weighted product of what was read and the prior, as in a ladder."""

    def merge(self, e: Gaussian, p: Gaussian) -> Gaussian:
        return e if self.query is None else product(e, p)


class RelativeRung(StreamRung):
    r"""The posterior is read as a deviation from the prior: $\mu_q = \mu_p + \sigma_p \Delta\mu$,
    $\log\sigma_q^2 = \log\sigma_p^2 + \Delta$ (Vahdat and Kautz 2020, "NVAE", arXiv 2007.03898, eq. 2).
    """  # fmt: skip

    def merge(self, e: Gaussian, p: Gaussian) -> Gaussian:
        return Gaussian(p.mean + p.std * e.mean, p.log_var + e.log_var, p.event_dims)


POSTERIORS = {"free": StreamRung, "weighted": WeightedRung, "relative": RelativeRung}


class ResidualVAE(TopDown):
    r"""Every level sees all levels above it, and so does the image.

    Upward: $d_l = d_{l-1} + block(d_{l-1})$ from $d_0 = Linear(x)$. Downward, on each level:
    $p(z_l | z_{>l}) = N(net(s_{l+1}))$, N(0, I) at the top; $q(z_l | x, z_{>l}) = N(net(d_l, s_{l+1}))$;
    the stream $s_l = r + block(r)$ with $r = s_{l+1} + Linear(z_l)$. Then $p(x | z)$ reads $s_1$. The shape
    is that of very deep VAEs (Child 2021, arXiv 2011.10650), and so is the initialization: what each of n
    blocks adds to a stream is scaled by $1 / \sqrt n$ at first, so that 50 levels make it as large as 3 do.
    The parameters of the Gaussians are scaled likewise, so that all rates together begin as large.

    Args:
        input_shape: Image shape (C, H, W).
        num_layers: Latent levels L, 1 to 64; enough by itself.
        latent_sizes: Latents per level from the data up (default: ``max(64 // L, 16)`` each).
        width: Of both streams and all hidden layers.
        blocks: Residual blocks a level.
        norm: ``batch``, ``layer`` or ``none``.
        dropout: Share of the hidden units of residual blocks that are left out, in training.
        posterior: ``free``; ``weighted``, a precision-weighted product with the prior; or ``relative`` to it.
        likelihood: What a pixel is; None: Bernoulli.

    Raises:
        ValueError: If sizes do not fit the depth, or a choice is unknown.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_layers: int = 5,
        latent_sizes: Sequence[int] | None = None,
        width: int = 384,
        blocks: int = 1,
        norm: str = "batch",
        dropout: float = 0.0,
        posterior: str = "free",
        likelihood: Likelihood | None = None,
    ) -> None:
        image, likelihood = image_shape(input_shape), likelihood or Bernoulli()
        latents = level_sizes("latent", latent_sizes, lambda level: max(64 // num_layers, 16), num_layers)
        for name, size in (("width", width), ("blocks", blocks)):
            if size < 1:
                raise ValueError(f"{name}={size} must be at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout:g} must be at least 0 and below 1")
        for name, choice, choices in (("norm", norm, NORMS), ("posterior", posterior, POSTERIORS)):
            if choice not in choices:
                raise ValueError(f"{name}={choice} is unknown; choose {', '.join(choices)}")
        rung, normalize = POSTERIORS[posterior], NORMS[norm]
        top = num_layers - 1
        rungs = [
            rung(size, width, normalize, blocks, dropout, level == top) for level, size in enumerate(latents)
        ]
        body = nn.Sequential(normalize(width), nn.SiLU())
        super().__init__(rungs, ImageDecoder(body, width, params_shape(image, likelihood)), likelihood)
        self.stem = nn.Linear(math.prod(image), width)
        self.encoder = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width, normalize, dropout) for _ in range(blocks))) for _ in latents
        )
        self.evidence = nn.ModuleList(nn.Linear(width, width) for _ in latents)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                scale(module.out, (num_layers * blocks) ** -0.5)
            elif isinstance(module, GaussianHead):
                scale(module, num_layers**-0.5)
        for each in rungs:
            scale(each.write, num_layers**-0.5)

    def encode(self, x: Tensor) -> list[Tensor]:
        d = self.stem(x.flatten(1))  # (B, width)
        evidence = []
        for blocks, linear in zip(self.encoder, self.evidence, strict=True):
            d = blocks(d)
            evidence.append(linear(d))
        return evidence
