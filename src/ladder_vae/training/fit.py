"""Train, test, and leave the run directory complete."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ladder_vae.drawing import image_grids
from ladder_vae.drawing.image_grids import to_bytes
from ladder_vae.models.evaluator import shared_statistics
from ladder_vae.models.statistics import ImageStatistics
from ladder_vae.models.summary import bits_per_dim
from ladder_vae.runs.checkpoints import read_checkpoint
from ladder_vae.runs.images import read_images, write_images
from ladder_vae.runs.metrics import SAMPLED_LEVELS, beta_stays_below_one
from ladder_vae.runs.record import (
    checkpoint_path,
    read_metrics,
    recording,
    write_config,
    write_metrics,
)
from ladder_vae.system.devices import choose_device_type
from ladder_vae.system.errors import UserError, attempt, warn
from ladder_vae.training.build import Assembly, build
from ladder_vae.training.data_module import ImageDataModule
from ladder_vae.training.interruption import interruptible
from ladder_vae.training.lightning_module import TESTED
from ladder_vae.training.processes import together
from ladder_vae.training.settle import settled_before
from ladder_vae.training.tensorboard import draw_pictures

TRAINING_IMAGES = 10_000  # evenly spaced, on which train_eval/elbo is measured
LIKE_FOR_LIKE = tuple(f"train_eval/{name}" for name in ("elbo", "rate", "distortion"))
FIGURES = "figures"
PICTURED = 10  # test images in a run's figures, and as many samples


def fit(assembly: Assembly, path: Path, resume_from: Path | None = None) -> dict[str, float]:
    """Train, test what ``best.ckpt`` holds, and leave the run directory complete.

    Args:
        path: The run directory, which exists.
        resume_from: The checkpoint to go on from.

    Returns:
        What ``metrics.json`` holds.
    """
    if said := beta_stays_below_one(assembly.config, assembly.config["trainer"]["max_epochs"]):
        warn(said)
    data = assembly.data
    with recording(path, torch.get_num_threads(), data.fingerprint, data.source.files):
        write_config(path, assembly.config)  # after the status: a process killed in between leaves no run
        module, trainer, asked = assembly.module, assembly.trainer, assembly.config["trainer"]
        device = choose_device_type(asked["accelerator"])
        try:
            with together(asked["devices"], device, _join, assembly.config, path, resume_from):
                tested, like_for_like = train_and_test(assembly, path, resume_from)
        except torch.OutOfMemoryError:
            raise UserError(
                f"out of memory on {device}; lower data.batch_size={data.batch_size}, or, if training had "
                f"begun, data.eval_batch_size={data.eval_batch_size}"
            ) from None
        metrics = {
            **tested,
            **like_for_like,
            "test/draws": TESTED.num_samples,
            **({} if module.model.has_weights else {SAMPLED_LEVELS: TESTED.draws}),
            "test/draws_seed": TESTED.seed,
            "test/binarizations": TESTED.binarizations,
            "model/parameters": sum(p.numel() for p in module.model.parameters()),
            **assembly.totals.metrics(),
            **module.counts(),
        }
        if per_nat := assembly.data.likelihood.bits_per_nat(assembly.data.image_shape):
            metrics |= bits_per_dim(metrics, per_nat)
        with suppress(UserError, OSError):  # there may be none
            if any("/log_px/" in name for name in read_metrics(path)):
                warn(f"the bounds of {path} were of its earlier weights and are dropped; evaluate it again")
        write_metrics(path, metrics)
    # The run is finished, whatever becomes of its last curves and its pictures.
    with attempt("writing to TensorBoard"):
        for writer in trainer.loggers:
            writer.log_metrics({k: v for k, v in metrics.items() if k not in tested}, trainer.global_step)
            writer.finalize("success")
    with attempt(f"drawing {path / FIGURES}"):
        _draw(assembly, path)
    return metrics


def train_and_test(
    assembly: Assembly, path: Path, resume_from: Path | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Train, and test what ``best.ckpt`` holds, together with other processes if there are any.

    Returns:
        What was measured on test images, and the same on training images, by name.
    """
    module, data, trainer = assembly.module, ImageDataModule(assembly.data), assembly.trainer
    try:
        interruptible(trainer, trainer.fit, module, datamodule=data, ckpt_path=resume_from, weights_only=True)
    finally:
        module.release()
    best = read_checkpoint(checkpoint_path(path, "best"))
    module.load_state_dict(best["state_dict"])
    (tested,) = interruptible(trainer, trainer.test, module, datamodule=data, verbose=False)
    tested = {name: float(value) for name, value in tested.items()}
    return tested, _like_for_like(assembly, trainer.strategy.root_device)


def _join(config: dict[str, Any], path: Path, resume_from: Path | None) -> None:
    """What the other processes of a training do: the same, and nothing of the record."""
    train_and_test(build(settled_before(config), path, resume_from), path, resume_from)


def _like_for_like(assembly: Assembly, device: torch.device) -> dict[str, float]:
    """Measure ``train_eval/elbo`` and its parts on training images exactly as test images are measured.

    The curve ``train/elbo`` does not compare: it uses raw weights, training mode and warped images, and the
    weights change during the epoch.
    """
    data, module = assembly.data, assembly.module.eval().to(device)
    limit = assembly.config["trainer"].get("limit_test_batches")  # where test images are few, so are these
    count = min(TRAINING_IMAGES, (limit or TRAINING_IMAGES) * data.eval_batch_size)
    index = data.sample("train", count)
    cuts = [index[at : at + data.eval_batch_size] for at in range(0, len(index), data.eval_batch_size)]
    found = [
        shared_statistics(module.model, data.observe("train", cut).to(device), cut, TESTED) for cut in cuts
    ]
    metrics = module.summary(ImageStatistics.concatenate(found), "train_eval")
    module.cpu()  # where Lightning left it
    return {name: value for name, value in metrics.items() if name.startswith(LIKE_FOR_LIKE)}


def _draw(assembly: Assembly, path: Path) -> None:
    """``images.npz`` and ``figures/``: test images of all classes, and samples."""
    x = assembly.data.observe("test", assembly.data.gallery(PICTURED)).to(assembly.module.device)
    torch.manual_seed(0)  # the same posterior noise for every run: what differs is the model
    originals, reconstructions, samples = draw_pictures(assembly.module.model, x, 2 * PICTURED)
    write_images(
        path,
        originals=to_bytes(originals),
        reconstructions=to_bytes(reconstructions),
        samples=to_bytes(samples),
    )
    image_grids.save_run(path / FIGURES, read_images(path))
