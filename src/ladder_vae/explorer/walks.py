"""What a page computes of a model: two functions without random numbers, of a model in half precision."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ladder_vae.explorer.program import Constants
from ladder_vae.explorer.translation import translate
from ladder_vae.maths.likelihoods import Likelihood
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.innovations import innovations


def in_half_precision(model: Hierarchy) -> Hierarchy:
    """A copy of a model on the CPU, whose weights are rounded to half precision and kept in float32.

    A weight that half precision cannot hold stays as it is.
    """
    rounded = copy.deepcopy(model).cpu().float()
    state = rounded.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            half = value.half().float()
            state[name] = torch.where(half.isfinite(), half, value)
    rounded.load_state_dict(state)
    return rounded.eval()


def generator(model: Hierarchy) -> Callable[..., tuple[Tensor, ...]]:
    """Innovations of each level, ``(1, *event)``, z_1 first, to the mean of p(x | z), ``(1, C, H, W)``."""
    return lambda *code: (model.generate(1, noise=dict(enumerate(code))).mean,)


def inference(model: Hierarchy) -> Callable[..., tuple[Tensor, ...]]:
    """A picture and noise to the rates of all levels and the code.

    The picture has intensities in [0, 1], ``(1, C, H, W)`` (see :func:`observed`). Noise is standard normal,
    ``(1, 1, *event)`` for each level. The rates, ``(L,)``, are in nats; the code is the innovations of each
    level, ``(1, *event)``.
    """

    def infer(picture: Tensor, *noise: Tensor) -> tuple[Tensor, ...]:
        found = model.infer(observed(model.likelihood, picture), noise=noise)
        return (found.rates()[:, 0, 0], *innovations(found))

    return infer


def observed(likelihood: Likelihood, pictures: Tensor) -> Tensor:
    """Pictures as a model sees them without a draw, ``(B, C, H, W)``.

    Args:
        likelihood: That of the model. Of pixels that are drawn from gray levels each is taken as whichever
            value is likelier.
        pictures: Intensities in [0, 1], ``(B, C, H, W)``.
    """
    gray = pictures.gt(0.5).float() * 255 if likelihood.random else pictures * 255
    return likelihood.prepare(gray)


def programs(model: Hierarchy, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Both functions as programs, and the constants that they share, as JSON holds them.

    Args:
        model: As :func:`in_half_precision` gives it.
        image_shape: C, H and W.

    Raises:
        Untranslatable: If the model uses an operation that a page cannot compute.
    """
    constants = Constants()
    code = [torch.zeros(1, *event) for event in model.event_shapes]
    noise = [torch.zeros(1, 1, *event) for event in model.event_shapes]
    picture = torch.zeros(1, *image_shape)
    written = {
        "generate": translate(generator(model), code, constants).written(),
        "infer": translate(inference(model), [picture, *noise], constants).written(),
    }
    return {
        **written,
        "constants": constants.table,
        "weights": base64.b64encode(constants.content).decode(),
    }
