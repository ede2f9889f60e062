"""The bound of one diffusion at many numbers of steps, and which times serve a few steps best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ladder_vae.analysis.step_placement import best_times, look
from ladder_vae.models.diffusion import Diffusion
from ladder_vae.models.evaluator import Settings as Draws
from ladder_vae.models.evaluator import image_keys
from ladder_vae.runs.opened import Subject
from ladder_vae.system.errors import UserError

LIMIT = 0  # stands for infinitely many steps
PLACED = 64  # most steps for which the best times are looked for
LOOKED_AT = 200  # training images from which they are found


@dataclass(frozen=True)
class Settings:
    """Settings of a look at the limit.

    Args:
        steps: Numbers of steps T, ascending.
        draws: Draws of each image at each T, at least; rounded up to a multiple of T where T is smaller.
        seed: Seed of all draws.
        chunk_size: Draws per forward pass, all images together.
    """

    steps: tuple[int, ...]
    draws: int
    seed: int = 0
    chunk_size: int = 1000


@dataclass(frozen=True)
class Bound:
    """The bound of a diffusion with so many steps.

    Args:
        steps: T; ``LIMIT`` for the limit.
        transition: ``gaussian`` or ``mixture``; in the limit they are the same.
        placed: Whether the times of the steps are those that cost least, and not i / T.
        elbo: Of each image, nats, ``(M,)``.
        distortion: Mean over images, nats.
        rates: Mean rate of each level, z_1 first, nats, ``(T + 1,)``; in the limit of parts of equal time.
        times: Time of each level, ascending from 0 to 1, ``(T + 1,)``.
    """

    steps: int
    transition: str
    placed: bool
    elbo: Tensor
    distortion: float
    rates: Tensor
    times: Tensor

    @property
    def mean(self) -> float:
        """The bound, nats."""
        return float(self.elbo.mean())

    @property
    def error(self) -> float:
        """Its standard error over images, which holds that of the draws, too."""
        return float(self.elbo.std() / max(1, len(self.elbo)) ** 0.5)

    @property
    def name(self) -> str:
        """How the steps are made, in words."""
        how = "steps placed where they cost least" if self.placed else "equal steps"
        return f"{self.transition} transition, {how}"


def check(subject: Subject) -> None:
    """Raises UserError if the run is no diffusion."""
    diffusion(subject)


def diffusion(subject: Subject) -> Diffusion:
    """The run's model. Raises UserError if it is no diffusion."""
    model = subject.run.model
    if not isinstance(model, Diffusion):
        raise UserError(
            f"{subject.run.path} is a {type(model).__name__}, which has as many levels as it has; "
            "this is of model=diffusion"
        )
    return model


def bounds(
    subject: Subject, settings: Settings, device: torch.device, on_step: Callable[[str], None]
) -> list[Bound]:
    """Bounds at each number of steps: of each transition, of equal and of placed steps, and in the limit.

    Args:
        on_step: Is told what begins.
    """
    model = diffusion(subject)
    model.to(device)
    limit = model.with_steps(max(settings.steps))
    limit.continuous = True
    on_step("T = infinity")
    found = [_bound(limit, subject, settings, device, LIMIT, placed=False)]
    kinds = ["gaussian", "mixture"] if model.likelihood.binary else ["gaussian"]
    few = [steps for steps in settings.steps if 1 < steps <= PLACED]
    seen = None
    if few:
        on_step("finding where steps cost least")
        x = subject.data.observe("train", subject.data.sample("train", LOOKED_AT), 0).to(device)
        generator = torch.Generator().manual_seed(settings.seed)
        seen = look(model, x, settings.chunk_size, generator)
    for kind in kinds:
        for steps in settings.steps:
            on_step(f"T = {steps:,}, {kind}")
            found.append(
                _bound(model.with_steps(steps, kind), subject, settings, device, steps, placed=False)
            )
            if seen is not None and steps in few:
                placed = model.with_steps(steps, kind, best_times(seen, steps, kind))
                found.append(_bound(placed, subject, settings, device, steps, placed=True))
    return found


@torch.inference_mode()
def _bound(
    model: Diffusion,
    subject: Subject,
    settings: Settings,
    device: torch.device,
    steps: int,
    *,
    placed: bool,
) -> Bound:
    draws = settings.draws if steps == LIMIT else -(-settings.draws // steps) * steps
    if steps > settings.draws:
        draws = settings.draws  # a sample of the levels
    indices, parts = subject.indices, []
    keyed = Draws(draws, (), settings.seed)
    batch = max(1, settings.chunk_size // min(draws, 100))
    for start in range(0, len(indices), batch):
        which = indices[start : start + batch]
        x = subject.data.observe(subject.source, which, 0).to(device)
        keys = image_keys(which, keyed).to(device)
        parts.append(model.estimate(x, keys, draws, max(1, settings.chunk_size // len(x))))
    distortion = torch.cat([part.distortion for part in parts])
    rates = torch.cat([part.rates for part in parts], 1)  # (L, M)
    times = torch.linspace(0, 1, model.num_layers) if model.times is None else model.times
    return Bound(
        steps,
        model.transition,
        placed,
        -(distortion + rates.sum(0)),
        float(distortion.mean()),
        rates.mean(1),
        times,
    )


def rows(found: Sequence[Bound]) -> list[dict[str, object]]:
    """The bounds as rows of ``limit.csv``; in the limit, the number of steps is ``inf``."""
    return [
        {
            "steps": b.steps or "inf",
            "transition": b.transition,
            "placed": b.placed,
            "elbo": b.mean,
            "elbo_stderr": b.error,
            "rate": float(b.rates.sum()),
            "prior": float(b.rates[-1]),
            "distortion": b.distortion,
        }
        for b in found
    ]
