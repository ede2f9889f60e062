"""Convolutional hierarchies: latents are images of several resolutions, ``(C, H, W)``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor, nn

from ladder_vae.maths.gaussian import Gaussian, full_precision
from ladder_vae.maths.likelihoods import Bernoulli, Likelihood
from ladder_vae.models.convolutions import (
    Bottleneck,
    Enlarge,
    Halve,
    MakeCell,
    NVAEDecoderCell,
    NVAEEncoderCell,
    PatchDecoder,
    Patches,
    SpatialHead,
    mixing,
)
from ladder_vae.models.hierarchy import TopDown
from ladder_vae.models.layers import NORMS, scale
from ladder_vae.models.posteriors import MERGES, Merge
from ladder_vae.models.pyramid import Pairs, Stage, stages
from ladder_vae.models.rung import Rung
from ladder_vae.models.sizes import image_shape, params_shape

MOST_BLOCKS = 100  # more take minutes to build
#: Cells by name: of the way up, and of the way down.
CELLS: dict[str, tuple[MakeCell, MakeCell]] = {
    "bottleneck": (Bottleneck, Bottleneck),
    "nvae": (NVAEEncoderCell, NVAEDecoderCell),
}


class SpatialRung(Rung):
    """p(z_l | z_>l) reads the stream; q(z_l | x, z_>l) reads the stream and the image, pixel and neighbors.

    Args:
        stage: Resolution, width and latent channels of the level.
        norm: A name of ``NORMS``.
        merge: Forms the posterior from the Gaussian that the net reads and the prior.
        depth: What the sample adds to the stream is scaled by 1 / sqrt(depth) at first, and so are the
            parameters of the posterior.
        top: Whether the stream begins at this level. Then the prior is N(0, I) and the posterior reads the
            image alone.
        after: Follows the sample, to the stream of the level below.
    """

    def __init__(
        self, stage: Stage, norm: str, merge: Merge, depth: int, top: bool, after: nn.Module
    ) -> None:
        width, hidden, normalize = stage.width, max(1, stage.width // 2), NORMS[norm]
        prior_net = query = None
        if not top:
            prior_head = SpatialHead(width, stage.latents)
            scale(prior_head, 0.0)
            prior_net = nn.Sequential(normalize(width), prior_head)
            query = nn.Linear(width, hidden, bias=False)
        super().__init__((stage.latents, *stage.size), prior_net)
        self.query = query
        self.merge = merge
        head = SpatialHead(hidden, stage.latents)
        scale(head, depth**-0.5)
        self.posterior_net = nn.Sequential(
            normalize(hidden),
            nn.SiLU(),
            mixing(hidden, hidden, stage.size),
            normalize(hidden),
            nn.SiLU(),
            head,
        )
        self.write = nn.Linear(stage.latents, width)
        scale(self.write, depth**-0.5)
        self.after = after

    def posterior(self, evidence: Tensor, state: Tensor | None, p: Gaussian) -> Gaussian:
        """q(z_l | x, z_>l), parameters ``(K, B, latents, H, W)``; at the top ``(B, latents, H, W)``.

        Args:
            evidence: What the image adds to the hidden features of the net, ``(B, H, W, hidden)``.
            state: The stream, ``(K, B, H, W, width)``, which adds to them, too; None at the top.
            p: The prior of this level.
        """
        if self.query is None:
            return self.posterior_net(evidence)
        return self.merge(self.posterior_net(evidence + self.query(state)), p)

    def descend(self, state: Tensor | None, z: Tensor) -> Tensor:
        written = full_precision(self.write(z.movedim(-3, -1)))  # many levels add to the sum
        return self.after(written if state is None else state + written)


class ConvolutionalVAE(TopDown):
    r"""Every level, and the image, sees all levels above it, by convolutions; levels are images themselves.

    On the way up, the image is cut into patches and goes through ``encoder_blocks`` cells at each
    resolution, with means over blocks of pixels between. On the way down, a stream begins at the top level
    and is enlarged from resolution to resolution. At each level the prior $p(z_l | z_{>l})$ is read from the
    stream, and the posterior $q(z_l | x, z_{>l})$ from the stream and the features of the image at this
    resolution; the sample is written to the stream, and ``blocks`` cells follow. Cell and initialization are
    those of very deep VAEs (Child 2021, arXiv 2011.10650): what each sample and each of the N cells of the
    way down adds is scaled by $1 / \sqrt N$ at first, priors begin as N(0, I), pixels are repeated to
    enlarge. Unlike there, nets normalize what they read by default, which speeds up the first epochs.
    Standard deviations that a net gives are bounded, after NVAE.

    A *resolution* is the longer side in pixels. Each is half the one below it, rounded up, down to 1.

    Args:
        input_shape: Image shape (C, H, W), H and W from 4 to 256.
        num_layers: Number of latent levels L, 1 to 64. All else has defaults.
        levels: Pairs of a resolution and its number of levels, the largest resolution, with z_1, first, as in
            ``[[14,6],[7,7],[4,1],[1,1]]``, together ``num_layers``. With 0 levels a resolution has cells
            alone. The default is :func:`~ladder_vae.models.pyramid.default_levels`.
        width: Features of the streams.
        widths: Pairs of a resolution and its own width, as in ``[[14,64],[7,96]]``.
        latent_channels: Pairs of a resolution and its latent channels; the default is 64 / resolution,
            rounded down to a power of 2, at most 16.
        cell: ``bottleneck``; or ``nvae``.
        norm: ``layer``, over the features of each pixel; ``batch``; or ``none``.
        blocks: Cells after each sample.
        encoder_blocks: Cells of the way up at each resolution; None: as many as it has levels, at least 3.
        decoder_blocks: Cells of the way down where a resolution begins, and before the image.
        posterior: ``free``; ``weighted``, a precision-weighted product with the prior; or ``relative`` to it.
        likelihood: The distribution p(x | z) of the pixels; None means Bernoulli.

    Raises:
        ValueError: If a resolution does not exist, sizes do not fit, or a choice is unknown.

    Example:
        >>> model = ConvolutionalVAE((1, 28, 28), num_layers=3)
        >>> model.event_shapes
        ((4, 14, 14), (8, 7, 7), (16, 1, 1))
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_layers: int = 16,
        levels: Pairs | None = None,
        width: int = 64,
        widths: Pairs | None = None,
        latent_channels: Pairs | None = None,
        cell: str = "bottleneck",
        norm: str = "layer",
        blocks: int = 1,
        encoder_blocks: int | None = 3,
        decoder_blocks: int = 1,
        posterior: str = "free",
        likelihood: Likelihood | None = None,
    ) -> None:
        image, likelihood = image_shape(input_shape), likelihood or Bernoulli()
        numbers = {"blocks": blocks, "encoder_blocks": encoder_blocks, "decoder_blocks": decoder_blocks}
        for name, number in numbers.items():
            if number is not None and not 0 <= number <= MOST_BLOCKS:
                raise ValueError(f"{name}={number} must be between 0 and {MOST_BLOCKS}")
        for name, choice, choices in (
            ("cell", cell, CELLS),
            ("norm", norm, NORMS),
            ("posterior", posterior, MERGES),
        ):
            if choice not in choices:
                raise ValueError(f"{name}={choice} is unknown; choose {', '.join(choices)}")
        plan = stages((image[1], image[2]), num_layers, levels, width, widths, latent_channels)
        up, down = CELLS[cell]
        depth = num_layers * max(blocks, 1) + len(plan) * decoder_blocks  # what adds to the stream

        def cells(make: MakeCell, stage: Stage, count: int) -> list[nn.Module]:
            return [make(stage.width, stage.size, norm, depth) for _ in range(count)]

        rungs: list[SpatialRung] = []
        for place, stage in enumerate(plan):
            for level in range(stage.levels):
                after = cells(down, stage, blocks)
                for larger, smaller in _way_down(plan, place) if level == 0 else ():
                    factor = 2 ** (smaller.halvings - larger.halvings)
                    after.append(Enlarge(factor, larger.size, smaller.width, larger.width))
                    after += cells(down, larger, decoder_blocks)
                top = len(rungs) == num_layers - 1
                rungs.append(SpatialRung(stage, norm, MERGES[posterior], depth, top, nn.Sequential(*after)))
        bottom = plan[0]
        body = nn.Sequential(*cells(down, bottom, decoder_blocks), NORMS[norm](bottom.width), nn.SiLU())
        decoder = PatchDecoder(body, bottom.width, 2**bottom.halvings, params_shape(image, likelihood))
        super().__init__(rungs, decoder, likelihood)
        self.stages = plan
        self.encoder, self.evidence = nn.ModuleList(), nn.ModuleList()
        for below, stage in zip([None, *plan], plan, strict=False):
            way: nn.Module = Patches(image[0], 2**stage.halvings, stage.size, stage.width)
            if below is not None:
                way = Halve(2 ** (stage.halvings - below.halvings), below.width, stage.width)
            count = max(stage.levels, 3) if encoder_blocks is None else encoder_blocks
            self.encoder.append(nn.Sequential(way, *cells(up, stage, count)))
            for _ in range(stage.levels):
                self.evidence.append(nn.Linear(stage.width, max(1, stage.width // 2)))

    def encode(self, x: Tensor) -> list[Tensor]:
        h, evidence = x, list[Tensor]()
        for stage, net in zip(self.stages, self.encoder, strict=True):
            h = net(h)  # (B, height, width, features) of the stage
            linears = self.evidence[len(evidence) : len(evidence) + stage.levels]
            evidence += [linear(h) for linear in linears]
        return evidence


def _way_down(plan: Sequence[Stage], place: int) -> Iterator[tuple[Stage, Stage]]:
    """Pairs of a larger stage and a smaller one, from ``plan[place]`` to the next stage that has levels."""
    for smaller, larger in pairwise(reversed(plan[: place + 1])):
        yield larger, smaller
        if larger.levels:
            return
