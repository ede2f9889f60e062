"""The record that a run leaves on disk, and how to read it back.

config.yaml                every setting, interpolations resolved; all that ``load_run`` needs
checkpoints/last.ckpt      and best.ckpt: averaged weights under ``state_dict``
status.json                running, finished, interrupted or failed, and why; which images it was trained on
metrics.json               the final numbers by name; written when the run has finished, refined by evaluation
checksums.json             of these three; in a release, of the weights, too
evaluation/                what ``ladder_vae.evaluate`` found, image by image
analysis.html              and analysis.md: what each level encodes, by ``ladder_vae.analyze``
explorer.html              a page on which one plays with the levels, by ``ladder_vae.explore``
images.npz                 test images, their reconstructions, prior samples
figures/                   the same as pictures; those of an analysis in levels/
events.out.tfevents.*      TensorBoard; projector_config.pbtxt and <step>/ are of its projector
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ladder_vae.runs.checksums import CHECKSUMS, is_changed, refuse_changed, write_checked
from ladder_vae.runs.reading import check_config, check_metrics, check_status, read_json, read_yaml
from ladder_vae.settings.command_line import explain
from ladder_vae.system.errors import UserError, warn
from ladder_vae.system.files import refuse_links
from ladder_vae.system.locks import RECORD, TRAINING, is_locked, locked

CONFIG, STATUS, METRICS, IMAGES = "config.yaml", "status.json", "metrics.json", "images.npz"
PAGES = ("analysis.md", "analysis.html", "explorer.html")
MOST_THREADS = 1024
PLAN = "jobs.json"  # of a sweep, beside its runs
WEIGHTS = "weights.safetensors"  # of a release, in place of checkpoints/best.ckpt
# Files that we write, so that a link in their place is replaced.
OURS = (CONFIG, STATUS, METRICS, IMAGES, CHECKSUMS, WEIGHTS, *PAGES, "best.ckpt", "last.ckpt")
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
        data: Fingerprint of the images that it was trained on; empty if it is not known.
    """

    path: Path
    config: dict[str, Any]
    status: str
    message: str
    metrics: dict[str, float]
    data: str = ""

    @property
    def finished(self) -> bool:
        """Whether the metrics are final."""
        return self.status == "finished"

    @property
    def model_name(self) -> str:
        """Name of the model's class."""
        return class_name(str(self.config["model"].get("_target_", "?")))


def is_run(path: Path) -> bool:
    """Whether ``path`` is a run directory; what lies there may be unreadable."""
    return (path / CONFIG).exists() and (path / STATUS).exists()


def holds_results(path: Path) -> bool:
    """Whether a run directory holds anything that took time: weights or metrics."""
    kept = (path / WEIGHTS, path / METRICS, *(checkpoint_path(path, name) for name in ("best", "last")))
    return any(file.exists() for file in kept)


def checkpoint_path(path: str | Path, checkpoint: str) -> Path:
    """Where a run keeps its ``best`` and ``last`` checkpoint."""
    if checkpoint == "best" and (Path(path) / WEIGHTS).is_file():
        return Path(path) / WEIGHTS
    return Path(path) / "checkpoints" / f"{checkpoint}.ckpt"


def last_checkpoint(path: str | Path) -> Path | None:
    """The checkpoint that a run resumes from; None in its first epoch, which begins again."""
    last = checkpoint_path(path, "last")
    return last if last.is_file() else None


def write_config(path: Path, config: dict[str, Any]) -> None:
    """Write ``config.yaml``: plain values only."""
    write_checked(path / CONFIG, yaml.safe_dump(config, sort_keys=False).encode())


def write_status(path: Path, status: str, message: str = "", **facts: Any) -> None:
    """Write ``status.json``; other facts than these stay as they are.

    Args:
        facts: Host, process and threads of the training, fingerprint of its images, SHA-256 of their files.
    """
    known = _read_status(path) | facts | {"status": status, "message": message}
    write_checked(path / STATUS, (json.dumps(known) + "\n").encode())


def _read_status(path: Path) -> dict[str, Any]:
    """What ``status.json`` holds; empty where it is missing or damaged."""
    try:
        found = read_json(path / STATUS)
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def threads_of(path: Path) -> int | None:
    """The number of threads that a run was trained with; None of runs that did not note it."""
    threads = _read_status(path).get("threads")
    return threads if isinstance(threads, int) and 0 < threads <= MOST_THREADS else None


@contextmanager
def recording(
    path: Path, threads: int, data: str = "", files: Mapping[str, str] | None = None
) -> Iterator[None]:
    """``status.json`` while a run trains, and how it ended.

    Args:
        threads: Number of threads of the training, on which its last bits depend.
        data: Fingerprint of the images that it is trained on.
        files: SHA-256 of the files that they were read from, by name, where that is known.
    """
    facts: dict[str, Any] = {"host": platform.node(), "process": os.getpid(), "threads": threads}
    with locked(path, RECORD):  # an evaluation may enter its own; from then on it finds the run unfinished
        facts |= {"data_files": dict(files)} if files else {}
        write_status(path, "running", **facts, data_fingerprint=data)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):  # the latter by who puts the job back into a queue
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
    write_checked(path / METRICS, (json.dumps(metrics, indent=2) + "\n").encode())


def read_metrics(path: Path, num_layers: int | None = None) -> dict[str, float]:
    """``metrics.json``; raises UserError if it cannot be read, or is not what was written."""
    metrics = check_metrics(path / METRICS, read_json(path / METRICS), num_layers)
    refuse_changed(path / METRICS, (path / METRICS).read_bytes())
    return metrics


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
    config = read_yaml(path / CONFIG)
    check_config(path / CONFIG, config)
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


def warn_of_changes(path: Path) -> None:
    """Warn where a file that people edit is not what was written. It is used all the same."""
    for file in (path / CONFIG, path / STATUS):
        if is_changed(file, file.read_bytes()):
            warn(
                f"{file} was edited, or is damaged: its checksum is not that of {CHECKSUMS}; remove that "
                "file if you edited it"
            )


def check_links(path: Path) -> None:
    """Raises UserError if what a command writes into a run would land elsewhere, through a link."""
    refuse_links(path, OURS)


def read_record(path: Path) -> Record:
    """The record of a run; one that cannot be read counts as failed."""
    try:
        return checked_record(path)
    except UserError as error:
        try:
            config = read_config(path)
        except UserError:
            config = {"model": {}}
        return Record(path, config, "failed", f"unreadable record: {error}", {})


def checked_record(path: Path) -> Record:
    """The record of a run. Raises UserError if it cannot be read."""
    config = read_config(path)
    state = check_status(path / STATUS, read_json(path / STATUS))
    status, message = state["status"], state["message"]
    if status == "running":
        user = in_use(path)
        if user is None:
            status, message = "interrupted", "its process ended without a word"
        else:
            message = user.who if user.elsewhere else ""
    metrics: dict[str, float] = {}
    if status == "finished" and not (path / METRICS).exists():
        status, message = "interrupted", f"{METRICS} is missing; resume= tests the run again"
    if status == "finished":
        try:
            metrics = read_metrics(path, config["model"].get("num_layers"))
        except UserError as error:
            raise UserError(f"{error}; if you remove that file, resume= tests the run again") from None
    return Record(path, config, status, message, metrics, state.get("data_fingerprint", ""))


class User(NamedTuple):
    """Who trains a run at this moment.

    Args:
        who: In words, as in "the run is ...".
        elsewhere: Whether it cannot be seen from here when they end: another machine, or nobody can tell.
    """

    who: str
    elsewhere: bool


def in_use(path: Path) -> User | None:
    """Who trains the run at this moment; None if nobody does."""
    state = _read_status(path)
    says_so, host = state.get("status") == "running", state.get("host")
    if says_so and host not in (None, platform.node()) and (path / TRAINING).exists():
        # a container that starts anew has another name, too
        who = f"in use by {host}; if nothing runs there any more, remove {path / TRAINING}"
        return User(who, elsewhere=True)
    try:
        if not is_locked(path, TRAINING):
            return None
    except UserError as error:  # its lock is another user's, perhaps
        return User(f"in use, unless nothing runs there any more: {error}", elsewhere=True)
    process = f"process {state.get('process', 'unknown')}" if says_so else "another process"
    return User(f"in use by {process}", elsewhere=False)


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``a.b.c`` -> number, word or boolean; lists become words, None is left out."""
    items: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            items |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            items[f"{prefix}{key}"] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return items


def class_name(target: str) -> str:
    """``LadderVAE`` of ``ladder_vae.models.LadderVAE``."""
    return target.rpartition(".")[2]
