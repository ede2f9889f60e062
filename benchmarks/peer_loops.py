"""Training loops of two other projects as they are, on the digits of this package, and runs of ours.

Their code runs from a checkout, and none of it is here.

**ladder-vae-pytorch** (github.com/addtt) trains as its ``main.py`` does, with the arguments of the example in
its README. It runs with today's torch as it is. Not as there:

- Its data loader finds the files that it would download; their pixels are drawn here, once, from our MNIST.
- The file of test images holds 100, because it tests between steps, from the first on.
- The hook that its trainer calls after each backward pass keeps the time.

**PyTorch-VAE** (github.com/AntixK) trains by its ``run.py`` with its ``configs/lvae.yaml``. To run it with
today's Lightning (it is of 1.5):

- ``seed_everything`` is put where ``run.py`` looks for it.
- ``Trainer`` takes the CPU for the ``gpus`` of the configuration, and no ``DDPPlugin``: there is one process.
- ``training_step`` loses the argument ``optimizer_idx``, of which it used the default.

Moreover:

- The data set is torchvision's MNIST in place of CelebA, in three equal channels of 64 x 64 pixels, as its
  classes expect them. ``CenterCrop`` to 148 pixels and flips are left out.
  It validates on 100 images.
- A callback keeps the time.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning as L
import numpy as np
import pytorch_lightning
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from torch.utils.data import Subset
from torchvision import datasets, transforms

from benchmarks.training import configuration
from benchmarks.turns import Clock
from benchmarks.usual import unpack
from ladder_vae.data.sources import load_mnist
from ladder_vae.training.build import build
from ladder_vae.training.data_module import ImageDataModule
from ladder_vae.training.job import prepare
from ladder_vae.training.settle import settle

BATCH = 64  # the default of both
SIDE = 64  # pixels of PyTorch-VAE's images, which its classes have written in
TESTED = 100  # images of their tests, so that these take next to no time
EXAMPLE = (  # in the README of ladder-vae-pytorch
    "--zdims 32 32 32 --downsample 1 1 1 --nonlin elu --skip --blocks-per-layer 4 --gated --freebits 0.5 "
    "--learn-top-prior --data-dep-init --seed 42 --dataset static_mnist"
)


def timed(base: type, clock: Clock) -> Any:
    """A callback of Lightning, which goes by two names, that keeps the time of a training."""

    class Timed(base):  # type: ignore[misc]
        def on_train_batch_end(
            self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            images = batch if isinstance(batch, torch.Tensor) else batch[0]
            clock.step(module.model, len(images))

    return Timed()


def ladder_vae_pytorch(checkout: Path, clock: Clock) -> None:
    """Train as ``main.py`` of ladder-vae-pytorch does."""
    write_binary(Path("data/static_bin_mnist"))
    sys.path.insert(0, str(checkout))
    sys.argv = ["main.py", *EXAMPLE.split(), "--batch-size", str(BATCH), "--nocuda"]
    from boilr import Trainer
    from experiment import LVAEExperiment

    class Timed(LVAEExperiment):  # type: ignore[misc]
        def post_backward_callback(self) -> None:
            clock.step(self.model, self.args.batch_size)

    Trainer(Timed()).run()


def write_binary(directory: Path) -> None:
    """MNIST in the files that ladder-vae-pytorch looks for: 50,000, 10,000 and 100 images."""
    images, draws = load_mnist(), torch.Generator().manual_seed(0)
    directory.mkdir(parents=True)
    parts = {"train": images.train[:50_000], "valid": images.train[50_000:], "test": images.test[:TESTED]}
    for split, part in parts.items():
        pixels = torch.bernoulli(part.float() / 255, generator=draws)
        np.savez(directory / f"binarized_mnist_{split}.npz", data=pixels.numpy())


def pytorch_vae(checkout: Path, clock: Clock, workers: int | None = None) -> None:
    """Run ``run.py`` of PyTorch-VAE.

    Args:
        checkout: Where it is.
        clock: Keeps the time.
        workers: Of its data loaders; None: as many as its configuration says.
    """
    unpack(Path("data"))
    settings = yaml.safe_load((checkout / "configs/lvae.yaml").read_text())
    settings["data_params"] |= {"data_path": "data", "train_batch_size": BATCH, "patch_size": SIDE}
    if workers is not None:
        settings["data_params"]["num_workers"] = workers
    settings["trainer_params"]["gpus"] = []
    Path("config.yaml").write_text(yaml.safe_dump(settings))
    sys.path.insert(0, str(checkout))
    sys.argv = ["run.py", "--config", "config.yaml"]
    _as_lightning_was(clock)
    import dataset
    import experiment

    step = experiment.VAEXperiment.training_step

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        return step(self, batch, batch_idx)

    def setup(self: Any, stage: str | None = None) -> None:
        steps = [transforms.Grayscale(3), transforms.Resize(self.patch_size), transforms.ToTensor()]
        for name, train in (("train_dataset", True), ("val_dataset", False)):
            setattr(self, name, datasets.MNIST(self.data_dir, train, transforms.Compose(steps)))
        self.val_dataset = Subset(self.val_dataset, range(TESTED))

    # The classes themselves are changed: their methods know them by name.
    experiment.VAEXperiment.training_step, dataset.VAEDataset.setup = training_step, setup
    runpy.run_path(str(checkout / "run.py"), run_name="__main__")


def _as_lightning_was(clock: Clock) -> None:
    """Give pytorch_lightning the names that ``run.py`` imports, and its Trainer a callback with the clock."""
    seed = ModuleType("pytorch_lightning.utilities.seed")
    seed.seed_everything = pytorch_lightning.seed_everything  # type: ignore[attr-defined]
    sys.modules[seed.__name__] = seed
    pytorch_lightning.plugins.DDPPlugin = lambda **_: "auto"  # type: ignore[attr-defined]
    trainer = pytorch_lightning.Trainer

    def on_cpu(*, gpus: list[int], callbacks: list[Any], **rest: Any) -> Any:
        callbacks = [*callbacks, timed(pytorch_lightning.Callback, clock)]
        return trainer(accelerator="cpu", devices=1, callbacks=callbacks, **rest)

    pytorch_lightning.Trainer = on_cpu  # type: ignore[assignment, misc]


def ladder_vae(overrides: tuple[str, ...], clock: Clock) -> None:
    """A run of ours, with TensorBoard and checkpoints."""
    prepare()
    here = Path.cwd()
    cfg = configuration(
        here, "model=convolutional", f"data.batch_size={BATCH}", "trainer.accelerator=cpu",
        "callbacks.progress=null", *overrides,
    )  # fmt: skip
    clock.counts = not cfg.trainer.compile
    assembly = build(settle(cfg), here)
    assembly.trainer.callbacks.append(timed(Callback, clock))  # type: ignore[attr-defined]
    assembly.trainer.fit(assembly.module, datamodule=ImageDataModule(assembly.data))


def write_large(path: Path) -> None:
    """MNIST at PyTorch-VAE's size, of one channel: an .npz file with ``(N, 64, 64)`` bytes."""
    images, resize = load_mnist(), transforms.Resize(SIDE, antialias=True)
    train, test = (resize(part).squeeze(1).numpy() for part in (images.train, images.test[:TESTED]))
    np.savez(path, x_train=train, x_test=test)
