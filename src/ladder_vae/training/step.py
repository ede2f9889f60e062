"""The training step: from images and noise to the loss, and the memory that this takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ladder_vae.models.evaluator import unit_counts
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.training.objective import Objective


class StepValues(NamedTuple):
    """The values of one training step, nats per image.

    Args:
        loss: What is minimized, ``()``; the only part with a gradient.
        distortion: Mean over draws and images, ``()``.
        rates: Mean rate of each level over draws and images, z_1 first, ``(L,)``.
    """

    loss: Tensor
    distortion: Tensor
    rates: Tensor


def batch_values(model: Hierarchy, objective: Objective) -> Callable[..., StepValues]:
    """Make the training step as a function that can be compiled.

    It maps images ``(B, C, H, W)``, beta ``()`` and what ``model.terms_noise`` draws to
    :class:`StepValues`. The model is on the device where it is trained.
    """
    monte_carlo = objective.monte_carlo_rates or objective.importance_samples > 1
    weight = next(model.parameters())
    units = torch.tensor(unit_counts(model), dtype=weight.dtype, device=weight.device)

    def values(x: Tensor, beta: Tensor, *noise: Tensor) -> StepValues:
        terms = model.terms(x, noise, monte_carlo=monte_carlo)
        means = terms.mean()
        return StepValues(objective.loss(terms, beta, units), means.distortion.detach(), means.rates.detach())

    return values


def clip(model: Hierarchy, largest_norm: float | None) -> Tensor:
    """Scale the gradients down to a norm of at most ``largest_norm``; return their norm before, ``()``.

    None or 0 leaves them as they are.
    """
    return torch.nn.utils.clip_grad_norm_(model.parameters(), largest_norm or math.inf)


def training_memory(model: Hierarchy, objective: Objective, batch: tuple[int, ...], width: int = 4) -> int:
    """Estimate the memory of a training step, in bytes.

    It holds weights, gradients, two moments and the average of the weights, and what backward needs.

    Args:
        model: On the ``meta`` device, where nothing is computed or stored.
        batch: Shape of a batch of images, ``(B, C, H, W)``.
        width: Bytes of an activation: 4 in float32, 2 in bfloat16.
    """
    storages: dict[int, Any] = {}  # kept alive meanwhile, so that no other gets its key

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        storages[storage._cdata] = storage
        return value

    x = torch.empty(batch, device="meta")
    noise = model.terms_noise(objective.importance_samples, len(x), like=x)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        batch_values(model, objective)(x, x.new_full((), 1.0), *noise)
    weights = {p.untyped_storage()._cdata: p.untyped_storage().nbytes() for p in model.parameters()}
    saved = sum(storage.nbytes() for key, storage in storages.items() if key not in weights)
    return 5 * sum(weights.values()) + saved * width // 4
