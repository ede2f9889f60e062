"""Read the text files of a run, which a stranger may have written: whatever is in them, one line says so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from ladder_vae.system.errors import UserError, one_line
from ladder_vae.system.files import read_bytes
from ladder_vae.system.naming import z_name

# A thousand times what a run has; an evaluation of all its images has the most.
MOST_BYTES = {".yaml": 1 << 20, ".json": 16 << 20, ".npz": 1 << 30}
DEEPEST = 20  # settings within settings
MOST_ALIASES = 10  # of YAML; a few that name each other make a file without end
MOST_LEVELS, LONGEST_NAME = 10_000, 200
MOST_BITS, LONGEST_NUMBER = 63, 70  # of a whole number; Python shows none of thousands of digits
LARGEST_METRIC = 1e100  # the squares of larger ones overflow
GROUPS = (
    "model",
    "data",
    "likelihood",
    "objective",
    "optimizer",
    "scheduler",
    "trainer",
    "callbacks",
    "logger",
    "by_depth",
)
STATES = ("running", "finished", "interrupted", "failed")


class _Loader(yaml.SafeLoader):
    """Plain values, not too deep, with few aliases and no whole number that is too large to be shown."""

    depth = aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.aliases += self.check_event(yaml.AliasEvent)
        if self.depth == DEEPEST or self.aliases > MOST_ALIASES:
            raise yaml.YAMLError(f"more than {DEEPEST} levels deep, or more than {MOST_ALIASES} aliases")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def whole_number(self, node: Any) -> int:
        if len(node.value) <= LONGEST_NUMBER:  # longer ones take long to be read, too
            number = self.construct_yaml_int(node)
            if number.bit_length() <= MOST_BITS:
                return number
        raise yaml.YAMLError(f"it has {node.value:.20}...; such a number has at most {MOST_BITS} bits")


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.whole_number)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds. Raises UserError if it cannot be read."""
    return _read(path, lambda text: yaml.load(text, _Loader))


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises UserError if it cannot be read."""
    return _read(path, json.loads)


def _read(path: Path, parse: Any) -> Any:
    try:
        return parse(read_bytes(path, MOST_BYTES[path.suffix]).decode("utf-8"))
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except Exception as error:  # YAML fails in many ways: a date that does not exist, a key that is a list
        raise UserError(f"{path} cannot be read ({one_line(error)[:200]})") from None


def check_config(path: Path, config: Any) -> None:
    """Check what every reader of ``config.yaml`` takes for granted.

    Raises:
        UserError: If it is not so.
    """
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError(f"{path} is not the configuration of a run: it has no model")
    for group in GROUPS:
        if not isinstance(config.get(group), (dict, type(None))):
            raise UserError(f"{path} names no {group}: it has {_short(config[group])} there")
    layers = config["model"].get("num_layers")
    if layers is not None and (not _whole(layers) or not 1 <= layers <= MOST_LEVELS):
        raise UserError(f"{path} has model.num_layers={_short(layers)}, which is no number of levels")
    for name, seed in (("seed", config.get("seed")), ("data.seed", (config.get("data") or {}).get("seed"))):
        if seed is not None and not _whole(seed):
            raise UserError(f"{path} has {name}={_short(seed)}, which is no whole number")
    if not isinstance((config.get("by_depth") or {}).get("values", {}), dict):
        raise UserError(f"{path} has by_depth.values that are no settings")


def check_metrics(path: Path, metrics: Any, num_layers: int | None) -> dict[str, float]:
    """The metrics of a finished run, name to number.

    Args:
        path: Their file, for errors.
        num_layers: Number of levels of the run, if it is known.

    Raises:
        UserError: If a value is no finite number, or the metrics are of another number of levels.
    """
    if not isinstance(metrics, dict):
        raise UserError(f"{path} holds no metrics by name, but {_short(metrics)}")
    for name, value in metrics.items():
        if len(name) > LONGEST_NAME:
            raise UserError(f"{path} has a metric with a name of {len(name):,} characters")
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < LARGEST_METRIC:
            raise UserError(f"{path} has {_short(name)}: {_short(value)}, which is no finite number")
    levels = {int(found[1]) for name in metrics if (found := re.search(r"/z(\d{1,9})$", name))}
    rates = {int(found[1]) for name in metrics if (found := re.fullmatch(r"test/rate/z(\d{1,9})", name))}
    if num_layers and (max(levels, default=1) > num_layers or len(rates) not in (0, num_layers)):
        has = z_name(max(rates or levels) - 1)
        raise UserError(f"{path} has levels up to {has}, but the model of the run has {num_layers}")
    return metrics


def check_status(path: Path, status: Any) -> dict[str, Any]:
    """What ``status.json`` says. Raises UserError if it is no status."""
    found = {"message": "", "data_fingerprint": "", **status} if isinstance(status, dict) else {}
    texts = all(isinstance(found.get(name), str) for name in ("status", "message", "data_fingerprint"))
    if not texts or found["status"] not in STATES:
        raise UserError(f"{path} holds no status: {_short(status)}")
    return found


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: Any) -> str:
    return f"{value!r:.60}"
