"""Settle a configuration on this machine: fill in what is open, refuse what cannot work."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from types import ModuleType
from typing import Any

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.profilers import AdvancedProfiler, SimpleProfiler
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ladder_vae.data.data_sets import ImageData
from ladder_vae.maths.likelihoods import Likelihood
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.runs.record import class_name, flat
from ladder_vae.runs.releases import is_release, run_directory
from ladder_vae.settings.command_line import no_such_setting
from ladder_vae.settings.paths import leaves
from ladder_vae.settings.schema import Config
from ladder_vae.settings.signatures import checked, parameters
from ladder_vae.system.compilation import STEPS_THAT_PAY, choose
from ladder_vae.system.devices import DEVICES, choose_device_type, choose_precision
from ladder_vae.system.errors import UserError, one_line
from ladder_vae.system.randomness import check_seed
from ladder_vae.system.recording import RECORDERS
from ladder_vae.training.cluster import check_devices
from ladder_vae.training.objective import Objective

PUBLIC = {"model": "models", "data": "data", "likelihood": "maths"}  # group: the package that exports ours
#: Settings of ``trainer`` that are HierarchicalVAE's and not Lightning's, and its names for them.
OF_THE_STEP = {"compile": "compile", "cuda_graph": "record", "gradient_skip_factor": "skip_factor"}
PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}


@dataclass(frozen=True)
class Settled:
    """A complete configuration and its data.

    Args:
        config: Plain values, interpolations resolved; the model's input shape, the precision, and whether
            the step is compiled and recorded, filled in. What ``config.yaml`` holds.
        data: Loaded and split.
        objective: What training minimizes.
    """

    config: dict[str, Any]
    data: ImageData
    objective: Objective


def settle(cfg: DictConfig) -> Settled:
    """Check all that can be checked before anything is built, and fill in what depends on data and machine.

    Raises:
        UserError: If anything cannot be used.
    """
    config = plain(cfg)
    _check_numbers("", config)
    for key, value in flat(config).items():
        if value == "???":
            raise UserError(f"{key} is missing; give it a value: {key}=...")
    unknown = set(config) - {setting.name for setting in fields(Config)}
    if unknown:  # Hydra lets +key=value through
        raise UserError(f"there is no setting {sorted(unknown)[0]}; --cfg job lists all settings")
    kinds: dict[str, type] = {"model": Hierarchy, "data": ImageData, "likelihood": Likelihood}
    for group in ("model", "data", "likelihood", "optimizer", "scheduler", "logger"):
        needed = group not in ("scheduler", "logger")  # these may be left out
        config[group] = _typed(group, config[group], kinds.get(group, object), needed=needed)
    config["callbacks"] = {key: _typed(f"callbacks.{key}", v) for key, v in config["callbacks"].items()}
    if not config["name"].strip() or leaves(config["name"]):
        raise UserError(
            f"name={config['name']} must be a folder below runs/; run_dir=... takes any directory"
        )
    for key, value in (config["logger"] or {}).items():
        if isinstance(value, str) and leaves(value):  # a logger makes directories of these
            raise UserError(f"logger.{key}={value} must lie in the run directory")
    config["objective"] = checked("objective", config["objective"], Objective)
    for key in ("path", "directory"):
        if config["data"].get(key) is not None:  # a run may be opened from another directory
            config["data"][key] = _absolute(config["data"][key])
    if config["init_from"] is not None and not is_release(config["init_from"]):
        try:
            config["init_from"] = _absolute(str(run_directory(config["init_from"])))
        except UserError as error:
            raise UserError(f"init_from: {error}") from None
    data = _make_data(config)
    config["data"] = {"seed": data.seed, "val_size": data.val_size} | config["data"]
    for key, seed in (("seed", config["seed"]), ("data.seed", data.seed)):
        check_seed(key, seed)
    data.may_download = cfg.resume is None if cfg.trust is None else cfg.trust
    data.setup()
    config["data"]["val_size"] = config["data"]["val_size"] if data.val_size else 0  # null: the source's own
    shape = list(data.image_shape)
    if config["model"].get("input_shape") not in (None, shape):
        raise UserError(
            f"model.input_shape={config['model']['input_shape']} does not fit the images of "
            f"{config['data']['_target_']}, which are {shape}; leave it null"
        )
    config["model"]["input_shape"] = shape
    batches = data.training_batches()
    config["trainer"] = _settle_trainer(config["trainer"], len(batches), batches.batch_size)
    return Settled(config, data, _make_objective(config["objective"]))


def settled_before(config: dict[str, Any]) -> Settled:
    """What another process of this machine has settled, its data loaded anew."""
    data = _make_data(config)
    data.setup()
    return Settled(config, data, _make_objective(config["objective"]))


def _make_data(config: Mapping[str, Any]) -> ImageData:
    likelihood = construct("likelihood", config["likelihood"], Likelihood)
    data: ImageData = construct("data", config["data"], ImageData, likelihood=likelihood)
    return data


def _check_numbers(key: str, value: Any) -> None:
    """Raises UserError for a number that no setting takes: not finite, or too large for an integer of C."""
    if isinstance(value, (dict, list)):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _check_numbers(f"{key}.{name}".lstrip("."), inner)
    elif (isinstance(value, float) and not math.isfinite(value)) or (
        isinstance(value, int) and abs(value) >= 2**63
    ):
        raise UserError(f"{key}={value} is not a usable number; it must be finite, and below 2**63 if whole")


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, without where the run lies: it may be moved."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    for key in ("run_dir", "resume", "trust"):
        config.pop(key, None)
    by_depth = config["by_depth"]
    if by_depth:  # of its tables only this depth matters
        for section, tables in by_depth.pop("tables").items():
            for key, table in tables.items():
                by_depth["values"][f"{section}.{key}"] = table.get(config["model"]["num_layers"])
    return {str(key): value for key, value in config.items()}


def construct(section: str, values: Mapping[str, Any], kind: type | None = None, **given: Any) -> Any:
    """What a group of settings names.

    Args:
        given: What it takes beside its settings.

    Raises:
        UserError: If it cannot be made, or is not of the ``kind``.
    """
    try:
        built = instantiate(dict(values), **given, _convert_="all")
    except (InstantiationException, TypeError, ValueError) as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        if any(f"'{name}'" in str(cause) for name in given):
            takes = ", ".join(f"{name}=" for name in given)
            raise UserError(f"{section}._target_={values.get('_target_')} has to take {takes}") from None
        raise UserError(f"{section}: {one_line(cause or error)}") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{section}: {one_line(error)}") from None
    if kind is not None and not isinstance(built, kind):
        raise UserError(_other_kind(section, values.get("_target_"), kind))
    return built


def _other_kind(section: str, target: Any, kind: type) -> str:
    return f"{section}._target_={target} does not make a {kind.__name__}"


def _make_objective(values: Mapping[str, Any]) -> Objective:
    """The objective. Raises UserError if its settings do not go together."""
    try:
        return Objective(**values)
    except ValueError as error:
        raise UserError(f"objective: {one_line(error)}") from None


def _typed(section: str, values: Any, kind: type = object, *, needed: bool = False) -> Any:
    """Check the values of a group against the signature of what it names; an optional group may be empty."""
    if not values and not needed:
        return values
    if not isinstance(values, dict) or not isinstance(values.get("_target_") or None, str):
        what = "" if kind is object else f" a {kind.__name__}"
        raise UserError(
            f"{section} names nothing to make; set {section}._target_ to{what or ' what makes it'}, as in "
            "package.module.Class"
        )
    target = values["_target_"]
    if not isinstance(values.get("_partial_", True), bool):
        raise UserError(f"{section}._partial_={values['_partial_']} must be true or false; leave it out")
    try:
        named = locate(target)
    except ErrorDuringImport as error:
        raise UserError(f"{section}._target_={target} cannot be imported ({one_line(error)})") from None
    if named is None:
        raise UserError(
            f"{section}._target_={target} does not exist; name what to import, as in torch.optim.Adam"
        )
    if isinstance(named, ModuleType):
        raise UserError(f"{section}._target_={target} is a module; name {_offered(named, kind)}")
    if isinstance(named, type) and not issubclass(named, kind):
        raise UserError(_other_kind(section, target, kind))
    public, name = sys.modules.get(f"ladder_vae.{PUBLIC.get(section)}"), class_name(target)
    ours: Any = getattr(public, name) if name in getattr(public, "__all__", ()) else named
    if ours is not named:
        raise UserError(
            f"{section}._target_={target} has the name of {ours.__module__}.{ours.__name__}, so that reports "
            "could not tell the two apart; rename it"
        )
    return checked(section, values, named)


def _offered(module: ModuleType, kind: type) -> str:
    """The classes of a kind that a module defines, as they may be named."""
    names = [
        f"{module.__name__}.{name}"
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, kind) and value.__module__ == module.__name__
    ]
    return " or ".join(names[:8]) or f"a class in it; it defines no {kind.__name__}"


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _settle_trainer(trainer: dict[str, Any], steps_per_epoch: int, batch_size: int) -> dict[str, Any]:
    """``auto`` becomes what it means on this machine; what the Trainer would not understand is refused."""
    known, _ = parameters(L.Trainer)
    for key in trainer:
        if key not in {*known, *OF_THE_STEP}:
            raise UserError(no_such_setting(f"trainer.{key}", {f"trainer.{name}" for name in known}))
    for key in ("max_epochs", "check_val_every_n_epoch", "limit_train_batches", "limit_test_batches"):
        if trainer[key] is not None and trainer[key] < 1:
            raise UserError(f"trainer.{key}={trainer[key]} must be at least 1")
    if (trainer["limit_val_batches"] or 0) < 0:
        raise UserError(f"trainer.limit_val_batches={trainer['limit_val_batches']} must be at least 0")
    if trainer["gradient_clip_val"] is not None and not trainer["gradient_clip_val"] >= 0:
        raise UserError(
            f"trainer.gradient_clip_val={trainer['gradient_clip_val']} must be at least 0, or null"
        )
    if trainer["gradient_skip_factor"] is not None and not trainer["gradient_skip_factor"] > 1:
        raise UserError(
            f"trainer.gradient_skip_factor={trainer['gradient_skip_factor']} must be above 1, or null: the "
            "running mean of the norms could not follow a rise"
        )
    if trainer["profiler"] not in (None, *PROFILERS):
        raise UserError(f"trainer.profiler={trainer['profiler']} is unknown; choose {', '.join(PROFILERS)}")
    if trainer["accelerator"] not in ("auto", "gpu", *DEVICES):
        raise UserError(
            f"trainer.accelerator={trainer['accelerator']} is unknown; choose auto, gpu, {', '.join(DEVICES)}"
        )
    device = choose_device_type(trainer["accelerator"])
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"trainer.accelerator={trainer['accelerator']}: there is no NVIDIA GPU to be used here"
        )
    check_devices(trainer, device, batch_size)
    alone = trainer["devices"] == 1
    steps = trainer["max_epochs"] * min(steps_per_epoch, trainer["limit_train_batches"] or steps_per_epoch)
    pays = steps >= STEPS_THAT_PAY["cuda" if device == "cuda" else "cpu"]
    return trainer | {
        "precision": choose_precision(trainer["precision"], device),
        "compile": choose("trainer.compile", trainer["compile"], pays and alone),
        "cuda_graph": choose("trainer.cuda_graph", trainer["cuda_graph"], device in RECORDERS and alone),
    }
