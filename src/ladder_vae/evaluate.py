"""Importance-weighted likelihoods and active units: ``python -m ladder_vae.evaluate run=<dir>``."""

from __future__ import annotations

from functools import partial
from typing import Any

from omegaconf import DictConfig

from ladder_vae.evaluation.asked import Asked
from ladder_vae.evaluation.own_steps import check_steps, load_with_steps
from ladder_vae.evaluation.parts import SAMPLE_SIZES, choose_sample_sizes
from ladder_vae.models.evaluator import Settings
from ladder_vae.runs.metrics import IMAGES_OF
from ladder_vae.runs.opened import Subject, over_runs
from ladder_vae.runs.releases import own_copy
from ladder_vae.settings import composition, schema
from ladder_vae.system.compilation import choose
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
    choose("compile", cfg.compile, False)  # refuses an unknown value before any run is opened
    devices = choose_devices(cfg.device, cfg.devices)
    asked = Asked(settings, devices, cfg.compile, chunk_size, cfg.steps, cfg.transition)

    def work(subject: Subject, name: str) -> None:
        path, data = subject.run.path, dict(cfg.data)
        reopen = partial(load_with_steps, cfg.steps, cfg.transition, path, cfg.checkpoint)
        asked.evaluate(subject, name, partial(reopen, cfg.images, cfg.split, trust=cfg.trust, data=data))

    root = own_copy(cfg.run)
    try:
        failed = over_runs(
            root, cfg.checkpoint, cfg.images, work, asked.check, cfg.split, cfg.trust, cfg.data
        )
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
