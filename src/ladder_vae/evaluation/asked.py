"""What a command asks of each run that it evaluates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ladder_vae.evaluation.own_steps import warn_of_transition, with_steps
from ladder_vae.evaluation.results import keep, print_summary, progress_bar
from ladder_vae.evaluation.sharing import evaluate_on
from ladder_vae.models.diffusion import MOST_WEIGHED
from ladder_vae.models.evaluator import Settings
from ladder_vae.models.passes import draws_per_pass
from ladder_vae.runs.opened import Subject
from ladder_vae.system.compilation import DRAWS_THAT_PAY, choose
from ladder_vae.system.errors import UserError


@dataclass(frozen=True)
class Asked:
    """What is asked of each run.

    Args:
        settings: Draws, bounds and seed.
        devices: One for each process.
        compile: True, False or ``auto``.
        chunk_size: Draws of a pass; None: as many as memory allows.
        steps: T of a diffusion; None: as it was trained.
        transition: Of a diffusion with ``steps``; None: its own.
    """

    settings: Settings
    devices: Sequence[torch.device]
    compile: Any
    chunk_size: int | None
    steps: int | None
    transition: str | None

    def check(self, subject: Subject) -> None:
        """Raises UserError if the run cannot be evaluated like this."""
        subject = with_steps(subject, self.steps, self.transition)
        path, data, model = subject.run.path, subject.data, subject.run.model
        if not model.has_weights:
            raise UserError(
                f"{path} is a {type(model).__name__} whose draws have no importance weights, as its levels "
                "are too many or without number; add steps=T to evaluate it as a hierarchy of T steps, up to "
                f"{MOST_WEIGHED - 1}, or measure its bound by python -m ladder_vae.limit"
            )
        binarizations = self.settings.binarizations
        if binarizations > 1 and not (data.likelihood.random and data.binarization == "dynamic"):
            raise UserError(
                f"binarizations={binarizations} draws pixels anew, and those of {path} are fixed "
                f"(data.binarization={data.binarization}, likelihood {type(data.likelihood).__name__}); "
                "leave it out"
            )

    def evaluate(self, subject: Subject, name: str, reopen: Callable[[], Subject]) -> None:
        """Evaluate a run, keep the results with it, and print a summary.

        Args:
            name: Of the run, for people.
            reopen: Opens the run in another process, as a hierarchy of ``steps``; importable there.
        """
        if self.transition is None:
            warn_of_transition(subject, self.steps)
        subject = with_steps(subject, self.steps, self.transition)
        settings, device = self.settings, self.devices[0]
        images = settings.binarizations * len(subject.indices)
        # Each process compiles for itself.
        worth = len(self.devices) * DRAWS_THAT_PAY["cuda" if device.type == "cuda" else "cpu"]
        with progress_bar(name, images) as advance:
            evaluation = evaluate_on(
                self.devices,
                subject,
                replace(
                    settings,
                    chunk_size=self.chunk_size
                    or draws_per_pass(subject.run.model, subject.data.image_shape, device),
                ),
                reopen,
                advance,
                compile=choose("compile", self.compile, settings.draws * images >= worth),
            )
        keep(subject, evaluation, settings)
        print_summary(subject, evaluation, settings)
