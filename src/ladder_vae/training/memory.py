"""Whether a training fits into the memory of its devices."""

from __future__ import annotations

import math

import torch

from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.system.devices import choose_device_type
from ladder_vae.system.errors import UserError
from ladder_vae.system.memory import total_memory
from ladder_vae.training.settle import Settled, construct
from ladder_vae.training.step import training_memory


def check_memory(settled: Settled) -> None:
    """Raises UserError if the objective is not one of the model, or a step fits no memory of the devices."""
    config, data = settled.config, settled.data
    with torch.device("meta"):  # nothing is stored there
        model = construct("model", config["model"], Hierarchy, likelihood=data.likelihood)
    if problem := settled.objective.misfit(model):
        raise UserError(problem)
    width = 2 if config["trainer"]["precision"] == "bf16-mixed" else 4

    def memory(images: int) -> int:
        return training_memory(model, settled.objective, (images, *data.image_shape), width)

    devices = config["trainer"]["devices"]
    images = max(2, math.ceil(data.batch_size / devices))  # of one; batch norm takes no single image
    try:
        needed = memory(images)
    except (NotImplementedError, RuntimeError):  # nothing can be said of a step that reads its own values
        return
    device = choose_device_type(config["trainer"]["accelerator"])
    there = total_memory(device) // (devices if device == "cpu" else 1)
    if needed > there:
        of_an_image = memory(3) - memory(2)
        fitting = devices * (images - math.ceil((needed - there) / max(of_an_image, 1)))
        smaller = f"set data.batch_size={fitting} or less, or " if fitting > 1 else ""
        raise UserError(
            f"this model needs {needed / 2**30:,.1f} GiB to train and there are {there / 2**30:,.1f}; "
            f"{smaller}lower model.num_layers or its sizes"
        )
