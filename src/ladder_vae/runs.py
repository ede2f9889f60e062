"""The record that a run leaves on disk, and how to read it back.

config.yaml                every setting, interpolations resolved; all that ``load_run`` needs
checkpoints/last.ckpt      and best.ckpt: averaged weights under ``state_dict``
status.json                running, finished, interrupted or failed, and why
metrics.json               the final numbers by name; written when the run has finished, refined by evaluation
evaluation/                what ``ladder_vae.evaluate`` found, image by image
analysis.html              and analysis.md: what each level encodes, by ``ladder_vae.analyze``
images.npz                 test images, their reconstructions, prior samples
figures/                   the same as pictures; those of an analysis in levels/
events.out.tfevents.*      TensorBoard; projector_config.pbtxt and <step>/ are of its projector
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError, safe_open

import ladder_vae.models
from ladder_vae.errors import UserError, one_line
from ladder_vae.hierarchy import Hierarchy
from ladder_vae.images import FINGERPRINT, to_bytes

CONFIG, STATUS, METRICS, IMAGES = "config.yaml", "status.json", "metrics.json", "images.npz"
PLAN = "jobs.json"  # of a sweep, beside its runs
LEVELS = "levels"  # what the analysis of levels enters into METRICS is named <split>/levels/...
MODELS_PREFIX = "ladder_vae.models."
RELEASES = Path(__file__).parent / "assets" / "models"  # run directories, opened by name; see release.py
WEIGHTS = "weights.safetensors"  # of a release, in place of checkpoints/best.ckpt
RELEASED_FACTS = ("global_step", FINGERPRINT)  # what it keeps of a checkpoint beside the weights


@dataclass(frozen=True)
class Record:
    """What a run left behind, read without building anything.

    Args:
        path: The run directory.
        config: Its ``config.yaml``.
        status: ``finished``, ``running``, ``interrupted`` or ``failed``.
        message: Why it failed, else empty.
        metrics: Its ``metrics.json``; empty unless finished.
    """

    path: Path
    config: dict[str, Any]
    status: str
    message: str
    metrics: dict[str, float]

    @property
    def finished(self) -> bool:
        """Whether the metrics are final."""
        return self.status == "finished"

    @property
    def model_name(self) -> str:
        """Name of the model's class."""
        return class_name(self.config["model"].get("_target_", "?"))


@dataclass(frozen=True)
class Run:
    """A trained model: in eval mode, on the CPU, with the averaged weights where the run kept them.

    Args:
        model: The model.
        config: The run's ``config.yaml``.
        path: The run directory.
        checkpoint: Plain values beside the weights: ``global_step``, ``sha256`` of the file, ...
    """

    model: Hierarchy
    config: dict[str, Any]
    path: Path
    checkpoint: dict[str, Any]


def is_run(path: Path) -> bool:
    """Whether ``path`` is a run directory."""
    return (path / CONFIG).is_file() and (path / STATUS).is_file()


def checkpoint_path(path: str | Path, checkpoint: str) -> Path:
    """Where a run keeps its ``best`` and ``last`` checkpoint."""
    if checkpoint == "best" and (Path(path) / WEIGHTS).is_file():
        return Path(path) / WEIGHTS
    return Path(path) / "checkpoints" / f"{checkpoint}.ckpt"


def last_checkpoint(path: str | Path) -> Path:
    """Where a run keeps the checkpoint that it resumes from."""
    return checkpoint_path(path, "last")


def write_plan(path: Path, jobs: Sequence[str]) -> None:
    """Write what a sweep is going to run: the overrides of each job, in order."""
    write_text(path / PLAN, json.dumps(list(jobs), indent=2) + "\n")


def not_started(path: Path) -> list[str]:
    """Overrides of those jobs of the sweep ``path`` that left no run; none where there is no plan."""
    try:
        jobs = json.loads((path / PLAN).read_text())
    except (OSError, ValueError):
        return []
    started = {run.name.partition("_")[0] for run in path.iterdir() if is_run(run)}
    return [job for number, job in enumerate(jobs) if str(number) not in started]


def write_config(path: Path, config: dict[str, Any]) -> None:
    """Write ``config.yaml``: plain values only."""
    write_text(path / CONFIG, yaml.safe_dump(config, sort_keys=False))


def write_status(path: Path, status: str, message: str = "") -> None:
    """Write ``status.json``."""
    write_text(path / STATUS, json.dumps({"status": status, "message": message}) + "\n")


def write_metrics(path: Path, metrics: dict[str, float]) -> None:
    """Write ``metrics.json``."""
    write_text(path / METRICS, json.dumps(metrics, indent=2) + "\n")


def write_images(path: Path, **images: torch.Tensor) -> None:
    """Write ``images.npz``: intensities in [0, 1], ``(n, C, H, W)``, as bytes ``(n, H, W)``."""
    arrays: dict[str, Any] = {name: to_bytes(x) for name, x in images.items()}
    np.savez_compressed(path / IMAGES, **arrays)


def read_images(path: Path) -> dict[str, np.ndarray]:
    """Arrays of ``images.npz``, uint8 ``(n, H, W)``; empty if there are none."""
    try:
        with np.load(path / IMAGES, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return {}


def read_config(path: Path) -> dict[str, Any]:
    """``config.yaml`` of a run.

    Raises:
        UserError: If ``path`` is not a run directory, or the file cannot be read.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a directory; name a run directory, one that holds {CONFIG}")
    if not is_run(path):
        raise UserError(
            f"{path} is not a run directory: it lacks {CONFIG} or {STATUS}; training prints the right one"
        )
    try:
        config = yaml.safe_load((path / CONFIG).read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path / CONFIG} cannot be read ({one_line(error)})") from None
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError(f"{path / CONFIG} is not the configuration of a run: it has no model")
    return config


def read_record(path: Path) -> Record:
    """The record of a run; one that cannot be read counts as failed."""
    config: dict[str, Any] = {"model": {}}
    try:
        config = read_config(path)
        status = json.loads((path / STATUS).read_text())
        metrics = json.loads((path / METRICS).read_text()) if status["status"] == "finished" else {}
        return Record(path, config, status["status"], status["message"], dict(metrics))
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        return Record(path, config, "failed", f"unreadable record: {one_line(error)}", {})


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, tensors and plain values only; under ``sha256`` the digest of its file.

    Raises:
        UserError: If it is missing, damaged, or carries anything that is not a plain value.
    """
    try:
        content = path.read_bytes()  # at once: training may put another in its place
        if path.suffix == ".safetensors":
            checkpoint = _released_checkpoint(path)
        else:
            checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        if (path.parents[1] / WEIGHTS).exists():
            raise UserError(f"{path.parents[1]} is a release, which has its best weights only") from None
        raise UserError(f"{path} does not exist; the run has not finished its first epoch") from None
    except pickle.UnpicklingError:
        raise UserError(f"{path} carries code or is damaged; it was not loaded") from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{path} is damaged ({one_line(error)[:200]})") from None
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of a run: it has no state_dict")
    return checkpoint | {"sha256": hashlib.sha256(content).hexdigest()}


def _released_checkpoint(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dictionary
        facts = file.metadata() or {}
    # Half precision is for the file alone.
    state = {f"model.{n}": w.float() if w.is_floating_point() else w for n, w in weights.items()}
    return {"state_dict": state, **facts}


def released() -> list[str]:
    """Names of the trained models that come with the package."""
    return sorted(path.name for path in RELEASES.glob("*") if is_run(path))


def is_release(path: str | Path) -> bool:
    """Whether ``path`` is the name of one of them, and of no directory here."""
    return str(path) in released() and not Path(path).exists()


def load_run(path: str | Path, checkpoint: str = "best") -> Run:
    """Rebuild a run's model from its directory alone.

    Only classes of ``ladder_vae.models`` are built, so that opening a run that somebody sent is safe.

    Args:
        path: The run directory; or the name of a model that comes with the package (:func:`released`).
        checkpoint: ``best`` or ``last``.

    Raises:
        UserError: If the directory, its config or its checkpoint cannot be used.

    Example::

        run = load_run("runs/train/2026-11-22_10-00-00")
        images = run.model.generate(16).params.sigmoid()
    """
    path = RELEASES / path if is_release(path) else Path(path)
    config = read_config(path)
    settings = dict(config["model"])
    target = str(settings.pop("_target_", ""))
    name = target.removeprefix(MODELS_PREFIX)
    if not target.startswith(MODELS_PREFIX) or name not in ladder_vae.models.__all__:
        raise UserError(
            f"{path / CONFIG} names model._target_={target!r}; only models of ladder_vae are built: "
            + ", ".join(ladder_vae.models.__all__)
        )
    saved = read_checkpoint(checkpoint_path(path, checkpoint))
    plain = {key: value for key, value in saved.items() if isinstance(value, (str, int, float))}
    try:
        state = saved["state_dict"]
        weights = {key.removeprefix("model."): v for key, v in state.items() if key.startswith("model.")}
        model = getattr(ladder_vae.models, name)(**settings)
        model.load_state_dict(weights)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(
            f"{path}: the weights or the config do not make a {name} ({one_line(error)[:200]})"
        ) from None
    return Run(model.eval(), config, path, plain)


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``a.b.c`` -> number, word or boolean; lists become words, None is left out."""
    items: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            items |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, (bool, int, float, str)):
            items[f"{prefix}{key}"] = value
        elif value is not None:
            items[f"{prefix}{key}"] = str(value)
    return items


def class_name(target: str) -> str:
    """``LadderVAE`` of ``ladder_vae.models.LadderVAE``."""
    return target.rpartition(".")[2]


def level_keys(metric: str) -> list[str | int]:
    """Sort key that puts ``rate/z2`` before ``rate/z10``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", metric)]


def write_text(path: Path, text: str) -> None:
    """Write a file at once, in UTF-8."""
    part = path.with_name(path.name + ".part")  # an interruption leaves the old file whole
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
