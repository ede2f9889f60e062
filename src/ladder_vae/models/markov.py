"""The Markov generative model p(z_L) prod p(z_l | z_{l+1}) p(x | z_1), which several models share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from ladder_vae.models.hierarchy import ImageShape
from ladder_vae.models.layers import MLP, ImageDecoder, SoftplusHead
from ladder_vae.models.rung import Rung


def mirrored_generator(
    params: ImageShape,
    latents: Sequence[int],
    hidden: Sequence[int],
    rung: type[Rung],
    *,
    batch_norm: bool,
) -> tuple[list[Rung], ImageDecoder]:
    """Rungs and decoder whose MLPs are as wide as the MLPs of inference on the same level.

    p(z_l | z_{l+1}) is an MLP of ``hidden[l + 1]`` units with a softplus head; the top prior is N(0, I).
    The decoder is an MLP of ``hidden[0]`` units from z_1 to parameters of p(x | z) of shape ``params``.
    """
    priors = [
        nn.Sequential(MLP(above, width, batch_norm=batch_norm), SoftplusHead(width, below))
        for (below, above), width in zip(pairwise(latents), hidden[1:], strict=True)
    ]
    rungs = [rung((size,), net) for size, net in zip(latents, [*priors, None], strict=True)]
    return rungs, ImageDecoder(MLP(latents[0], hidden[0], batch_norm=batch_norm), hidden[0], params)


def recognition(
    inputs: Sequence[int], hidden: Sequence[int], latents: Sequence[int], *, batch_norm: bool
) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Nets of inference: on each level an MLP of ``inputs[l]`` to ``hidden[l]`` units and a softplus head."""
    mlps = [MLP(size, width, batch_norm=batch_norm) for size, width in zip(inputs, hidden, strict=True)]
    heads = [SoftplusHead(width, size) for width, size in zip(hidden, latents, strict=True)]
    return nn.ModuleList(mlps), nn.ModuleList(heads)
