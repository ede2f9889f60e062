"""Train one model, or sweep over many: ``python -m ladder_vae.train model.num_layers=5``."""

from __future__ import annotations

import hydra

from ladder_vae.settings import command_line
from ladder_vae.settings.hydra_internals import parse_flags
from ladder_vae.training.job import job, prepare


def main() -> None:
    """Entry point."""
    prepare()
    command_line.run(_checked)


def _checked() -> None:
    parse_flags()
    hydra.main(version_base="1.3", config_path="pkg://ladder_vae.conf", config_name="config")(job)()


if __name__ == "__main__":
    main()
