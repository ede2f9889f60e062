"""Images a second in training: the usual way, a bare PyTorch loop, and ladder_vae, in turn."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from usual import usual_training

from ladder_vae import configs
from ladder_vae.assemble import assemble, make_trainer
from ladder_vae.callbacks import EpochCheckpoints, Totals
from ladder_vae.dashboards import Dashboards
from ladder_vae.data import MNIST, Batches
from ladder_vae.hardware import choose_precision, compiled
from ladder_vae.models import LadderVAE
from ladder_vae.module import batch_terms
from ladder_vae.objective import Objective

SIZES = {"num_layers": 5, "hidden_sizes": [512, 256, 128, 64, 64]}
MODEL = ["model.num_layers=5", "model.hidden_sizes=[512,256,128,64,64]"]


def make_model() -> LadderVAE:
    """The 5-level ladder, 1.87 million weights."""
    return LadderVAE((1, 28, 28), num_layers=5, hidden_sizes=[512, 256, 128, 64, 64])


def bare_training(model: LadderVAE, batch_size: int, *, compile: bool) -> Callable[[], float]:
    """A function that trains an epoch in a plain loop over the same step, and returns the images a second."""
    data = MNIST(batch_size=batch_size, val_size=0)
    half = choose_precision("auto", "cpu") == "bf16-mixed"
    terms = batch_terms(model, Objective())
    terms = compiled(terms) if compile else terms
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    current = [v for v in model.state_dict().values() if v.is_floating_point()]
    average = [v.clone() for v in current]

    def train() -> float:
        images, began = 0, time.perf_counter()
        for x in Batches(data.split("train"), batch_size, seed=0, draw=True):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                parts = terms(x, *model.draw_noise(1, len(x), like=x))
                loss = parts.sum()
            loss.backward()
            optimizer.step()
            torch._foreach_lerp_(average, current, 0.001)
            images += len(x)
        return images / (time.perf_counter() - began)

    return train


class InTurn(Callback):
    """Before each epoch of ladder_vae, one of each of the others; everything of an epoch is timed."""

    def __init__(self, others: dict[str, Callable[[], float]]) -> None:
        self.others = others
        self.speeds: dict[str, list[float]] = {name: [] for name in [*others, "ladder_vae"]}
        self._began = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch > 0:
            images = len(trainer.datamodule.split("train"))
            self.speeds["ladder_vae"].append(images / (time.perf_counter() - self._began))
        for name, train in self.others.items():
            speed = train()
            if trainer.current_epoch > 0:  # before, all compiles and warms up
                self.speeds[name].append(speed)
        self._began = time.perf_counter()


def compare(repetitions: int, batch_size: int = 256) -> dict[str, list[float]]:
    """Images a second of each way, one number a repetition."""
    configs.register()
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory)
        with initialize_config_module("ladder_vae.conf", version_base="1.3"):
            cfg = compose(
                "config",
                [
                    *MODEL,
                    f"data.batch_size={batch_size}",
                    "data.val_size=0",
                    "trainer.compile=true",
                    f"trainer.max_epochs={repetitions + 2}",
                    f"run_dir={run_dir}",
                ],
            )
        assembly = assemble(cfg)
        usual = usual_training(run_dir, make_model(), batch_size, workers=0)
        bare = bare_training(make_model(), batch_size, compile=True)
        turns = InTurn({"usual": lambda: usual(100), "bare": bare})
        parts: list[Any] = [turns, *assembly.callbacks, Totals(), Dashboards(assembly.config)]
        parts.append(EpochCheckpoints(run_dir / "checkpoints"))
        logger = instantiate(cfg.logger, _convert_="all")
        trainer = make_trainer(assembly.config, run_dir, parts, logger)
        trainer.fit(assembly.module, datamodule=assembly.data)
    return turns.speeds


if __name__ == "__main__":
    from ladder_vae.hardware import keep_freed_memory

    keep_freed_memory()
    speeds = compare(6)
    for name, values in speeds.items():
        print(name, [f"{v:,.0f}" for v in values])
