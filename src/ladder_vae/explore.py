"""Write a page on which one plays with the levels of a run: ``python -m ladder_vae.explore run=<dir>``.

A run that is too large for a page, or any with ``serve=true``, is played with by a server on this machine.
"""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from ladder_vae.explorer import page, server
from ladder_vae.runs.opened import Subject, over_runs
from ladder_vae.runs.record import is_run
from ladder_vae.runs.releases import own_copy
from ladder_vae.settings import composition, schema
from ladder_vae.system.devices import choose_device
from ladder_vae.system.errors import UserError, printable

LAST_PORT = 65_535


def run(cfg: DictConfig) -> None:
    """Check everything, then write the page of run after run, or serve that of one run."""
    composition.check_settings(cfg, schema.ExploreConfig, {"port": 1})
    if cfg.port > LAST_PORT:
        raise UserError(f"port={cfg.port} must be at most {LAST_PORT}")
    root = own_copy(cfg.run)
    single = is_run(root)
    if cfg.serve and root.is_dir() and not single:
        raise UserError(f"run={root} is a folder of runs; name one of them, serve=true shows one")

    def served(subject: Subject) -> bool:
        return cfg.serve or (single and not page.fits(subject.run))

    def check(subject: Subject) -> None:
        if served(subject):
            choose_device(cfg.device)
            server.check(subject.run, cfg.port)
        else:
            page.check(subject.run)

    def work(subject: Subject, name: str) -> None:
        if served(subject):
            print(f"{name}: a server on this machine, until Ctrl-C", file=sys.stderr, flush=True)
            server.serve(subject, cfg.port, cfg.seed, choose_device(cfg.device))
        else:
            print(f"{name}: writing the page", file=sys.stderr, flush=True)
            print(printable(str(page.write(subject, cfg.seed))))

    failed = over_runs(
        root,
        cfg.checkpoint,
        None,
        work,
        check,
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
