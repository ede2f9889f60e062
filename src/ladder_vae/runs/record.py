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

import json
import os
import platform
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ladder_vae.settings.command_line import explain
from ladder_vae.system.errors import UserError, one_line
from ladder_vae.system.files import write_text
from ladder_vae.system.locks import TRAINING, is_locked

CONFIG, STATUS, METRICS, IMAGES = "config.yaml", "status.json", "metrics.json", "images.npz"
MOST_THREADS = 1024
PLAN = "jobs.json"  # of a sweep, beside its runs
WEIGHTS = "weights.safetensors"  # of a release, in place of checkpoints/best.ckpt
# Runs of earlier versions name these places; whoever reads a config.yaml sees the names of today.
OLD_NAMES = {
    "ladder_vae.averaging.ExponentialMovingAverage": "ladder_vae.training.ExponentialMovingAverage",
    "ladder_vae.callbacks.EarlyStopping": "ladder_vae.training.EarlyStopping",
    "ladder_vae.callbacks.ProgressBar": "ladder_vae.training.ProgressBar",
    "ladder_vae.dashboards.Pictures": "ladder_vae.training.Pictures",
    "ladder_vae.schedules.constant": "ladder_vae.training.constant",
    "ladder_vae.schedules.warmup_cosine": "ladder_vae.training.warmup_cosine",
}


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


def is_run(path: Path) -> bool:
    """Whether ``path`` is a run directory."""
    return (path / CONFIG).is_file() and (path / STATUS).is_file()


def holds_results(path: Path) -> bool:
    """Whether a run directory holds anything that took time: weights or metrics."""
    kept = (path / WEIGHTS, path / METRICS, *(checkpoint_path(path, name) for name in ("best", "last")))
    return any(file.exists() for file in kept)


def checkpoint_path(path: str | Path, checkpoint: str) -> Path:
    """Where a run keeps its ``best`` and ``last`` checkpoint."""
    if checkpoint == "best" and (Path(path) / WEIGHTS).is_file():
        return Path(path) / WEIGHTS
    return Path(path) / "checkpoints" / f"{checkpoint}.ckpt"


def last_checkpoint(path: str | Path) -> Path:
    """Where a run keeps the checkpoint that it resumes from."""
    return checkpoint_path(path, "last")


def write_config(path: Path, config: dict[str, Any]) -> None:
    """Write ``config.yaml``: plain values only."""
    write_text(path / CONFIG, yaml.safe_dump(config, sort_keys=False))


def write_status(path: Path, status: str, message: str = "", **facts: Any) -> None:
    """Write ``status.json``; other facts than these stay as they are.

    Args:
        facts: Host, process and threads of the training.
    """
    known = _read_status(path) | facts | {"status": status, "message": message}
    write_text(path / STATUS, json.dumps(known) + "\n")


def _read_status(path: Path) -> dict[str, Any]:
    """What ``status.json`` holds; empty where it is missing or damaged."""
    try:
        found = json.loads((path / STATUS).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def threads_of(path: Path) -> int | None:
    """The number of threads that a run was trained with; None of runs that did not note it."""
    threads = _read_status(path).get("threads")
    return threads if isinstance(threads, int) and 0 < threads <= MOST_THREADS else None


@contextmanager
def recording(path: Path, threads: int) -> Iterator[None]:
    """``status.json`` while a run trains, and how it ended.

    Args:
        threads: Number of threads of the training, on which its last bits depend.
    """
    write_status(path, "running", host=platform.node(), process=os.getpid(), threads=threads)
    try:
        yield
    except KeyboardInterrupt:
        with suppress(OSError):  # a full disk must not hide what happened
            write_status(path, "interrupted")
        raise
    except Exception as error:
        with suppress(OSError):
            write_status(path, "failed", explain(error))
        raise
    write_status(path, "finished")


def write_metrics(path: Path, metrics: dict[str, float]) -> None:
    """Write ``metrics.json``."""
    write_text(path / METRICS, json.dumps(metrics, indent=2) + "\n")


def write_images(path: Path, **images: np.ndarray) -> None:
    """Write ``images.npz``: bytes ``(n, H, W)``."""
    np.savez_compressed(path / IMAGES, **images)  # type: ignore[arg-type]


def read_images(path: Path) -> dict[str, np.ndarray]:
    """Arrays of ``images.npz``, uint8 ``(n, H, W)``; empty if there are none."""
    try:
        with np.load(path / IMAGES, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return {}


def read_config(path: Path) -> dict[str, Any]:
    """``config.yaml`` of a run, names of earlier versions replaced (:data:`OLD_NAMES`).

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
    config.setdefault("likelihood", {"_target_": "ladder_vae.maths.Bernoulli"})  # there was no other
    objective = config.get("objective")
    if isinstance(objective, dict) and objective.get("importance_gradient") == "reparameterized":
        del objective["importance_gradient"]  # the only one now
    return _renamed(config)


def _renamed(value: Any) -> Any:
    """A configuration with today's names in place of old ones."""
    if isinstance(value, dict):
        return {key: _renamed(v) for key, v in value.items()}
    return OLD_NAMES.get(value, value) if isinstance(value, str) else value


def read_record(path: Path) -> Record:
    """The record of a run; one that cannot be read counts as failed."""
    config: dict[str, Any] = {"model": {}}
    try:
        config = read_config(path)
        state = json.loads((path / STATUS).read_text())
        status, message = state["status"], state["message"]
        if status == "running":
            status, message = _running(path, state.get("host"))
        metrics = json.loads((path / METRICS).read_text()) if status == "finished" else {}
        return Record(path, config, status, message, dict(metrics))
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        return Record(path, config, "failed", f"unreadable record: {one_line(error)}", {})


def _running(path: Path, host: Any) -> tuple[str, str]:
    """Status and message of a run that was running when it last said so."""
    if host not in (None, platform.node()):
        return "running", f"in use by {host}"  # whose processes are not to be seen from here
    if is_locked(path, TRAINING):
        return "running", ""
    return "interrupted", "its process ended without a word"


def in_use(path: Path) -> str:
    """Who trains the run at this moment; empty if nobody does."""
    state = _read_status(path)
    status, message = _running(path, state.get("host")) if state.get("status") == "running" else ("", "")
    if status == "running":
        return message or f"in use by process {state.get('process', 'unknown')}"
    return "in use by another process" if is_locked(path, TRAINING) else ""


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


def find_runs(directories: Sequence[Path]) -> list[Record]:
    """Records of all runs in or below the directories, each once, by path.

    Raises:
        UserError: If a directory does not exist or holds no run.
    """
    found: dict[Path, Record] = {}
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"{directory} is not a directory; name run directories, or a folder of them")
        paths = sorted(config.parent for config in directory.rglob(CONFIG) if is_run(config.parent))
        if not paths and not any(directory.rglob(PLAN)):  # of a sweep that was killed before its first run
            raise UserError(f"{directory} holds no run (no {CONFIG} beside a status.json)")
        found |= {path.resolve(): read_record(path) for path in paths}
    return list(found.values())


def newest(directory: str | Path, num_layers: int) -> str:
    """Path of the finished run of so many levels that was finished last; empty if there is none."""
    root = Path(directory)
    records = [read_record(config.parent) for config in root.rglob(CONFIG) if is_run(config.parent)]
    fitting = [r for r in records if r.finished and r.config["model"].get("num_layers") == num_layers]
    latest = max(fitting, key=lambda r: (r.path / STATUS).stat().st_mtime, default=None)
    return os.path.relpath(latest.path) if latest else ""
