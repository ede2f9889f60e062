"""A Hydra launcher that runs several jobs of a sweep at once, each in a process with its share of threads.

Small models leave cores idle between many small operations, so two jobs at once with one thread each finish
sooner than two jobs in a row with two threads each (benchmarks/README.md). Ctrl-C reaches every job once, and
each job leaves the same files as if it had run alone.
"""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from hydra import version
from hydra.core.utils import (
    JobReturn,
    JobRuntime,
    JobStatus,
    configure_log,
    filter_overrides,
    run_job,
    setup_globals,
)
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write

from ladder_vae.runs.record import PLAN, is_run, read_record, write_status
from ladder_vae.settings.command_line import explain
from ladder_vae.settings.composition import directory_of
from ladder_vae.settings.hydra_internals import BasicLauncher, Callbacks
from ladder_vae.settings.paths import shown
from ladder_vae.system.console import lasting_output
from ladder_vae.system.countdown import Countdown
from ladder_vae.system.errors import UserError
from ladder_vae.system.locks import TRAINING, locked
from ladder_vae.system.processes import ended, fresh_processes
from ladder_vae.system.signals import gentle_stops, interrupts_held, release_interrupts

log = logging.getLogger(__name__)


class ParallelLauncher(BasicLauncher):
    """Runs several jobs at once. With one job at once it is Hydra's basic launcher, in this process.

    Args:
        jobs: Number of jobs at once; ``auto`` means one per core up to four, or one on a GPU.
    """

    def __init__(self, jobs: Any = "auto") -> None:
        super().__init__()
        self.jobs = jobs

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        assert self.config is not None
        from ladder_vae.system.devices import share_cores

        accelerator = OmegaConf.select(self.config, "trainer.accelerator", default="auto")
        devices = OmegaConf.select(self.config, "trainer.devices", default=1)
        at_once, threads = share_cores(self.jobs, accelerator, len(job_overrides), devices)
        sweep = Path(self.config.hydra.sweep.dir)
        sweep.mkdir(parents=True, exist_ok=True)
        try:
            with locked(sweep, TRAINING):  # nobody finishes it meanwhile
                if at_once <= 1:
                    return super().launch(job_overrides, initial_job_idx)
                return self._launch(job_overrides, initial_job_idx, at_once, threads)
        except KeyboardInterrupt:
            if not (sweep / PLAN).exists():
                raise
            hint = f"python -m ladder_vae.train finish={shown(sweep)} finishes this sweep"
            raise KeyboardInterrupt(hint) from None

    def _launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int, at_once: int, threads: int
    ) -> Sequence[JobReturn]:
        assert self.config is not None
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        log.info(f"Launching {len(job_overrides)} jobs, {at_once} at once, {threads} thread(s) each")
        configs = [self._config(initial_job_idx + i, overrides) for i, overrides in enumerate(job_overrides)]
        assert self.task_function is not None
        return _run(self.task_function, configs, at_once, threads)

    def _config(self, number: int, overrides: Sequence[str]) -> DictConfig:
        """The composed configuration of one job, with its directories and their time stamps resolved."""
        assert self.config is not None
        assert self.hydra_context is not None
        log.info(f"\t#{number} : {' '.join(filter_overrides(overrides))}")
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        subdir = directory_of(config, number)
        with read_write(config):
            config.hydra.sweep.dir = str(self.config.hydra.sweep.dir)
            config.hydra.sweep.subdir = subdir
        return config


def _run(task: TaskFunction, configs: Sequence[DictConfig], at_once: int, threads: int) -> list[JobReturn]:
    """Run all jobs and return their results in order.

    Raises:
        KeyboardInterrupt: After Ctrl-C, once every running job has stopped. The message has all their hints.
    """
    context = fresh_processes("ladder_vae.training.job", "ladder_vae.training.preflight")
    results: dict[int, JobReturn] = {}
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    hints: list[str] = []
    countdown = Countdown(len(configs))
    # The deepest models start first, because they take longest; short jobs then fill the gaps at the end.
    waiting = sorted(range(len(configs)), key=lambda i: -int(configs[i].model.get("num_layers") or 0))

    def collect() -> None:
        ready = wait(list(running))
        for connection in [each for each in running if each in ready]:
            number, process = running.pop(connection)
            try:
                result, printed = connection.recv()
            except (EOFError, OSError):  # the latter where it was killed while it sent its result
                process.join()
                result, printed = _died(configs[number], process.exitcode), ""
            process.join()
            print(printed, end="", flush=True)
            if isinstance(result, KeyboardInterrupt):
                hints.append(str(result))
            else:
                results[number] = result
                countdown.count(len(running))

    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                number = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                name = str(configs[number].hydra.sweep.subdir)
                process = context.Process(
                    target=_job, args=(theirs, task, configs[number], threads), name=name
                )
                with interrupts_held():
                    process.start()
                    running[ours] = (number, process)
                theirs.close()  # so that the pipe ends when the job does
            collect()
            if hints:
                raise KeyboardInterrupt
    except BaseException as error:  # such as a process that cannot be started
        for _, process in running.values():
            assert process.pid is not None
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)
        while running:
            collect()
        if not isinstance(error, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt("\n".join(hint for hint in hints if hint)) from None
    return [results[number] for number in range(len(configs))]


def _died(config: DictConfig, code: int | None) -> JobReturn:
    """The result of a job whose process was killed; also writes its status."""
    path = Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir
    message = f"the process {ended(code)}"
    if is_run(path) and not read_record(path).finished:  # it is where the process drew pictures
        with contextlib.suppress(OSError):  # a full disk must not stop the other jobs
            write_status(path, "failed", message)
    result = JobReturn()
    result.status = JobStatus.FAILED
    result.return_value = RuntimeError(f"{path.name}: {message}")
    return result


def _job(connection: Connection, task: TaskFunction, config: DictConfig, threads: int) -> None:
    """Run one job; called in its process. Sends the result and the printed text through the connection."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # the terminal's Ctrl-C goes to the parent, which passes it on once
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    printed = io.StringIO()
    result: JobReturn | KeyboardInterrupt
    try:
        release_interrupts()
        with gentle_stops(), lasting_output(), contextlib.redirect_stdout(printed):
            result = _call(task, config, threads)
    except KeyboardInterrupt as interrupt:
        result = interrupt
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        connection.send((result, printed.getvalue()))


def _call(task: TaskFunction, config: DictConfig, threads: int) -> JobReturn:
    import torch

    torch.set_num_threads(threads)
    version.setbase("1.3")
    setup_globals()
    JobRuntime.instance().set("name", config.hydra.job.name)
    result = run_job(
        hydra_context=HydraContext(config_loader=None, callbacks=Callbacks()),  # type: ignore[arg-type]
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    if result.status == JobStatus.FAILED:
        result.return_value = _portable(result._return_value)
    return result


def _portable(error: Any) -> UserError:
    """An exception in words. A class of its own might fail to be made again in another process."""
    portable = UserError(explain(error))
    portable.reported = getattr(error, "reported", False)  # type: ignore[attr-defined]
    return portable


def _stop_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGINT)
