"""The usual way to train this model on MNIST, written out: what the speed of ladder_vae is held against.

torchvision's data set with transforms an image, a DataLoader, eager float32, Adam.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST

from ladder_vae.data.sources import MNIST_DIR
from ladder_vae.models import LadderVAE


class UsualBernoulli:
    """Bernoulli pixels by PyTorch's own softplus."""

    def log_prob(self, params: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """log p(x | z), nats per image."""
        return (x * params - F.softplus(params)).flatten(-3).sum(-1)


def unpack(directory: Path) -> None:
    """Put the MNIST of the package into a directory, in torchvision's layout."""
    raw = directory / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in MNIST_DIR.glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))


def usual_training(
    directory: Path, model: LadderVAE, batch_size: int, workers: int
) -> Callable[[int], float]:
    """A function that trains for so many steps, and returns the images a second."""
    unpack(directory)
    data = MNIST(str(directory), transform=transforms.Compose([transforms.ToTensor(), torch.bernoulli]))
    loader = DataLoader(data, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    model.likelihood = UsualBernoulli()  # type: ignore[assignment]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def train(steps: int) -> float:
        images, began = 0, 0.0
        for step, (x, _) in enumerate(loader):
            if step == 3:  # workers have started
                images, began = 0, time.perf_counter()
            optimizer.zero_grad()
            terms = model.infer(x).terms().mean()
            (terms.distortion + terms.rate).backward()
            optimizer.step()
            images += len(x)
            if step == steps + 2:
                break
        return images / (time.perf_counter() - began)

    return train
