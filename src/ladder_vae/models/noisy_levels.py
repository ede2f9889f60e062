"""The levels of a diffusion as those of a hierarchy, and its decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ladder_vae.maths.diffusion import noised, reverse, signal
from ladder_vae.maths.gaussian import Gaussian, standard_normal
from ladder_vae.maths.likelihoods import Likelihood
from ladder_vae.models.inference import Density
from ladder_vae.models.noise_schedules import NoiseSchedule
from ladder_vae.models.rung import Rung

if TYPE_CHECKING:
    from ladder_vae.models.diffusion import Diffusion


class NoisyLook(nn.Module):
    """The decoder: p(x | z_1) is what z_1, a slightly noisy image, says of each pixel by itself.

    (Formulas of a diffusion, whose subscripts are times, call this level z_0.)

    Args:
        likelihood: The distribution of the pixels.
        schedule: Says how noisy z_1 is.
    """

    def __init__(self, likelihood: Likelihood, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.schedule = schedule

    def forward(self, z: Tensor) -> Tensor:
        gamma = self.schedule.lowest
        return self.likelihood.of_noisy(z / signal(gamma), gamma)


class DiffusionRung(Rung):
    """One level of a diffusion: z_s, which is less noisy than the level above it, z_t.

    Args:
        model: Has the denoiser and the schedule.
        level: Index of z_s.
    """

    model: Diffusion

    def __init__(self, model: Diffusion, level: int) -> None:
        super().__init__(model.image, None)
        object.__setattr__(self, "model", model)  # not as a part
        self.level = level

    def prior(self, state: Tensor | None) -> Density:  # type: ignore[override]
        if state is None:
            return standard_normal(self.event_shape, like=self.model.schedule.lowest)
        gamma, below = self._gammas()
        return self.model.transition_from(state, gamma.expand(state.shape[:-3]), below)

    def posterior(self, evidence: Tensor, state: Tensor | None, p: Any) -> Gaussian:
        if state is None:
            return noised(evidence, self.model.gammas()[-1])
        gamma, below = self._gammas()
        return reverse(state, evidence, gamma, below)

    def _gammas(self) -> tuple[Tensor, Tensor]:
        """Of the level above and of this one; a list of indices would be copied from the host."""
        gammas = self.model.gammas()
        return gammas[self.level + 1], gammas[self.level]
