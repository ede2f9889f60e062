"""Train one model, or sweep over many: ``python -m ladder_vae.train model.num_layers=5``."""

from __future__ import annotations

import sys
from pathlib import Path

import hydra

from ladder_vae.comparison.reporting import report
from ladder_vae.settings import command_line
from ladder_vae.settings.help import help_of
from ladder_vae.settings.hydra_internals import parse_flags
from ladder_vae.settings.paths import shown
from ladder_vae.system.errors import UserError
from ladder_vae.training.finishing import asked, finish
from ladder_vae.training.job import job, prepare
from ladder_vae.training.preflight import MOVED


def main() -> None:
    """Entry point."""
    prepare()
    command_line.run(run)


def run() -> None:
    """Do what the command line asks for."""
    if named := asked(sys.argv[1:]):
        _finish(*named)
        return
    if any(argument.startswith("resume=") for argument in sys.argv):
        # which data the run has, and so whether they have a path, is known once it is read
        sys.argv[:] = [f"++{a}" if a.startswith(MOVED) else a for a in sys.argv]
    flags = parse_flags()
    if flags.help:
        print(help_of("train", "config", flags.overrides))
        return
    hydra.main(version_base="1.3", config_path="pkg://ladder_vae.conf", config_name="config")(job)()


def _finish(sweep: Path, trust: bool) -> None:
    """Finish a sweep, then compare its runs."""
    try:
        failed = finish(sweep, trust=trust)
    except KeyboardInterrupt:
        trusted = " trust=true" if trust else ""
        hint = f"python -m ladder_vae.train finish={shown(sweep)}{trusted} goes on"
        raise KeyboardInterrupt(hint) from None
    report([sweep], sweep)
    if failed:
        raise UserError(f"{failed} failed; the lines above, or the report, say why")


if __name__ == "__main__":
    main()
