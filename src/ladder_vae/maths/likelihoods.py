"""What a pixel is: from bytes to what a model sees, to p(x | z), and back to a picture.

A :class:`Likelihood` owns all of it: nothing else counts the decoder's channels or knows what its output
means.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from ladder_vae.maths.gaussian import full_precision


class Likelihood(ABC):
    """A distribution over images ``(B, C, H, W)``, given the decoder's output ``(K, B, channels, H, W)``."""

    #: Whether what is observed of gray levels is random.
    random = False

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """What is observed of gray levels, where that is random: bytes to bytes of the same shape.

        The same for the same state of the generator, in every version: test images are drawn by it.

        Args:
            images: uint8, on the generator's device.
        """
        return images

    def draw_anew(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """:meth:`draw` for training, where other random numbers may be faster."""
        return self.draw(images, generator)

    @abstractmethod
    def prepare(self, images: Tensor) -> Tensor:
        """What a model sees of bytes that were drawn: float, the same shape."""

    def channels(self, image_channels: int) -> int:
        """Channels of the decoder's output for images of so many."""
        return image_channels

    @abstractmethod
    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x | z), nats per image, shape ``(K, B)``, at least in float32.

        Args:
            params: The decoder's output, ``(K, B, channels, H, W)``.
            x: Prepared images, ``(B, C, H, W)``.
        """

    @abstractmethod
    def mean(self, params: Tensor) -> Tensor:
        """E[x | z] as intensities in [0, 1], ``(*lead, C, H, W)``."""

    @abstractmethod
    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A draw of x from p(x | z), ``(*lead, C, H, W)``."""

    def intensities(self, x: Tensor) -> Tensor:
        """Prepared images as intensities in [0, 1]."""
        return x


class Bernoulli(Likelihood):
    """Independent binary pixels; ``params`` are logits, one a pixel."""

    random = True

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Each pixel is 255 with probability ``intensity / 255``, exactly, else 0."""
        # A byte uniform on 0 .. 254 lies below intensity b in exactly b of 255 cases.
        uniform = torch.empty_like(images).random_(0, 255, generator=generator)
        return (uniform < images).byte() * 255

    def draw_anew(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The same from other random numbers, on the CPU in a third of the time.

        Eight bytes a number, and another draw where a byte is 255.
        """
        if images.device.type != "cpu":
            return self.draw(images, generator)
        count = images.numel()
        words = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None, generator=generator)
        uniform = words.view(torch.uint8)[:count]
        again = uniform.eq(255).nonzero()[:, 0]
        uniform[again] = torch.empty(len(again), dtype=torch.uint8).random_(0, 255, generator=generator)
        return (uniform.view(images.shape) < images).view(torch.uint8).mul_(255)

    def prepare(self, images: Tensor) -> Tensor:
        """0 stays 0, all else is 1."""
        return images.gt(0).float()

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Sum over pixels of ``x * logit - softplus(logit)``."""
        logits = full_precision(params)
        # x log s(a) + (1 - x) log s(-a) = x a - softplus(a): finite for every logit.
        return (x * logits - F.softplus(logits)).flatten(-3).sum(-1)

    def mean(self, params: Tensor) -> Tensor:
        """Probability that a pixel is on."""
        return torch.sigmoid(full_precision(params))

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Each pixel on with its probability."""
        return torch.bernoulli(self.mean(params), generator=generator)
