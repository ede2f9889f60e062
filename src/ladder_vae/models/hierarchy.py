"""The interface of every model: ``infer`` the latents of images, ``generate`` images from the prior.

Levels are counted from the image: index 0 is z_1, next to the image; index L - 1 is z_L, the top.
A model is a stack of *rungs*, one per level. A rung computes the prior and the posterior of its level.
The walk from the top down to the image is written once, here. Top-down inference, bottom-up inference
and generation all use it.
Shapes: ``*lead`` stands for the axes in front of a single image's latent. They are ``(K, B)`` in
inference and ``(n,)`` in generation.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ladder_vae.maths.gaussian import Gaussian
from ladder_vae.maths.likelihoods import Bernoulli, Likelihood
from ladder_vae.models.descending_noise import from_the_top
from ladder_vae.models.inference import Density, Estimate, Generation, Inference, Level, Terms
from ladder_vae.models.rung import Rung
from ladder_vae.system.naming import level_index, z_name

ImageShape = tuple[int, int, int]
#: Chooses the latent of a level: (level, state from above, prior) to (z, the density that z is drawn from).
Pick = Callable[[int, Any, Any], tuple[Tensor, Density]]


class Hierarchy(nn.Module, ABC):
    """A hierarchical VAE: rungs, a decoder, a likelihood.

    Args:
        rungs: One rung per level, z_1 first.
        decoder: Maps the state below z_1 to the parameters of p(x | z), ``(*lead, channels, H, W)``.
        likelihood: The distribution p(x | z) of the pixels; None means Bernoulli.
    """

    #: Whether the rate of every level is a closed-form KL, hence never negative. Otherwise only the top's is.
    closed_form_rates: bool
    #: Whether :meth:`terms` estimates the rates from a few levels, so that only their means say anything.
    estimates_rates = False
    #: Whether draws of all levels have importance weights.
    has_weights = True
    #: How the names of parameters begin that weight decay would bias toward a value that means nothing.
    undecayed: tuple[str, ...] = ()

    def __init__(
        self, rungs: Sequence[Rung], decoder: nn.Module, likelihood: Likelihood | None = None
    ) -> None:
        super().__init__()
        self.rungs = nn.ModuleList(rungs)
        self.decoder = decoder
        self.likelihood: Likelihood = likelihood or Bernoulli()

    def __repr__(self) -> str:
        weights = sum(parameter.numel() for parameter in self.parameters())
        ends = dict.fromkeys((0, self.num_layers - 1))
        levels = " to ".join(f"{z_name(level)} {self.event_shapes[level]}" for level in ends)
        return f"{type(self).__name__}(levels: {self.num_layers}, {levels}; {weights:,} weights)"

    @property
    def num_layers(self) -> int:
        """Number of latent levels L."""
        return len(self.rungs)

    @property
    def event_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of one image's latent on each level, z_1 first."""
        return tuple(self.rung(level).event_shape for level in range(self.num_layers))

    def rung(self, level: int) -> Rung:
        """The rung of a level."""
        return self.rungs[level]  # type: ignore[return-value]

    @abstractmethod
    def encode(self, x: Tensor) -> Any:
        """The part of inference that is computed once per image ``(B, C, H, W)`` and serves all K samples."""

    @abstractmethod
    def picks(self, features: Any, noise: Sequence[Tensor]) -> Pick:
        """The function by which inference chooses the latent of each level.

        Args:
            features: The result of ``encode(x)``.
            noise: Standard-normal noise of each level, ``(K, B, *event)``.
        """

    def walk(self, pick: Pick, *, keep_levels: bool = True) -> tuple[Tensor, tuple[Level, ...]]:
        """Walk from the top to the image: on each level form the prior, pick the latent, descend.

        Args:
            pick: Chooses the latent of each level.
            keep_levels: Whether the levels are returned. Else each is forgotten once the next is picked.

        Returns:
            The decoder's output, ``(*lead, channels, H, W)``, and the levels, z_1 first.
        """
        state: Any = None
        levels: list[Level] = []
        for level in reversed(range(self.num_layers)):
            rung = self.rung(level)
            p = rung.prior(state)
            z, q = pick(level, state, p)
            if keep_levels:
                levels.append(Level(z, q, p, closed_form=self.closed_form_rates or state is None))
            state = rung.descend(state, z)
        return self.decoder(state), tuple(reversed(levels))

    def infer(
        self,
        x: Tensor,
        num_samples: int = 1,
        *,
        noise: Sequence[Tensor] | None = None,
        features: Any = None,
    ) -> Inference:
        """Draw the latents of images from the posterior.

        Args:
            x: Images as the likelihood prepares them, ``(B, C, H, W)``; for Bernoulli in {0, 1}.
            num_samples: Draws K per image.
            noise: Standard-normal noise of each level, ``(K, B, *event)``, in place of fresh draws
                (see :meth:`draw_noise`). Its K replaces ``num_samples``.
            features: The result of ``encode(x)``, if an earlier call has computed it.

        Raises:
            ValueError: In eval mode, if ``x`` are no images of this form, or, on the CPU, hold values of no
                such pixels.
        """
        if not self.training:
            self.likelihood.check(x)
        features = self.encode(x) if features is None else features
        noise = noise or self.draw_noise(num_samples, len(x), like=x)
        params, levels = self.walk(self.picks(features, noise))
        return Inference(levels, params, self.likelihood.log_prob(params, x))

    def terms(self, x: Tensor, noise: Sequence[Tensor], *, monte_carlo: bool = False) -> Terms:
        """Distortion ``(K, B)`` and rates ``(L, K, B)`` of images, from which training forms its loss.

        They come from :meth:`infer`. A model with very many levels may override this method and estimate
        its rates from a few levels.

        Args:
            x: Images as the likelihood prepares them, ``(B, C, H, W)``; for Bernoulli in {0, 1}.
            noise: What :meth:`terms_noise` draws.
            monte_carlo: Whether rates are log q(z) - log p(z) even where a closed form exists.
        """
        return self.infer(x, noise=noise).terms(monte_carlo=monte_carlo)

    def terms_noise(
        self, num_samples: int, batch: int, *, like: Tensor, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """The random numbers of :meth:`terms`, ``(K, B, ...)`` each; here those of :meth:`draw_noise`."""
        return self.draw_noise(num_samples, batch, like=like, generator=generator)

    def estimate(self, x: Tensor, keys: Tensor, num_samples: int, per_pass: int) -> Estimate:
        """Distortion and rates of images, averaged over draws, without the latents of all levels at once.

        Args:
            x: Images as the likelihood prepares them, ``(B, C, H, W)``.
            keys: Keys of the images' noise, int64, ``(B,)``.
            num_samples: Draws of each image.
            per_pass: Draws of each image that are computed at once.

        Raises:
            TypeError: If the model knows its rates.
        """
        raise TypeError(f"{type(self).__name__} does not estimate its rates")

    @torch.no_grad()
    def generate(
        self,
        n: int,
        *,
        hold: Mapping[Any, Tensor] | None = None,
        temperature: Mapping[Any, float] | None = None,
        noise: Mapping[Any, Tensor] | None = None,
        generator: torch.Generator | None = None,
        keep_levels: bool = True,
    ) -> Generation:
        """Draw ``n`` images from the prior, top level first. The model should be in eval mode.

        A level is given by its name, ``"z2"``, or by its index, 1.

        Args:
            n: Number of images.
            hold: Maps a level to its latent z, ``(n, *event)``. Nothing is drawn on that level.
            temperature: Maps a level to a factor on its innovations (default 1). For a Gaussian prior it is a
                factor on its standard deviation.
            noise: Maps a level to its innovation, ``(n, *event)``: (z - mu_p) / sigma_p for a Gaussian prior.
            generator: Source of all other innovations (default: torch's global generator).
            keep_levels: Whether the result holds the latents of all levels. Without them, memory is that of
                one level and of a part of the noise, however many levels there are; images are the same.

        Raises:
            ValueError: If a level does not exist.
        """
        hold, temperature, noise = map(self._by_index, (hold, temperature, noise))
        missing = any(level not in hold and level not in noise for level in range(self.num_layers))
        # Noise is drawn for all levels or none, so that holding a level does not change another level's draw.
        fresh = self._noise_from_the_top(n, generator) if missing else None

        def pick(level: int, state: Any, p: Density) -> tuple[Tensor, Density]:
            e = None if fresh is None else next(fresh)
            if level in hold:
                return hold[level], p
            e = noise.get(level, e)
            return p.rsample(temperature.get(level, 1.0) * e), p

        params, levels = self.walk(pick, keep_levels=keep_levels)
        return Generation(params, self.likelihood.mean(params), levels)

    def _by_index(self, values: Mapping[Any, Any] | None) -> dict[int, Any]:
        return {level_index(level, self.num_layers): value for level, value in (values or {}).items()}

    def draw_noise(
        self, num_samples: int, batch: int, *, like: Tensor, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """Standard-normal noise of each level, ``(K, B, *event)``, with the device and dtype of ``like``."""
        return [_normal((num_samples, batch, *event), like, generator) for event in self.event_shapes]

    def _noise_from_the_top(self, n: int, generator: torch.Generator | None) -> Iterator[Tensor]:
        """What ``draw_noise(1, n)`` draws, ``(n, *event)`` each, top level first."""
        events, like = self.event_shapes, next(self.parameters())
        return from_the_top(
            [n * math.prod(event) for event in events],
            lambda level, source: _normal((1, n, *events[level]), like, source)[0],
            generator,
            like.device,
        )


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    source = generator.device if generator else like.device  # a generator on the CPU serves any device
    return torch.randn(shape, generator=generator, device=source, dtype=like.dtype).to(like.device)


class TopDown(Hierarchy):
    """q(z | x) = q(z_L | x) prod_l q(z_l | z_>l, x): inference draws latents in the generative order."""

    closed_form_rates = True

    @abstractmethod
    def encode(self, x: Tensor) -> Sequence[Any]:
        """Bottom-up evidence of each level, ``(B, ...)``, z_1 first, from images ``(B, C, H, W)``."""

    def picks(self, features: Sequence[Any], noise: Sequence[Tensor]) -> Pick:
        def pick(level: int, state: Any, p: Gaussian) -> tuple[Tensor, Density]:
            q = self.rung(level).posterior(features[level], state, p)
            return q.rsample(noise[level]), q

        return pick


class BottomUp(Hierarchy):
    """q(z | x) = q(z_1 | x) prod_{l>1} q(z_l | z_{l-1}): inference draws z_1 first and z_L last.

    Only the prior of the top level is fixed before its latent is drawn, so only there is the rate a
    closed-form KL. On all other levels the rate is log q(z_l | z_{l-1}) - log p(z_l | z_{l+1}).
    """

    closed_form_rates = False

    @abstractmethod
    def recognize(self, level: int, below: Tensor) -> Gaussian:
        """The posterior of a level: q(z_1 | x) for level 0, q(z_l | z_{l-1}) for the levels above.

        Args:
            level: Index of the level.
            below: Images ``(B, C, H, W)`` for level 0, else a sample of the level below, ``(K, B, *event)``.
        """

    def encode(self, x: Tensor) -> Gaussian:
        """q(z_1 | x), the only posterior that reads no sample, parameters ``(B, *event)``."""
        return self.recognize(0, x)

    def picks(self, features: Gaussian, noise: Sequence[Tensor]) -> Pick:
        posteriors, samples = [features], [features.rsample(noise[0])]
        for level in range(1, self.num_layers):
            posteriors.append(self.recognize(level, samples[-1]))
            samples.append(posteriors[level].rsample(noise[level]))
        return lambda level, state, p: (samples[level], posteriors[level])
