"""Weights of a run: how they are read, and how its model is built anew."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

import ladder_vae.maths
import ladder_vae.models
from ladder_vae.data.sources import FINGERPRINT
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.runs.checksums import refuse_changed
from ladder_vae.runs.construction import construct
from ladder_vae.runs.record import METRICS, WEIGHTS, checkpoint_path, read_config
from ladder_vae.runs.releases import run_directory
from ladder_vae.runs.run import Run
from ladder_vae.system.errors import UserError, one_line
from ladder_vae.system.files import check_zip, read_bytes
from ladder_vae.system.memory import total_memory

RELEASED_FACTS = ("global_step", FINGERPRINT)  # what it keeps of a checkpoint beside the weights


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, tensors and plain values only; under ``sha256`` the digest of its file.

    Raises:
        UserError: If it is missing, damaged, or carries anything that is not a plain value.
    """
    try:
        # at once: training may put another in its place
        content = read_bytes(path, total_memory("cpu"))
        if path.suffix == ".safetensors":
            refuse_changed(path, content)
            checkpoint = _released_checkpoint(path)
        else:
            check_zip(content, len(content))
            checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        if (path.parents[1] / WEIGHTS).exists():
            raise UserError(f"{path.parents[1]} is a release, which has its best weights only") from None
        finished = (path.parents[1] / METRICS).exists()
        why = (
            f"restore it from a copy{_or_other(path)}"
            if finished
            else "the run has not finished its first epoch"
        )
        raise UserError(f"{path} does not exist; {why}") from None
    except pickle.UnpicklingError:
        raise UserError(f"{path} carries code or is damaged; it was not loaded") from None
    except UserError:
        raise
    except Exception as error:  # zip, pickle, PyTorch and safetensors have many names for damage
        raise UserError(
            f"{path} is damaged ({one_line(error)[:200]}); restore it from a copy{_or_other(path)}"
        ) from None
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of a run: it has no state_dict")
    if not str(checkpoint.get("global_step", 0)).isdecimal():
        raise UserError(f"{path} is not a checkpoint of a run: its global_step is no number")
    return checkpoint | {"sha256": hashlib.sha256(content).hexdigest()}


def _or_other(path: Path) -> str:
    """Another remedy for a checkpoint that is damaged or gone, if the run has its other one."""
    other = path.with_name("last.ckpt" if path.name == "best.ckpt" else "best.ckpt")
    apart = other.exists() and not (path.exists() and other.samefile(path))  # else it is damaged, too
    return ", or take the other one (checkpoint=last or best)" if apart else ""


def _released_checkpoint(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dictionary
        facts = file.metadata() or {}
    # Half precision is for the file alone.
    state = {f"model.{n}": w.float() if w.is_floating_point() else w for n, w in weights.items()}
    return {"state_dict": state, **facts}


def load_run(path: str | Path, checkpoint: str = "best", *, trust: bool = False) -> Run:
    """Rebuild a run's model from its directory alone. Its weights take no gradients.

    Args:
        path: The run directory; or the name of a model that comes with the package
            (:func:`~ladder_vae.runs.releases.released`).
        checkpoint: ``best`` or ``last``.
        trust: Whether to import and call what the run's configuration names, as of a plug-in of your own.
            Else only what this package exports is built: opening a run that somebody sent is safe.

    Raises:
        UserError: If the directory, its config or its checkpoint cannot be used.

    Example::

        run = load_run("runs/train/2026-11-22_10-00-00")
        images = run.sample(16)
    """
    path = run_directory(path)
    config = read_config(path)
    likelihood = construct(path, config, "likelihood", ladder_vae.maths, trust)
    saved = read_checkpoint(checkpoint_path(path, checkpoint))
    plain = {key: value for key, value in saved.items() if isinstance(value, (str, int, float))}
    for device in ("meta", "cpu"):  # first where nothing is stored: a stranger's sizes may be of any size
        with torch.device(device):
            model = construct(path, config, "model", ladder_vae.models, trust, likelihood=likelihood)
        if not isinstance(model, Hierarchy):
            target = config["model"].get("_target_")
            raise UserError(f"{path}: model._target_={target} does not make a Hierarchy")
        try:
            state = saved["state_dict"]
            weights = {key.removeprefix("model."): v for key, v in state.items() if key.startswith("model.")}
            if any(v.nbytes > v.untyped_storage().nbytes() for v in weights.values()):
                raise RuntimeError("some have fewer values than entries")
            model.load_state_dict(weights, assign=device == "meta")
        except (TypeError, RuntimeError, AttributeError) as error:
            raise UserError(
                f"{path}: the weights do not fit the {type(model).__name__} of its config.yaml "
                f"({one_line(error)[:200]})"
            ) from None
    return Run(model.eval().requires_grad_(False), config, path, plain, trust)
