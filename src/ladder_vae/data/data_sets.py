"""Data sets: byte images become splits, and splits become batches of model inputs."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladder_vae.data.batches import Batches, spaced
from ladder_vae.data.sources import FINGERPRINT, Images
from ladder_vae.maths.likelihoods import Bernoulli, Likelihood
from ladder_vae.system.errors import UserError
from ladder_vae.system.memory import total_memory
from ladder_vae.system.randomness import stream_seed

BINARIZATIONS: tuple[str, ...] = ("dynamic", "static", "threshold")
# With this seed, the draws of validation and test images, and of `static`, are the same in every run.
FIXED_DRAW_SEED = 0
MAX_WARP = 0.5  # at this strength images are long beyond recognition
BLOCK = 1_000  # images that are read at a time where they need not be in memory


class ImageData(ABC):
    """Images with an official test split, which is used for neither training nor selection.

    Args:
        batch_size: Training images per step.
        val_size: Validation images, taken from the end of the training split; 0 trains on all of it.
        binarization: ``dynamic`` leaves gray levels to the likelihood, which draws training pixels anew each
            time an image is served; ``static`` is one seeded draw of this package (*not* the files of
            Larochelle and Murray 2011, which are ``larochelle`` of :class:`MNIST`); ``threshold`` sets pixels
            of 128 and more. Validation and test images are drawn once, the same in every run.
        seed: Seed of the order and draws of training images.
        eval_batch_size: Validation or test images per step.
        warp: How strongly training images are sheared and bent, anew each time (see
            :func:`~ladder_vae.data.warping.warp`); 0 leaves them as they are.
        warp_epochs: Number of epochs, from the first, in which images are warped; None means all.
        likelihood: The distribution p(x | z) of the pixels, which draws them; None means Bernoulli.

    Raises:
        UserError: If a setting is out of range, or settings contradict each other.
    """

    #: What a class is called.
    noun = "class"
    #: Kinds of ``binarization`` that the data set has.
    binarizations = BINARIZATIONS
    #: Channels of the images where they are known before loading: 1 or 3.
    channels: int | None = None
    #: Whether images that are not there may be downloaded. A run that somebody sent names any directory.
    may_download = False

    def __init__(
        self,
        batch_size: int = 512,
        val_size: int = 10_000,
        binarization: str = "dynamic",
        seed: int = 0,
        eval_batch_size: int = 1_000,
        warp: float = 0.0,
        warp_epochs: int | None = None,
        likelihood: Likelihood | None = None,
    ) -> None:
        if binarization not in self.binarizations:
            kinds = ", ".join(self.binarizations)
            raise UserError(f"data.binarization={binarization} is unknown here; choose {kinds}")
        if batch_size < 2:  # batch norm needs two images
            raise UserError(f"data.batch_size={batch_size} must be at least 2")
        if eval_batch_size < 1:
            raise UserError(f"data.eval_batch_size={eval_batch_size} must be at least 1")
        if val_size < 0:
            raise UserError(f"data.val_size={val_size} must be at least 0")
        if not 0 <= warp <= MAX_WARP:
            raise UserError(f"data.warp={warp:g} must lie between 0 and {MAX_WARP}")
        if binarization != "dynamic" and not (likelihood or Bernoulli()).binary:
            raise UserError(
                f"data.binarization={binarization} makes pixels binary, and those of this likelihood have "
                "256 values; leave it at dynamic, or set likelihood=bernoulli"
            )
        if warp and binarization != "dynamic":
            raise UserError(f"data.warp={warp:g} needs gray levels to warp; set data.binarization=dynamic")
        if warp_epochs is not None and warp_epochs < 0:
            raise UserError(f"data.warp_epochs={warp_epochs} must be at least 0, or null for all")
        self.batch_size = batch_size
        self.val_size = val_size
        self.binarization = binarization
        self.seed = seed
        self.eval_batch_size = eval_batch_size
        self.warp = warp
        self.warp_epochs = warp_epochs
        self.likelihood = likelihood or Bernoulli()
        self._splits: dict[str, Tensor] | None = None
        self._latest_draw: tuple[tuple[str, int], Tensor] = ("", 0), torch.empty(0)
        if self.channels is not None:
            self._check_channels(self.channels)

    @abstractmethod
    def load(self) -> Images:
        """Load the gray-level images. Raises UserError if they cannot be read or downloaded."""

    def setup(self) -> None:
        """Load and split the images, and draw validation and test pixels. Raises UserError if that fails."""
        if self._splits is not None:
            return
        source = self.load()
        self._check_channels(source.train.shape[1])
        if not source.mapped:  # else batches are put into the order of their axes
            # Pixels are drawn in the order of memory, which the fingerprint does not see.
            source = replace(source, train=source.train.contiguous(), test=source.test.contiguous())
        self.source = source
        total = len(self.source.train)
        if total < 2:
            raise UserError(f"data={type(self).__name__} holds {total} training images; give it two or more")
        if self.val_size > total - 2:
            raise UserError(
                f"data.val_size={self.val_size} leaves too few of {total} training images; "
                f"lower it to {total - 2} or less"
            )
        train = self.source.train
        if self.binarization != "dynamic":
            train = self._fixed(train, "train")  # before the split: val_size moves no pixel
        cut = total - self.val_size
        val = train[cut:] if self.binarization != "dynamic" else self._fixed(train[cut:], "val")
        self._splits = {"train": train[:cut], "val": val, "test": self._fixed(self.source.test, "test")}

    def _check_channels(self, channels: int) -> None:
        """Raises UserError if the likelihood has no pixels of so many channels."""
        try:
            self.likelihood.channels(channels)
        except ValueError as error:
            raise UserError(f"data={type(self).__name__}: {error}") from None

    def _fixed(self, images: Tensor, name: str, draw: int = 0) -> Tensor:
        """Draw the pixels of images, uint8 of the same shape; the same for equal ``name`` and ``draw``."""
        needed, there = 2 * images.numel(), total_memory("cpu")
        if (self.binarization == "threshold" or self.likelihood.random) and needed > there:
            raise UserError(
                f"data={type(self).__name__}: drawing the pixels of {len(images):,} images ({name}) takes "
                f"{needed / 2**30:,.1f} GiB, and this machine has {there / 2**30:,.1f}; "
                "set likelihood=logistic_mixture, which draws none, or hold out fewer images"
            )
        if self.binarization == "threshold":
            return images.ge(128).byte() * 255
        key = stream_seed(FIXED_DRAW_SEED, name, *([draw] if draw else []))
        generator = torch.Generator().manual_seed(key)
        return self.likelihood.draw(images.contiguous() if self.likelihood.random else images, generator)

    def split(self, name: str) -> Tensor:
        """``train``, ``val`` or ``test``, uint8 ``(N, C, H, W)``; drawn, but for dynamic training images."""
        self.setup()
        assert self._splits is not None
        if name not in self._splits:
            raise ValueError(f"{name} is no split; choose {', '.join(self._splits)}")
        return self._splits[name]

    def observe(self, name: str, index: Sequence[int], draw: int = 0) -> Tensor:
        """Images of a split as model inputs, ``(n, C, H, W)``. Every call gives the same pixels.

        Args:
            name: ``train``, ``val`` or ``test``.
            index: Indices of the images.
            draw: Number of the draw of the pixels. Draw 0 is used for validation and test. Other draws exist
                only with ``binarization="dynamic"``; otherwise they raise ValueError.
        """
        if draw and self.binarization != "dynamic":
            raise ValueError(f"binarization={self.binarization} has no draw {draw} of its pixels, only 0")
        if draw:
            return self.likelihood.prepare(self._redrawn(name, draw)[list(index)])
        gray = name == "train" and self.binarization == "dynamic"
        images = self._drawn_train if gray else self.split(name)
        return self.likelihood.prepare(images[list(index)].contiguous())

    def _redrawn(self, name: str, draw: int) -> Tensor:
        """Another draw of the pixels of a split, uint8 ``(N, C, H, W)``; the latest one stays in memory."""
        if self._latest_draw[0] != (name, draw):
            self.setup()
            train, cut = self.source.train, len(self.source.train) - self.val_size
            gray = {"train": train[:cut], "val": train[cut:], "test": self.source.test}[name]
            self._latest_draw = (name, draw), self._fixed(gray, name, draw)
        return self._latest_draw[1]

    def sample(self, name: str, count: int) -> Sequence[int]:
        """Indices of ``count`` evenly spaced images of a split, or of all images if it has fewer.

        MNIST's training images alternate between two groups of writers, so every sixth image, say, would be
        from one group alone. If the spacing is even, every second index is therefore moved by one.
        """
        total = len(self.split(name))
        index = spaced(total, count)
        if name != "test" and total % (2 * count) == 0:
            return [i + place % 2 for place, i in enumerate(index)]
        return index

    @cached_property
    def _drawn_train(self) -> Tensor:
        """Training images with fixed pixels, for evaluation; in training they are drawn anew each time."""
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

    def expected(self, name: str, index: Tensor | slice = slice(None)) -> Tensor:
        """Expected pixels of ``train`` or ``test`` images of the source, in [0, 1], ``(n, C, H, W)``.

        Args:
            name: ``train``, with the validation images behind the others, or ``test``.
            index: Which images; by default all.
        """
        self.setup()
        images = (self.source.train if name == "train" else self.source.test)[index].contiguous()
        return images.ge(128).float() if self.binarization == "threshold" else images.float() / 255

    def gallery(self, count: int) -> list[int]:
        """Indices of at most ``count`` test images: the first of each class, then the first of the split."""
        total, labels = len(self.split("test")), self.labels("test")
        firsts = [] if labels is None else [int((labels == c).nonzero()[0, 0]) for c in labels.unique()]
        return list(dict.fromkeys([*firsts, *range(min(count, total))]))[:count]

    def examples(self, count: int) -> tuple[str, Tensor]:
        """Name of a split, and its first ``count`` images as model inputs, to look at during training.

        They are validation images, or training images if there are none. Every run shows the same.
        """
        self.setup()
        name = "val" if self.val_size else "train"
        images = self.split(name)[:count].contiguous()
        return name, self.likelihood.prepare(self._fixed(images, "examples"))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the gray-level images and of the kind of binarization; checkpoints keep it."""
        self.setup()
        digest = hashlib.sha256(self.binarization.encode())
        for images in (self.source.train, self.source.test):
            digest.update(repr(tuple(images.shape)).encode())
            for block in images.split(BLOCK):
                digest.update(block.contiguous().numpy().data)
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

    def training_batches(
        self, epoch: Callable[[], int] = lambda: 0, device: torch.device | str = "cpu"
    ) -> Batches:
        """Batches of training images, whose order and pixels depend on the seed and the epoch.

        Args:
            epoch: Called at the start of an iteration; returns the number of the epoch.
            device: Device that holds all images and draws their pixels, so that the loop copies nothing.
        """
        images = self.split("train")
        return Batches(
            images if self.source.mapped else images.to(device),
            self.batch_size,
            self.likelihood,
            seed=self.seed,
            draw=self.binarization == "dynamic",
            strength=lambda epoch: self.warp if self.warp_epochs is None or epoch < self.warp_epochs else 0.0,
            epoch=epoch,
        )

    def batches(self, name: str) -> Batches:
        """Batches of a split in order; every run gets the same."""
        return Batches(self.split(name), self.eval_batch_size, self.likelihood)
