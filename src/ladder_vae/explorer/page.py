"""Write the page of a run, one HTML file: the model as a program, test images, units that are awake."""

from __future__ import annotations

import base64
import math
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import torch
from torch import Tensor

from ladder_vae.data.data_sets import ImageData
from ladder_vae.explorer.steps import Untranslatable
from ladder_vae.explorer.walks import in_half_precision, programs
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.summary import ACTIVE_KL
from ladder_vae.runs.checkpoints import Run
from ladder_vae.runs.opened import Subject, check_learned
from ladder_vae.settings.paths import shown
from ladder_vae.system.errors import UserError, printable
from ladder_vae.system.files import write_text
from ladder_vae.system.naming import z_name
from ladder_vae.system.randomness import stream_seed

FILE = "explorer.html"
LARGEST = 25_000_000  # bytes of a page: what can still be sent by mail, and what a browser opens in seconds
SHOWN = 10  # test images
AVERAGED = 1_000  # test images that rates are averaged over
SCRIPTS = ("interpreter.js", "drawn_digit.js", "explorer.js", "view.js")


def write(subject: Subject, seed: int = 0) -> Path:
    """Write ``explorer.html`` into the run directory.

    Args:
        subject: The run and its data.
        seed: Seed of the draws that rates are averaged over.

    Returns:
        The file.

    Raises:
        UserError: If the model is too large for a page, or uses an operation that a page cannot compute.
        OSError: If the run directory cannot be written.
    """
    path = subject.run.path
    write_text(path / FILE, content(subject, seed))
    return path / FILE


def content(subject: Subject, seed: int = 0) -> str:
    """The page.

    Args:
        subject: The run and its data.
        seed: Seed of the draws that rates are averaged over.

    Raises:
        UserError: If the model is too large for a page, or uses an operation that a page cannot compute.
    """
    path, data = subject.run.path, subject.data
    check(subject.run)
    model = in_half_precision(subject.run.model)
    try:
        computed = programs(model, data.image_shape)
    except Untranslatable as error:
        raise UserError(f"{path} has no page to play with: {error}; {_served(path)}") from None
    page = _rendered(model, data, computed, seed)
    _check_size(path, len(page))
    return page


def check(run: Run) -> None:
    """Raises UserError if the model is too large for a page, or its levels encode nothing."""
    check_learned(run)
    _check_size(run.path, _size(run.model))


def fits(run: Run) -> bool:
    """Whether the weights of the model fit into a page."""
    return _size(run.model) <= LARGEST


def _size(model: Hierarchy) -> float:
    """Bytes of the weights of a model on a page: in half precision, in base64."""
    return sum(value.numel() for value in model.state_dict().values()) * 2 * 4 / 3


def _check_size(path: Path, size: float) -> None:
    if size > LARGEST:
        raise UserError(
            f"{path} is too large for a page to play with, which would have {size / 1e6:.0f} MB, more than "
            f"{LARGEST / 1e6:.0f}; {_served(path)}"
        )


def _served(path: Path) -> str:
    """What can be done with a run that has no page."""
    return f"ladder-vae explore run={shown(path)} serve=true plays with it by a server on this machine"


def _rendered(model: Hierarchy, data: ImageData, computed: dict[str, Any], seed: int) -> str:
    depth, kind = model.num_layers, type(model).__name__
    levels = f"{depth} levels" if depth > 1 else "one level"
    facts = {
        "image": list(data.image_shape),
        "levels": level_facts(model, data, seed),
        "pictures": [
            {
                "name": name,
                "bytes": base64.b64encode(picture.mul(255).round().byte().numpy().tobytes()).decode(),
            }
            for name, picture in gallery(model, data)
        ],
        "programs": {name: part for name, part in computed.items() if name != "weights"},
    }
    parameters = sum(value.numel() for value in model.parameters())
    files = resources.files(__package__)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string((files / "page.html").read_text(encoding="utf-8")).render(
        title=f"Play with the {levels} of a {kind}",
        depth=depth,
        noun=data.noun,
        drawable=data.image_shape[0] == 1,
        names=[z_name(level) for level in reversed(range(depth))],
        parameters=parameters,
        averaged=len(data.sample("test", AVERAGED)),
        style=(files / "explorer.css").read_text(encoding="utf-8"),
        scripts=[(files / name).read_text(encoding="utf-8") for name in SCRIPTS],
        facts=facts,
        weights=computed["weights"],
    )
    return printable(page, "\n")


@torch.inference_mode()
def level_facts(
    model: Hierarchy, data: ImageData, seed: int, averaged: int = AVERAGED
) -> list[dict[str, Any]]:
    """Of each level, z_1 first: name, shape, rate, and what there is to move, the highest rates first.

    What is moved is a unit, or, where latents are images, a channel at all its places.

    Args:
        model: The model, in eval mode, on any device.
        data: Its data, of whose test images rates are means.
        seed: Seed of the draws that rates are averaged over.
        averaged: Number of test images, evenly spaced.
    """
    rates = [torch.zeros(event, dtype=torch.float64) for event in model.event_shapes]
    source = torch.Generator().manual_seed(stream_seed(seed, "explorer"))
    index = data.sample("test", averaged)
    for x in data.observe("test", index).to(next(model.parameters()).device).split(100):
        noise = model.draw_noise(1, len(x), like=x, generator=source)
        for total, level in zip(rates, model.infer(x, noise=noise).levels, strict=True):
            total += level.unit_rate()[0].cpu().double().sum(0) / len(index)
    levels = []
    for number, level_rates in enumerate(rates):
        places = math.prod(level_rates.shape[1:])
        of_movers = level_rates.reshape(len(level_rates), -1).sum(1)
        awake = (of_movers.abs() > ACTIVE_KL).nonzero()[:, 0]  # far below zero, possible bottom-up, is awake
        order = awake[of_movers[awake].argsort(descending=True)].tolist()
        levels.append(
            {
                "name": z_name(number),
                "size": level_rates.numel(),
                "places": places,
                "rate": float(level_rates.sum()),
                "movers": [{"number": each, "rate": float(of_movers[each])} for each in order],
            }
        )
    return levels


def gallery(model: Hierarchy, data: ImageData) -> list[tuple[str, Tensor]]:
    """Test images as the model sees them: names, and intensities ``(C, H, W)`` in [0, 1]."""
    index, labels = data.gallery(SHOWN), data.labels("test")
    seen = model.likelihood.intensities(data.observe("test", index))
    names = [
        f"test image {each}" + ("" if labels is None else f", {data.noun} {int(labels[each])}")
        for each in index
    ]
    return list(zip(names, seen, strict=True))
