"""From a configuration to the objects it names."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ProgressBar
from lightning.pytorch.profilers import AdvancedProfiler, SimpleProfiler
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from ladder_vae.data.data_sets import ImageData
from ladder_vae.data.sources import FINGERPRINT
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.layers import BatchNorm
from ladder_vae.runs.checkpoints import load_run
from ladder_vae.runs.metrics import curves
from ladder_vae.runs.releases import is_release
from ladder_vae.settings.schema import Config
from ladder_vae.system.compilation import STEPS_THAT_PAY, choose_compile
from ladder_vae.system.devices import choose_device_type, choose_precision
from ladder_vae.system.errors import UserError, one_line
from ladder_vae.system.memory import total_memory
from ladder_vae.system.randomness import stream_seed
from ladder_vae.training.epoch_checkpoints import DirectCheckpointIO
from ladder_vae.training.lightning_module import HierarchicalVAE, training_memory
from ladder_vae.training.objective import Objective

PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}


@dataclass(frozen=True)
class Assembly:
    """What a run is made of, apart from the Trainer.

    Args:
        config: Plain values, interpolations resolved; the model's input shape, the precision and whether the
            step is compiled filled in.
        data: Loaded and split.
        module: The model with its objective and optimizer, weights drawn from the run's seed.
        callbacks: Those that the configuration names.
    """

    config: dict[str, Any]
    data: ImageData
    module: HierarchicalVAE
    callbacks: list[Callback]


def assemble(cfg: DictConfig) -> Assembly:
    """Load the data and build everything the configuration names; checks all that can be checked.

    Raises:
        UserError: If anything in it cannot be used.
    """
    cfg = cfg.copy()
    unknown = set(cfg) - {setting.name for setting in fields(Config)}
    if unknown:  # Hydra lets +key=value through
        raise UserError(f"there is no setting {sorted(unknown)[0]}; --cfg job lists all settings")
    if cfg.seed < 0 or cfg.data.seed < 0:
        raise UserError(f"seed={cfg.seed} and data.seed={cfg.data.seed} must be at least 0")
    for key in ("path", "directory"):
        if key in cfg.data:  # a run may be opened from another directory
            cfg.data[key] = str(Path(cfg.data[key]).expanduser().absolute())
    data = _build(cfg, "data", ImageData)
    data.setup()
    shape = list(data.image_shape)
    if cfg.model.get("input_shape") not in (None, shape):
        raise UserError(
            f"model.input_shape={cfg.model.input_shape} does not fit the images of {cfg.data._target_}, "
            f"which are {shape}; leave it null"
        )
    cfg.model.input_shape = shape
    _settle_trainer(cfg, len(data.training_batches()))
    try:
        objective = Objective(**cfg.objective)
    except (ValueError, TypeError) as error:
        raise UserError(_refused("objective", error)) from None
    _check_memory(cfg, objective, (data.batch_size, *data.image_shape))
    torch.manual_seed(stream_seed(cfg.seed, "weights"))
    model = _build(cfg, "model", Hierarchy)
    if cfg.init_from is not None and cfg.resume is None:  # a resumed run has weights of its own
        if not is_release(cfg.init_from):
            cfg.init_from = str(Path(cfg.init_from).expanduser().absolute())
        _begin_from(model, cfg, data)
    if objective.importance_samples > 1:
        _check_fixed(model, new=cfg.init_from is None)
    optimizer, scheduler = _build(cfg, "optimizer"), _build(cfg, "scheduler")
    compile_step = cfg.trainer.compile == "true"
    module = HierarchicalVAE(model, objective, optimizer, scheduler, cfg.seed, compile_step)
    try:
        made = optimizer(model.parameters())
        if scheduler is not None:
            scheduler(made, total_steps=2)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(f"optimizer or scheduler: {one_line(error)}") from None
    callbacks = [
        _build(cfg.callbacks, key, Callback, "callbacks.") for key, value in cfg.callbacks.items() if value
    ]
    for callback in callbacks:
        if isinstance(callback, EarlyStopping):
            _check_stopping(callback, model, cfg)
    config = plain(cfg)
    try:
        make_trainer(config, cfg.run_dir, callbacks, logger=False)
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:  # Lightning's own
        raise UserError(_refused("trainer", error)) from None
    return Assembly(config, data, module, callbacks)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, without where the run lies: it may be moved."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    for key in ("run_dir", "resume"):
        config.pop(key, None)
    by_depth = config["by_depth"]
    if by_depth:  # of its tables only this depth matters
        for section, tables in by_depth.pop("tables").items():
            for key, table in tables.items():
                by_depth["values"][f"{section}.{key}"] = table.get(config["model"]["num_layers"])
    if config.get("logger"):
        config["logger"].pop("save_dir", None)
    return {str(key): value for key, value in config.items()}


def make_trainer(
    config: Mapping[str, Any], run_dir: str | Path, callbacks: Sequence[Callback], logger: Any
) -> L.Trainer:
    """The Trainer of the ``trainer`` group of an :class:`Assembly`'s configuration.

    A profiler leaves ``fit-profile.txt`` in the run directory.
    """
    settings = {key: value for key, value in config["trainer"].items() if value is not None}
    del settings["compile"]  # HierarchicalVAE's
    if "profiler" in settings:
        settings["profiler"] = PROFILERS[settings["profiler"]](dirpath=run_dir, filename="profile")
    if not config["data"]["val_size"]:
        settings["limit_val_batches"] = 0
    return L.Trainer(
        **settings,
        plugins=[DirectCheckpointIO()],
        callbacks=list(callbacks),
        logger=logger,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # HierarchicalVAE decides when
    )


def prepare_directory(path: Path) -> None:
    """Make the directory and try to write to it. Raises UserError if that cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(
            f"run_dir={path} cannot be written ({error.strerror}: {error.filename}); choose another run_dir"
        ) from None


def _settle_trainer(cfg: DictConfig, steps_per_epoch: int) -> None:
    """Replace ``auto`` by what it means on this machine, and refuse what the Trainer would not understand."""
    trainer = cfg.trainer
    for key in ("max_epochs", "check_val_every_n_epoch", "limit_train_batches", "limit_test_batches"):
        if trainer[key] is not None and trainer[key] < 1:
            raise UserError(f"trainer.{key}={trainer[key]} must be at least 1")
    if trainer.gradient_clip_val is not None and not trainer.gradient_clip_val >= 0:
        raise UserError(f"trainer.gradient_clip_val={trainer.gradient_clip_val} must be at least 0, or null")
    if trainer.devices != 1:
        raise UserError(f"trainer.devices={trainer.devices} is not supported; runs use one device")
    if trainer.profiler not in (None, *PROFILERS):
        raise UserError(f"trainer.profiler={trainer.profiler} is unknown; choose {', '.join(PROFILERS)}")
    device = choose_device_type(trainer.accelerator)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"trainer.accelerator={trainer.accelerator}: there is no NVIDIA GPU to be used here")
    trainer.precision = choose_precision(trainer.precision, device)
    steps = trainer.max_epochs * min(steps_per_epoch, trainer.limit_train_batches or steps_per_epoch)
    compile_step = choose_compile("trainer.compile", trainer.compile, steps >= STEPS_THAT_PAY)
    trainer.compile = str(compile_step).lower()


def _check_memory(cfg: DictConfig, objective: Objective, batch: tuple[int, ...]) -> None:
    """Raises UserError if a training step cannot fit into the memory of the device."""
    with torch.device("meta"):  # nothing is stored there
        model = _build(cfg, "model", Hierarchy)
    needed = training_memory(model, objective, batch, 2 if cfg.trainer.precision == "bf16-mixed" else 4)
    there = total_memory(choose_device_type(cfg.trainer.accelerator))
    if needed > there:
        raise UserError(
            f"this model needs {needed / 2**30:,.0f} GiB to train and there are {there / 2**30:,.0f}; lower "
            "model.num_layers, its sizes, or data.batch_size"
        )


def _begin_from(model: Hierarchy, cfg: DictConfig, data: ImageData) -> None:
    """Give the model the weights of a run. Raises UserError if they do not fit or know validation images."""
    path = cfg.init_from
    try:
        run = load_run(path)
    except UserError as error:
        raise UserError(f"init_from: {error}") from None
    theirs = run.config["data"]
    held_out = theirs["val_size"]
    same_path = theirs.get("path") == cfg.data.get("path")
    same_images = same_path or run.checkpoint.get(FINGERPRINT, data.fingerprint) == data.fingerprint
    if theirs["_target_"] == cfg.data._target_ and same_images and held_out < cfg.data.val_size:
        raise UserError(
            f"data.val_size={cfg.data.val_size} would validate on images that init_from={path} was trained "
            f"on; set data.val_size={held_out}, or begin with a run that held them out"
        )
    try:
        if type(run.model) is not type(model):
            raise ValueError(f"it holds a {type(run.model).__name__}, not a {type(model).__name__}")
        model.load_state_dict(run.model.state_dict())
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"init_from={path} does not fit this model ({one_line(error)[:200]}); give both the same model "
            "settings"
        ) from None


def _check_fixed(model: Hierarchy, *, new: bool) -> None:
    """Raises UserError if layers of a model that trains on L_K, in eval mode, would not do their work."""
    layers = list(model.modules())
    if new and any(isinstance(layer, BatchNorm) for layer in layers):
        raise UserError(
            "training on L_K keeps the batch-norm statistics, and a new model has none; begin with a trained "
            "one (init_from=<run_dir>), or take one without batch norm"
        )
    if any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in layers):
        raise UserError("training on L_K leaves out no units; set model.dropout=0")


def _check_stopping(callback: EarlyStopping, model: Hierarchy, cfg: DictConfig) -> None:
    """Raises UserError if what is to stop training early would never be measured."""
    for setting, needed in (("data.val_size", 10000), ("trainer.limit_val_batches", "null")):
        if OmegaConf.select(cfg, setting) == 0:
            raise UserError(
                f"callbacks.early_stopping needs validation images, but {setting}=0; "
                f"set {setting}={needed} or callbacks=default"
            )
    known = ["val/bound", "val_elbo", *curves("val", model.num_layers), "elbo"]
    if callback.monitor not in known:
        raise UserError(
            f"callbacks.early_stopping.monitor={callback.monitor} is not measured; choose {', '.join(known)}"
        )


def _refused(section: str, error: BaseException) -> str:
    """Why a part cannot be made; of a setting that it does not have, where those that it has are listed."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    hint = f"; there is no setting {section}.{unknown[1]}, --cfg job lists all" if unknown else ""
    return f"{section}: {one_line(error)}{hint}"


def _build(cfg: DictConfig, key: str, kind: type | None = None, prefix: str = "") -> Any:
    """What ``cfg[key]`` names. Raises UserError if it cannot be made, or is not of the ``kind``."""
    try:
        built = instantiate(cfg[key], _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(_refused(f"{prefix}{key}", cause or error)) from None
    except OmegaConfBaseException as error:
        raise UserError(f"{prefix}{key}: {one_line(error)}") from None
    if kind is not None and not isinstance(built, kind):
        raise UserError(f"{prefix}{key}._target_={cfg[key]._target_} does not make a {kind.__name__}")
    return built
