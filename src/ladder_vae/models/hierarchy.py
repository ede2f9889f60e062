"""The interface of every model: ``infer`` an image's latents, ``generate`` images from the top.

Levels are numbered from the data up: index 0 is z_1, next to the image; index L - 1 is z_L, the top.
A model is a stack of *rungs*. A rung knows what its level is conditioned on; the walk from the top
down to the image is written once, here, and serves inference of both pathways and generation.
Shapes: ``*lead`` stands for the axes before those of a single image's latent, ``(K, B)`` of inference,
``(n,)`` of generation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ladder_vae.maths.gaussian import Gaussian, standard_normal
from ladder_vae.maths.likelihoods import Bernoulli, Likelihood
from ladder_vae.models.inference import Generation, Inference, Level, Terms

ImageShape = tuple[int, int, int]
#: Chooses the latent of a level, given the state from above and the prior: z, and the Gaussian it is from.
Pick = Callable[[int, Any, Gaussian], tuple[Tensor, Gaussian]]


class Rung(nn.Module):
    """One level: what its prior and posterior are, and what it hands to the level below.

    The *state* is all that the level sees of the levels above, ``(*lead, ...)``. At the top, and only there,
    it is ``None``.

    Args:
        event_shape: Of one image's z_l.
        prior_net: The state to p(z_l | z_>l); None at the top, where that is N(0, I).
    """

    zero: Tensor

    def __init__(self, event_shape: tuple[int, ...], prior_net: nn.Module | None) -> None:
        super().__init__()
        self.event_shape = event_shape
        self.prior_net = prior_net
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # knows device and type

    def prior(self, state: Any) -> Gaussian:
        """p(z_l | z_>l), parameters ``(*lead, *event)``; at the top ``(*event,)``."""
        if self.prior_net is None:
            return standard_normal(self.event_shape, like=self.zero)
        return self.prior_net(state)

    def posterior(self, evidence: Any, state: Any, p: Gaussian) -> Gaussian:
        """q(z_l | x, z_>l) of top-down inference, ``(K, B, *event)``; at the top ``(B, *event)``.

        Args:
            evidence: What :meth:`TopDown.encode` says of the level, ``(B, ...)``.
            state: ``(K, B, ...)``; None at the top.
            p: The level's prior.
        """
        raise TypeError(f"{type(self).__name__} has no top-down posterior")

    def descend(self, state: Any, z: Tensor) -> Any:
        """State for the level below, ``(*lead, ...)``, from this level's and its latent ``(*lead, *event)``.

        In a Markov hierarchy the latent, and nothing else.
        """
        return z


class Hierarchy(nn.Module, ABC):
    """A hierarchical VAE: rungs (index 0 next to the data), a decoder, a likelihood.

    Args:
        rungs: One per level, from the data up.
        decoder: State below z_1 to the parameters of p(x | z), ``(*lead, channels, H, W)``.
        likelihood: What a pixel is, p(x | z); None: Bernoulli.
    """

    #: Whether every level's rate is a closed-form KL, hence never negative; else the top level's alone is.
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
        return tuple(self.rung(level).event_shape for level in range(self.num_layers))

    def rung(self, level: int) -> Rung:
        """The rung of a level."""
        return self.rungs[level]  # type: ignore[return-value]

    @abstractmethod
    def encode(self, x: Tensor) -> Any:
        """All that inference computes once an image, however many samples follow."""

    @abstractmethod
    def picks(self, features: Any, noise: Sequence[Tensor]) -> Pick:
        """How inference chooses each level's latent.

        Args:
            features: ``encode(x)``.
            noise: Standard-normal noise of each level, ``(K, B, *event)``.
        """

    def walk(self, pick: Pick) -> tuple[Tensor, tuple[Level, ...]]:
        """From the top to the image: at each level form the prior, pick the latent, descend.

        Returns:
            The decoder's output, ``(*lead, channels, H, W)``, and the levels, z_1 first.
        """
        state, levels = None, []
        for level in reversed(range(self.num_layers)):
            rung = self.rung(level)
            p = rung.prior(state)
            z, q = pick(level, state, p)
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
                (see :meth:`draw_noise`); its K then counts.
            features: ``encode(x)``, where it is at hand from an earlier call.
        """
        features = self.encode(x) if features is None else features
        noise = noise or self.draw_noise(num_samples, len(x), like=x)
        params, levels = self.walk(self.picks(features, noise))
        return Inference(levels, params, self.likelihood.log_prob(params, x))

    def terms(self, x: Tensor, noise: Sequence[Tensor], *, monte_carlo: bool = False) -> Terms:
        """Distortion and rates of images, which training goes by.

        A model of very many levels may estimate its rates from a few of them; here they are of :meth:`infer`.

        Args:
            x: Images as the likelihood prepares them, ``(B, C, H, W)``; for Bernoulli in {0, 1}.
            noise: Standard-normal noise of each level, ``(K, B, *event)``.
            monte_carlo: Whether rates are log q - log p of the draws where a closed form exists.
        """
        return self.infer(x, noise=noise).terms(monte_carlo=monte_carlo)

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
        missing = any(level not in hold and level not in noise for level in range(self.num_layers))
        # all levels or none, so that holding one does not change what is drawn for another
        like = next(self.parameters())
        fresh = self.draw_noise(1, n, like=like, generator=generator) if missing else []

        def pick(level: int, state: Any, p: Gaussian) -> tuple[Tensor, Gaussian]:
            if level in hold:
                return hold[level], p
            e = noise[level] if level in noise else fresh[level][0]
            return p.mean + temperature.get(level, 1.0) * p.std * e, p

        params, levels = self.walk(pick)
        return Generation(params, self.likelihood.mean(params), levels)

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


class TopDown(Hierarchy):
    """q(z | x) = q(z_L | x) prod_l q(z_l | z_>l, x): inference takes the generative model's own path."""

    closed_form_rates = True

    @abstractmethod
    def encode(self, x: Tensor) -> Sequence[Any]:
        """Bottom-up evidence of each level, ``(B, ...)``."""

    def picks(self, features: Sequence[Any], noise: Sequence[Tensor]) -> Pick:
        def pick(level: int, state: Any, p: Gaussian) -> tuple[Tensor, Gaussian]:
            q = self.rung(level).posterior(features[level], state, p)
            return q.rsample(noise[level]), q

        return pick


class BottomUp(Hierarchy):
    """q(z | x) = q(z_1 | x) prod_{l>1} q(z_l | z_{l-1}): inference runs against the generative path.

    Only at the top is the prior settled before the level is drawn, so only there is the rate a
    closed-form KL; below, it is log q(z_l | z_{l-1}) - log p(z_l | z_{l+1}).
    """

    closed_form_rates = False

    @abstractmethod
    def recognize(self, level: int, below: Tensor) -> Gaussian:
        """q(z_1 | x) for level 0, from images ``(B, C, H, W)``; q(z_l | z_{l-1}) above, from a sample."""

    def encode(self, x: Tensor) -> Gaussian:
        """q(z_1 | x), the only posterior that no sample goes into."""
        return self.recognize(0, x)

    def picks(self, features: Gaussian, noise: Sequence[Tensor]) -> Pick:
        posteriors, samples = [features], [features.rsample(noise[0])]
        for level in range(1, self.num_layers):
            posteriors.append(self.recognize(level, samples[-1]))
            samples.append(posteriors[level].rsample(noise[level]))
        return lambda level, state, p: (samples[level], posteriors[level])
