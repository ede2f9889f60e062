"""Train from Python what the command line trains: the same settings, checks and run directories."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.types import RunMode
from omegaconf import DictConfig

from ladder_vae.data.arrays import gray_bytes
from ladder_vae.runs.checkpoints import load_run
from ladder_vae.runs.run import Run
from ladder_vae.settings.command_line import explain
from ladder_vae.settings.composition import compose_run, without_hydra
from ladder_vae.settings.paths import CLAIMED
from ladder_vae.settings.schema import Config
from ladder_vae.system.errors import UserError
from ladder_vae.system.files import replacing
from ladder_vae.system.locks import TRAINING, locked
from ladder_vae.training.build import build
from ladder_vae.training.fit import fit
from ladder_vae.training.job import how_to_go_on, prepare
from ladder_vae.training.preflight import check_run
from ladder_vae.training.settle import settle

ARRAYS = Path("runs/arrays")
ONE_IN = 10  # images is a test image where no others are given


def train_model(
    model: str | None = None, *, data: Any = None, run_dir: str | Path | None = None, **settings: Any
) -> Run:
    """Train and test one model as ``ladder-vae train`` does, and open the run.

    A keyword is a setting of the model, unless ``ladder-vae train --help`` lists it without a dot, as
    ``seed`` or ``trainer``. A group of settings is chosen by a name, as in ``optimizer="adamw"``, or takes a
    dictionary, as in ``trainer={"max_epochs": 5}``; ``**{"optimizer.lr": 1e-3}`` sets a value beside a name.

    With several devices it starts processes, which import the script that calls it: the call must then stand
    below ``if __name__ == "__main__":``.

    Args:
        model: Name of the model, as ``model=`` takes it; None is that of ``experiment``, else the ladder.
        data: Name of a data set, as ``data=`` takes it; None is that of ``experiment``, else MNIST; a
            dictionary of its settings; or images, as an array ``(N, H, W)``, ``(N, 1, H, W)``,
            ``(N, H * W)`` of square ones, or in color ``(N, H, W, 3)`` or ``(N, 3, H, W)``. Of an array,
            every tenth image is held out to test on. A dictionary with ``x_train``, and if wanted ``x_test``,
            ``x_val`` and ``y_...`` of each, chooses them; its other entries are settings of the data. Arrays
            are written to ``runs/arrays``, where the run finds them.
        run_dir: Directory of the run; None makes one below ``runs/train``.

    Returns:
        The run with its best weights, or the last ones where no images were held out for validation.

    Raises:
        UserError: If a setting is unknown or wrong, or the images cannot be used.
        ValueError: If the images are no gray values.

    Example::

        run = train_model("ladder", num_layers=3, data=images, trainer={"max_epochs": 5})
        print(run.metrics["test/elbo"])
    """
    prepare()
    CLAIMED.clear()  # of an earlier run
    given: dict[str, Any] = {**_data_settings(data), **settings}
    if model is not None:
        given["model"] = model
    if run_dir is not None:
        given["run_dir"] = Path(run_dir).expanduser()
    config = _composed(list(_overrides(given)))
    check_run(config)
    cfg, path = without_hydra(config), Path(CLAIMED.get(config.run_dir, config.run_dir))
    with locked(path, TRAINING):
        try:
            fit(build(settle(cfg), path), path)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(how_to_go_on(path)) from None
    return load_run(path, trust=True)  # whoever calls has named what it is made of


def _composed(overrides: list[str]) -> DictConfig:
    """The configuration. Raises UserError if there is no such one, or it is of several runs."""
    try:
        config = compose_run(overrides)
    except UserError:
        raise
    except Exception as error:  # of Hydra's
        said, listed, _ = explain(error).partition("--cfg job")  # of the command line
        raise UserError(said + "ladder-vae train --help lists all settings" * bool(listed)) from None
    if config.hydra.mode == RunMode.MULTIRUN:
        raise UserError("this experiment trains several runs; ladder-vae sweep does that")
    return config


def _overrides(given: Mapping[str, Any]) -> Iterator[str]:
    """Settings as Hydra's command line has them: groups first, because they hold what follows."""
    groups = {path.name for path in resources.files("ladder_vae.conf").iterdir() if path.is_dir()}
    known = {field.name for field in fields(Config)} | groups
    chosen = {key: value for key, value in given.items() if key in groups and isinstance(value, str)}
    yield from (f"{key}={value}" for key, value in chosen.items())
    for key, value in given.items():
        if key not in chosen:
            yield from _flat(key if key.split(".")[0] in known else f"model.{key}", value)


def _flat(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}", inner)
    else:
        yield f"{key}={_written(value)}"


def _written(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, (str, Path)):
        return QuotedString(str(value), Quote.single).with_quotes()
    return str(value)


def _data_settings(data: Any) -> dict[str, Any]:
    """The data as settings; arrays are written to disk."""
    if data is None:
        return {}
    if isinstance(data, (str, Path)):
        return {"data": str(data)}
    if isinstance(data, Mapping):
        arrays = {key: value for key, value in data.items() if str(key).startswith(("x_", "y_"))}
        if not arrays:
            return {"data": data}
        others = {f"data.{key}": value for key, value in data.items() if key not in arrays}
    else:
        arrays, others = {"x_train": data}, {}
    return {"data": "npz", "data.path": _saved(arrays).absolute(), **others}


def _saved(arrays: Mapping[str, Any]) -> Path:
    """Write images and labels to a file that is named by its content, and return its path."""
    ready = {
        key: _image_bytes(value) if key[0] == "x" else np.asarray(value) for key, value in arrays.items()
    }
    if "x_train" not in ready:
        raise UserError(f"data has {', '.join(ready)}, but no x_train; add the training images")
    if "x_test" not in ready:
        for kind in "xy" if "y_train" in ready else "x":
            both = ready[f"{kind}_train"]
            step = min(ONE_IN, len(both))
            tests = np.arange(len(both)) % step == step - 1
            ready[f"{kind}_train"], ready[f"{kind}_test"] = both[~tests], both[tests]
    digest = hashlib.sha256()
    for key in sorted(ready):
        digest.update(f"{key} {ready[key].dtype.str} {ready[key].shape} ".encode())
        digest.update(np.ascontiguousarray(ready[key]).tobytes())
    path = ARRAYS / f"{digest.hexdigest()[:16]}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            np.savez(part, **ready)  # type: ignore[arg-type]
    return path


def _image_bytes(images: Any) -> np.ndarray:
    """Images as bytes; rows of pixels of square images as images ``(N, H, W)``."""
    array = gray_bytes(images).numpy()
    side = math.isqrt(array.shape[-1])
    return array.reshape(-1, side, side) if array.ndim == 2 and side**2 == array.shape[1] else array
