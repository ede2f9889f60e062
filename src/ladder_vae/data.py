"""Data modules: how byte images become splits, and splits become binary batches."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from ladder_vae.errors import UserError
from ladder_vae.images import FINGERPRINT, Images, load_mnist, load_npz, load_torchvision
from ladder_vae.randomness import stream_seed

BINARIZATIONS = ("dynamic", "static", "threshold")
# The draws of validation and test images, and of `static`, are the same in every run.
FIXED_DRAW_SEED = 0


def draw_binary(intensities: Tensor, generator: torch.Generator) -> Tensor:
    """Bernoulli draw of each pixel: True with probability ``intensity / 255``, exactly.

    Args:
        intensities: uint8, any shape, on the generator's device.
    """
    # A byte uniform on 0 .. 254 lies below intensity b in exactly b of 255 cases.
    uniform = torch.empty_like(intensities).random_(0, 255, generator=generator)
    return uniform < intensities


def draw_binary_fast(intensities: Tensor, generator: torch.Generator) -> Tensor:
    """The same from other random numbers, in a third of the time; on the CPU.

    Eight bytes a number, and another draw where a byte is 255.
    """
    count = intensities.numel()
    words = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    uniform = words.view(torch.uint8)[:count]
    again = uniform.eq(255).nonzero()[:, 0]
    uniform[again] = torch.empty(len(again), dtype=torch.uint8).random_(0, 255, generator=generator)
    return uniform.view(intensities.shape) < intensities


class Batches:
    """Float batches ``(B, C, H, W)`` in {0, 1} from byte images: an index and a vectorized draw.

    Everything random in an epoch follows from ``(seed, epoch)``, so that a resumed run sees what an
    uninterrupted one would.

    Args:
        images: uint8 ``(N, C, H, W)``. Batches are drawn where they lie: on the CPU, or all on a GPU.
        batch_size: Images a batch; the last batch is smaller where N does not divide.
        seed: Seed of order and draws; None serves the images in order, as they are.
        draw: Whether to draw pixels anew each time; otherwise bytes are taken to be 0 or 255.
        epoch: Called at the start of an iteration for the number of the epoch.
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        *,
        seed: int | None = None,
        draw: bool = False,
        epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.draw = draw
        self.epoch = epoch
        remainder = len(images) % batch_size
        # Batch norm cannot normalize a training batch of one image; it waits for another epoch.
        self._count = len(images) - (remainder if seed is not None and remainder == 1 else 0)

    def __len__(self) -> int:
        return -(-self._count // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        if self.seed is None:
            for batch in self.images.split(self.batch_size):
                yield batch.gt(0).float()
            return
        seed, device = stream_seed(self.seed, "batches", self.epoch()), self.images.device
        generator = torch.Generator(device).manual_seed(seed)
        draw = draw_binary_fast if device.type == "cpu" else draw_binary
        order = torch.randperm(len(self.images), generator=generator, device=device)[: self._count]
        for index in order.split(self.batch_size):
            batch = self.images.index_select(0, index)
            yield (draw(batch, generator) if self.draw else batch.gt(0)).float()


class ImageData(L.LightningDataModule):
    """Binary images with an official test split, which neither training nor selection ever sees.

    Args:
        batch_size: Training images a step.
        val_size: Validation images, taken from the end of the training split; 0 trains on all of it.
        binarization: ``dynamic`` draws training pixels anew each time an image is served; ``static``
            is one seeded draw of this package (*not* the files of Larochelle and Murray 2011);
            ``threshold`` sets pixels of 128 and more. Validation and test images are drawn once,
            the same in every run.
        seed: Seed of the order and draws of training images.
        eval_batch_size: Validation or test images a step.

    Raises:
        UserError: If a setting makes no sense.
    """

    def __init__(
        self,
        batch_size: int = 512,
        val_size: int = 10_000,
        binarization: str = "dynamic",
        seed: int = 0,
        eval_batch_size: int = 1_000,
    ) -> None:
        super().__init__()
        if binarization not in BINARIZATIONS:
            raise UserError(f"data.binarization={binarization} is unknown; choose {', '.join(BINARIZATIONS)}")
        if batch_size < 2:  # batch norm needs two images
            raise UserError(f"data.batch_size={batch_size} must be at least 2")
        if eval_batch_size < 1:
            raise UserError(f"data.eval_batch_size={eval_batch_size} must be at least 1")
        if val_size < 0:
            raise UserError(f"data.val_size={val_size} must be at least 0")
        self.batch_size = batch_size
        self.val_size = val_size
        self.binarization = binarization
        self.seed = seed
        self.eval_batch_size = eval_batch_size
        self._splits: dict[str, Tensor] | None = None

    @abstractmethod
    def load(self) -> Images:
        """The gray-level images. Raises UserError if they cannot be had."""

    def setup(self, stage: str | None = None) -> None:
        """Load and split; validation and test pixels are drawn here, once."""
        if self._splits is not None:
            return
        self.source = self.load()
        total = len(self.source.train)
        if self.val_size > total - 2:
            raise UserError(
                f"data.val_size={self.val_size} leaves too few of {total} training images; lower it"
            )
        train = self.source.train
        if self.binarization != "dynamic":
            train = self._fixed(train, "train")  # before the split: val_size moves no pixel
        cut = total - self.val_size
        val = train[cut:] if self.binarization != "dynamic" else self._fixed(train[cut:], "val")
        self._splits = {"train": train[:cut], "val": val, "test": self._fixed(self.source.test, "test")}

    def _fixed(self, images: Tensor, name: str) -> Tensor:
        """Bytes 0 or 255 that stand for the binarized images, the same in every run."""
        if self.binarization == "threshold":
            return images.ge(128).byte() * 255
        generator = torch.Generator().manual_seed(stream_seed(FIXED_DRAW_SEED, name))
        return draw_binary(images, generator).byte() * 255

    def split(self, name: str) -> Tensor:
        """Bytes of ``train``, ``val`` or ``test``, uint8 ``(N, C, H, W)``."""
        self.setup()
        assert self._splits is not None
        return self._splits[name]

    def binary(self, name: str, index: Sequence[int]) -> Tensor:
        """Images of a split, float ``(n, C, H, W)`` in {0, 1}; the same for the same index at every call."""
        gray = name == "train" and self.binarization == "dynamic"
        images = self._binary_train if gray else self.split(name)
        return images[list(index)].gt(0).float()

    @cached_property
    def _binary_train(self) -> Tensor:
        """Training images are drawn anew in training; these draws are for looking at them afterwards."""
        return self._fixed(self.split("train"), "train")

    def labels(self, name: str) -> Tensor | None:
        """Classes of the images of a split, int64 ``(N,)``, if the source has them."""
        self.setup()
        if name == "test":
            return self.source.test_labels
        labels = self.source.train_labels
        if labels is None:
            return None
        cut = len(labels) - self.val_size
        return labels[:cut] if name == "train" else labels[cut:]

    def gallery(self, count: int) -> list[int]:
        """Indices of at most ``count`` test images: the first of each class, then the first of all."""
        total, labels = len(self.split("test")), self.labels("test")
        firsts = [] if labels is None else [int((labels == c).nonzero()[0, 0]) for c in labels.unique()]
        return list(dict.fromkeys([*firsts, *range(min(count, total))]))[:count]

    def examples(self, count: int) -> tuple[str, Tensor]:
        """Binary images to look at while training, float ``(count, C, H, W)``, and the split they are from.

        Validation images, or training images where there are none; the same in every run.
        """
        name = "val" if self.val_size else "train"
        return name, self._fixed(self.split(name)[:count], "examples").gt(0).float()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the gray-level images and of how they are binarized; checkpoints keep it."""
        self.setup()
        digest = hashlib.sha256(self.binarization.encode())
        for images in (self.source.train, self.source.test):
            digest.update(repr(tuple(images.shape)).encode())
            digest.update(images.contiguous().numpy().data)
        return digest.hexdigest()

    def check_trained_on(self, checkpoint: Mapping[str, Any], run: Path) -> None:
        """Raises UserError if the checkpoint of ``run`` was trained on other images than these."""
        if checkpoint.get(FINGERPRINT, self.fingerprint) != self.fingerprint:
            raise UserError(
                f"{run} was trained on other images than {type(self).__name__} holds now; restore the data "
                "that its config.yaml names"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        c, h, w = self.split("train").shape[1:]
        return c, h, w

    def train_dataloader(self) -> Batches:
        images = self.split("train")
        if self.trainer and self.trainer.strategy.root_device.type == "cuda":
            images = images.to(self.trainer.strategy.root_device)  # all of them, once: no copy in the loop
        return Batches(
            images,
            self.batch_size,
            seed=self.seed,
            draw=self.binarization == "dynamic",
            epoch=lambda: self.trainer.current_epoch if self.trainer else 0,
        )

    def val_dataloader(self) -> Batches:
        return Batches(self.split("val"), self.eval_batch_size)

    def test_dataloader(self) -> Batches:
        return Batches(self.split("test"), self.eval_batch_size)


class MNIST(ImageData):
    """The MNIST digits (LeCun, Cortes and Burges; CC BY-SA 3.0), 28x28, inside the package."""

    def load(self) -> Images:
        return load_mnist()


class TorchvisionData(ImageData):
    """A data set that torchvision downloads into ``directory`` on first use."""

    dataset: str

    def __init__(self, directory: str = "~/.cache/ladder_vae", **settings) -> None:
        super().__init__(**settings)
        self.directory = Path(directory).expanduser()

    def load(self) -> Images:
        return load_torchvision(self.dataset, self.directory)


class FashionMNIST(TorchvisionData):
    """Clothing, 28x28 (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747)."""

    dataset = "FashionMNIST"


class KMNIST(TorchvisionData):
    """Cursive Japanese characters, 28x28 (Clanuwat et al. 2018, arXiv 1812.01718)."""

    dataset = "KMNIST"


class Npz(ImageData):
    """A user's own single-channel images of any height and width; see :func:`~ladder_vae.images.load_npz`."""

    def __init__(self, path: str, **settings) -> None:
        super().__init__(**settings)
        self.path = Path(path).expanduser()

    def load(self) -> Images:
        return load_npz(self.path.absolute())


#: What a run's config.yaml may name.
DATA_SETS = (MNIST, FashionMNIST, KMNIST, Npz)
