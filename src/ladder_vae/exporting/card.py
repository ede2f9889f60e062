"""The card of a bundle, ``README.md``, in the form that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Collection
from importlib import resources
from typing import Any

import jinja2
import yaml

from ladder_vae.runs.metrics import OF_RUNS
from ladder_vae.runs.record import class_name
from ladder_vae.runs.run import Run
from ladder_vae.system.errors import printable

TASK = "unconditional-image-generation"  # as the hub names it
TAGS = ("variational-autoencoder", "hierarchical-vae", "latent-variables", "onnx", "safetensors")


def text(run: Run, files: Collection[str], license: str, difference: float) -> str:
    """The card.

    Args:
        run: The run.
        files: Names of what else the bundle holds.
        license: Of the weights, as the hub names it.
        difference: How far the graphs are from the model.
    """
    kind, data = type(run.model).__name__, class_name(str(run.config["data"].get("_target_", "its own data")))
    known = [(metric, run.metrics[metric.name]) for metric in OF_RUNS if metric.name in run.metrics]
    tested = {m.name.removeprefix("test/"): v for m, v in known if m.name.startswith("test/")}
    front: dict[str, Any] = {
        "library_name": "onnx",
        "license": license,
        "pipeline_tag": TASK,
        "tags": list(TAGS),
        "metrics": list(tested),
    }
    if tested:
        front["model-index"] = [
            {
                "name": f"{kind}, {run.model.num_layers} levels",
                "results": [
                    {
                        "task": {"type": TASK},
                        "dataset": {"name": data, "type": data.lower(), "split": "test"},
                        "metrics": [{"type": name, "value": value} for name, value in tested.items()],
                    }
                ],
            }
        ]
    template = (resources.files(__package__) / "card.md").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)  # no HTML
    card = environment.from_string(template).render(
        front_matter=yaml.safe_dump(front, sort_keys=False),
        kind=kind,
        data=data,
        image=run.config["model"]["input_shape"],
        shapes=run.model.event_shapes,
        parameters=sum(value.numel() for value in run.model.parameters()),
        binary=run.model.likelihood.random,
        difference=difference,
        files=files,
        table=[(metric.heading, metric.text(value)) for metric, value in known],
    )
    return printable(card, "\n")
