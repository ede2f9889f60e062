"""Write a page on which one plays with the levels of a run: ``python -m ladder_vae.explore run=<dir>``."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from ladder_vae.explorer import page
from ladder_vae.runs.opened import Subject, over_runs
from ladder_vae.runs.releases import own_copy
from ladder_vae.settings import composition, schema
from ladder_vae.system.errors import UserError, printable


def run(cfg: DictConfig) -> None:
    """Check everything, then write the page of run after run."""
    composition.check_settings(cfg, schema.ExploreConfig, {})

    def work(subject: Subject, name: str) -> None:
        print(f"{name}: writing the page", file=sys.stderr, flush=True)
        print(printable(str(page.write(subject, cfg.seed))))

    failed = over_runs(
        own_copy(cfg.run),
        cfg.checkpoint,
        None,
        work,
        lambda subject: page.check(subject.run),
        trust=cfg.trust,
        data=cfg.data,
    )
    if failed:
        raise UserError(f"{failed} have no page")


def main() -> None:
    """Entry point."""
    composition.start("explore", run)


if __name__ == "__main__":
    main()
