"""A diffusion at every number of steps, up to the limit: ``python -m ladder_vae.limit run=<dir>``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from ladder_vae.analysis.limit import Settings, check, measure
from ladder_vae.analysis.limit_page import headline, write
from ladder_vae.models.diffusion import MOST_STEPS
from ladder_vae.runs.metrics import IMAGES_OF
from ladder_vae.runs.opened import Subject, over_runs
from ladder_vae.runs.record import read_record
from ladder_vae.runs.releases import own_copy, run_directory
from ladder_vae.settings import composition, schema
from ladder_vae.system.devices import choose_device
from ladder_vae.system.errors import UserError, printable


def run(cfg: DictConfig) -> None:
    """Check everything, then look at run after run."""
    composition.check_settings(cfg, schema.LimitConfig, {"draws": 1})
    if cfg.images is not None and cfg.images < 2:
        raise UserError(f"images={cfg.images} must be at least 2; null takes all")
    if not cfg.steps or not all(1 <= steps <= MOST_STEPS for steps in cfg.steps):
        raise UserError(f"steps={list(cfg.steps)} must be numbers of steps T, each from 1 to {MOST_STEPS:,}")
    if cfg.split not in IMAGES_OF:
        raise UserError(f"split={cfg.split} is unknown; choose {', '.join(IMAGES_OF)}")
    settings = Settings(tuple(sorted(set(cfg.steps))), cfg.draws, cfg.seed)
    others = dict(_other(path) for path in cfg.beside or ())
    device = choose_device(cfg.device)

    def work(subject: Subject, name: str) -> None:
        def on_step(what: str) -> None:
            print(f"{name}: {what}", file=sys.stderr, flush=True)

        if cfg.images is not None and cfg.images < len(subject.indices):
            subject = replace(subject, images=cfg.images)
        found = measure(subject, settings, device, on_step)
        try:
            page = write(subject, found, others, settings, on_step)
        except OSError as error:
            raise UserError(
                f"{error.filename or subject.run.path} cannot be written ({error.strerror})"
            ) from None
        print(headline(found))
        print(printable(str(page)))

    failed = over_runs(own_copy(cfg.run), cfg.checkpoint, None, work, check, cfg.split, cfg.trust, cfg.data)
    if failed:
        raise UserError(f"{failed} could not be looked at")


def _other(path: str) -> tuple[str, tuple[int, float]]:
    """Name, number of levels and ELBO of a run. Raises UserError if it has none."""
    record = read_record(run_directory(path))
    elbo, levels = record.metrics.get("test/elbo"), record.config["model"].get("num_layers")
    if elbo is None or not isinstance(levels, int):
        raise UserError(f"beside={path} has no test/elbo and number of levels; finish its training")
    kind = str(record.config["model"].get("_target_")).rpartition(".")[2]
    return f"{kind}, {levels} levels ({Path(path).name}): {elbo:.2f}", (levels, elbo)


def main() -> None:
    """Entry point."""
    composition.start("limit", run)


if __name__ == "__main__":
    main()
