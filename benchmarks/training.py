"""Images a second in training: the usual way, a bare PyTorch loop, and ladder_vae, in turn."""

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


def bare_training(model: LadderVAE) -> Callable[[], float]:
    """A function that trains an epoch by a plain loop over the same step, and returns the images a second."""
    data = MNIST(batch_size=BATCH, val_size=0)
    half = choose_precision("auto", "cpu") == "bf16-mixed"
    doubt = step_doubt(model, lambda twin: batch_values(twin, Objective()))
    values = compiled(batch_values(model, Objective()), doubt)
    beta = torch.ones(())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    current = [v for v in model.state_dict().values() if v.is_floating_point()]
    average = [v.clone() for v in current]

    def train() -> float:
        images, began = 0, time.perf_counter()
        for x in Batches(data.split("train"), BATCH, seed=0, draw=True):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = values(x, beta, *model.draw_noise(1, len(x), like=x))[0]
            loss.backward()
            optimizer.step()
            torch._foreach_lerp_(average, current, 0.001)
            images += len(x)
        return images / (time.perf_counter() - began)

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
        turns = InTurn({"usual": lambda: usual(60), "bare": bare_training(five_levels())})
        assembly.trainer.callbacks.insert(0, turns)  # type: ignore[attr-defined]
        assembly.trainer.fit(assembly.module, datamodule=ImageDataModule(assembly.data))
    return turns.speeds
