"""The bound of one diffusion at many numbers of steps, and which times serve a few steps best."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ladder_vae.analysis.step_placement import GRID, best_path, look, loss_variances
from ladder_vae.maths.diffusion import added_precision, noised, step_rate
from ladder_vae.maths.keyed_normals import fold, keyed_normals
from ladder_vae.models.diffusion import Diffusion
from ladder_vae.models.evaluator import Settings as Draws
from ladder_vae.models.evaluator import image_keys
from ladder_vae.models.passes import place_of_keys
from ladder_vae.models.sampled_levels import ends, mirrored
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
        draws: Draws of each image, where T steps are not on the grid of times; about so many, and of up to
            128 steps at least one a level.
        seed: Seed of all draws.
        chunk_size: Draws per forward pass, all images together.
    """

    steps: tuple[int, ...]
    draws: int
    seed: int = 0
    chunk_size: int = 1000


class Kind(NamedTuple):
    """How a diffusion is made a hierarchy.

    Args:
        steps: T; ``LIMIT`` for the limit.
        transition: ``gaussian`` or ``mixture``; in the limit they are the same.
        placed: Whether the times of the steps are those that cost least, and not i / T.
    """

    steps: int
    transition: str
    placed: bool

    @property
    def name(self) -> str:
        """How the steps are made, in words."""
        how = "steps placed where they cost least" if self.placed else "equal steps"
        return f"{self.transition} transition, {how}"


@dataclass(frozen=True)
class Bound:
    """The bound of a diffusion with so many steps.

    Args:
        kind: Of the steps.
        elbo: Of each image, nats, ``(M,)``.
        distortion: Mean over images, nats.
        rates: Mean rate of each level, z_1 first, nats, ``(T + 1,)``; in the limit of parts of equal time.
        times: Time of each level, ascending from 0 to 1, ``(T + 1,)``.
    """

    kind: Kind
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


def check(subject: Subject) -> None:
    """Raises UserError if the run is no diffusion, or its split has too few images for an error."""
    diffusion(subject)
    if len(subject.indices) < 2:
        raise UserError(
            f"{subject.run.path} has {len(subject.indices)} {subject.source} image; errors need two or more, "
            "so choose another split"
        )


def diffusion(subject: Subject) -> Diffusion:
    """The run's model. Raises UserError if it is no diffusion."""
    model = subject.run.model
    if not isinstance(model, Diffusion):
        raise UserError(
            f"{subject.run.path} is a {type(model).__name__}, which has as many levels as it has; "
            "this is of model=diffusion"
        )
    return model


@dataclass(frozen=True)
class Findings:
    """What a look at the limit found.

    Args:
        bounds: By the number of steps; the limit is the first.
        variances: Of the loss of one image at one time in the limit: with the model's schedule, and if gamma
            rose linearly between its ends, nats squared.
        bits_per_nat: Bits per dimension in a nat per image; None of binary pixels.
    """

    bounds: list[Bound]
    variances: tuple[float, float]
    bits_per_nat: float | None = None

    @property
    def limit(self) -> Bound:
        """The bound of infinitely many steps."""
        return self.bounds[0]

    @property
    def finite(self) -> list[Bound]:
        """The others."""
        return self.bounds[1:]


def measure(
    subject: Subject, settings: Settings, device: torch.device, on_step: Callable[[str], None]
) -> Findings:
    """Bounds at each number of steps: of each transition, of equal and of placed steps, and in the limit.

    All paths that lie on the grid of :mod:`~.step_placement` are measured together, as the net is the same.

    Args:
        on_step: Is told what begins.
    """
    model = diffusion(subject)
    model.to(device)
    kinds = ["gaussian", "mixture"] if model.likelihood.binary else ["gaussian"]
    paths: dict[Kind, list[int]] = {}
    on_step("finding where steps cost least")
    x = subject.data.observe("train", subject.data.sample("train", LOOKED_AT), 0).to(device)
    seen = look(model, x, settings.chunk_size, torch.Generator().manual_seed(settings.seed))
    for kind in kinds:
        for steps in settings.steps:
            if (GRID - 1) % steps == 0:
                paths[Kind(steps, kind, False)] = list(range(0, GRID, (GRID - 1) // steps))
            if 1 < steps <= PLACED:
                paths[Kind(steps, kind, True)] = best_path(seen, steps, kind)
    on_step(f"T = {', '.join(map(str, sorted({kind.steps for kind in paths})))}")
    found = _on_grid(model, subject, settings, device, paths)
    limit = model.with_steps(max(settings.steps), continuous=True)
    on_step("T = infinity")
    found.append(_sampled(limit, subject, settings, device, Kind(LIMIT, "gaussian", False)))
    for even in (Kind(steps, transition, False) for transition in kinds for steps in settings.steps):
        if even not in paths:
            on_step(f"T = {even.steps:,}, {even.transition}")
            hierarchy = model.with_steps(even.steps, even.transition)
            found.append(_sampled(hierarchy, subject, settings, device, even))
    bits = subject.data.likelihood.bits_per_nat(subject.data.image_shape)
    return Findings(sorted(found, key=lambda bound: bound.kind), loss_variances(seen), bits)


@torch.inference_mode()
def _on_grid(
    model: Diffusion,
    subject: Subject,
    settings: Settings,
    device: torch.device,
    paths: dict[Kind, list[int]],
) -> list[Bound]:
    """Bounds of paths over the grid, with one draw of each image at each time."""
    gammas = model.schedule(torch.linspace(0, 1, GRID).to(device))
    parts: dict[Kind, list[Tensor]] = {kind: [] for kind in paths}
    distortions = []
    for x, keys in _batches(subject, settings, device, settings.chunk_size):
        image = model.scaled(x)
        rates = {kind: torch.zeros(len(path), len(x), dtype=torch.float64) for kind, path in paths.items()}
        for place in range(GRID):
            e, e_below = (
                each.to(x) for each in keyed_normals(fold(keys, torch.tensor(place)), [model.image] * 2)
            )
            if place == 0:
                distortion, top = ends(model, x, e[None])
                distortions.append(distortion[0].cpu().double())
                for kind in paths:
                    rates[kind][-1] = top.cpu().double()
                continue
            here = [(kind, path.index(place)) for kind, path in paths.items() if place in path]
            if not here:
                continue
            gamma = gammas[place]
            guess, logits = model.denoise(noised(image, gamma).rsample(e), gamma.expand(len(x)))
            for kind, level in here:
                below = gammas[paths[kind][level - 1]]
                if kind.transition == "gaussian":
                    rate = step_rate(image, guess, added_precision(gamma, below))
                else:
                    rate = mirrored(image * logits, gamma, below, e_below)
                rates[kind][level - 1] = rate.cpu().double()
        for kind, found in rates.items():
            parts[kind].append(found)
    whole = torch.cat(distortions)
    rates = {kind: torch.cat(found, 1) for kind, found in parts.items()}
    return [
        _bound(kind, whole, rates[kind].sum(0), rates[kind].mean(1), torch.tensor(path) / (GRID - 1))
        for kind, path in paths.items()
    ]


@torch.inference_mode()
def _sampled(
    model: Diffusion, subject: Subject, settings: Settings, device: torch.device, kind: Kind
) -> Bound:
    """The bound of a model, each image at times that are spread evenly."""
    # As often at each level, unless there are very many.
    each = kind.steps if LIMIT < kind.steps <= max(settings.draws, GRID - 1) else 1
    draws = -(-settings.draws // each) * each
    distortions, totals = [], []
    rates = torch.zeros(model.num_layers, dtype=torch.float64)  # summed over images: levels may be thousands
    for x, keys in _batches(subject, settings, device, max(1, settings.chunk_size // min(draws, 100))):
        found = model.estimate(x, keys, draws, max(1, settings.chunk_size // len(x)))
        distortions.append(found.distortion)
        totals.append(found.rates.sum(0))
        rates += found.rates.sum(1)
    distortion, times = torch.cat(distortions), torch.linspace(0, 1, model.num_layers)
    return _bound(kind, distortion, torch.cat(totals), rates / len(distortion), times)


def _batches(
    subject: Subject, settings: Settings, device: torch.device, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images as the likelihood prepares them, ``(B, C, H, W)``, and the keys of their noise, ``(B,)``."""
    indices, keyed = subject.indices, Draws(settings.draws, (), settings.seed)
    for start in range(0, len(indices), size):
        which = indices[start : start + size]
        x = subject.data.observe(subject.source, which, 0).to(device)
        yield x, image_keys(which, keyed).to(place_of_keys(device))


def _bound(kind: Kind, distortion: Tensor, total: Tensor, rates: Tensor, times: Tensor) -> Bound:
    """From distortion and rate of each image, ``(M,)``, and the mean rate of each level, ``(T + 1,)``."""
    return Bound(kind, -(distortion + total), float(distortion.mean()), rates, times)


def rows(found: Findings) -> list[dict[str, object]]:
    """The bounds as rows of ``limit.csv``; in the limit, the number of steps is ``inf``."""
    return [
        {
            "steps": b.kind.steps or "inf",
            "transition": b.kind.transition,
            "placed": b.kind.placed,
            "elbo": b.mean,
            "elbo_stderr": b.error,
            **({"bits_per_dim": -found.bits_per_nat * b.mean} if found.bits_per_nat else {}),
            "rate": float(b.rates.sum()),
            "prior": float(b.rates[-1]),
            "distortion": b.distortion,
        }
        for b in found.bounds
    ]
