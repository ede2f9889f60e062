"""Write to TensorBoard what it shows beside curves: pictures, charts of all levels, hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard.summary import hparams as hparams_summary
from torchvision.utils import make_grid

from ladder_vae.drawing.image_grids import steps
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.passes import place_of_keys
from ladder_vae.runs.metrics import hparams_columns
from ladder_vae.runs.record import class_name, flat
from ladder_vae.settings.schema import known_keys
from ladder_vae.system.errors import UserError, attempt
from ladder_vae.training.averaging import ExponentialMovingAverage
from ladder_vae.training.lightning_module import HierarchicalVAE

COLUMNS = 8  # images per row in TensorBoard
#: These would be charts of one dot, or of a straight line.
UNCHARTED = ("epoch", "model/parameters")
#: The charts that TensorBoard opens on: it sorts them by name.
FIRST = {"train/elbo": "elbo/train", "val/elbo": "elbo/val"}


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, except that TensorBoard opens on the ELBO and not on a chart of the epoch."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        charted = {name: value for name, value in metrics.items() if name not in UNCHARTED}
        again = {FIRST[name]: value for name, value in metrics.items() if name in FIRST}
        super().log_metrics(charted | again, step)


class Pictures(Callback):
    """Writes originals, reconstructions and prior samples to TensorBoard, drawn with averaged weights.

    Args:
        every_n_epochs: Epochs between two writings; the last epoch is always written.
        count: Number of images.

    Raises:
        UserError: If a number is below 1.
    """

    def __init__(self, every_n_epochs: int = 5, count: int = 16) -> None:
        if every_n_epochs < 1 or count < 1:
            raise UserError(
                f"callbacks.pictures: every_n_epochs={every_n_epochs} and count={count} must be at least 1"
            )
        self.every_n_epochs = every_n_epochs
        self.count = count

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not loggers or (epoch % self.every_n_epochs and epoch != trainer.max_epochs):
            return
        with attempt("drawing pictures for TensorBoard"):
            self._draw(trainer, pl_module, loggers)

    def _draw(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loggers: Sequence[TensorBoardLogger]
    ) -> None:
        data: Any = trainer.datamodule.data  # type: ignore[attr-defined]
        stage, x = data.examples(self.count)
        model = averaged_model(trainer, pl_module)
        originals, reconstructions, samples = draw_pictures(model, x.to(pl_module.device), len(x))
        # rows alternate: originals, then their reconstructions
        pairs = zip(originals.split(COLUMNS), reconstructions.split(COLUMNS), strict=True)
        rows = torch.cat([torch.cat(pair) for pair in pairs])
        for logger in loggers:
            write = logger.experiment.add_image
            write(f"{stage}/reconstructions", _grid(rows), trainer.global_step)
            write(f"{stage}/samples", _grid(samples), trainer.global_step)


def _grid(images: Tensor) -> Tensor:
    down, across = steps(images.shape[2:], -(-len(images) // COLUMNS), COLUMNS)
    images = images[:, :, ::down, ::across]
    return make_grid(images, nrow=COLUMNS, pad_value=0.5)


def averaged_model(trainer: L.Trainer, pl_module: L.LightningModule) -> Hierarchy:
    """The model that validation uses, which has averaged weights if the run keeps an average."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ExponentialMovingAverage) and callback.averaged is not None:
            pl_module = callback.averaged  # type: ignore[assignment]
    assert isinstance(pl_module, HierarchicalVAE)
    return pl_module.model


@torch.no_grad()
def draw_pictures(model: Hierarchy, x: Tensor, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Originals, their reconstructions from one posterior sample, and prior samples, as intensities.

    Each is ``(n, C, H, W)`` on the CPU. The model is switched to eval mode and then back to its old mode.

    Args:
        model: The hierarchy.
        x: Images as the likelihood prepares them, ``(B, C, H, W)``.
        samples: Number of prior samples.
    """
    was_training = model.training
    model.eval()
    try:
        if model.has_weights:
            reconstructions = model.likelihood.mean(model.infer(x).params[0])
        else:  # of thousands of levels, not all are held
            keys = torch.arange(len(x), device=place_of_keys(x.device))
            reconstructions = model.estimate(x, keys, 1, 1).reconstruction
        generated = model.generate(samples, keep_levels=False).mean
    finally:  # training goes on if drawing fails
        model.train(was_training)
    return model.likelihood.intensities(x).cpu(), reconstructions.cpu(), generated.cpu()


#: Where a run's row has them among its first columns.
NAMED = {"data": "data", "levels": "model.num_layers", "lr": "optimizer.lr", "model": "model", "seed": "seed"}
#: Settings that the files of ``conf/`` leave to the data and to experiments.
FILLED_IN = ("init_from", "model.input_shape", "by_depth.rule", "likelihood", "optimizer", "scheduler")


def _is_shown(setting: str) -> bool:
    return not setting.startswith(("callbacks.p", "logger", "name", "by_depth.values"))


def _columns() -> dict[str, str]:
    """Settings of all models, optimizers, ...: TensorBoard takes its columns from the run it finds first."""
    known = {key for key in known_keys() if "." in key} | set(FILLED_IN)
    return {f"setting {key}": "" for key in sorted(known - set(NAMED.values())) if _is_shown(key)}


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """Settings by name; a group that names a class has the name of the class."""
    settings = {}
    for name, value in flat(config).items():
        group, _, last = name.rpartition(".")
        if last == "_target_":
            settings[group] = class_name(value)
        elif not last.startswith("_") and _is_shown(name):
            settings[name] = value
    return {name: value for name, value in settings.items() if _is_shown(name)}


class Dashboards(Callback):
    """Writes the run's row of TensorBoard's HParams table, and charts that show all levels together.

    Args:
        config: The run's configuration as plain values.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        averaged = any(isinstance(c, ExponentialMovingAverage) for c in trainer.callbacks)  # type: ignore[attr-defined]
        assert isinstance(pl_module, HierarchicalVAE)
        weighted = pl_module.objective.importance_samples > 1  # then batch norm is in eval mode
        stages = {"train": f"raw weights, {'evaluation' if weighted else 'training'} mode"}
        if trainer.enable_validation:
            stages["val"] = f"{'averaged' if averaged else 'raw'} weights, evaluation mode"
        charts = {
            "Levels": ("rate of each level, or group of levels", r"rate/z\d+(-z\d+)?"),
            "ELBO and its parts": ("ELBO, rate, distortion", "(elbo|rate|distortion)"),
        }
        layout = {  # the pattern is anchored, so that it does not take z10 for z1
            title: {
                f"{stage}: {what} (nats; {how})": ["Multiline", [f"^{stage}/{tags}$"]]
                for stage, how in stages.items()
            }
            for title, (what, tags) in charts.items()
        }
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                writer = logger.experiment
                own, metrics = self.hparams(), dict.fromkeys(hparams_columns(pl_module.model.num_layers), 0)
                own["weights"] = sum(parameter.numel() for parameter in pl_module.model.parameters())
                columns, *_ = hparams_summary(_columns() | own, metrics)
                _, *values = hparams_summary(own, metrics)
                for summary in (columns, *values):
                    writer.file_writer.add_summary(summary)
                writer.add_custom_scalars(layout)

    def hparams(self) -> dict[str, Any]:
        """Settings by name. TensorBoard shows the first five in order of names; these are compared most."""
        settings = _settings(self.config)
        first = {column: settings.pop(name, 0) for column, name in NAMED.items()}
        return first | {f"setting {name}": value for name, value in settings.items()}
