"""Change one level of latent codes and leave the others alone: pure functions for any model.

A *code* is a list of innovations, one tensor ``(n, *event)`` per level, z_1 first. The innovation of a
level, e_l = (z_l - mu_p) / sigma_p, is what the level adds to what the levels above expect. A level is given
by its name, ``"z2"``, or by its index, 1. In a hierarchy
where each level sees only the next one, changing a *sample* above z_1 changes no pixel while the samples
below it are held. Changing an innovation does, because :func:`render` recomputes every level below from its
own, unchanged innovation.

Example::

    code = innovations(model.infer(x))
    images = render(model, resample(code, "z3"))  # z_3 drawn anew, all else kept
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.inference import Inference
from ladder_vae.system.naming import level_index

Code = list[Tensor]


def innovations(inference: Inference) -> Code:
    """Codes of ``B`` images with ``K`` posterior samples each, ``(K * B, *event)`` per level.

    The innovation of a unit is N(0, 1) if its latent is drawn from the prior.
    """
    return [level.p.innovation(level.z).flatten(0, 1) for level in inference.levels]


@torch.no_grad()
def render(model: Hierarchy, code: Sequence[Tensor]) -> Tensor:
    """The decoder's mean for each code, ``(n, C, H, W)`` in [0, 1]. The model should be in eval mode."""
    generation = model.generate(len(code[0]), noise=dict(enumerate(code)), keep_levels=False)
    return generation.mean


def keep_above(code: Sequence[Tensor], level: int | str, below: Sequence[Tensor] | None = None) -> Code:
    """Keep the innovations of ``level`` and of the levels above it, and replace those of the levels below.

    Args:
        code: Codes of ``n`` images.
        level: The lowest level that is kept. The number of levels is allowed and keeps nothing.
        below: Code that replaces the levels below; None sets them to 0, the mean of their prior.

    Raises:
        ValueError: If the level does not exist.
    """
    lowest = len(code) if level == len(code) else level_index(level, len(code))
    fill = [torch.zeros_like(e) for e in code] if below is None else below
    return [*fill[:lowest], *code[lowest:]]


def resample(code: Sequence[Tensor], *levels: int | str, generator: torch.Generator | None = None) -> Code:
    """Draw the innovations of ``levels`` anew from N(0, 1).

    Raises:
        ValueError: If a level does not exist, or none is given.
    """
    _indices(code, levels, "resample(code, 'z2')")
    source = generator.device if generator else code[0].device
    fresh = [torch.randn(e.shape, generator=generator, dtype=e.dtype, device=source).to(e) for e in code]
    return swap(code, fresh, *levels)


def resample_places(
    code: Sequence[Tensor], where: Tensor, *levels: int | str, generator: torch.Generator | None = None
) -> Code:
    """Draw the innovations of ``levels`` anew from N(0, 1), in all channels, at some places only.

    Args:
        code: Codes of ``n`` images.
        where: Whether a place is drawn anew, bool ``(H, W)``.
        levels: Levels whose latents are images ``(C, H, W)`` of this height and width.
        generator: Source of the draws (default: torch's global generator).

    Raises:
        ValueError: If a level does not exist, or has other places.
    """
    fresh = resample(code, *levels, generator=generator)
    for level in _indices(code, levels, "resample_places(code, where, 'z2')"):
        event = code[level].shape[1:]
        if len(event) != 3 or event[1:] != where.shape:
            raise ValueError(
                f"latents of level {level} have shape {tuple(event)}, not the places {tuple(where.shape)}"
            )
        fresh[level] = torch.where(where.to(code[level].device), fresh[level], code[level])
    return fresh


def swap(a: Sequence[Tensor], b: Sequence[Tensor], *levels: int | str) -> Code:
    """Take ``levels`` from ``b`` and the rest from ``a``. Both are codes of ``n`` images.

    Raises:
        ValueError: If a level does not exist, or none is given.
    """
    taken = _indices(a, levels, "swap(a, b, 'z2')")
    return [b[i] if i in taken else a[i] for i in range(len(a))]


def pairs(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Code, Code]:
    """Pair each of the ``n`` codes in ``a`` with each of the ``m`` codes in ``b``.

    Returns:
        The code from ``a`` and the code from ``b`` of each pair, ``(n * m, *event)`` per level. All pairs of
        the first code in ``a`` come first.
    """
    n, m = len(a[0]), len(b[0])
    return (
        [e.repeat_interleave(m, dim=0) for e in a],
        [e.repeat(n, *[1] * (e.dim() - 1)) for e in b],
    )


def traverse(code: Sequence[Tensor], level: int | str, unit: int, values: Tensor) -> Code:
    """Repeat the code of one image, with one unit of ``level`` set to each of ``values``: ``(m, *event)``.

    Args:
        code: The code of a single image, ``(1, *event)`` per level.
        level: The level.
        unit: Index into the level's flattened event.
        values: Innovations for the unit, ``(m,)``.

    Raises:
        ValueError: If the level or the unit does not exist.
    """
    at = level_index(level, len(code))
    units = code[at][0].numel()
    if not 0 <= unit < units:
        raise ValueError(f"unit {unit} does not exist: units of level {level} are 0 to {units - 1}")
    repeated = [e.repeat(len(values), *[1] * (e.dim() - 1)) for e in code]
    repeated[at].flatten(1)[:, unit] = values.to(repeated[at])
    return repeated


def traverse_channel(code: Sequence[Tensor], level: int | str, channel: int, values: Tensor) -> Code:
    """Repeat the code of one image, with a channel of ``level`` set to each of ``values`` at all places.

    Args:
        code: The code of a single image, ``(1, *event)`` per level.
        level: A level whose latents are images ``(C, H, W)``.
        channel: Index of the channel.
        values: Innovations for it, ``(m,)``.

    Returns:
        ``(m, *event)`` per level.

    Raises:
        ValueError: If the level or the channel does not exist.
    """
    at = level_index(level, len(code))
    event = code[at].shape[1:]
    if len(event) != 3 or not 0 <= channel < event[0]:
        raise ValueError(
            f"channel {channel} does not exist: latents of level {level} have shape {tuple(event)}"
        )
    repeated = [e.repeat(len(values), *[1] * (e.dim() - 1)) for e in code]
    repeated[at][:, channel] = values.to(repeated[at])[:, None, None]
    return repeated


def interpolate(a: Sequence[Tensor], b: Sequence[Tensor], weights: Tensor, *levels: int | str) -> Code:
    """Go from ``a`` to ``b`` in ``levels`` and keep the rest from ``a``.

    The path is the arc between two innovations, on which vectors are about as long as a draw of the prior. A
    straight line would pass closer to zero, where the prior has hardly any mass.

    Args:
        a: Codes of ``n`` images.
        b: Codes of ``n`` other images.
        weights: Positions on the path, from 0 (``a``) to 1 (``b``), ``(m,)``.
        levels: The levels that change.

    Returns:
        ``(n * m, *event)`` per level; the ``m`` codes of an image follow each other.

    Raises:
        ValueError: If a level does not exist, or none is given.
    """
    changed = _indices(a, levels, "interpolate(a, b, weights, 'z2')")
    steps = len(weights)
    return [
        _arc(a[i], b[i], weights) if i in changed else a[i].repeat_interleave(steps, dim=0)
        for i in range(len(a))
    ]


def _arc(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Interpolate each row spherically (Shoemake 1985), parallel rows linearly; ``(n * m, *event)``."""
    rows_a, rows_b = a.flatten(1)[:, None], b.flatten(1)[:, None]  # (n, 1, units)
    w = weights.to(a)[:, None]  # (m, 1)
    angle = torch.acos(torch.cosine_similarity(rows_a, rows_b, dim=-1).clamp(-1, 1))[..., None]
    parallel = torch.sin(angle) < 1e-4  # here the arc is a line, or is not defined
    sine = torch.where(parallel, 1.0, torch.sin(angle))
    of_a = torch.where(parallel, 1 - w, torch.sin((1 - w) * angle) / sine)  # (n, m, 1)
    of_b = torch.where(parallel, w, torch.sin(w * angle) / sine)
    return (of_a * rows_a + of_b * rows_b).flatten(0, 1).unflatten(-1, a.shape[1:])


def _indices(code: Sequence[Tensor], levels: Sequence[int | str], example: str) -> list[int]:
    """Indices of the levels. Raises ValueError if one does not exist, or there is none."""
    if not levels:
        raise ValueError(f"no level is given; name those to change, as in {example}")
    return [level_index(level, len(code)) for level in levels]
