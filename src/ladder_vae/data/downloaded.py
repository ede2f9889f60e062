"""Data sets that torchvision downloads on first use."""

from __future__ import annotations

import http.client
import tarfile
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ladder_vae.data.data_sets import ImageData
from ladder_vae.data.sources import Images
from ladder_vae.system.errors import UserError, one_line


class Place(NamedTuple):
    """What torchvision keeps of a data set, and how many images that has to be.

    Args:
        files: Names in the directory, the first of which is there if any is.
        train: Number of training images.
        test: Number of test images.
    """

    files: tuple[str, ...]
    train: int = 60_000
    test: int = 10_000


PLACES = {
    "FashionMNIST": Place(("FashionMNIST/raw",)),
    "KMNIST": Place(("KMNIST/raw",)),
    "CIFAR10": Place(("cifar-10-batches-py",), train=50_000),
    "SVHN": Place(("train_32x32.mat", "test_32x32.mat"), train=73_257, test=26_032),
}
UNUSABLE = (
    *(RuntimeError, OSError, EOFError, ValueError, AssertionError, KeyError),
    *(tarfile.TarError, http.client.HTTPException),
)


class TorchvisionData(ImageData):
    """A data set that torchvision downloads into ``directory`` on first use."""

    dataset: str

    def __init__(self, directory: str = "~/.cache/ladder_vae", **settings) -> None:
        super().__init__(**settings)
        self.directory = Path(directory).expanduser()

    def load(self) -> Images:
        return load_torchvision(self.dataset, self.directory, self.may_download)


class FashionMNIST(TorchvisionData):
    """Clothing, 28x28 (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747)."""

    dataset = "FashionMNIST"


class KMNIST(TorchvisionData):
    """Cursive Japanese characters, 28x28 (Clanuwat et al. 2018, arXiv 1812.01718)."""

    dataset = "KMNIST"


class CIFAR10(TorchvisionData):
    """Photographs of ten kinds of animals and vehicles, 32x32 in color.

    50,000 train and 10,000 test (Krizhevsky 2009, Learning multiple layers of features from tiny images).
    """

    dataset = "CIFAR10"
    channels = 3

    def __init__(self, val_size: int = 5_000, **settings) -> None:
        super().__init__(val_size=val_size, **settings)


class SVHN(TorchvisionData):
    """House numbers, 32x32 in color, each centered on the digit that is its class.

    73,257 train and 26,032 test (Netzer et al. 2011, Reading digits in natural images with unsupervised
    feature learning). The 531,131 easier images of the ``extra`` split are not used.
    """

    noun = "digit"
    dataset = "SVHN"
    channels = 3

    def __init__(self, val_size: int = 5_000, **settings) -> None:
        super().__init__(val_size=val_size, **settings)


@lru_cache(maxsize=2)
def load_torchvision(name: str, directory: Path, download: bool = False) -> Images:
    """Load a data set of ``PLACES`` through torchvision, which downloads it once if it may.

    torchvision checks the MD5 of CIFAR-10's and SVHN's files before it opens them.

    Raises:
        UserError: If it is not there and ``download`` is False, the download fails, or its files cannot be
            read.
    """
    place = PLACES[name]
    if not download and not (directory / place.files[0]).exists():
        raise UserError(
            f"{name} is not in {directory}, which the run names; trust=true downloads it to there "
            "(in Python: may_download = True of the data set)"
        )
    import torchvision  # imported here, because it takes longer than loading MNIST

    dataset = getattr(torchvision.datasets, name)
    try:
        if name == "SVHN":
            train, test = (dataset(directory, split, download=download) for split in ("train", "test"))
        else:
            train, test = (dataset(directory, train=which, download=download) for which in (True, False))
        if (len(train), len(test)) != (place.train, place.test):
            raise ValueError(
                f"{len(train)} and {len(test)} images instead of {place.train:,} and {place.test:,}"
            )
    except UNUSABLE as error:
        files = " and ".join(str(directory / file.removesuffix("/raw")) for file in place.files)
        raise UserError(
            f"{name} could not be downloaded to or read from {directory} ({one_line(error)}); "
            f"check the connection, delete {files} and try again, or use data=mnist, "
            "which needs no download"
        ) from None
    labels, test_labels = (
        torch.as_tensor(found.labels if name == "SVHN" else found.targets).long() for found in (train, test)
    )
    return Images(_images(train.data), _images(test.data), labels, test_labels)


def _images(data: object) -> Tensor:
    """Images as torchvision has them, as bytes ``(N, C, H, W)``: it leaves gray ones without channels."""
    images = torch.as_tensor(data)
    if images.ndim == 3:
        return images[:, None]
    return images.contiguous() if images.shape[1] == 3 else images.permute(0, 3, 1, 2).contiguous()
