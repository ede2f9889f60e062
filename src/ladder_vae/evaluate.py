"""Importance-weighted likelihoods and active units: ``python -m ladder_vae.evaluate run=<dir>``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from omegaconf import DictConfig

from ladder_vae.evaluation.own_steps import check_steps, load_with_steps, with_steps
from ladder_vae.evaluation.parts import SAMPLE_SIZES, choose_sample_sizes
from ladder_vae.evaluation.results import keep, print_summary, progress_bar
from ladder_vae.evaluation.sharing import evaluate_on
from ladder_vae.models.diffusion import MOST_WEIGHED
from ladder_vae.models.evaluator import Settings
from ladder_vae.models.passes import draws_per_pass
from ladder_vae.runs.metrics import IMAGES_OF
from ladder_vae.runs.opened import Subject, over_runs
from ladder_vae.runs.releases import own_copy
from ladder_vae.settings import composition, schema
from ladder_vae.system.compilation import DRAWS_THAT_PAY, choose
from ladder_vae.system.devices import choose_devices
from ladder_vae.system.errors import UserError, warn


def run(cfg: DictConfig) -> None:
    """Check everything, then evaluate run after run."""
    composition.check_settings(cfg, schema.EvaluateConfig, {"binarizations": 1, "devices": 1})
    chunk_size = _chunk_size(cfg.chunk_size)
    sizes = choose_sample_sizes(cfg.num_samples, None if cfg.k is None else list(cfg.k))
    for k in SAMPLE_SIZES:
        if cfg.k is None and k < cfg.num_samples and k not in sizes:
            warn(f"K={k} is left out: it does not divide num_samples={cfg.num_samples}")
    settings = Settings(cfg.num_samples, sizes, cfg.seed, binarizations=cfg.binarizations)
    if cfg.split not in IMAGES_OF:
        raise UserError(f"split={cfg.split} is unknown; choose {', '.join(IMAGES_OF)}")
    check_steps(cfg.steps, cfg.transition)
    devices = choose_devices(cfg.device, cfg.devices)
    device = devices[0]
    choose("compile", cfg.compile, False)  # refuses an unknown value before any run is opened

    def check(subject: Subject) -> None:
        subject = with_steps(subject, cfg.steps, cfg.transition)
        data, model = subject.data, subject.run.model
        if not model.has_weights:
            raise UserError(
                f"{subject.run.path} is a {type(model).__name__} whose draws have no importance weights, as "
                "its levels are too many or without number; add steps=T to evaluate it as a hierarchy of T "
                f"steps, up to {MOST_WEIGHED - 1}, or measure its bound by python -m ladder_vae.limit"
            )
        if settings.binarizations > 1 and not (data.likelihood.random and data.binarization == "dynamic"):
            raise UserError(
                f"binarizations={settings.binarizations} draws pixels anew, and those of {subject.run.path} "
                f"are fixed (data.binarization={data.binarization}, likelihood "
                f"{type(data.likelihood).__name__}); leave it out"
            )

    def work(subject: Subject, name: str) -> None:
        subject = with_steps(subject, cfg.steps, cfg.transition)
        reopen = partial(
            load_with_steps,
            cfg.steps,
            cfg.transition,
            subject.run.path,
            cfg.checkpoint,
            cfg.images,
            cfg.split,
            trust=cfg.trust,
            data=dict(cfg.data),
        )
        images = settings.binarizations * len(subject.indices)
        with progress_bar(name, images) as advance:
            worth = len(devices) * DRAWS_THAT_PAY["cuda" if device.type == "cuda" else "cpu"]  # each compiles
            pays = settings.draws * images >= worth
            compile_pass = choose("compile", cfg.compile, pays)
            here = replace(
                settings,
                chunk_size=chunk_size or draws_per_pass(subject.run.model, subject.data.image_shape, device),
            )
            evaluation = evaluate_on(devices, subject, here, reopen, advance, compile=compile_pass)
        keep(subject, evaluation, settings)
        print_summary(subject, evaluation, settings)

    root = own_copy(cfg.run)
    try:
        failed = over_runs(root, cfg.checkpoint, cfg.images, work, check, cfg.split, cfg.trust, cfg.data)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("finished parts are kept; the same command continues") from None
    print(root)
    if failed:
        raise UserError(f"{failed} could not be evaluated")


def _chunk_size(asked: Any) -> int | None:
    """The number of draws of a pass; None for ``auto``. Raises UserError if it is neither."""
    if asked == "auto":
        return None
    if not isinstance(asked, int) or isinstance(asked, bool) or not 1 <= asked < composition.MOST:
        raise UserError(
            f"chunk_size={str(asked)[:40]} must be at least 1 and below {composition.MOST:.0e}, or auto"
        )
    return asked


def main() -> None:
    """Entry point."""
    composition.start("evaluate", run)


if __name__ == "__main__":
    main()
