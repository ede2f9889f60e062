"""The interface of every model: ``infer`` an image's latents, ``generate`` images from the top.

Levels are numbered from the data up: index 0 is z_1, next to the image; index L - 1 is z_L, the top.
A model is a stack of *rungs*. A rung knows what its level is conditioned on; the walk from the top
down to the image is written once, here, and serves inference of both pathways and generation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ladder_vae.maths.gaussian import Gaussian, standard_normal
from ladder_vae.maths.likelihoods import Bernoulli, Likelihood
from ladder_vae.models.inference import Generation, Inference, Level

ImageShape = tuple[int, int, int]
Draw = Callable[[int, Gaussian], Tensor]  # z of a level, from its posterior


class Rung(nn.Module):
    """One level: what its prior and posterior are, and what it hands to the level below.

    ``state`` is all that the level sees of the levels above; at the top it is ``None``.

    Args:
        event_shape: Of one image's z_l.
        prior_net: The state to p(z_l | z_>l); None where that is N(0, I), at the top.
    """

    def __init__(self, event_shape: tuple[int, ...], prior_net: nn.Module | None) -> None:
        super().__init__()
        self.event_shape = event_shape
        self.prior_net = prior_net

    def prior(self, state: Any, like: Tensor) -> Gaussian:
        """p(z_l | z_>l), parameters ``(*lead, *event)``; ``like`` lends device and dtype at the top."""
        return standard_normal(self.event_shape, like) if self.prior_net is None else self.prior_net(state)

    def posterior(self, evidence: Any, state: Any, p: Gaussian) -> Gaussian:
        """q(z_l | x, z_>l) of top-down inference, given the level's bottom-up evidence."""
        raise TypeError(f"{type(self).__name__} has no top-down posterior")

    def descend(self, state: Any, z: Tensor) -> Any:
        """State for the level below. In a Markov hierarchy: the sample, and nothing else."""
        return z


class Hierarchy(nn.Module, ABC):
    """A hierarchical VAE: rungs (index 0 next to the data), a decoder, a likelihood.

    Args:
        rungs: One per level, from the data up.
        decoder: State below z_1, ``(*lead, ...)``, to the parameters of p(x | z), ``(*lead, C, H, W)``.
        likelihood: p(x | z).
    """

    #: Whether every level's rate is a closed-form KL, hence never negative.
    closed_form_rates: bool

    def __init__(
        self, rungs: Sequence[Rung], decoder: nn.Module, likelihood: Likelihood | None = None
    ) -> None:
        super().__init__()
        self.rungs = nn.ModuleList(rungs)
        self.decoder = decoder
        self.likelihood: Likelihood = likelihood or Bernoulli()

    @property
    def num_layers(self) -> int:
        """Number of latent levels L."""
        return len(self.rungs)

    @property
    def event_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of one image's latent on each level."""
        return tuple(rung.event_shape for rung in self._rungs())

    @abstractmethod
    def encode(self, x: Tensor) -> Any:
        """All that inference computes once an image, however many samples follow."""

    @abstractmethod
    def _infer(self, features: Any, draw: Draw, like: Tensor) -> tuple[Tensor, list[Level]]:
        """The decoder's output and the levels, from ``encode(x)`` and a way to draw each level's z."""

    def infer(
        self,
        x: Tensor,
        num_samples: int = 1,
        *,
        noise: Sequence[Tensor] | None = None,
        latents: Sequence[Tensor] | None = None,
        features: Any = None,
    ) -> Inference:
        """Draw the latents of images from the posterior.

        Args:
            x: Images ``(B, C, H, W)`` with binarized values in {0, 1}.
            num_samples: Draws K per image.
            noise: Standard-normal noise of each level, ``(K, B, *event)``, in place of fresh draws
                (see :meth:`draw_noise`); its K then counts.
            latents: z of each level, ``(K, B, *event)``, in place of a draw: what posterior and prior say of
                these.
            features: ``encode(x)``, where it is at hand from an earlier call.
        """
        features = self.encode(x) if features is None else features
        if latents is not None:
            params, levels = self._infer(features, lambda level, q: latents[level], x)
        else:
            eps = noise or self.draw_noise(num_samples, len(x), like=x)
            params, levels = self._infer(features, lambda level, q: q.rsample(eps[level]), x)
        return Inference(tuple(levels), params, self.likelihood.log_prob(params, x))

    def log_joint(self, x: Tensor, latents: Sequence[Tensor]) -> Tensor:
        """log p(x, z) of given latents, nats, ``(K, B)``.

        Args:
            x: Images ``(B, C, H, W)`` with binarized values in {0, 1}.
            latents: z of each level, ``(K, B, *event)``.
        """
        params, walked = self._walk(lambda level, state, p: latents[level], x)
        return self.likelihood.log_prob(params, x) + torch.stack([p.log_prob(z) for z, p in walked]).sum(0)

    @torch.no_grad()
    def generate(
        self,
        n: int,
        *,
        hold: Mapping[int, Tensor] | None = None,
        temperature: Mapping[int, float] | None = None,
        noise: Mapping[int, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Generation:
        """Walk the prior from the top down to ``n`` images. Meant for a model in eval mode.

        Args:
            n: Number of images.
            hold: Levels whose latent is given, level -> z ``(n, *event)``; none is drawn there.
            temperature: Factor on the prior's standard deviation, level -> t (default 1).
            noise: Levels whose innovation (z - mu_p) / sigma_p is given, level -> e ``(n, *event)``.
            generator: Source of the remaining innovations (default: torch's global one).

        Raises:
            ValueError: If a level does not exist.
        """
        hold, temperature, noise = hold or {}, temperature or {}, noise or {}
        for level in {*hold, *temperature, *noise}:
            if not 0 <= level < self.num_layers:
                raise ValueError(f"level {level} does not exist: levels are 0 to {self.num_layers - 1}")
        like = next(self.parameters())
        missing = any(level not in hold and level not in noise for level in range(self.num_layers))
        # all levels or none, so that holding one does not change what is drawn for another
        fresh = self.draw_noise(1, n, like=like, generator=generator) if missing else []

        def choose(level: int, state: Any, p: Gaussian) -> Tensor:
            if level in hold:
                return hold[level]
            e = noise[level] if level in noise else fresh[level][0]
            return p.mean + temperature.get(level, 1.0) * p.std * e

        params, walked = self._walk(choose, like)
        z, p = zip(*walked, strict=True)
        return Generation(params, z, p)

    def draw_noise(
        self, num_samples: int, batch: int, *, like: Tensor, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """Standard-normal noise of each level, ``(K, B, *event)``, in the device and dtype of ``like``."""
        source = generator.device if generator else like.device  # a CPU's draws serve any device
        return [
            torch.randn(
                (num_samples, batch, *event), generator=generator, device=source, dtype=like.dtype
            ).to(like.device)
            for event in self.event_shapes
        ]

    def _rungs(self) -> list[Rung]:
        return list(self.rungs)  # type: ignore[arg-type]

    def _walk(
        self, choose: Callable[[int, Any, Gaussian], Tensor], like: Tensor
    ) -> tuple[Tensor, list[tuple[Tensor, Gaussian]]]:
        """From the top to the image: at each level form the prior, let ``choose`` name z, descend.

        Returns:
            The decoder's output, and (z, p) of each level, index 0 next to the data.
        """
        state = None
        walked: list[tuple[Tensor, Gaussian]] = []
        for level in reversed(range(self.num_layers)):
            rung = self._rungs()[level]
            p = rung.prior(state, like)
            z = choose(level, state, p)
            state = rung.descend(state, z)
            walked.append((z, p))
        return self.decoder(state), walked[::-1]


class TopDown(Hierarchy):
    """q(z | x) = q(z_L | x) prod_l q(z_l | z_>l, x): inference takes the generative model's own path."""

    closed_form_rates = True

    @abstractmethod
    def encode(self, x: Tensor) -> Sequence[Any]:
        """Bottom-up evidence of each level."""

    def _infer(self, features: Sequence[Any], draw: Draw, like: Tensor) -> tuple[Tensor, list[Level]]:
        posteriors: dict[int, Gaussian] = {}

        def choose(level: int, state: Any, p: Gaussian) -> Tensor:
            posteriors[level] = self._rungs()[level].posterior(features[level], state, p)
            return draw(level, posteriors[level])

        params, walked = self._walk(choose, like)
        return params, [Level(z, posteriors[level], p) for level, (z, p) in enumerate(walked)]


class BottomUp(Hierarchy):
    """q(z | x) = q(z_1 | x) prod_{l>1} q(z_l | z_{l-1}): inference runs against the generative path.

    Only at the top is the prior settled before the level is drawn, so only there is the rate a
    closed-form KL; below, it is log q(z_l | z_{l-1}) - log p(z_l | z_{l+1}).
    """

    closed_form_rates = False

    @abstractmethod
    def recognize(self, level: int, below: Tensor) -> Gaussian:
        """q(z_1 | x) for level 0, from ``x``; q(z_l | z_{l-1}) above, from the sample below."""

    def encode(self, x: Tensor) -> Gaussian:
        """q(z_1 | x), the only posterior that no sample goes into."""
        return self.recognize(0, x)

    def _infer(self, features: Gaussian, draw: Draw, like: Tensor) -> tuple[Tensor, list[Level]]:
        posteriors = [features]
        samples = [draw(0, features)]
        for level in range(1, self.num_layers):
            posteriors.append(self.recognize(level, samples[-1]))
            samples.append(draw(level, posteriors[level]))

        params, walked = self._walk(lambda level, state, p: samples[level], like)
        return params, [
            Level(z, q, p, closed_form=level == self.num_layers - 1)
            for level, ((z, p), q) in enumerate(zip(walked, posteriors, strict=True))
        ]
