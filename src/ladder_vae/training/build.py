"""From a settled configuration to the objects it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ProgressBar
from lightning.pytorch.loggers import Logger
from torch import nn

from ladder_vae.data.data_sets import ImageData
from ladder_vae.data.sources import FINGERPRINT
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.layers import BatchNorm
from ladder_vae.runs.checkpoints import load_run, read_checkpoint
from ladder_vae.runs.metrics import curves
from ladder_vae.runs.record import flat, read_config
from ladder_vae.runs.releases import run_directory
from ladder_vae.system.errors import UserError, one_line
from ladder_vae.system.randomness import stream_seed
from ladder_vae.system.ranks import rank
from ladder_vae.training.callbacks import Totals
from ladder_vae.training.cluster import Processes, SharedBatches, check_layers
from ladder_vae.training.epoch_checkpoints import DirectCheckpointIO, EpochCheckpoints
from ladder_vae.training.interruption import Interruption
from ladder_vae.training.lightning_module import HierarchicalVAE
from ladder_vae.training.settle import OF_THE_STEP, PROFILERS, Settled, construct
from ladder_vae.training.tensorboard import Dashboards
from ladder_vae.training.trust import TENSORBOARD, foreign, named

TENSORBOARDS = (TENSORBOARD, "ladder_vae.training.TensorBoard")
OWN = ("model", "likelihood")  # of what a run's weights are
#: Settings of data that say which images train, validate and test.
OF_THE_SPLIT = ("test_share", "val_share", "train", "val", "test")


@dataclass(frozen=True)
class Assembly:
    """What a run is made of.

    Args:
        config: See :class:`~ladder_vae.training.settle.Settled`.
        data: Loaded and split.
        module: The model with its objective and optimizer, weights drawn from the run's seed.
        trainer: With all callbacks and loggers.
        totals: The callback of the trainer that counts epochs, seconds and images.
        checkpoints: The callback that writes checkpoints and keeps the best validation bound.
    """

    config: dict[str, Any]
    data: ImageData
    module: HierarchicalVAE
    trainer: L.Trainer
    totals: Totals
    checkpoints: EpochCheckpoints


def build(settled: Settled, run_dir: str | Path, resume_from: Path | None = None) -> Assembly:
    """Build everything the configuration names.

    Args:
        run_dir: Where loggers and checkpoints will write; nothing is written yet.
        resume_from: The checkpoint of its own that the run goes on from; None: it begins.

    Raises:
        UserError: If a part cannot be made, or parts do not go together.
    """
    config, data, objective = settled.config, settled.data, settled.objective
    torch.manual_seed(stream_seed(config["seed"], "weights"))
    model: Hierarchy = construct("model", config["model"], Hierarchy, likelihood=data.likelihood)
    check_layers(model, config["trainer"]["devices"])
    if config["init_from"] is not None and resume_from is None:
        _begin_from(model, config, data)
    if objective.importance_samples > 1:
        _check_fixed(model, new=config["init_from"] is None)
    optimizer = construct("optimizer", config["optimizer"])
    scheduler = construct("scheduler", config["scheduler"]) if config["scheduler"] else None
    how = {argument: config["trainer"].get(key) for key, argument in OF_THE_STEP.items()}
    module = HierarchicalVAE(model, objective, optimizer, scheduler, config["seed"], **how)
    try:
        made = optimizer(model.parameters())
        if scheduler is not None:
            scheduler(made, total_steps=2)
    except Exception as error:  # whatever the classes make of their settings
        raise UserError(f"optimizer or scheduler: {one_line(error)}") from None
    chosen = [construct(f"callbacks.{key}", v, Callback) for key, v in config["callbacks"].items() if v]
    for callback in chosen:
        if isinstance(callback, EarlyStopping):
            _check_stopping(callback, model, config)
        if getattr(callback, "recalibrate_batches", 0) and objective.importance_samples > 1:
            raise UserError(
                "training on L_K keeps the batch-norm statistics; set "
                "callbacks.averaging.recalibrate_batches=0"
            )
    totals = Totals()
    checkpoints = EpochCheckpoints(Path(run_dir) / "checkpoints")
    callbacks = [*chosen, Interruption(), totals, Dashboards(config), checkpoints]
    try:
        trainer = _make_trainer(config, run_dir, callbacks, resume_from)
    except UserError:
        raise
    except Exception as error:  # Lightning's own
        raise UserError(f"trainer: {one_line(error)}") from None
    return Assembly(config, data, module, trainer, totals, checkpoints)


def _make_trainer(
    config: Mapping[str, Any], run_dir: str | Path, callbacks: list[Callback], resume_from: Path | None
) -> L.Trainer:
    """The Trainer of the ``trainer`` group. A profiler leaves ``fit-profile.txt`` in the run directory.

    Of several processes the first alone profiles, logs and shows progress.
    """
    settings = {
        key: value for key, value in config["trainer"].items() if value is not None and key not in OF_THE_STEP
    }
    strategy = settings.pop("strategy", "auto")
    if settings["devices"] > 1:
        settings["strategy"] = SharedBatches(strategy)
    if rank() > 0:
        settings.pop("profiler", None)
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    if "profiler" in settings:
        settings["profiler"] = PROFILERS[settings["profiler"]](dirpath=run_dir, filename="profile")
    if config["data"]["val_size"] == 0:
        settings["limit_val_batches"] = 0
    logger: Any = False
    if config["logger"] and rank() == 0:
        given: dict[str, Any] = {"save_dir": str(run_dir)}
        if any(Path(run_dir).glob("events.out.tfevents.*")) and config["logger"]["_target_"] in TENSORBOARDS:
            # the curves of an epoch that was broken off are hidden, or they would run backwards
            given["purge_step"] = read_checkpoint(resume_from)["global_step"] + 1 if resume_from else 0
        logger = construct("logger", config["logger"], Logger, **given)
    return L.Trainer(
        **settings,
        plugins=[DirectCheckpointIO(), Processes()],
        default_root_dir=run_dir,  # under SLURM, Lightning would load an hpc_ckpt_*.ckpt that lies there
        callbacks=callbacks,
        logger=logger,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # HierarchicalVAE decides when
    )


def _begin_from(model: Hierarchy, config: Mapping[str, Any], data: ImageData) -> None:
    """Give the model the weights of a run. Raises UserError if they do not fit or know validation images."""
    path, ours = config["init_from"], config["data"]
    try:
        saved = read_config(run_directory(path))
        # what this configuration names has been imported already
        safe = not foreign({group: saved.get(group) for group in OWN}, named(config))
        run = load_run(path, trust=safe)
    except UserError as error:
        raise UserError(f"init_from: {error}") from None
    theirs = run.config["data"]
    same_kind = theirs["_target_"] == ours["_target_"]
    data.setup()  # which says how many images a val_size of null holds out
    held_out, asked = theirs.get("val_size"), data.val_size
    held_out = data.source.held_out if held_out is None else held_out
    same_path = theirs.get("path") == ours.get("path")
    same_images = same_path or run.checkpoint.get(FINGERPRINT, data.fingerprint) == data.fingerprint
    for key in OF_THE_SPLIT:
        if same_kind and same_path and key in theirs and theirs[key] != ours.get(key):
            raise UserError(
                f"data.{key}={ours.get(key)} splits the images otherwise than init_from={path} did, which "
                f"was trained on some that would validate or test here; set data.{key}={theirs[key]}"
            )
    if same_kind and same_images and held_out < asked:
        raise UserError(
            f"data.val_size={asked} would validate on images that init_from={path} was trained "
            f"on; set data.val_size={held_out}, or begin with a run that held them out"
        )
    own, its = ({name: each[name] for name in OWN} for each in (config, run.config))
    if type(run.model) is not type(model):
        unlike = f"it holds a {type(run.model).__name__}, not a {type(model).__name__}"
    elif own["likelihood"] != its["likelihood"]:
        unlike = f"its likelihood is {its['likelihood']['_target_']}"
    else:
        try:
            model.load_state_dict(run.model.state_dict())
            return
        except RuntimeError as error:
            here, there = flat(own), flat(its)
            other = [key for key in here | there if here.get(key) != there.get(key)]
            settings = " ".join(f"{key}={there.get(key, 'null')}".replace(", ", ",") for key in other)
            unlike = f"it has {settings}" if other else one_line(error)[:200]
    raise UserError(f"init_from={path} does not fit this model: {unlike}; give both the same model settings")


def _check_fixed(model: Hierarchy, *, new: bool) -> None:
    """Raises UserError if layers would not do their work in eval mode, in which L_K is trained."""
    layers = list(model.modules())
    if new and any(isinstance(layer, BatchNorm) for layer in layers):
        raise UserError(
            "training on L_K keeps the batch-norm statistics, and a new model has none; begin with a trained "
            "one (init_from=<run_dir>), or take one without batch norm"
        )
    if any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in layers):
        raise UserError("training on L_K leaves out no units; set model.dropout=0")


def _check_stopping(callback: EarlyStopping, model: Hierarchy, config: Mapping[str, Any]) -> None:
    """Raises UserError if early stopping watches a metric that this run never measures."""
    for group, key, needed in (("data", "val_size", 10000), ("trainer", "limit_val_batches", "null")):
        if config[group][key] == 0:
            raise UserError(
                f"callbacks.early_stopping needs validation images, but {group}.{key}=0; "
                f"set {group}.{key}={needed} or callbacks=default"
            )
    known = ["val/bound", "val_elbo", *curves("val", model.num_layers), "elbo"]
    if callback.monitor not in known:
        raise UserError(
            f"callbacks.early_stopping.monitor={callback.monitor} is not measured; choose {', '.join(known)}"
        )
