"""A hierarchy with a residual stream from the top to the image, which every level reads and writes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from ladder_vae.maths.gaussian import Gaussian
from ladder_vae.maths.likelihoods import Bernoulli, Likelihood
from ladder_vae.models.hierarchy import TopDown
from ladder_vae.models.layers import NORMS, GaussianHead, ImageDecoder, ResidualBlock, scale
from ladder_vae.models.posteriors import MERGES, Merge
from ladder_vae.models.rung import Rung
from ladder_vae.models.sizes import image_shape, level_sizes, params_shape


class StreamRung(Rung):
    """p(z_l | z_>l) reads the stream; q(z_l | x, z_>l) reads the stream and the image.

    Args:
        latents: Units of z_l.
        width: Features of the stream.
        norm: Called with a number of features, makes a normalization.
        merge: Forms the posterior from the Gaussian that the net reads and the prior.
        blocks: Residual blocks that follow the sample.
        dropout: Share of the hidden units of these blocks that training leaves out.
        top: Whether the stream begins at this level. Then the prior is N(0, I) and the posterior reads the
            image alone.
    """

    def __init__(
        self,
        latents: int,
        width: int,
        norm: type[nn.Module],
        merge: Merge,
        blocks: int,
        dropout: float,
        top: bool,
    ) -> None:
        prior_net = query = None
        if not top:
            prior_net = nn.Sequential(
                nn.Linear(width, width), norm(width), nn.SiLU(), GaussianHead(width, latents)
            )
            query = nn.Linear(width, width, bias=False)
        super().__init__((latents,), prior_net)
        self.query = query
        self.merge = merge
        self.posterior_net = nn.Sequential(norm(width), nn.SiLU(), GaussianHead(width, latents))
        self.write = nn.Linear(latents, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width, norm, dropout) for _ in range(blocks)))

    def posterior(self, evidence: Tensor, state: Tensor | None, p: Gaussian) -> Gaussian:
        """q(z_l | x, z_>l), parameters ``(K, B, latents)``; at the top ``(B, latents)``.

        Args:
            evidence: What the image adds to the hidden layer of the net, ``(B, width)``.
            state: The stream, ``(K, B, width)``, which adds to it, too; None at the top.
            p: The prior of this level.
        """
        if self.query is None:
            return self.posterior_net(evidence)
        return self.merge(self.posterior_net(evidence + self.query(state)), p)

    def descend(self, state: Tensor | None, z: Tensor) -> Tensor:
        written = self.write(z)
        return self.blocks(written if state is None else state + written)


class ResidualVAE(TopDown):
    r"""Every level, and the image, sees all levels above it.

    On the way up, $d_l = d_{l-1} + block(d_{l-1})$ with $d_0 = Linear(x)$. On the way down, each level has
    the prior $p(z_l | z_{>l}) = N(net(s_{l+1}))$, which is N(0, I) at the top, the posterior
    $q(z_l | x, z_{>l}) = N(net(d_l, s_{l+1}))$, and the stream $s_l = r + block(r)$ with
    $r = s_{l+1} + Linear(z_l)$. In the end $p(x | z)$ reads $s_1$. Architecture and initialization follow
    very deep VAEs (Child 2021, arXiv 2011.10650): what each of n blocks adds to a stream is scaled by
    $1 / \sqrt n$ at first, so that the stream of 50 levels begins as large as that of 3. The parameters of
    the Gaussians are scaled in the same way, so that the total rate begins equally large at any depth.

    Args:
        input_shape: Image shape (C, H, W).
        num_layers: Number of latent levels L, 1 to 64. The other sizes have defaults.
        latent_sizes: Latents per level, z_1 first (default ``max(64 // L, 16)`` each).
        width: Features of both streams and of all hidden layers.
        blocks: Residual blocks per level.
        norm: ``batch``, ``layer`` or ``none``.
        dropout: Share of the hidden units of residual blocks that training leaves out.
        posterior: ``free``; ``weighted``, a precision-weighted product with the prior; or ``relative`` to it.
        likelihood: The distribution p(x | z) of the pixels; None means Bernoulli.

    Raises:
        ValueError: If sizes do not fit the number of levels, or a choice is unknown.
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
        for name, choice, choices in (("norm", norm, NORMS), ("posterior", posterior, MERGES)):
            if choice not in choices:
                raise ValueError(f"{name}={choice} is unknown; choose {', '.join(choices)}")
        merge, normalize = MERGES[posterior], NORMS[norm]
        top = num_layers - 1
        rungs = [
            StreamRung(size, width, normalize, merge, blocks, dropout, level == top)
            for level, size in enumerate(latents)
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
