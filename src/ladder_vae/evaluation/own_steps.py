"""A diffusion evaluated as a hierarchy of as many steps as one asks for, whatever it was trained with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ladder_vae.models.diffusion import MOST_WEIGHED, TRANSITIONS, Diffusion
from ladder_vae.runs.opened import Steps, Subject, load_subject
from ladder_vae.system.errors import UserError, warn


def check_steps(steps: int | None, transition: str | None) -> None:
    """Raises UserError if no diffusion has such steps, or none with importance weights."""
    if transition is not None and transition not in TRANSITIONS:
        raise UserError(f"transition={transition} is unknown; choose {', '.join(TRANSITIONS)}")
    if steps is None and transition is not None:
        raise UserError(
            f"transition={transition} says how a diffusion makes its steps; add steps=T for a run of "
            "model=diffusion, or leave it out"
        )
    if steps is not None and not 1 <= steps < MOST_WEIGHED:
        raise UserError(
            f"steps={steps} must be from 1 to {MOST_WEIGHED - 1}, for draws of more have no weights; "
            "python -m ladder_vae.limit measures the ELBO at any number of steps"
        )


def with_steps(subject: Subject, steps: int | None, transition: str | None) -> Subject:
    """The subject, whose model is the same net and schedule as a hierarchy of so many equal steps.

    Unless that is the hierarchy that was trained, its configuration says so, too, and ``steps``, by which an
    evaluation has a directory of its own.

    Args:
        subject: A run.
        steps: T, from 1 to 64; None changes nothing.
        transition: Another transition; None keeps the run's.

    Raises:
        UserError: If steps are asked of a run that is no diffusion, or one whose pixels have no such
            transition.
    """
    if steps is None:
        return subject
    run = subject.run
    if not isinstance(run.model, Diffusion):
        raise UserError(
            f"{run.path} is a {type(run.model).__name__}, whose levels are fixed by its training; leave out "
            f"steps={steps}, which is for runs of model=diffusion"
        )
    try:
        model = run.model.with_steps(steps, transition)
    except ValueError as error:
        raise UserError(f"{run.path}: {error}") from None
    own, other = Steps(run.model.steps, run.model.transition), Steps(steps, model.transition)
    if own == other and not run.model.continuous:
        return subject
    settings = {"num_layers": steps + 1, "continuous": False, "transition": model.transition}
    config = {**run.config, "model": {**run.config["model"], **settings}}
    return replace(subject, run=replace(run, model=model, config=config), steps=other)


def warn_of_transition(subject: Subject, steps: int | None) -> None:
    """Warn where another transition than the run's own would give a far better bound."""
    model = subject.run.model
    gaussian = isinstance(model, Diffusion) and model.transition == "gaussian"
    if steps is not None and gaussian and model.likelihood.binary:
        warn(
            f"{subject.run.path} is evaluated with its own transition=gaussian; with few steps "
            "transition=mixture gives a better bound"
        )


def load_with_steps(steps: int | None, transition: str | None, *given: Any, **named: Any) -> Subject:
    """:func:`with_steps` of what :func:`~ladder_vae.runs.opened.load_subject` finds by all else."""
    return with_steps(load_subject(*given, **named), steps, transition)
