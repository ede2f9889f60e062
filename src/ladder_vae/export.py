"""Write a bundle of a run to pass on: ``python -m ladder_vae.export run=<dir> directory=<dir>``.

It opens with nothing of this package: ONNX graphs ``infer`` and ``generate``, weights, config, metrics,
figures, a card, a page to play with. ``push=NAME/MODEL`` uploads it to the Hugging Face hub.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig

from ladder_vae.exporting import bundle, graphs, hub
from ladder_vae.runs.releases import run_directory
from ladder_vae.settings import composition, schema
from ladder_vae.system.errors import UserError, printable


def run(cfg: DictConfig) -> None:
    """Check everything, then write the bundle, then upload it if asked."""
    composition.check_settings(cfg, schema.ExportConfig, {})
    if not cfg.directory:
        raise UserError("directory=<dir> is missing; name the directory to write, which is not there yet")
    directory = Path(cfg.directory)
    if os.path.lexists(directory):
        raise UserError(f"directory={directory} is there already; choose another directory")
    needed = (*graphs.NEEDED, hub.PACKAGE) if cfg.push else graphs.NEEDED
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UserError(
            f"export needs packages that are not installed ({', '.join(missing)}); "
            "pip install 'ladder-vae[export]'"
        )
    if cfg.push:
        hub.check(cfg.push)
    opened = bundle.open_finished(run_directory(cfg.run), trust=cfg.trust)

    def on_step(what: str) -> None:
        print(f"{printable(str(cfg.run))}: {what}", file=sys.stderr, flush=True)

    bundle.write(opened, directory, license=cfg.license, data=cfg.data, seed=cfg.seed, on_step=on_step)
    if cfg.push:
        on_step(f"uploading to {cfg.push}")
        print(printable(hub.push(directory, cfg.push)))
    print(printable(str(directory)))


def main() -> None:
    """Entry point."""
    composition.start("export", run)


if __name__ == "__main__":
    main()
