"""Whether a training fits into the memory of its devices."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.system.devices import choose_device_type
from ladder_vae.system.errors import UserError
from ladder_vae.system.memory import total_memory
from ladder_vae.training.lightning_module import TESTED
from ladder_vae.training.settle import Settled, construct
from ladder_vae.training.step import training_memory


def check_memory(settled: Settled) -> None:
    """Raises UserError if the objective is not one of the model, or a batch fits no memory of the devices.

    That is a batch of training, validation or test images, beside all training images where a GPU holds them.
    """
    config, data, objective = settled.config, settled.data, settled.objective
    with torch.device("meta"):  # nothing is stored there
        model = construct("model", config["model"], Hierarchy, likelihood=data.likelihood)
    if problem := objective.misfit(model):
        raise UserError(problem)
    width = 2 if config["trainer"]["precision"] == "bf16-mixed" else 4
    devices = config["trainer"]["devices"]
    device = choose_device_type(config["trainer"]["accelerator"])
    there = total_memory(device) // (devices if device == "cpu" else 1)
    training_images = data.split("train")  # a byte a value
    held = training_images.numel() if device == "cuda" and not data.source.mapped else 0

    def training(images: int) -> int:
        return held + training_memory(model, objective, (images, *data.image_shape), width)

    def evaluation(images: int) -> int:
        draws = max(objective.importance_samples, min(TESTED.draws, max(1, TESTED.chunk_size // images)))
        return held + evaluation_memory(model, (images, *data.image_shape), draws)

    images = max(2, math.ceil(data.batch_size / devices))  # of one; batch norm takes no single image
    evaluated = min(data.eval_batch_size, max(len(data.split(name)) for name in ("val", "test")))
    evaluated = max(1, math.ceil(evaluated / devices))
    try:
        needed = training(images)
        if needed > there:
            of_an_image = training(3) - training(2)
            fitting = images - math.ceil((needed - there) / max(of_an_image, 1))
            raise _too_much("train", "data.batch_size", needed, there, devices * fitting)
        needed = evaluation(evaluated)
        if needed > there:
            fitting = devices * _that_fits(evaluated, lambda images: evaluation(images) <= there)
            raise _too_much("be validated and tested", "data.eval_batch_size", needed, there, fitting)
    except (NotImplementedError, RuntimeError):  # nothing can be said of a step that reads its own values
        return


def _that_fits(images: int, fits: Callable[[int], bool]) -> int:
    """A number of images that fits, half as many as one that does not, or fewer; 0 if none does."""
    while images and not fits(images):
        images //= 2
    return images


def _too_much(what: str, key: str, needed: int, there: int, fitting: int) -> UserError:
    smaller = f"set {key}={fitting} or less, or " if fitting > 1 else ""
    return UserError(
        f"this model needs {needed / 2**30:,.1f} GiB to {what} and there are {there / 2**30:,.1f}; "
        f"{smaller}lower model.num_layers or its sizes"
    )


def evaluation_memory(model: Hierarchy, batch: tuple[int, ...], draws: int) -> int:
    """Estimate the memory of a pass without gradients between two steps of a training, in bytes, from below.

    It holds weights, two moments and the average of the weights, and the tensors that are there at the same
    time. Working memory of single operations is not counted.

    Args:
        model: On the ``meta`` device, where nothing is computed or stored.
        batch: Shape of a batch of images, ``(B, C, H, W)``.
        draws: Draws of each image.
    """
    training = model.training
    model.eval()
    with torch.inference_mode(), _Live() as live:
        x = torch.empty(batch, device="meta")
        model.terms(x, model.terms_noise(draws, len(x), like=x))
    model.train(training)
    return 4 * sum(p.untyped_storage().nbytes() for p in model.parameters()) + live.peak


class _Live(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make and that still exist, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref] = {}  # by storage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        self.peak = max(self.peak, self.now)
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def gone(_: Any) -> None:
            del self._known[key]
            self.now -= size

        if key not in self._known:
            self._known[key] = weakref.ref(storage, gone)
            self.now += size
