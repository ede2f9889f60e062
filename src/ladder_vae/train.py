"""Train one model, or sweep over many: ``python -m ladder_vae.train model.num_layers=5``."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import hydra
import lightning as L
import torch
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.trainer.states import TrainerStatus
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from ladder_vae import cli, configs, figures, runs
from ladder_vae.assemble import Assembly, assemble, make_trainer, plain
from ladder_vae.callbacks import EpochCheckpoints, Interruption, Totals
from ladder_vae.dashboards import Dashboards, draw_pictures
from ladder_vae.preflight import resumed
from ladder_vae.randomness import stream_seed
from ladder_vae.summary import mean_elbo

TRAINING_IMAGES = 10_000  # evenly spaced, of which the ELBO is measured as of test images
PICTURED = 10  # test images in a run's figures, and as many samples


def job(cfg: DictConfig) -> None:
    """One job as Hydra calls it: train, test, record."""
    hydra_config = HydraConfig.get()
    path = Path(hydra_config.runtime.output_dir)
    if cfg.resume is not None:
        cfg = resumed(cfg, list(hydra_config.overrides.task))
    try:
        metrics = train(cfg, path)
    except KeyboardInterrupt:
        _leave(path, "interrupted")
        if not runs.last_checkpoint(path).exists():
            raise
        hint = f"python -m ladder_vae.train resume={_shown(path)} continues this run"
        raise KeyboardInterrupt(hint) from None
    except Exception as error:
        if not runs.is_run(path):  # so that the report lists it
            runs.write_config(path, plain(cfg))
        _leave(path, "failed", cli.explain(error))
        if hydra_config.mode == RunMode.MULTIRUN:  # Hydra goes on with the other jobs
            print(f"error: {path.name}: {cli.explain(error)}", file=sys.stderr)
            error.reported = True  # type: ignore[attr-defined]
        raise
    _print_summary(metrics)
    print(_shown(path))


def _leave(path: Path, status: str, message: str = "") -> None:
    """Write how a run ended; one that was to be resumed and never got under way stays what it was."""
    if not runs.is_run(path) or runs.read_record(path).status == "running":
        runs.write_status(path, status, message)


def train(cfg: DictConfig, path: Path) -> dict[str, float]:
    """Train, test what ``best.ckpt`` holds, and leave the run directory complete.

    Args:
        cfg: The configuration; ``resume`` set continues from ``last.ckpt``.
        path: The run directory, which exists.

    Returns:
        What ``metrics.json`` holds.
    """
    cfg.run_dir = str(path)
    assembly = assemble(cfg)
    runs.write_config(path, assembly.config)
    runs.write_status(path, "running")
    logger = instantiate(cfg.logger, _convert_="all") if cfg.logger else False
    checkpoints, totals = EpochCheckpoints(path / "checkpoints"), Totals()
    parts = [*assembly.callbacks, Interruption(), totals, Dashboards(assembly.config), checkpoints]
    trainer = make_trainer(assembly.config, path, parts, logger)
    resume_from = runs.last_checkpoint(path) if cfg.resume is not None else None
    module, data = assembly.module, assembly.data
    _interruptible(trainer, trainer.fit, module, datamodule=data, ckpt_path=resume_from, weights_only=True)

    best = runs.read_checkpoint(path / "checkpoints" / "best.ckpt")
    module.load_state_dict(best["state_dict"])
    (tested,) = _interruptible(trainer, trainer.test, module, datamodule=data, verbose=False)
    metrics = {
        **{name: float(value) for name, value in tested.items()},
        **_like_for_like(assembly, trainer.strategy.root_device),
        "model/parameters": sum(p.numel() for p in module.model.parameters()),
        **totals.metrics(),
    }
    runs.write_metrics(path, metrics)
    for writer in trainer.loggers:
        writer.log_metrics({k: v for k, v in metrics.items() if k not in tested}, trainer.global_step)
        writer.finalize("success")
    _draw(assembly, path)
    runs.write_status(path, "finished")
    return metrics


def _like_for_like(assembly: Assembly, device: torch.device) -> dict[str, float]:
    """``train_eval/elbo`` and its parts: of training images what ``test/elbo`` is of test images.

    The curve ``train/elbo`` is no such figure: it is of raw weights, in training mode, of warped images if
    there are any, and of an epoch during which the weights changed.
    """
    data, module = assembly.data, assembly.module.eval().to(device)
    limit = assembly.config["trainer"].get("limit_test_batches")  # where test images are few, so are these
    count = min(TRAINING_IMAGES, (limit or TRAINING_IMAGES) * data.eval_batch_size)
    index = data.sample("train", count)
    cuts = range(0, len(index), data.eval_batch_size)
    torch.manual_seed(stream_seed(module.seed, "train_eval"))
    batches = (data.binary("train", index[cut : cut + data.eval_batch_size]).to(device) for cut in cuts)
    metrics = mean_elbo(module.model, batches, "train_eval")
    module.cpu()  # where Lightning left it
    return metrics


def _interruptible(trainer: L.Trainer, stage: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a stage of the trainer. Lightning turns Ctrl-C into exit code 1; this turns it back."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        return stage(*args, **kwargs)
    except SystemExit:
        if trainer.state.status == TrainerStatus.INTERRUPTED:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, handler)


def _draw(assembly: Assembly, path: Path) -> None:
    """``images.npz`` and ``figures/``: test images of all classes, and samples."""
    x = assembly.data.binary("test", assembly.data.gallery(PICTURED)).to(assembly.module.device)
    torch.manual_seed(0)  # the same posterior noise for every run: what differs is the model
    originals, reconstructions, samples = draw_pictures(assembly.module.model, x, 2 * PICTURED)
    runs.write_images(path, originals=originals, reconstructions=reconstructions, samples=samples)
    figures.save_run(path / "figures", runs.read_images(path))


def _print_summary(metrics: dict[str, float]) -> None:
    table = Table("metric", "value", title="test split, nats per image")
    table.columns[1].justify = "right"
    for name, value in metrics.items():
        table.add_row(
            name,
            f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) < 1 else f"{value:.2f}",
        )
    Console().print(table)


def _shown(path: Path) -> str:
    """Relative to where the user is, if it lies there."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def prepare() -> None:
    """What a process needs before its first job."""
    configs.register()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # Batches are cut from memory: worker processes, which Lightning recommends, would only slow them.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="lightning")
    warnings.filterwarnings("ignore", category=FutureWarning, module="lightning")
    # Ctrl-C while a step is being compiled: what was interrupted is no error.
    warnings.filterwarnings("ignore", "Error detected in .*Backward")
    if not torch.cuda.is_available():
        # Lightning has PyTorch load NVIDIA's library whenever it is asked for GPUs, as every step does.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def main() -> None:
    """Entry point."""
    prepare()
    cli.run(_checked)


def _checked() -> None:
    cli.strict(get_args_parser()).parse_args()  # flags, before Hydra sees them
    hydra.main(version_base="1.3", config_path="pkg://ladder_vae.conf", config_name="config")(job)()


if __name__ == "__main__":
    main()
