"""One job, as Hydra calls it."""

from __future__ import annotations

import logging
import math
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from ladder_vae.runs.checkpoints import read_checkpoint
from ladder_vae.runs.metrics import OF_RUNS, OF_UNITS, SAMPLED_LEVELS
from ladder_vae.runs.record import (
    holds_results,
    is_run,
    last_checkpoint,
    read_config,
    read_record,
    threads_of,
    write_config,
    write_status,
)
from ladder_vae.settings import command_line, schema
from ladder_vae.settings.hydra_internals import overrides_of
from ladder_vae.settings.launchers import starts_here
from ladder_vae.settings.paths import shown
from ladder_vae.system.errors import Refusal, UserError, printable, warn
from ladder_vae.system.locks import TRAINING, locked
from ladder_vae.system.machine import limit_threads
from ladder_vae.system.memory import keep_freed_memory
from ladder_vae.system.naming import z_name
from ladder_vae.training.build import Assembly, build
from ladder_vae.training.fit import fit
from ladder_vae.training.preflight import resumed
from ladder_vae.training.restart import as_started, started_again, validation_bound
from ladder_vae.training.settle import plain, settle
from ladder_vae.training.trust import foreign

schema.register()  # at import: a fresh process of a launcher reads settings before it calls the job


def job(cfg: DictConfig) -> float | None:
    """One job as Hydra calls it: build, train, test, record.

    Returns:
        The bound on validation images that the best checkpoint was chosen by, nats, higher is better; None
        without validation. A sweeper may maximize it.
    """
    prepare()
    hydra_config: Any = HydraConfig.get()
    path = Path(hydra_config.runtime.output_dir)
    with as_started(hydra_config.runtime.cwd), locked(path, TRAINING):
        try:
            overrides = overrides_of(hydra_config, "task")
            if cfg.resume is None and holds_results(path):
                cfg, overrides = started_again(cfg, path, hydra_config.mode), []
                if read_record(path).finished:
                    return validation_bound(path)
            assembly, metrics = _train(cfg, path, overrides)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(how_to_go_on(path)) from None
        except Exception as error:
            said = command_line.explain(error)
            if not is_run(path):  # so that the report lists it
                with suppress(OSError):  # a full disk must not hide what happened
                    write_status(path, "failed", said)
                    write_config(path, plain(cfg))  # after the status, as a run that begins does
            if hydra_config.mode == RunMode.MULTIRUN:  # Hydra goes on with the other jobs
                if not starts_here(hydra_config):  # an exception in words, which travels between processes
                    raise UserError(f"{path.name}: {said}") from None
                print(printable(f"error: {path.name}: {said}"), file=sys.stderr)
                error.reported = True  # type: ignore[attr-defined]
                raise
            raise Refusal from error  # of any other exception Hydra would print a line of its own
    if hydra_config.mode == RunMode.MULTIRUN:  # the report has the tables
        bits = metrics.get("test/bits_per_dim")
        also = "" if bits is None else f", {bits:.3f} bits per dimension"
        print(printable(f"{path.name}: test ELBO {metrics['test/elbo']:.2f} nats{also}"))
    else:
        _print_summary(metrics, assembly.module.model.num_layers)
    print(printable(str(os.path.relpath(path) if path.is_relative_to(Path.cwd()) else path)))
    bound = assembly.checkpoints.best
    return bound if math.isfinite(bound) else None


def _train(cfg: DictConfig, path: Path, overrides: list[str]) -> tuple[Assembly, dict[str, float]]:
    """Build and fit a new run; or go on with one, on as many threads as it began with."""
    if cfg.resume is None:
        assembly = build(settle(cfg), path)
        return assembly, fit(assembly, path)
    cfg = resumed(cfg, overrides)
    if threads := threads_of(path):
        if threads > torch.get_num_threads():
            warn(
                f"{path} was trained on {threads} threads, more than this machine has, and goes on with them"
            )
        torch.set_num_threads(threads)
    settled, last = settle(cfg), last_checkpoint(path)
    if last:
        settled.data.check_trained_on(read_checkpoint(last), path)
    assembly = build(settled, path, resume_from=last)
    return assembly, fit(assembly, path, last)


def how_to_go_on(path: Path) -> str:
    """What to say of a run after Ctrl-C."""
    if not is_run(path):
        return ""
    if read_record(path).finished:  # and its pictures were being drawn
        return f"{shown(path)} is finished"
    trust = " trust=true" if foreign(read_config(path)) else ""
    return f"python -m ladder_vae.train resume={shown(path)}{trust} continues this run"


def _print_summary(metrics: dict[str, float], num_layers: int) -> None:
    """What the run ended with, and what each level is worth."""
    whole = Table("metric", "value", "± over images", title="averages over images")
    if (looked := metrics.get(SAMPLED_LEVELS)) is not None:
        whole.caption = (
            f"each image was looked at on {looked:.0f} levels, spread evenly over all of them; ± holds the "
            "error of not looking at the others"
        )
    for metric in OF_RUNS:
        if metric.name in metrics:
            error = metrics.get(f"{metric.name}_stderr")
            whole.add_row(
                metric.heading,
                metric.text(metrics[metric.name]),
                "" if error is None else metric.text(error),
            )
    levels = Table("level", "rate (nats)", *(metric.heading for metric in OF_UNITS), title="of test images")
    for z in map(z_name, reversed(range(num_layers))):
        found = {metric: metrics.get(f"test/{metric.name}/{z}") for metric in OF_UNITS}
        cells = ["–" if value is None else metric.text(value) for metric, value in found.items()]
        levels.add_row(z, f"{metrics[f'test/rate/{z}']:.2f}", *cells)
    for table in (whole, levels):
        for column in table.columns[1:]:
            column.justify = "right"
        Console().print(table)


def prepare() -> None:
    """What a process needs before it builds or trains anything. Harmless to repeat."""
    keep_freed_memory()
    limit_threads()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # Batches are cut from memory: worker processes, which Lightning recommends, would only slow them.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # What is logged was measured on the images of all processes.
    warnings.filterwarnings("ignore", ".*sync_dist=True.*")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="lightning")
    warnings.filterwarnings("ignore", category=FutureWarning, module="lightning")
    # Ctrl-C while a step is being compiled: what was interrupted is no error.
    warnings.filterwarnings("ignore", "Error detected in .*Backward")
    if not torch.cuda.is_available():
        # Lightning has PyTorch load NVIDIA's library whenever it is asked for GPUs, as every step does.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
