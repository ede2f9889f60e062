"""From a configuration to the objects it names."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.profilers import AdvancedProfiler, SimpleProfiler
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ladder_vae.data import ImageData
from ladder_vae.errors import UserError
from ladder_vae.hierarchy import Hierarchy
from ladder_vae.module import HierarchicalVAE
from ladder_vae.objective import Objective
from ladder_vae.randomness import stream_seed


@dataclass(frozen=True)
class Assembly:
    """What a run is made of, apart from the Trainer."""

    config: dict[str, Any]  # resolved, plain values, with the model's input shape filled in
    data: ImageData
    module: HierarchicalVAE
    callbacks: list[Callback]


def assemble(cfg: DictConfig) -> Assembly:
    """Load the data and build everything the configuration names; checks all that can be checked.

    Raises:
        UserError: If anything in it cannot be used.
    """
    cfg = cfg.copy()
    data = _build(cfg, "data")
    assert isinstance(data, ImageData)
    data.setup()
    shape = list(data.image_shape)
    if cfg.model.get("input_shape") not in (None, shape):
        raise UserError(
            f"model.input_shape={cfg.model.input_shape} does not fit the images of {cfg.data._target_}, "
            f"which are {shape}; leave it null"
        )
    cfg.model.input_shape = shape
    torch.manual_seed(stream_seed(cfg.seed, "weights"))
    model = _build(cfg, "model")
    assert isinstance(model, Hierarchy)
    try:
        objective = Objective(**cfg.objective)
    except ValueError as error:
        raise UserError(f"objective: {error}") from None
    scheduler = _build(cfg, "scheduler") if cfg.scheduler else None
    module = HierarchicalVAE(model, objective, _build(cfg, "optimizer"), scheduler, cfg.seed)
    try:
        module.make_optimizer(model.parameters())
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"optimizer: {_one_line(error)}") from None
    callbacks = [_build(cfg.callbacks, key, "callbacks.") for key in cfg.callbacks if cfg.callbacks[key]]
    if not data.val_size and any(isinstance(callback, EarlyStopping) for callback in callbacks):
        raise UserError(
            "callbacks.early_stopping needs validation images, but data.val_size=0; "
            "set data.val_size=10000 or callbacks=default"
        )
    _check_trainer(cfg)
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    return Assembly(
        {str(k): v for k, v in config.items() if k not in NOT_OF_THE_RUN}, data, module, callbacks
    )


NOT_OF_THE_RUN = ("run_dir", "resume", "logger")  # where a run lies is not what it is


PRECISIONS = ("32-true", "64-true", "bf16-mixed")
PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}


def _check_trainer(cfg: DictConfig) -> None:
    trainer = cfg.trainer
    if trainer.max_epochs < 1:
        raise UserError(f"trainer.max_epochs={trainer.max_epochs} must be at least 1")
    if trainer.devices != 1:
        raise UserError(f"trainer.devices={trainer.devices} is not supported; runs use one device")
    if trainer.precision not in PRECISIONS:
        raise UserError(f"trainer.precision={trainer.precision} is unknown; choose {', '.join(PRECISIONS)}")
    if trainer.profiler not in (None, *PROFILERS):
        raise UserError(f"trainer.profiler={trainer.profiler} is unknown; choose {', '.join(PROFILERS)}")
    try:
        make_trainer(cfg, logger=False)
    except (ValueError, TypeError, RuntimeError) as error:  # Lightning's own checks
        raise UserError(f"trainer: {_one_line(error)}") from None


def make_trainer(cfg: DictConfig, **parts: Any) -> L.Trainer:
    """The Trainer of the ``trainer`` group; ``parts`` are its callbacks and logger.

    A profiler leaves ``fit-profile.txt`` in the run directory.
    """
    settings = {key: value for key, value in cfg.trainer.items() if value is not None}
    if cfg.trainer.profiler is not None:
        settings["profiler"] = PROFILERS[cfg.trainer.profiler](dirpath=cfg.run_dir, filename="profile")
    if not cfg.data.val_size:
        settings["limit_val_batches"] = 0
    return L.Trainer(
        **settings,
        enable_checkpointing=bool(parts.get("callbacks")),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # HierarchicalVAE decides when
        **parts,
    )


def _build(cfg: DictConfig, key: str, prefix: str = "") -> Any:
    try:
        return instantiate(cfg[key], _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"{prefix}{key}: {_one_line(cause or error)}") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{prefix}{key}: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


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
