"""Everything that can be known before training starts is checked here, before a directory is made.

A multirun is checked job by job before its first job. Hydra calls this through
``hydra.callbacks.preflight``; it turns exceptions of callbacks into warnings, so bad input leaves
as SystemExit, which is how ``error:`` lines leave anyway.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ladder_vae.assemble import assemble, prepare_directory
from ladder_vae.cli import explain
from ladder_vae.configs import Config
from ladder_vae.errors import UserError
from ladder_vae.runs import is_run, read_checkpoint, read_config, read_record

RESUMABLE = ("resume", "trainer.", "hydra.")


class Preflight(Callback):
    """Hydra callback: refuses a run or a multirun that cannot succeed."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the run directory is made."""
        _exit_on_error(check_run, config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the first job."""
        _exit_on_error(check_sweep, config)


def _exit_on_error(check: Any, config: DictConfig) -> None:
    try:
        check(config)
    except Exception as error:
        sys.exit(f"error: {explain(error)}")


def check_run(config: DictConfig) -> None:
    """Raises UserError if the run cannot start."""
    cfg = without_hydra(config)
    if cfg.resume is not None:
        cfg = resumed(cfg, list(config.hydra.overrides.task))
    elif is_run(Path(cfg.run_dir)):
        raise UserError(
            f"run_dir={cfg.run_dir} already holds a run; resume={cfg.run_dir} continues it, "
            "another run_dir starts anew"
        )
    assemble(cfg)
    prepare_directory(Path(cfg.run_dir))


def check_sweep(config: DictConfig) -> None:
    """Raises UserError if a job of the sweep cannot start, naming the job."""
    if OmegaConf.select(config, "resume") is not None:
        raise UserError(
            "resume= continues one run; leave out --multirun, or name an experiment without a sweep"
        )
    run_dir = Path(config.hydra.sweep.dir)
    if run_dir.exists() and any(is_run(path) for path in run_dir.iterdir()):
        raise UserError(f"run_dir={run_dir} already holds runs; choose another for this sweep")
    if not config.hydra.sweeper._target_.endswith("BasicSweeper"):
        return  # another sweeper chooses its jobs as it goes
    given = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*given, *config.hydra.overrides.task])
    name = config.hydra.job.config_name
    for job in BasicSweeper.split_arguments(parsed, None)[0]:
        try:
            # run_dir may hold Hydra's time stamp, which only the sweep itself resolves
            assemble(compose(name, overrides=[*job, f"++run_dir={_quoted(str(run_dir))}"]))
        except UserError as error:
            raise UserError(f"{' '.join(job)}: {error}") from None
    prepare_directory(run_dir)


def without_hydra(config: DictConfig) -> DictConfig:
    """The part of a composed configuration that a run sees."""
    cfg = config.copy()
    OmegaConf.set_readonly(cfg, False)
    OmegaConf.set_struct(cfg, False)
    cfg.pop("hydra", None)
    OmegaConf.set_struct(cfg, True)
    return cfg


def resumed(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """The configuration that ``cfg.resume`` was run with, with ``trainer.*`` overrides on top.

    Raises:
        UserError: If it is not a run that can go on, or if other settings are to change.
    """
    path = Path(cfg.resume)
    for override in overrides:
        if not override.lstrip("+~").startswith(RESUMABLE):
            raise UserError(
                f"resume= keeps the configuration of the run, except trainer.*; leave out {override}"
            )
    saved = read_config(path)
    last = path / "checkpoints" / "last.ckpt"
    if not last.is_file():
        raise UserError(f"resume={path} has no checkpoints/last.ckpt to go on from; start the run anew")
    read_checkpoint(last)
    merged = OmegaConf.merge(OmegaConf.structured(Config), saved)
    changes = [o.lstrip("+") for o in overrides if o.lstrip("+").startswith("trainer.")]
    try:
        merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(changes))
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from None
    assert isinstance(merged, DictConfig)
    merged.resume, merged.run_dir, merged.logger = cfg.resume, cfg.resume, cfg.logger
    record = read_record(path)
    if record.finished and merged.trainer.max_epochs <= record.metrics["train/epochs"]:
        raise UserError(
            f"resume={path} has finished its {record.metrics['train/epochs']:.0f} epochs; "
            "add trainer.max_epochs=N to train it for longer"
        )
    return merged


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
