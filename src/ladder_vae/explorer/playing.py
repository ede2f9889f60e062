"""What is chosen on each level of a model that is played with, and the pictures that follow: pure functions.

They know nothing of the page that shows them; :mod:`ladder_vae.explorer.server` is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from scipy.ndimage import center_of_mass
from torch import Tensor

from ladder_vae.explorer.walks import inference
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.innovations import Code, pairs, render, resample, swap

T = TypeVar("T")
NEW = "new"  # the origin of a level that is from neither image
BOX = 20 / 28  # of the side of an image: what a drawing fills, as in MNIST
INK = 25  # of 255: a pixel that is drawn on


@dataclass(frozen=True)
class Source:
    """An image that levels are taken from.

    Args:
        name: What it is called.
        picture: Intensities in [0, 1], ``(1, C, H, W)``.
        code: Its innovations, ``(1, *event)`` per level.
    """

    name: str
    picture: Tensor
    code: Code


@dataclass(frozen=True)
class Play:
    """What a picture is made of, level by level, z_1 first.

    Args:
        sources: The two images, ``A`` and ``B``.
        code: The innovations of each level, ``(1, *event)``.
        origins: Where they are from: ``A``, ``B`` or ``new``.
        temperatures: Factor on the innovations of each level.
        kept: Whether a level stays as it is when others are drawn anew, or an image is exchanged.
    """

    sources: Mapping[str, Source]
    code: Code
    origins: tuple[str, ...]
    temperatures: tuple[float, ...]
    kept: tuple[bool, ...]


def read(model: Hierarchy, name: str, picture: Tensor, noise: Sequence[Tensor]) -> Source:
    """Encode a picture, ``(1, C, H, W)`` in [0, 1], with noise ``(1, 1, *event)`` of each level."""
    with torch.no_grad():
        _, *code = inference(model)(picture, *noise)
    return Source(name, picture, code)


def rates(model: Hierarchy, picture: Tensor, noise: Sequence[Tensor]) -> list[float]:
    """What each level tells about a picture, nats, z_1 first; arguments as of :func:`read`."""
    with torch.no_grad():
        return inference(model)(picture, *noise)[0].tolist()


def begin(a: Source, b: Source) -> Play:
    """The reconstruction of image A."""
    depth = len(a.code)
    return Play({"A": a, "B": b}, a.code, ("A",) * depth, (1.0,) * depth, (False,) * depth)


def exchange(play: Play, origin: str, source: Source) -> Play:
    """Make another image A or B. Levels that are taken from it follow, but those that are kept."""
    theirs = [level for level, each in enumerate(play.origins) if each == origin]
    following = [level for level in theirs if not play.kept[level]]
    code = swap(play.code, source.code, *following) if following else play.code
    origins = list(play.origins)
    for level in set(theirs) - set(following):
        origins[level] = NEW
    return replace(play, sources={**play.sources, origin: source}, code=code, origins=tuple(origins))


def choose(play: Play, level: int, origin: str, code: Code) -> Play:
    """Take a level from a code ``(1, *event)``, which is of ``A``, of ``B``, or ``new``."""
    return replace(play, code=swap(play.code, code, level), origins=_with(play.origins, level, origin))


def draw(play: Play, generator: torch.Generator) -> Play:
    """Draw all levels anew that are not kept."""
    free = [level for level, kept in enumerate(play.kept) if not kept]
    if not free:
        return play
    origins = tuple(each if kept else NEW for each, kept in zip(play.origins, play.kept, strict=True))
    return replace(play, code=resample(play.code, *free, generator=generator), origins=origins)


def keep(play: Play, level: int, kept: bool) -> Play:
    """Keep a level as it is, or let it go."""
    return replace(play, kept=_with(play.kept, level, kept))


def warm(play: Play, level: int, temperature: float) -> Play:
    """Set the temperature of a level; 0 leaves what the levels above expect."""
    return replace(play, temperatures=_with(play.temperatures, level, temperature))


def position(play: Play, level: int, mover: int) -> float:
    """The innovation of a unit, or, where latents are images, the mean of those of a channel."""
    return float(play.code[level][:, mover].mean())


def move(play: Play, level: int, mover: int, value: float) -> Play:
    """Let :func:`position` be ``value``; the places of a channel keep their differences."""
    changed = [e.clone() for e in play.code]
    changed[level][:, mover] += value - position(play, level, mover)
    return choose(play, level, NEW, changed)


def picture(model: Hierarchy, play: Play) -> Tensor:
    """The picture that all levels make together, ``(1, C, H, W)`` in [0, 1]."""
    return render(model, _tempered(play, play.code))


def offers(play: Play, draws: Code) -> list[tuple[str, Code]]:
    """What a level can be taken from: origin and code of image A, of image B, and of each of ``n`` draws.

    Args:
        draws: Innovations that were drawn from the prior, ``(n, *event)`` per level.
    """
    ours = [(origin, source.code) for origin, source in play.sources.items()]
    return [*ours, *((NEW, [e[i : i + 1] for e in draws]) for i in range(len(draws[0])))]


def small_pictures(model: Hierarchy, play: Play, level: int, draws: Code) -> Tensor:
    """The picture with a level taken from each of the :func:`offers`, ``(2 + n, C, H, W)`` in [0, 1]."""
    theirs = [torch.cat(each) for each in zip(*(code for _, code in offers(play, draws)), strict=True)]
    return render(model, _tempered(play, swap(*pairs(play.code, theirs), level)))


def centered(drawing: Image.Image, height: int, width: int) -> Image.Image:
    """Strokes, white on black, scaled into a box and centered by their center of mass, as digits of MNIST."""
    box = drawing.point(lambda value: 255 * (value > INK)).getbbox()
    paper = Image.new("L", (width, height))
    if box is None:
        return paper
    strokes = drawing.crop(box)
    scale = BOX * min(height, width) / max(strokes.size)
    strokes = strokes.resize([max(1, round(scale * side)) for side in strokes.size], Image.Resampling.BOX)
    y, x = (middle + 0.5 for middle in center_of_mass(np.asarray(strokes)))
    left = max(0, min(round(width / 2 - x), width - strokes.width))
    top = max(0, min(round(height / 2 - y), height - strokes.height))
    paper.paste(strokes, (left, top))
    return paper


def fitted(image: Image.Image, shape: tuple[int, int, int]) -> Tensor:
    """An image of any size, cut around its center, as intensities ``(1, C, H, W)`` in [0, 1]."""
    channels, height, width = shape
    image = ImageOps.fit(image.convert("RGB" if channels == 3 else "L"), (width, height))
    return torch.from_numpy(np.array(image)).view(1, height, width, channels).permute(0, 3, 1, 2) / 255


def _tempered(play: Play, code: Code) -> Code:
    return [temperature * e for temperature, e in zip(play.temperatures, code, strict=True)]


def _with(values: tuple[T, ...], level: int, value: T) -> tuple[T, ...]:
    return (*values[:level], value, *values[level + 1 :])
