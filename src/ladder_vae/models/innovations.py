"""Change one level of latent codes and leave the others: pure functions, whatever the model.

A *code* is a list of innovations, one tensor ``(n, *event)`` a level, z_1's first. The innovation of a
level is what it adds to what the levels above expect: e_l = (z_l - mu_p) / sigma_p. Where each level sees
only the next one, a changed *sample* above z_1 moves no pixel while the samples below it are held; a changed
innovation does, since :func:`render` recomputes every level below from its own, unchanged innovation.

Example::

    code = innovations(model.infer(x))
    images = render(model, resample(code, 2))  # z_3 drawn anew, all else kept
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.inference import Inference

Code = list[Tensor]


def innovations(inference: Inference) -> Code:
    """Codes of ``B`` images from ``K`` posterior samples each, ``(K * B, *event)`` a level.

    N(0, 1) in every unit for latents from the prior, and for those of a unit whose posterior is the prior.
    """
    return [((level.z - level.p.mean) / level.p.std).flatten(0, 1) for level in inference.levels]


@torch.no_grad()
def render(model: Hierarchy, code: Sequence[Tensor]) -> Tensor:
    """The decoder's mean for each code, ``(n, C, H, W)`` in [0, 1]. Meant for a model in eval mode."""
    generation = model.generate(len(code[0]), noise=dict(enumerate(code)))
    return generation.mean


def keep_above(code: Sequence[Tensor], level: int, below: Sequence[Tensor] | None = None) -> Code:
    """Keep ``level`` and what is above it; below, the prior's mean, or the innovations of ``below``.

    ``level`` may be the number of levels: then nothing is kept.
    """
    if level != len(code):
        _check(code, level)
    fill = [torch.zeros_like(e) for e in code] if below is None else below
    return [*fill[:level], *code[level:]]


def resample(code: Sequence[Tensor], *levels: int, generator: torch.Generator | None = None) -> Code:
    """Draw the innovations of ``levels`` anew, from N(0, 1) as the prior has them."""
    source = generator.device if generator else code[0].device
    fresh = [torch.randn(e.shape, generator=generator, dtype=e.dtype, device=source).to(e) for e in code]
    return swap(code, fresh, *levels)


def swap(a: Sequence[Tensor], b: Sequence[Tensor], *levels: int) -> Code:
    """``levels`` from ``b``, the rest from ``a``; codes of as many images."""
    _check(a, *levels)
    return [b[i] if i in levels else a[i] for i in range(len(a))]


def pairs(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Code, Code]:
    """Every code of ``a`` with every code of ``b``: two lists of ``len(a) * len(b)`` codes, a's slowest."""
    n, m = len(a[0]), len(b[0])
    return (
        [e.repeat_interleave(m, dim=0) for e in a],
        [e.repeat(n, *[1] * (e.dim() - 1)) for e in b],
    )


def traverse(code: Sequence[Tensor], level: int, unit: int, values: Tensor) -> Code:
    """The code of one image with one unit of ``level`` set to each of ``values``, ``(len(values), *event)``.

    Args:
        code: Of a single image, ``(1, *event)``.
        unit: Index into the level's flattened event.
        values: Innovations, ``(m,)``.

    Raises:
        ValueError: If level or unit do not exist.
    """
    _check(code, level)
    units = code[level][0].numel()
    if not 0 <= unit < units:
        raise ValueError(f"unit {unit} does not exist: units of level {level} are 0 to {units - 1}")
    repeated = [e.repeat(len(values), *[1] * (e.dim() - 1)) for e in code]
    repeated[level].flatten(1)[:, unit] = values.to(repeated[level])
    return repeated


def interpolate(a: Sequence[Tensor], b: Sequence[Tensor], weights: Tensor, *levels: int) -> Code:
    """From ``a`` to ``b`` in ``levels``, the rest from ``a``: ``n * m`` codes, those of an image in a row.

    On the arc between the two innovations, so that what lies between is as long as a draw of the prior; the
    straight line would pass closer to zero, where the prior has hardly any mass.

    Args:
        a: Codes of ``n`` images.
        b: As many.
        weights: From 0 (``a``) to 1 (``b``), ``(m,)``.
        levels: Which levels move.
    """
    _check(a, *levels)
    steps = len(weights)
    return [
        _arc(a[i], b[i], weights) if i in levels else a[i].repeat_interleave(steps, dim=0)
        for i in range(len(a))
    ]


def _arc(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Spherical interpolation (Shoemake 1985) of each row, ``(n * m, *event)``; linear for parallel rows."""
    rows_a, rows_b = a.flatten(1)[:, None], b.flatten(1)[:, None]  # (n, 1, units)
    w = weights.to(a)[:, None]  # (m, 1)
    angle = torch.acos(torch.cosine_similarity(rows_a, rows_b, dim=-1).clamp(-1, 1))[..., None]
    parallel = torch.sin(angle) < 1e-4  # where the arc is a line, or not defined
    sine = torch.where(parallel, 1.0, torch.sin(angle))
    of_a = torch.where(parallel, 1 - w, torch.sin((1 - w) * angle) / sine)  # (n, m, 1)
    of_b = torch.where(parallel, w, torch.sin(w * angle) / sine)
    return (of_a * rows_a + of_b * rows_b).flatten(0, 1).unflatten(-1, a.shape[1:])


def _check(code: Sequence[Tensor], *levels: int) -> None:
    for level in levels:
        if not 0 <= level < len(code):
            raise ValueError(f"level {level} does not exist: levels are 0 to {len(code) - 1}")
