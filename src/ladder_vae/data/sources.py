"""The images of a data set, and MNIST from the package."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ladder_vae.system.errors import UserError

FINGERPRINT = "data_fingerprint"  # key in a checkpoint; its value identifies the images a run was trained on
MNIST_DIR = Path(__file__).parents[1] / "assets" / "mnist"
# Hashes of the unpacked files, as published by LeCun, Cortes and Burges.
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
IDX_IMAGES_HEADER, IDX_LABELS_HEADER = 16, 8  # bytes before the first image or label


@dataclass(frozen=True, repr=False)
class Images:
    """A data set with its official test split.

    Args:
        train: Training images, uint8, ``(N, C, H, W)``.
        test: Test images, uint8, ``(M, C, H, W)``.
        train_labels: Classes of the training images, int64 ``(N,)``, if the source has them.
        test_labels: Classes of the test images, int64 ``(M,)``, if the source has them.
        held_out: How many of the training images, the last ones, are the source's own validation split.
        mapped: Whether images stay on disk, from where each batch is read; they are then in any order of
            memory.
        files: SHA-256 of the files that they were read from, by name, where a source tells it; runs keep it.
    """

    train: Tensor
    test: Tensor
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None
    held_out: int = 0
    mapped: bool = False
    files: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        shape = tuple(self.train.shape[1:])
        return f"Images({len(self.train):,} to train, {len(self.test):,} to test, of shape {shape})"


@lru_cache(maxsize=1)
def load_mnist(directory: Path = MNIST_DIR) -> Images:
    """Load the 60,000 training and 10,000 test digits of the package, checked against their SHA-256.

    Raises:
        UserError: If a file is missing, truncated or altered.
    """

    def images(name: str) -> Tensor:
        return _bytes(_read_mnist(directory, name)[IDX_IMAGES_HEADER:]).view(-1, 1, 28, 28)

    def labels(name: str) -> Tensor:
        return _bytes(_read_mnist(directory, name)[IDX_LABELS_HEADER:]).long()

    return Images(
        images("train-images-idx3-ubyte"),
        images("t10k-images-idx3-ubyte"),
        labels("train-labels-idx1-ubyte"),
        labels("t10k-labels-idx1-ubyte"),
    )


def _read_mnist(directory: Path, name: str) -> bytes:
    path = directory / f"{name}.gz"
    remedy = "restore it with git checkout, or reinstall ladder_vae"
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"data file {path} is missing; {remedy}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"data file {path} is truncated or unreadable ({error}); {remedy}") from None
    if hashlib.sha256(content).hexdigest() != MNIST_SHA256[name]:
        raise UserError(f"data file {path} was altered: its SHA-256 is not MNIST's; {remedy}")
    return content


def _bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
