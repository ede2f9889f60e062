"""A diffusion as a hierarchy: inference is fixed Gaussian noise, and one net undoes it at all levels."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from ladder_vae.maths.diffusion import by_image, pixel_evidence, reverse, signal
from ladder_vae.maths.gaussian import full_precision
from ladder_vae.maths.likelihoods import Bernoulli, Likelihood
from ladder_vae.maths.two_gaussians import TwoGaussians
from ladder_vae.models import sampled_levels
from ladder_vae.models.denoisers import DENOISERS, Sizes
from ladder_vae.models.hierarchy import TopDown
from ladder_vae.models.inference import Density, Estimate, Terms
from ladder_vae.models.noise_schedules import NoiseSchedule
from ladder_vae.models.noisy_levels import DiffusionRung, NoisyLook
from ladder_vae.models.sizes import image_shape

MOST_STEPS = 10_000
MOST_WEIGHED = 65  # levels of which all latents are looked at together
TRANSITIONS = ("gaussian", "mixture")
SCHEDULES = {"linear": 1, "learned": 32}  # pieces


class Diffusion(TopDown):
    r"""What a hierarchy becomes when every level has the size of the image and inference is fixed noise.

    A variational diffusion model (Kingma, Salimans, Poole and Ho 2021, arXiv 2107.00630) of T steps is a
    hierarchy of T + 1 levels, $z_{t_i}$ with $t_i = i / T$; index 0 is next to the image. Inference is
    $q(z_t \mid x) = N(\alpha_t x, \sigma_t^2 I)$ and learns nothing but the schedule of the noise. One net,
    which is told how noisy its input is, guesses the image, and from the guess follows
    $p(z_s \mid z_t) = q(z_s \mid z_t, \hat x)$ at each level.

    For binary pixels, which are -1 and 1 here, the net's output is added to the evidence of the pixel's own
    noisy value, $2 \alpha z / \sigma^2$; the sum is the logit of $\hat p(x_i = 1)$, and the guess is its
    mean. For 256 values the guess is $\alpha z - \sigma \hat v$ (Salimans and Ho 2022, arXiv 2202.00512).

    Args:
        input_shape: Image shape (C, H, W).
        num_layers: Number of latent levels L = T + 1, from 2 on.
        continuous: Whether training, validation and test measure the limit of infinitely many steps, in which
            the sum over levels becomes an integral. A level then has the part of the integral between the
            level and the next. ``infer`` and ``generate`` go through the L levels all the same.
        transition: ``gaussian``; or ``mixture``, which for binary pixels is
            $\prod_i \sum_{x_i} \hat p(x_i) q(z_{s,i} \mid z_{t,i}, x_i)$, as in Bayesian flow networks
            (Graves et al. 2023, arXiv 2308.07037). It is better if steps are few, and in the limit the same.
        schedule: ``linear``, or ``learned``: in straight pieces. In the limit their shape makes the variance
            of the loss small, else the bound high.
        gamma_min: Gamma, minus the logarithm of the signal-to-noise ratio, of z_1 at first; None: -3 for
            binary pixels, -12.5 for 256 values.
        gamma_max: Gamma of the top level at first.
        learned_ends: Whether training changes these two.
        denoiser: ``unet`` or ``dense`` (:mod:`~ladder_vae.models.denoisers`).
        width: Its features.
        blocks: Its cells at each resolution, each way.
        patch: Side of the patches that the U-Net cuts the image into at first.
        ratio: Features within its cells, as a share of ``width``.
        attention: Whether the pixels of its smallest resolution attend to each other.
        likelihood: The distribution p(x | z) of the pixels; None means Bernoulli.

    Raises:
        ValueError: If a number is out of range, a choice unknown, or the likelihood has no transition of
            that name.

    Example:
        >>> Diffusion((1, 28, 28), num_layers=3, width=8).event_shapes
        ((1, 28, 28), (1, 28, 28), (1, 28, 28))
    """

    estimates_rates = True
    undecayed = ("decoder.schedule.",)  # its zero means nothing

    def __init__(
        self,
        input_shape: Sequence[int],
        num_layers: int = 33,
        continuous: bool = True,
        transition: str = "gaussian",
        schedule: str = "linear",
        gamma_min: float | None = None,
        gamma_max: float = 8.0,
        learned_ends: bool = True,
        denoiser: str = "unet",
        width: int = 64,
        blocks: int = 2,
        patch: int = 2,
        ratio: float = 0.5,
        attention: bool = True,
        likelihood: Likelihood | None = None,
    ) -> None:
        image, likelihood = image_shape(input_shape), likelihood or Bernoulli()
        _check_levels(num_layers)
        for name, choice, choices in (
            ("schedule", schedule, tuple(SCHEDULES)),
            ("denoiser", denoiser, tuple(DENOISERS)),
        ):
            if choice not in choices:
                raise ValueError(f"{name}={choice} is unknown; choose {', '.join(choices)}")
        sizes = Sizes(width, blocks, patch, ratio, attention)
        sizes.check()
        likelihood.channels(image[0])
        lowest = gamma_min if gamma_min is not None else -3.0 if likelihood.binary else -12.5
        noise = NoiseSchedule(lowest, gamma_max, SCHEDULES[schedule], learned_ends)
        super().__init__([], NoisyLook(likelihood, noise), likelihood)
        self.image = image
        self.levels = num_layers
        self.continuous = continuous
        self.times: Tensor | None = None
        self._become(transition)
        self.denoiser = DENOISERS[denoiser](image, image[0], sizes)

    def _become(self, transition: str) -> None:
        """Take a transition, on which it depends, with the number of levels, what is known of rates."""
        if transition not in TRANSITIONS:
            raise ValueError(f"transition={transition} is unknown; choose {', '.join(TRANSITIONS)}")
        if transition == "mixture" and not self.likelihood.binary:
            raise ValueError(
                "transition=mixture is for binary pixels, likelihood=bernoulli; set transition=gaussian"
            )
        self.transition = transition
        self.closed_form_rates = transition == "gaussian"  # a KL to a mixture has none
        self.has_weights = not self.continuous and self.levels <= MOST_WEIGHED

    @property
    def schedule(self) -> NoiseSchedule:
        """How noise grows with time."""
        return self.decoder.schedule  # type: ignore[return-value]

    @property
    def num_layers(self) -> int:
        return self.levels

    @property
    def steps(self) -> int:
        """T, the number of steps between the L = T + 1 levels."""
        return self.levels - 1

    @property
    def event_shapes(self) -> tuple[tuple[int, ...], ...]:
        return (self.image,) * self.levels

    def rung(self, level: int) -> DiffusionRung:
        return DiffusionRung(self, level)

    def with_steps(
        self,
        steps: int,
        transition: str | None = None,
        times: Tensor | None = None,
        *,
        continuous: bool = False,
    ) -> Diffusion:
        """The same net and schedule as a hierarchy of T steps.

        Args:
            steps: T.
            transition: Another transition; None keeps it.
            times: The time of each level, z_1's first, rising from 0 to 1, ``(T + 1,)``; None: i / T.
            continuous: Whether it measures the limit, of which each level then has a part.

        Raises:
            ValueError: If there is no such hierarchy.
        """
        _check_levels(steps + 1)
        other = copy.copy(self)  # with the same parts
        other.levels, other.continuous = steps + 1, continuous
        other._become(transition or self.transition)
        if times is not None and not (
            times.shape == (steps + 1,) and (times.diff() > 0).all() and times[0] == 0 and times[-1] == 1
        ):
            raise ValueError(f"times must be {steps + 1} rising numbers from 0 to 1, got {times.tolist()}")
        other.times = times
        return other

    def gammas(self) -> Tensor:
        """Gamma of each level, ``(L,)``; both ends exactly those of the schedule."""
        lowest = self.schedule.lowest
        if self.times is None:  # made where it is used, as a recording of a step cannot copy from the host
            times = torch.linspace(0, 1, self.levels, device=lowest.device, dtype=lowest.dtype)
        else:
            times = self.times.to(lowest)
        return self.schedule(times)

    def scaled(self, x: Tensor) -> Tensor:
        """Images as the noise is added to them, from -1 to 1."""
        return 2 * self.likelihood.intensities(x) - 1

    def encode(self, x: Tensor) -> list[Tensor]:
        """The image itself, scaled, for each level."""
        return [self.scaled(x)] * self.levels

    def denoise(self, z: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
        """The guess of the image, and the logits of its pixels, both ``(*lead, C, H, W)``.

        Args:
            z: Noisy images, ``(*lead, C, H, W)``.
            gamma: How noisy each is, ``(*lead)``.

        Returns:
            For 256 values, which have no logits, the guess twice.
        """
        output = self.denoiser(z.flatten(0, -4), gamma.flatten()).unflatten(0, z.shape[:-3])
        output = full_precision(output)
        if self.likelihood.binary:
            logits = output + pixel_evidence(z, gamma)
            return torch.tanh(0.5 * logits), logits
        guess = signal(by_image(gamma)) * z - signal(by_image(-gamma)) * output
        return guess, guess

    def transition_from(self, z: Tensor, gamma: Tensor, below: Tensor) -> Density:
        """p(z_s | z_t).

        Args:
            z: z_t, ``(*lead, C, H, W)``.
            gamma: Gamma at t, ``(*lead)``.
            below: Gamma at s, ``(*lead)`` or a scalar.
        """
        guess, logits = self.denoise(z, gamma)
        if self.transition == "gaussian":
            return reverse(z, guess, gamma, below)
        ones = torch.ones_like(z)
        on, off = reverse(z, ones, gamma, below), reverse(z, -ones, gamma, below)
        return TwoGaussians(logits, on.mean, off.mean, on.log_var, on.event_dims)

    def terms_noise(
        self, num_samples: int, batch: int, *, like: Tensor, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        return sampled_levels.draw_noise(self, num_samples, batch, like=like, generator=generator)

    def terms(self, x: Tensor, noise: Sequence[Tensor], *, monte_carlo: bool = False) -> Terms:
        """As of every model, but each draw estimates a single rate (:mod:`~.sampled_levels`).

        Raises:
            ValueError: If ``monte_carlo`` is True.
        """
        if monte_carlo:
            raise ValueError("a diffusion estimates its rates; it has no log q - log p of all levels")
        return sampled_levels.terms(self, x, noise)

    def estimate(self, x: Tensor, keys: Tensor, num_samples: int, per_pass: int) -> Estimate:
        return sampled_levels.estimate(self, x, keys, num_samples, per_pass)


def _check_levels(num_layers: int) -> None:
    if not 2 <= num_layers <= MOST_STEPS + 1:
        raise ValueError(
            f"num_layers={num_layers} must be between 2 and {MOST_STEPS + 1:,}: a diffusion of T steps has "
            "T + 1 levels"
        )
