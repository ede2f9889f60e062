"""Likelihoods: from bytes to the input of a model, to p(x | z), and back to a picture.

A :class:`Likelihood` owns all these steps. No other code counts the decoder's channels or knows what its
output means.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ladder_vae.maths.elementary import softplus
from ladder_vae.maths.gaussian import full_precision


class Likelihood(ABC):
    """A distribution over images ``(B, C, H, W)``, given the decoder's output ``(K, B, channels, H, W)``."""

    #: Whether :meth:`draw` is random.
    random = False
    #: Whether pixels have 256 values, so that bounds are compared in bits per dimension.
    bits = False
    #: Whether pixels have two values.
    binary = False
    #: The lowest and highest value of a prepared pixel; None where it is not known.
    span: tuple[float, float] | None = None

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the observed image, as bytes, from gray levels. A likelihood without randomness returns them.

        The result depends on the state of the generator alone and must be the same in every version of this
        package, because the test images are drawn by this method.

        Args:
            images: Gray levels, uint8 ``(N, C, H, W)``, on the generator's device.
            generator: Source of the draw.
        """
        return images

    def draw_anew(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """:meth:`draw` for training; it may use other, faster random numbers."""
        return self.draw(images, generator)

    @abstractmethod
    def prepare(self, images: Tensor) -> Tensor:
        """The input of a model, float, from images that were drawn, uint8 of the same shape."""

    def check(self, x: Tensor) -> None:
        """Refuse what cannot be prepared images: densities of other values are finite and mean nothing.

        Values are looked at on the CPU only; another device would have to be waited for.

        Raises:
            ValueError: If the shape is not ``(B, C, H, W)``, or a value lies outside of ``span``.
        """
        if x.dim() != 4:
            raise ValueError(f"images have the shape {tuple(x.shape)}; a model takes (B, C, H, W)")
        if self.span is None or x.device.type != "cpu" or torch.compiler.is_compiling() or not x.numel():
            return
        try:
            low, high = (float(value) for value in x.detach().aminmax())
        except RuntimeError:  # while operations are traced there are no values
            return
        if not self.span[0] <= low <= high <= self.span[1]:
            raise ValueError(
                f"images hold values from {low:g} to {high:g}, and {type(self).__name__} takes "
                f"{self.span[0]:g} to {self.span[1]:g}; ladder_vae.binarize(images) draws binary pixels of "
                "gray ones, and likelihood.prepare takes bytes"
            )

    def bits_per_nat(self, image_shape: Sequence[int]) -> float | None:
        """Bits per dimension in one nat per image; None of binary pixels, which nobody compares by them.

        Args:
            image_shape: Of one image, ``(C, H, W)``.
        """
        return 1 / (math.prod(image_shape) * math.log(2)) if self.bits else None

    def channels(self, image_channels: int) -> int:
        """Number of channels that the decoder needs for images of ``image_channels`` channels.

        Raises:
            ValueError: If there is no such distribution of pixels of so many channels.
        """
        return image_channels

    @abstractmethod
    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x | z), nats per image, shape ``(K, B)``, in float32 or float64.

        Args:
            params: The decoder's output, ``(K, B, channels, H, W)``.
            x: Prepared images, ``(B, C, H, W)``.
        """

    @abstractmethod
    def mean(self, params: Tensor) -> Tensor:
        """E[x | z] as intensities in [0, 1], ``(*lead, C, H, W)``, from ``(*lead, channels, H, W)``."""

    @abstractmethod
    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A draw of x from p(x | z), ``(*lead, C, H, W)``."""

    def of_noisy(self, image: Tensor, log_var: Tensor) -> Tensor:
        """The parameters that say of each pixel what its own noisy value tells, and nothing else.

        Args:
            image: A noisy image, with intensities of 0 as -1 and of 1 as 1, ``(*lead, C, H, W)``.
            log_var: Logarithm of the variance of the noise, broadcastable with it.

        Returns:
            ``(*lead, channels, H, W)``.

        Raises:
            ValueError: If the likelihood has no such parameters.
        """
        raise ValueError(f"{type(self).__name__} does not say what a noisy pixel tells")

    def intensities(self, x: Tensor) -> Tensor:
        """Prepared images as intensities in [0, 1]."""
        return x


class Bernoulli(Likelihood):
    """Independent binary pixels; ``params`` holds one logit per pixel."""

    random = True
    binary = True
    span = (0.0, 1.0)

    def channels(self, image_channels: int) -> int:
        if image_channels > 1:
            raise ValueError(
                f"pixels of {image_channels} channels are not binary; set likelihood=logistic_mixture"
            )
        return 1

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Set each pixel to 255 with probability exactly ``intensity / 255``, else to 0."""
        # A byte uniform on 0 .. 254 lies below intensity b in exactly b of 255 cases.
        uniform = torch.empty_like(images).random_(0, 255, generator=generator)
        return (uniform < images).byte() * 255

    def draw_anew(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """:meth:`draw` from other random numbers, which takes a third of the time on the CPU.

        Each 64-bit random number gives eight bytes. A byte of 255 is drawn again.
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
        """Zero stays 0, and any other byte becomes 1."""
        return images.gt(0).float()

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Sum over pixels of ``x * logit - softplus(logit)``."""
        logits = full_precision(params)
        # x log s(a) + (1 - x) log s(-a) = x a - softplus(a): finite for every logit.
        return (x * logits - softplus(logits)).flatten(-3).sum(-1)

    def mean(self, params: Tensor) -> Tensor:
        """Probability that a pixel is on."""
        return torch.sigmoid(full_precision(params))

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Each pixel is 1 with its probability, else 0."""
        return torch.bernoulli(self.mean(params), generator=generator)

    def of_noisy(self, image: Tensor, log_var: Tensor) -> Tensor:
        """log N(image; 1) - log N(image; -1), the log-odds that Bayes' rule gives a pixel."""
        return 2 * torch.exp(-log_var) * image
