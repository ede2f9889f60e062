"""An opened run: its model, its data, and what people ask a trained model for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladder_vae.data.arrays import model_inputs
from ladder_vae.data.data_sets import ImageData
from ladder_vae.models.evaluator import MIN_UNIT_DRAWS, Settings, image_statistics
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.inference import Inference
from ladder_vae.models.passes import Passes, draws_per_pass
from ladder_vae.models.statistics import ImageStatistics
from ladder_vae.runs.construction import open_data
from ladder_vae.runs.record import METRICS, read_metrics


@dataclass(frozen=True, repr=False)
class Run:
    """A trained model: in eval mode, on the CPU, with the averaged weights where the run kept them.

    Images are given as :func:`~ladder_vae.data.arrays.model_inputs` takes them: bytes or floats, NumPy or
    PyTorch, ``(N, C, H, W)``, ``(N, H, W)`` or ``(N, H * W)``. A model of binary pixels refuses gray ones;
    :func:`~ladder_vae.data.arrays.binarize` draws them. A level is named ``"z2"``, or by its index, 1.

    Args:
        model: The model.
        config: The run's ``config.yaml``.
        path: The run directory.
        checkpoint: Plain values beside the weights: ``global_step``, ``sha256`` of the file, ...
        trust: Whether the data may be of a class from outside this package, and be downloaded.

    Example::

        run = load_run("three_levels")
        x = run.data.observe("test", range(8))
        print(run.elbo(x), run.encode(x)["z2"].z.shape)
    """

    model: Hierarchy
    config: dict[str, Any]
    path: Path
    checkpoint: dict[str, Any]
    trust: bool = False

    def __repr__(self) -> str:
        return f"Run({self.model!r}, {str(self.path)!r})"

    @cached_property
    def data(self) -> ImageData:
        """The images that the run was trained on. Raises UserError if they cannot be had."""
        return open_data(self.path, self.config, self.checkpoint, self.model.likelihood, self.trust)

    @property
    def metrics(self) -> dict[str, float]:
        """What ``metrics.json`` holds; empty where there is none. Raises UserError if it cannot be read."""
        return read_metrics(self.path) if (self.path / METRICS).exists() else {}

    def inputs(self, images: Any) -> Tensor:
        """Images as the model takes them, ``(N, C, H, W)``, on its device. All methods below call this.

        Raises:
            ValueError: If these are no images for this model.
        """
        prepared = model_inputs(images, self.config["model"]["input_shape"], self.model.likelihood)
        return prepared.to(next(self.model.parameters()))

    def elbo(self, images: Any, num_samples: int = MIN_UNIT_DRAWS, *, seed: int = 0) -> Tensor:
        """The ELBO of each image, nats, ``(N,)``: the mean over ``num_samples`` posterior draws.

        Of all test images in order, the mean is ``test/elbo`` of ``metrics.json`` as training left it; after
        ``evaluate``, that is of other draws. For a model whose ``has_weights`` is false, a draw looks at
        one level only, so that a single image needs thousands of draws.

        Args:
            images: N images.
            num_samples: Number of draws per image.
            seed: Seed of the noise.
        """
        return self._statistics(images, num_samples, (), seed).elbo

    def log_px(self, images: Any, num_samples: int = 1000, *, seed: int = 0) -> Tensor:
        """The importance-weighted bound L_K on log p(x) of each image with K draws, nats, ``(N,)``.

        It is L_K of Burda et al. 2015 (arXiv 1509.00519), and a lower bound that grows with K.

        Args:
            images: N images.
            num_samples: Number K of draws per image.
            seed: Seed of the noise.
        """
        return self._statistics(images, num_samples, (num_samples,), seed).log_px[:, 0]

    def encode(self, images: Any, num_samples: int = 1, *, seed: int | None = None) -> Inference:
        """Draw the latents of images from the posterior.

        Args:
            images: N images.
            num_samples: Number K of draws per image.
            seed: Seed of the draws; None goes on with PyTorch's global generator.

        Returns:
            The record of each level, with sample, posterior q and prior p. On every level, ``z``, ``q.mean``,
            ``q.std``, ``p.mean`` and ``p.std`` are ``(K, N, *event)``.
        """
        x = self.inputs(images)
        with torch.no_grad():
            noise = self.model.draw_noise(num_samples, len(x), like=x, generator=_generator(seed))
            found = self.model.infer(x, noise=noise)
        levels = tuple(level.expanded() for level in found.levels)
        return Inference(levels, found.params, found.log_px)

    def reconstruct(self, images: Any, *, seed: int | None = None) -> Tensor:
        """The mean of p(x | z) for one posterior draw of each image, in [0, 1], ``(N, C, H, W)``.

        Args:
            images: N images.
            seed: Seed of the draws; None goes on with PyTorch's global generator.
        """
        return self.model.likelihood.mean(self.encode(images, seed=seed).params[0])

    def sample(
        self,
        n: int = 16,
        *,
        hold: Mapping[int | str, Tensor] | None = None,
        temperature: Mapping[int | str, float] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Draw images from the prior: the mean of p(x | z) of each, in [0, 1], ``(n, C, H, W)``.

        Args:
            n: Number of images.
            hold: Maps a level to its latent, ``(n, *event)``, which is not drawn.
            temperature: Maps a level to a factor on its innovations; if its prior is Gaussian, that is one on
                the standard deviation.
            seed: Seed of the draws; None goes on with PyTorch's global generator.

        Raises:
            ValueError: If ``n`` is no number of images.
        """
        if not isinstance(n, Integral) or n < 1:
            raise ValueError(f"n={n!r} must be a whole number of images, at least 1")
        source = _generator(seed)
        drawn = self.model.generate(
            n, hold=hold, temperature=temperature, generator=source, keep_levels=False
        )
        return drawn.mean

    def _statistics(
        self, images: Any, num_samples: int, sample_sizes: tuple[int, ...], seed: int
    ) -> ImageStatistics:
        """What an evaluation with these settings finds of each image, which counts from 0."""
        if num_samples < 1:
            raise ValueError(f"num_samples={num_samples} must be at least 1")
        x = self.inputs(images)
        settings = Settings(
            num_samples, sample_sizes, seed, chunk_size=draws_per_pass(self.model, x.shape[1:], x.device)
        )
        passes, parts = Passes(self.model), []
        for part in torch.arange(len(x)).split(settings.images_per_pass):
            parts.append(image_statistics(self.model, x[part], part.tolist(), settings, passes))
        return ImageStatistics.concatenate(parts)


def _generator(seed: int | None) -> torch.Generator | None:
    return None if seed is None else torch.Generator().manual_seed(seed)
