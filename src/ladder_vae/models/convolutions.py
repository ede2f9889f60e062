"""Convolutional building blocks: features are ``(*lead, H, W, C)``, with any leading axes, channels last.

In this order a convolution over single pixels is a linear layer, normalizations are those of dense layers,
and 3x3 convolutions take the features without a copy.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladder_vae.maths.gaussian import Gaussian, bounded_log_var, full_precision
from ladder_vae.models.layers import NORMS, GaussianHead, scale

LARGEST_LOG_STD = 5.0  # as in NVAE


class Convolution(nn.Conv2d):
    """A convolution of ``(*lead, H, W, in)`` to ``(*lead, H, W, out)`` that keeps the size of the image."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2, groups=groups)

    def forward(self, input: Tensor) -> Tensor:
        images = input.flatten(0, -4).movedim(-1, -3)
        return super().forward(images).movedim(-3, -1).unflatten(0, input.shape[:-3])


def mixing(in_channels: int, out_channels: int, size: tuple[int, int]) -> nn.Module:
    """A 3x3 convolution; a linear layer where an image has no neighbors worth it, of 2 pixels or fewer."""
    if max(size) > 2:
        return Convolution(in_channels, out_channels)
    return nn.Linear(in_channels, out_channels)


class Cell(nn.Module):
    """h + share * body(h), ``(*, H, W, width)`` to the same.

    Args:
        body: Ends with the layer that adds to the features.
        share: Fixed factor on what is added.
    """

    def __init__(self, body: nn.Module, share: float = 1.0) -> None:
        super().__init__()
        self.body = body
        self.share = share

    def forward(self, h: Tensor) -> Tensor:
        # The sum stays in float32 even under autocast, because many levels add to it.
        return full_precision(h) + self.share * self.body(h)


class Bottleneck(Cell):
    """1x1 down to half the features, 3x3, 3x3, 1x1 up, with a SiLU between.

    It follows very deep VAEs (Child 2021, arXiv 2011.10650) but for one thing: the cell reads the stream
    linearly, without a nonlinearity on all features. (With it, SiLUs took 12 % of a step on a CPU, without it
    7 %.)

    Args:
        width: Features.
        size: Height and width, pixels.
        norm: A name of ``NORMS``, of what the cell reads.
        depth: What the cell adds is scaled by 1 / sqrt(depth) at first, the number of all that adds to the
            stream on the way down, so that a deep model's stream begins as large as a shallow one's.
    """

    def __init__(self, width: int, size: tuple[int, int], norm: str, depth: int) -> None:
        hidden = max(1, width // 2)
        last = nn.Linear(hidden, width)
        scale(last, depth**-0.5)
        super().__init__(
            nn.Sequential(
                NORMS[norm](width),
                nn.Linear(width, hidden),
                nn.SiLU(),
                mixing(hidden, hidden, size),
                nn.SiLU(),
                mixing(hidden, hidden, size),
                nn.SiLU(),
                last,
            )
        )


class SqueezeExcitation(nn.Module):
    """Scale each feature by a gate that reads the mean over pixels (Hu et al. 2018, arXiv 1709.01507)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = max(width // 16, 4)
        self.gate = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width), nn.Sigmoid())

    def forward(self, h: Tensor) -> Tensor:
        return h * self.gate(h.mean((-3, -2), keepdim=True))


class NVAEDecoderCell(Cell):
    """NVAE's cell on the way down: depthwise 5x5 on six times the features, then squeeze-and-excitation.

    Vahdat and Kautz 2020, arXiv 2007.03898, figure 3a. Arguments are those of :class:`Bottleneck`.
    """

    def __init__(self, width: int, size: tuple[int, int], norm: str, depth: int) -> None:
        normalize, wide = NORMS[norm], 6 * width
        kernel = 5 if max(size) > 2 else 1
        super().__init__(
            nn.Sequential(
                normalize(width),
                nn.Linear(width, wide),
                normalize(wide),
                nn.SiLU(),
                Convolution(wide, wide, kernel, groups=wide),
                normalize(wide),
                nn.SiLU(),
                nn.Linear(wide, width),
                normalize(width),
                SqueezeExcitation(width),
            ),
            share=0.1,
        )


class NVAEEncoderCell(Cell):
    """NVAE's cell on the way up: twice norm, swish and 3x3, then squeeze-and-excitation (figure 3b)."""

    def __init__(self, width: int, size: tuple[int, int], norm: str, depth: int) -> None:
        normalize = NORMS[norm]
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [normalize(width), nn.SiLU(), mixing(width, width, size)]
        super().__init__(nn.Sequential(*layers, SqueezeExcitation(width)), share=0.1)


#: Makes a cell of (width, size, norm, depth).
MakeCell = Callable[[int, tuple[int, int], str, int], Cell]


class Halve(nn.Module):
    """Means over blocks of ``factor`` by ``factor`` pixels, then a linear layer if the width changes."""

    def __init__(self, factor: int, width: int, new_width: int) -> None:
        super().__init__()
        self.factor = factor
        self.linear = nn.Linear(width, new_width) if width != new_width else nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        pooled = F.avg_pool2d(
            h.movedim(-1, -3), self.factor, ceil_mode=True, count_include_pad=False
        )  # blocks at the far edges may be smaller
        return self.linear(pooled.movedim(-3, -1))


class Enlarge(nn.Module):
    """Repeat each pixel ``factor`` by ``factor`` times and add learned features of its place.

    A linear layer comes first if the width changes. What exceeds ``size`` is cut off.
    """

    def __init__(self, factor: int, size: tuple[int, int], width: int, new_width: int) -> None:
        super().__init__()
        self.factor, self.size = factor, size
        self.linear = nn.Linear(width, new_width) if width != new_width else nn.Identity()
        self.place = nn.Parameter(torch.zeros(*size, new_width))

    def forward(self, h: Tensor) -> Tensor:
        h, f = self.linear(h), self.factor
        *lead, height, width, channels = h.shape
        repeated = h[..., :, None, :, None, :].expand(*lead, height, f, width, f, channels)
        large = repeated.reshape(*lead, height * f, width * f, channels)
        return large[..., : self.size[0], : self.size[1], :] + self.place


class Patches(nn.Module):
    """Images ``(B, C, H, W)`` to features ``(B, h, w, width)``: a linear layer on patches of a few pixels.

    Args:
        channels: C.
        factor: Side of a patch. At the far edges it may lie partly outside the image, which is 0 there.
        size: h and w.
        width: Features.
    """

    def __init__(self, channels: int, factor: int, size: tuple[int, int], width: int) -> None:
        super().__init__()
        self.factor, self.size = factor, size
        self.net = Convolution(channels, width) if factor == 1 else nn.Linear(channels * factor**2, width)

    def forward(self, x: Tensor) -> Tensor:
        f, (height, width) = self.factor, self.size
        padded = F.pad(x, (0, width * f - x.shape[-1], 0, height * f - x.shape[-2]))
        features = self.net(F.pixel_unshuffle(padded, f).movedim(-3, -1))
        return features.contiguous()  # a convolution leaves channels where the image has them, which is first


class PatchDecoder(nn.Module):
    """Features ``(*, h, w, width)`` to the parameters of p(x | z), ``(*, channels, H, W)``.

    A linear layer gives each pixel its patch of parameters; what lies outside the image is cut off.
    """

    def __init__(self, body: nn.Module, width: int, factor: int, params: tuple[int, int, int]) -> None:
        super().__init__()
        self.body, self.factor, self.params = body, factor, params
        self.linear = nn.Linear(width, params[0] * factor**2)

    def forward(self, h: Tensor) -> Tensor:
        f, (channels, height, width) = self.factor, self.params
        patches = self.linear(self.body(h)).unflatten(-1, (f, f, channels))  # (*, h, w, f, f, channels)
        rows = patches.movedim(-3, -4).flatten(-3, -2).flatten(-4, -3)  # (*, h f, w f, channels)
        return rows[..., :height, :width, :].movedim(-1, -3)


class SpatialHead(GaussianHead):
    """Maps features ``(*, H, W, width)`` to a Gaussian with parameters ``(*, latents, H, W)``.

    The standard deviation lies between exp(-5) and exp(5), by a tanh, after NVAE (which adds 0.01): a unit
    can neither become so narrow that its density explodes nor so wide that its KL does.
    """

    def forward(self, input: Tensor) -> Gaussian:  # type: ignore[override]
        mean, spread = full_precision(nn.Linear.forward(self, input)).movedim(-1, -3).chunk(2, dim=-3)
        return Gaussian(mean, bounded_log_var(self.log_var(spread)), 3)

    def log_var(self, spread: Tensor) -> Tensor:
        return 2 * LARGEST_LOG_STD * torch.tanh(spread / (2 * LARGEST_LOG_STD))
