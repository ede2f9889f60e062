"""Check a run or a sweep before any directory is made.

All jobs of a multirun are checked before the first one starts. Hydra calls this through
``hydra.callbacks.preflight``. Hydra turns exceptions of callbacks into warnings, so errors are raised as
:class:`~ladder_vae.system.errors.Refusal`, which it lets through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ladder_vae.runs.checkpoints import read_checkpoint
from ladder_vae.runs.plan import PlannedJob, check_planned, write_plan
from ladder_vae.runs.record import (
    CONFIG,
    check_links,
    checked_record,
    flat,
    holds_results,
    in_use,
    is_run,
    last_checkpoint,
    read_config,
    warn_of_changes,
)
from ladder_vae.runs.releases import is_release
from ladder_vae.settings import command_line
from ladder_vae.settings.composition import directory_of, without_hydra
from ladder_vae.settings.hydra_internals import jobs_of, overrides_of
from ladder_vae.settings.launchers import check_launcher, starts_here, suit_launcher
from ladder_vae.settings.paths import CLAIMED, as_override, shown
from ladder_vae.settings.schema import Config
from ladder_vae.system.countdown import Countdown
from ladder_vae.system.devices import DEVICES, PRECISIONS, share_cores
from ladder_vae.system.errors import Refusal, UserError
from ladder_vae.training.build import build
from ladder_vae.training.memory import check_memory
from ladder_vae.training.places import check_place, check_subdirectories, check_unused, prepare_directory
from ladder_vae.training.settle import Settled, settle
from ladder_vae.training.trust import foreign

MOVED = ("data.path=", "data.directory=")  # data may be elsewhere now; that they are the same is checked


class Preflight(Callback):
    """Hydra callback: refuses a run or a multirun that cannot succeed, and counts the jobs of the latter."""

    def __init__(self) -> None:
        self.countdown: Countdown | None = None  # of jobs one after the other; the launcher counts others

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the run directory is made."""
        _refuse_on_error(check_run, config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the first job."""
        _refuse_on_error(check_sweep, config)
        jobs = jobs_of(config.hydra)
        self.countdown = Countdown(len(jobs)) if jobs else None

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        """After a job of a multirun, or the run itself."""
        if self.countdown is not None:
            self.countdown.count()


def _refuse_on_error(check: Callable[[DictConfig], None], config: DictConfig) -> None:
    try:
        check(config)
    except Exception as error:
        raise Refusal from error


def check_run(config: DictConfig) -> None:
    """Raises UserError if the run cannot start."""
    path = check_place(config)
    cfg = without_hydra(config)
    if cfg.resume is not None:
        cfg = resumed(cfg, overrides_of(config.hydra, "task"))
    elif str(path) not in CLAIMED:
        check_unused(path)
    if user := in_use(path):
        raise UserError(f"{path} is {user.who}; wait until it ends, or stop it")
    settled = settle(cfg)
    check_memory(settled)
    if cfg.resume is None:
        check_planned(path, settled.data.fingerprint)
    last = last_checkpoint(cfg.run_dir) if cfg.resume is not None else None
    build(settled, cfg.run_dir, last)
    if cfg.resume is not None:
        warn_of_changes(Path(cfg.resume))
    if last:
        settled.data.check_trained_on(read_checkpoint(last), Path(cfg.resume))
    prepare_directory(path)


def check_sweep(config: DictConfig) -> None:
    """Raises UserError if a job of the sweep cannot start, naming the job."""
    if OmegaConf.select(config, "resume") is not None:
        raise UserError(
            "resume= continues one run; leave out --multirun, or name an experiment without a sweep"
        )
    check_launcher(config.hydra)
    run_dir = check_place(config)
    if str(run_dir) not in CLAIMED and run_dir.exists():
        if any(is_run(path) or holds_results(path) for path in run_dir.iterdir()):
            raise UserError(f"run_dir={run_dir} already holds runs; choose another for this sweep")
        check_links(run_dir)
    jobs = jobs_of(config.hydra)
    if jobs is None:
        _check_for_sweeper(config, run_dir)
        return
    name, hydras = config.hydra.job.config_name, overrides_of(config.hydra, "hydra")
    sources = config.hydra.runtime.config_sources  # a folder of plug-ins is needed to start a job alone
    flags = [f"--config-dir={source.path}" for source in sources if source.provider == "command-line"]
    accelerator = OmegaConf.select(config, "trainer.accelerator", default="auto")
    threads = None  # of other launchers, whose machines are not known here
    if starts_here(config.hydra):
        at_once = OmegaConf.select(config, "hydra.launcher.jobs", default=1)
        devices = OmegaConf.select(config, "trainer.devices", default=1)
        _, threads = share_cores(at_once, accelerator, len(jobs), devices)
    plan = []
    for number, job in enumerate(jobs):
        try:
            composed = compose(name, overrides=[*hydras, *job], return_hydra_config=True)
            settled = _settled(composed)
            build(settled, run_dir)
            overrides = [*flags, *_in_full(job, composed, settled.config)]
            data = settled.data.fingerprint
            plan.append(PlannedJob(directory_of(composed, number), overrides, threads, data))
        except Exception as error:
            raise UserError(f"{' '.join(job)}: {command_line.explain(error)}") from None
    check_subdirectories([job.name for job in plan])
    write_plan(_prepare_for_all(config, run_dir), plan)


def _settled(config: DictConfig) -> Settled:
    """A job of a sweep, settled; where its machine is not known here, as any machine could train it."""
    cfg = without_hydra(config)
    if starts_here(config.hydra):
        settled = settle(cfg)
        check_memory(settled)
        return settled
    for key, known in (("accelerator", ("gpu", *DEVICES)), ("precision", PRECISIONS)):
        if cfg.trainer[key] in known:
            cfg.trainer[key] = "auto"
    cfg.trainer.devices = min(cfg.trainer.devices, 1)
    return settle(cfg)


def _in_full(job: Sequence[str], composed: DictConfig, settled: dict[str, Any]) -> list[str]:
    """The overrides of a job, relative paths in full, so that it can be started from another directory."""
    overrides, full = list(job), flat(settled)
    for key in ("data.path", "data.directory", "init_from"):
        here, there = OmegaConf.select(composed, key), full.get(key)
        if here != there and not Path(here).expanduser().is_absolute():
            others = [override for override in overrides if override.partition("=")[0].lstrip("+") != key]
            overrides = [*others, as_override(f"++{key}={there}")]
    return overrides


def _check_for_sweeper(config: DictConfig, run_dir: Path) -> None:
    """Raises UserError if a sweeper that learns from its jobs would learn nothing, or they cannot start."""
    settled = _settled(config)
    build(settled, run_dir)
    trainer = settled.config["trainer"]
    rare = trainer["check_val_every_n_epoch"] > trainer["max_epochs"]
    if not settled.data.val_size or trainer["limit_val_batches"] == 0 or rare:
        raise UserError(
            f"{config.hydra.sweeper._target_} chooses by the bound on validation images, and there is none; "
            "set data.val_size=10000, and leave out trainer.limit_val_batches and check_val_every_n_epoch"
        )
    if str(OmegaConf.select(config, "hydra.sweeper.direction")).endswith("minimize"):
        raise UserError(
            "hydra.sweeper.direction=minimize looks for the worst model, whose bound on validation images is "
            "lowest; set hydra.sweeper.direction=maximize"
        )
    _prepare_for_all(config, run_dir)


def _prepare_for_all(config: DictConfig, run_dir: Path) -> Path:
    """Make the directory of a sweep, where the jobs of any launcher find it, and return its path."""
    directory = prepare_directory(run_dir)
    if not starts_here(config.hydra):
        suit_launcher(config, directory)
    return directory


def resumed(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """The configuration that ``cfg.resume`` was run with, with changes of ``trainer.*`` and moved data.

    Args:
        cfg: As composed for this resumption.
        overrides: What was typed for it.

    Raises:
        UserError: If it is not a run that can go on, or if other settings are to change.
    """
    path = Path(cfg.resume)
    for override in overrides:
        if not override.lstrip("+").startswith(("resume=", "trust=", "trainer.", *MOVED)):
            raise UserError(
                "resume= keeps the configuration of the run, except trainer.*, data.path and data.directory; "
                f"leave out {override}"
            )
    if is_release(cfg.resume):
        raise UserError(
            f"resume={path} is a model that comes with the package, without what training goes on from; "
            f"init_from={path} begins a run with its weights"
        )
    saved, last = read_config(path), last_checkpoint(path)
    if not cfg.trust and (named := foreign(saved)):
        raise UserError(
            f"{path / CONFIG} names {named}, which is not of this version of the package; if you trust the "
            "run, trust=true resumes it"
        )
    record = checked_record(path)
    check_links(path)
    if last is None and holds_results(path):
        raise UserError(f"resume={path} has no checkpoints/last.ckpt to go on from; start the run anew")
    gradient = saved.get("objective", {}).get("importance_gradient")
    if gradient is not None:
        raise UserError(
            f"resume={path} was trained with objective.importance_gradient={gradient}, which left the "
            "package; init_from= begins a new run with its weights"
        )
    states: dict[str, Any] = {"Totals": {"epochs": 0}}
    if last:
        states = read_checkpoint(last).get("callbacks") or {}
    try:
        done, finished = int(states["Totals"]["epochs"]), record.finished
        stopped = [int(state.get("stopped_epoch", 0)) for state in states.values()]
    except Exception:  # whatever stands there
        raise UserError(
            f"{last} does not say how many epochs it has done; init_from={shown(path)} begins a new run with "
            "its weights"
        ) from None
    if finished and done > 1 and done - 1 in stopped:  # 0: not at all
        raise UserError(f"resume={path} has stopped early, after {done} epochs, and is finished")
    known = OmegaConf.structured(Config)
    OmegaConf.set_struct(known.trainer, False)  # +trainer.X is checked later, against Lightning
    try:
        merged = OmegaConf.merge(known, saved)
    except OmegaConfBaseException as error:
        said = str(error).splitlines()[0]
        raise UserError(
            f"{path / CONFIG} has {error.full_key}, which cannot be resumed with ({said}); restore the "
            f"file, or begin a new run with the weights by init_from={shown(path)}"
        ) from None
    assert isinstance(merged, DictConfig)
    for override in overrides:
        key = override.lstrip("+").partition("=")[0]
        try:
            if override.lstrip("+").startswith(("trainer.", *MOVED)):
                OmegaConf.update(merged, key, OmegaConf.select(cfg, key))
        except OmegaConfBaseException as error:
            raise UserError(command_line.mistyped(override, str(error))) from None
    merged.resume, merged.run_dir, merged.trust = cfg.resume, cfg.resume, cfg.trust
    if merged.trainer.max_epochs < done + finished:
        raise UserError(
            f"resume={path} has finished its {done} epochs; trainer.max_epochs=N trains it for longer, "
            "on the schedule of a run of N epochs from there on"
        )
    return merged
