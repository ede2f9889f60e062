"""See what each level encodes: ``python -m ladder_vae.analyze run=<dir>``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from ladder_vae.analysis.findings import print_table, record, show_in_tensorboard
from ladder_vae.analysis.measure import Settings, analyze, check
from ladder_vae.analysis.page import MAX_SHOWN, levels_drawn, write
from ladder_vae.explorer import page as explorer
from ladder_vae.runs.opened import Subject, over_runs
from ladder_vae.runs.releases import own_copy
from ladder_vae.settings import composition, schema
from ladder_vae.system.devices import choose_device
from ladder_vae.system.errors import UserError, attempt, printable
from ladder_vae.system.naming import level_index
from ladder_vae.system.steps import Steps

STEPS = 7  # of an analysis, without an embedding a level
LEAST = {"draws": 1, "probe_images": 1, "embedded": 1}


def run(cfg: DictConfig) -> None:
    """Check everything, then analyze run after run."""
    composition.check_settings(cfg, schema.AnalyzeConfig, LEAST)
    for name in ("levels", "show"):
        if cfg[name] is not None and not cfg[name]:
            raise UserError(f"{name}=[] names none; leave it out, or name some")
    if cfg.show is not None and len(cfg.show) > MAX_SHOWN:
        raise UserError(f"show names {len(cfg.show)} images; a picture has room for {MAX_SHOWN}")
    settings = Settings(
        levels=None if cfg.levels is None else tuple(map(_level, cfg.levels)),
        show=None if cfg.show is None else tuple(cfg.show),
        draws=cfg.draws,
        probe_images=cfg.probe_images,
        embedded=cfg.embedded,
        seed=cfg.seed,
        classifier_dir=Path(cfg.classifier_dir).expanduser(),
    )
    device = choose_device(cfg.device)

    def work(subject: Subject, name: str) -> None:
        path = subject.run.path
        try:
            with Steps(name, STEPS + levels_drawn(subject, settings)) as on_step:
                analysis = analyze(subject, settings, device, on_step)
                entered = record(subject, analysis, settings)
                drawn = write(subject, analysis, settings, on_step, _explorer(subject, on_step))
                on_step("entering the figures")
                if entered and subject.run.config.get("logger"):
                    with attempt("writing to TensorBoard"):
                        show_in_tensorboard(subject, analysis, drawn)
            print_table(subject, analysis)
        except torch.OutOfMemoryError:
            raise UserError(f"out of memory on {device}; device=cpu has more") from None
        except OSError as error:
            raise UserError(f"{error.filename or path} cannot be written ({error.strerror})") from None
        print(printable(str(path / "analysis.html")))

    fits = partial(check, settings=settings)
    failed = over_runs(
        own_copy(cfg.run), cfg.checkpoint, cfg.images, work, fits, trust=cfg.trust, data=cfg.data
    )
    if failed:
        raise UserError(f"{failed} could not be analyzed")


def _explorer(subject: Subject, on_step: Callable[[str], None]) -> Path | str:
    """The page on which one plays with the levels, or why there is none."""
    on_step("writing the page to play with")
    try:
        return explorer.write(subject)
    except UserError as error:
        return str(error)


def _level(named: Any) -> int:
    """The index of a level. A bare number, which earlier versions counted from 1, is refused."""
    try:
        if isinstance(named, str):
            return level_index(named, composition.MOST)
    except ValueError:
        pass
    raise UserError(f"levels names {named}; name levels as z1, z2, ..., in 'levels=[z1,z3]'")


def main() -> None:
    """Entry point."""
    composition.start("analyze", run)


if __name__ == "__main__":
    main()
