"""What becomes of the processes of a parallel sweep, and of what they leave."""

import errno
import os
import pickle
import signal
from multiprocessing.connection import Connection, Pipe
from types import SimpleNamespace

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from hydra_plugins import ladder_vae_launcher
from ladder_vae.runs.record import read_record, write_status
from ladder_vae.system.errors import UserError


def job_in(directory, name="job"):
    """The configuration of a job that is written to the directory of that name."""
    hydra = {"sweep": {"dir": str(directory), "subdir": name}, "job": {"name": None}}
    return OmegaConf.create({"model": {}, "hydra": hydra})


def test_a_job_that_is_killed_while_it_draws_has_finished(trained):
    run = trained()
    result = ladder_vae_launcher._died(job_in(".", "run"), -9)
    assert read_record(run).finished
    with pytest.raises(RuntimeError, match="run: the process ended with code -9"):
        _ = result.return_value


def test_a_full_disk_hides_no_job_that_is_killed(trained, monkeypatch):
    run = trained()
    write_status(run, "running")

    def full(*arguments, **facts):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ladder_vae_launcher, "write_status", full)
    assert ladder_vae_launcher._died(job_in(".", "run"), -9).status == JobStatus.FAILED


class Odd(Exception):
    """It cannot be made again from its message, as pickle would."""

    def __init__(self, part: str, other: str) -> None:
        super().__init__(f"{part} {other}")


@pytest.mark.parametrize("error", [Odd("not", "mine"), UserError("not mine")])
def test_any_error_of_a_job_reaches_the_parent(workdir, monkeypatch, error):
    failed = JobReturn(status=JobStatus.FAILED)
    failed.return_value = error
    error.reported = True
    monkeypatch.setattr(ladder_vae_launcher, "run_job", lambda **settings: failed)
    sent = pickle.dumps(ladder_vae_launcher._call(print, job_in("."), 1))
    with pytest.raises(UserError, match="not mine") as caught:
        _ = pickle.loads(sent).return_value
    assert caught.value.reported


def test_a_job_that_cannot_be_started_leaves_no_other_behind(monkeypatch):
    """Those that run are stopped and waited for."""
    begun: dict[int, Connection] = {}
    stopped = []

    class Process:
        def __init__(self, target, args, name):
            self.connection, self.pid = args[0], None

        def start(self):
            if begun:
                raise OSError(errno.EAGAIN, "no more processes")
            self.pid = 4711
            begun[self.pid] = Connection(os.dup(self.connection.fileno()))

        def join(self):
            stopped.append(self.pid)

    def kill(pid, number):
        assert number == signal.SIGINT
        begun[pid].send((KeyboardInterrupt(), ""))
        begun[pid].close()

    context = SimpleNamespace(Process=Process, Pipe=Pipe, set_forkserver_preload=lambda modules: None)
    monkeypatch.setattr(ladder_vae_launcher.multiprocessing, "get_context", lambda kind: context)
    monkeypatch.setattr(os, "kill", kill)
    with pytest.raises(OSError, match="no more processes"):
        ladder_vae_launcher._run(print, [job_in("."), job_in(".")], 2, 1)
    assert stopped == [4711]
