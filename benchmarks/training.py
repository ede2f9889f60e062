"""Images a second in training, in turn: usual way, bare loop, Lightning and nothing else, ladder_vae."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch
from hydra import compose, initialize_config_module
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from torch import Tensor

from benchmarks.usual import usual_training
from ladder_vae.data import MNIST
from ladder_vae.data.batches import Batches
from ladder_vae.models import LadderVAE
from ladder_vae.settings import schema
from ladder_vae.system.compilation import compiled
from ladder_vae.system.devices import choose_precision
from ladder_vae.system.self_check import step_doubt
from ladder_vae.training.build import build
from ladder_vae.training.data_module import ImageDataModule
from ladder_vae.training.job import prepare
from ladder_vae.training.objective import Objective
from ladder_vae.training.settle import settle
from ladder_vae.training.step import batch_values

BATCH = 256
HIDDEN = [512, 256, 128, 64, 64]
Speeds = dict[str, list[float]]


def five_levels() -> LadderVAE:
    """The 5-level ladder of all training benchmarks, 1.87 million weights."""
    return LadderVAE((1, 28, 28), num_layers=5, hidden_sizes=HIDDEN)


def configuration(run_dir: Path, *overrides: str) -> DictConfig:
    """The configuration of a run on all training images, as the command line would compose it."""
    schema.register()
    with initialize_config_module("ladder_vae.conf", version_base="1.3"):
        return compose("config", ["data.val_size=0", f"run_dir={run_dir}", *overrides])


def settings(run_dir: Path, *more: str) -> DictConfig:
    """That of the 5-level ladder."""
    hidden = f"model.hidden_sizes={HIDDEN}".replace(" ", "")
    return configuration(run_dir, hidden, f"data.batch_size={BATCH}", *more)


class BareStep:
    """The compiled step of ladder_vae with its optimizer and its averaging: what both bare loops train.

    Args:
        model: Is trained.
    """

    def __init__(self, model: LadderVAE) -> None:
        self.model = model
        doubt = step_doubt(model, lambda twin: batch_values(twin, Objective()))
        self.values = compiled(batch_values(model, Objective()), doubt)
        self.beta = torch.ones(())
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        self.current = [v for v in model.state_dict().values() if v.is_floating_point()]
        self.averages = [v.clone() for v in self.current]

    def loss(self, x: Tensor) -> Tensor:
        """Of a batch of images."""
        return self.values(x, self.beta, *self.model.draw_noise(1, len(x), like=x))[0]

    def average(self) -> None:
        """Move the averages towards the weights."""
        torch._foreach_lerp_(self.averages, self.current, 0.001)


def images() -> Batches:
    """Batches of all training images, in the same order at every pass."""
    return Batches(MNIST(batch_size=BATCH, val_size=0).split("train"), BATCH, seed=0, draw=True)


def bare_training(model: LadderVAE) -> Callable[[], float]:
    """A function that trains an epoch by a plain loop over the same step, and returns the images a second."""
    step, epoch = BareStep(model), images()
    half = choose_precision("auto", "cpu") == "bf16-mixed"

    def train() -> float:
        seen, began = 0, time.perf_counter()
        for x in epoch:
            step.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = step.loss(x)
            loss.backward()
            step.optimizer.step()
            step.average()
            seen += len(x)
        return seen / (time.perf_counter() - began)

    return train


class BareModule(L.LightningModule):
    """The same step as a module of Lightning that does nothing else; keeps the images a second of an epoch.

    Args:
        model: Is trained.
    """

    def __init__(self, model: LadderVAE) -> None:
        super().__init__()
        self.model, self.step_of = model, BareStep(model)
        self.seen, self.began, self.speed = 0, 0.0, 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.step_of.optimizer

    def on_train_epoch_start(self) -> None:
        self.seen, self.began = 0, time.perf_counter()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen += len(batch)
        return self.step_of.loss(batch)

    def on_train_batch_end(self, *given: object) -> None:
        self.step_of.average()

    def on_train_epoch_end(self) -> None:
        self.speed = self.seen / (time.perf_counter() - self.began)


def lightning_training(model: LadderVAE) -> Callable[[], float]:
    """A function that trains an epoch by Lightning's loop over the same step; returns the images a second."""
    module, epoch = BareModule(model), images()

    def train() -> float:
        trainer = L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            precision=choose_precision("auto", "cpu"),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, epoch)
        return module.speed

    return train


class InTurn(Callback):
    """Before each epoch of ladder_vae, one of each of the others. Of its own epochs everything is timed."""

    def __init__(self, others: dict[str, Callable[[], float]]) -> None:
        self.others = others
        self.speeds: Speeds = {name: [] for name in [*others, "ladder_vae"]}
        self._began = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        images = len(trainer.datamodule.data.split("train"))  # type: ignore[attr-defined]
        if trainer.current_epoch > 1:  # the first compiles and warms up
            self.speeds["ladder_vae"].append(images / (time.perf_counter() - self._began))
        for name, train in self.others.items():
            speed = train()
            if 0 < trainer.current_epoch < (trainer.max_epochs or 0) - 1:
                self.speeds[name].append(speed)
        self._began = time.perf_counter()


def measure(repetitions: int) -> Speeds:
    """Images a second of each way, a number a repetition; equal positions were measured side by side."""
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory)
        epochs = repetitions + 2
        cfg = settings(
            run_dir, "trainer.compile=true", f"trainer.max_epochs={epochs}", "callbacks.progress=null"
        )
        prepare()
        assembly = build(settle(cfg), run_dir)
        usual = usual_training(run_dir, five_levels(), BATCH, workers=0)
        turns = InTurn(
            {
                "usual": lambda: usual(60),
                "bare": bare_training(five_levels()),
                "lightning": lightning_training(five_levels()),
            }
        )
        assembly.trainer.callbacks.insert(0, turns)  # type: ignore[attr-defined]
        assembly.trainer.fit(assembly.module, datamodule=ImageDataModule(assembly.data))
    return turns.speeds
