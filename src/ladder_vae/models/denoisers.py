"""Denoisers: nets that read a noisy image and how noisy it is, and say something of each pixel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladder_vae.maths.gaussian import full_precision
from ladder_vae.models.convolutions import Enlarge, Halve, PatchDecoder, Patches, mixing
from ladder_vae.models.hierarchy import ImageShape
from ladder_vae.models.layers import scale

WAVES = 8  # in which the noise is written, from a period of 64 in gamma to one of 0.5
SMALLEST = 7  # pixels: a U-Net halves its images while their longer side stays at least this


class NoiseFeatures(nn.Sequential):
    """Features of gamma: ``(N,)`` to ``(N, width)``."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(2 * WAVES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        periods = 64 * 2.0 ** -torch.arange(WAVES)
        self.register_buffer("frequencies", 2 * math.pi / periods, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        angles = input[..., None] * self.get_buffer("frequencies").to(input)
        return super().forward(torch.cat([angles.sin(), angles.cos()], -1))


class NoisyCell(nn.Module):
    """h + body(h), where the body knows the noise: a bottleneck whose features are scaled and shifted.

    Features are ``(N, H, W, width)``, channels last.

    Args:
        width: Features.
        size: Height and width, pixels.
        hidden: Features within.
        depth: What the cell adds is scaled by 1 / sqrt(depth) at first.
        noise_width: Features of the noise.
    """

    def __init__(self, width: int, size: tuple[int, int], hidden: int, depth: int, noise_width: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden)
        self.modulate = nn.Linear(noise_width, 2 * hidden)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)
        self.mix = nn.Sequential(
            nn.SiLU(), mixing(hidden, hidden, size), nn.SiLU(), mixing(hidden, hidden, size), nn.SiLU()
        )
        self.up = nn.Linear(hidden, width)
        scale(self.up, depth**-0.5)

    def forward(self, h: Tensor, noise: Tensor) -> Tensor:
        factor, shift = self.modulate(noise)[:, None, None].chunk(2, -1)
        return full_precision(h) + self.up(self.mix(self.down(h) * (1 + factor) + shift))


class Attention(nn.Module):
    """h + attention(norm(h)) over all pixels, with ``heads`` heads: ``(N, H, W, width)`` to the same."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads if width % heads == 0 else 1
        self.norm = nn.LayerNorm(width)
        self.read = nn.Linear(width, 3 * width)
        self.write = nn.Linear(width, width)
        scale(self.write, 0.1)

    def forward(self, h: Tensor) -> Tensor:
        pixels = self.norm(h).flatten(1, 2)
        parts = self.read(pixels).unflatten(-1, (3, self.heads, -1)).movedim(1, 3)  # (N, 3, heads, pixels, _)
        query, key, value = parts.unbind(1)
        mixed = _attended(query, key, value).movedim(1, 2).flatten(-2)
        return h + self.write(mixed).unflatten(1, h.shape[1:3])


def _attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention. On a CPU the fused one takes 8 times as long over few pixels."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value)
    weights = (query * query.shape[-1] ** -0.5 @ key.mT).softmax(-1)
    return weights.to(value.dtype) @ value


class Sizes(NamedTuple):
    """How large a denoiser is.

    Args:
        width: Features at the largest resolution, and twice as many below it.
        blocks: Cells at each resolution, each way.
        patch: Side of the patches that the image is cut into at first; 1 is exact and slow.
        ratio: Features within a cell, as a share of those between cells.
        attention: Whether pixels attend to each other at the smallest resolution.
    """

    width: int
    blocks: int
    patch: int
    ratio: float
    attention: bool

    def check(self) -> None:
        """Raises ValueError if a number is out of range."""
        for name, most in (("width", 4096), ("blocks", 100), ("patch", 16)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name}={getattr(self, name)} must be between 1 and {most}")
        if not 0 < self.ratio <= 4:
            raise ValueError(f"ratio={self.ratio:g} must be above 0 and at most 4")


class UNet(nn.Module):
    """Down from resolution to resolution and up again, with a sum of the features of the way down.

    After Ronneberger et al. 2015 (arXiv 1505.04597) and Ho et al. 2020 (arXiv 2006.11239). Features have
    channels last, and cells are bottlenecks without a norm.

    Args:
        image: Shape of the images, (C, H, W).
        outputs: Channels of the result.
        sizes: Of the net.
    """

    def __init__(self, image: ImageShape, outputs: int, sizes: Sizes) -> None:
        super().__init__()
        width, blocks, patch, ratio, attention = sizes
        size = (-(-image[1] // patch), -(-image[2] // patch))
        areas = [size]
        while (max(areas[-1]) + 1) // 2 >= SMALLEST:
            areas.append(((areas[-1][0] + 1) // 2, (areas[-1][1] + 1) // 2))
        widths = [width] + [2 * width] * (len(areas) - 1)
        self.noise = NoiseFeatures(width)
        depth = 2 * blocks * len(areas)

        def cells(place: int) -> nn.ModuleList:
            hidden = max(1, round(widths[place] * ratio))
            made = [NoisyCell(widths[place], areas[place], hidden, depth, width) for _ in range(blocks)]
            return nn.ModuleList(made)

        self.stem = Patches(image[0], patch, size, width)
        places = range(len(areas))
        self.down = nn.ModuleList(cells(place) for place in places)
        self.up = nn.ModuleList(cells(place) for place in places)
        self.attention = Attention(widths[-1]) if attention else nn.Identity()
        self.halve = nn.ModuleList(Halve(2, widths[i], widths[i + 1]) for i in places[:-1])
        self.enlarge = nn.ModuleList(Enlarge(2, areas[i], widths[i + 1], widths[i]) for i in places[:-1])
        head = nn.Sequential(nn.LayerNorm(width), nn.SiLU())
        self.head = PatchDecoder(head, width, patch, (outputs, *image[1:]))
        scale(self.head.linear, 0.1)

    def forward(self, z: Tensor, gamma: Tensor) -> Tensor:
        """What is said of each pixel, ``(N, outputs, H, W)``, from ``(N, C, H, W)`` and ``(N,)``."""
        noise, h, kept = self.noise(gamma), self.stem(z), list[Tensor]()
        for place, cells in enumerate(self.down):
            h = h if place == 0 else self.halve[place - 1](h)
            for cell in cells:  # type: ignore[attr-defined]
                h = cell(h, noise)
            kept.append(h)
        h = self.attention(h)
        for place in reversed(range(len(self.up))):
            h = h if place == len(self.up) - 1 else self.enlarge[place](h) + kept[place]
            for cell in self.up[place]:  # type: ignore[attr-defined]
                h = cell(h, noise)
        return self.head(h)


class DenseDenoiser(nn.Module):
    """Dense layers, to which the order of the pixels means nothing. Arguments are those of :class:`UNet`.

    Hidden layers have ``4 * width`` features; of the sizes only width and blocks matter.
    """

    def __init__(self, image: ImageShape, outputs: int, sizes: Sizes) -> None:
        super().__init__()
        self.shape = (outputs, *image[1:])
        width, blocks, hidden = sizes.width, sizes.blocks, 4 * sizes.width
        self.noise = NoiseFeatures(width)
        self.stem = nn.Linear(math.prod(image), hidden)
        self.body = nn.ModuleList(
            NoisyCell(hidden, (1, 1), hidden, 2 * blocks, width) for _ in range(2 * blocks)
        )
        self.head = nn.Sequential(nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, math.prod(self.shape)))

    def forward(self, z: Tensor, gamma: Tensor) -> Tensor:
        """What is said of each pixel, ``(N, outputs, H, W)``, from ``(N, C, H, W)`` and ``(N,)``."""
        noise, h = self.noise(gamma), self.stem(z.flatten(1))[:, None, None]
        for cell in self.body:
            h = cell(h, noise)
        return self.head(h[:, 0, 0]).unflatten(-1, self.shape)


#: Each makes a net that maps noisy images and their gamma to ``outputs`` numbers a pixel.
DENOISERS: dict[str, Callable[[ImageShape, int, Sizes], nn.Module]] = {"unet": UNet, "dense": DenseDenoiser}
