"""A sweep that was broken off is finished by one command, and then is as if nothing had happened."""

import contextlib
import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import assert_same_weights, crash_after, tiny

from hydra_plugins.ladder_vae_launcher import ParallelLauncher
from ladder_vae.runs.plan import PlannedJob, read_plan, write_plan
from ladder_vae.runs.record import User, read_record, write_status
from ladder_vae.system.errors import UserError
from ladder_vae.training import finishing
from ladder_vae.training.epoch_checkpoints import EpochCheckpoints

SWEEP = ["seed=1,2,3", "run_dir=sweep", "hydra.launcher.jobs=1"]
COSTS = ("train/seconds", "train/images_per_second")


def table(sweep: Path) -> list[dict[str, str]]:
    """``report.csv``, without what depends on the clock."""
    with (sweep / "report.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in COSTS} for row in csv.DictReader(file)]


@pytest.fixture
def in_this_process(command, monkeypatch):
    """Jobs of ``finish`` are trained here, one after the other; returns their command lines."""
    started = []

    def start(job, arguments, threads):
        started.append(arguments)
        code, out, _ = command("train", *arguments)
        printed = SimpleNamespace(seek=lambda at: None, read=lambda: out, close=lambda: None)
        process = SimpleNamespace(poll=lambda: code, returncode=code)
        return SimpleNamespace(job=job, process=process, printed=printed)

    monkeypatch.setattr(finishing, "_start", start)
    monkeypatch.setattr(finishing, "POLL", 0)
    return started


def test_a_broken_sweep_is_finished_by_one_command(command, npz, in_this_process, monkeypatch, workdir):
    """One job has finished, one was killed after an epoch, one has never started."""
    assert command("train", "-m", *tiny(npz), *SWEEP)[0] == 0
    assert command("report", "sweep")[0] == 0
    undisturbed, names = table(Path("sweep")), [job.name for job in read_plan(Path("sweep"))]
    shutil.copytree("sweep", "whole")
    with monkeypatch.context() as patched:
        patched.setattr(EpochCheckpoints, "on_train_epoch_end", crash_after(1))
        shutil.rmtree(Path("sweep") / names[1])
        command("train", *tiny(npz), "seed=2", f"run_dir=sweep/{names[1]}")
    write_status(Path("sweep") / names[1], "running")
    shutil.rmtree(Path("sweep") / names[2])

    code, out, err = command("train", "finish=sweep")
    assert code == 0, err
    assert out.splitlines()[-1] == "sweep/report.html"
    assert in_this_process[0] == [f"resume=sweep/{names[1]}"]
    assert in_this_process[1][-2:] == ["hydra.mode=RUN", f"run_dir=sweep/{names[2]}"]
    assert table(Path("sweep")) == undisturbed
    for name in names:
        assert_same_weights(Path("whole") / name, Path("sweep") / name)

    assert command("train", "finish=sweep")[0] == 0
    assert len(in_this_process) == 2  # there was nothing left to do


def test_a_job_of_an_experiment_that_sweeps_is_one_run(command, npz, in_this_process, workdir):
    """It asks Hydra for a sweep, of which a single job is to be finished, in a directory of any name."""
    few = ["experiment=depth_sweep", *tiny(npz)[:3], "trainer.max_epochs=1", "hydra.launcher.jobs=1"]
    code, _, err = command("train", "-m", *few, "model.num_layers=1,2", "run_dir=my sweep (1)")
    assert code == 0, err
    names = [job.name for job in read_plan(Path("my sweep (1)"))]
    shutil.rmtree(Path("my sweep (1)") / names[1])
    code, _, err = command("train", "finish=my sweep (1)")
    assert code == 0, err
    assert read_record(Path("my sweep (1)") / names[1]).finished
    assert "never started" not in Path("my sweep (1)/report.md").read_text()


def test_a_job_that_another_machine_trains_is_not_waited_for(command, npz, in_this_process):
    assert command("train", "-m", *tiny(npz), "seed=1", "run_dir=sweep", "hydra.launcher.jobs=1")[0] == 0
    run = Path("sweep") / read_plan(Path("sweep"))[0].name
    write_status(run, "running", host="elsewhere")
    code, _, err = command("train", "finish=sweep")
    assert code == 1
    assert "is in use by elsewhere; if nothing runs there any more, remove" in err.splitlines()[-1]
    (run / ".lock").unlink()
    assert command("train", "finish=sweep")[0] == 0


def test_a_job_that_fails_again_is_named(command, npz, in_this_process, monkeypatch):
    assert command("train", "-m", *tiny(npz), "seed=1", "run_dir=sweep", "hydra.launcher.jobs=1")[0] == 0
    (job,) = read_plan(Path("sweep"))
    shutil.rmtree(Path("sweep") / job.name)
    plan = json.loads(Path("sweep/jobs.json").read_text())
    plan[0]["overrides"].append("optimizer.lr=1e30")
    Path("sweep/jobs.json").write_text(json.dumps(plan))
    Path("sweep/checksums.json").unlink()
    code, _, err = command("train", "finish=sweep")
    assert code == 1
    assert err.splitlines()[-1] == "error: 1 of 1 jobs failed; the lines above, or the report, say why"


def test_nothing_is_downloaded_for_a_strangers_sweep(command, in_this_process, workdir):
    anywhere = workdir / "anywhere"
    overrides = ["data=fashion_mnist", f"data.directory={anywhere}", "trust=true"]
    Path("sweep").mkdir()
    Path("sweep/jobs.json").write_text(json.dumps([{"name": "0", "overrides": overrides}]))
    assert command("train", "finish=sweep")[0] == 1
    assert in_this_process == [[*overrides, "trust=false", "hydra.mode=RUN", "run_dir=sweep/0"]]
    assert not anywhere.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["finish=nowhere"], "nowhere is not a directory; name the directory of a sweep"),
        (["finish="], "finish= names no sweep"),
        (["finish=sweep", "seed=3"], "finish= takes the settings of the sweep; leave out seed=3"),
    ],
)
def test_what_cannot_be_finished(arguments, said, command):
    code, _, err = command("train", *arguments)
    assert code == 1
    assert err.count("\n") == 1
    assert said in err


def test_a_single_run_is_no_sweep(trained, command):
    run = trained()
    code, _, err = command("train", f"finish={run}")
    assert code == 1
    assert err == "error: run is a single run, not a sweep; resume=run continues it\n"


def test_a_model_of_the_package_is_not_resumed(command):
    code, _, err = command("train", "resume=record")
    assert code == 1
    assert "resume=record is a model that comes with the package" in err
    assert "init_from=record begins a run with its weights" in err


PLANNED = [PlannedJob(f"{number}_job", [f"seed={number}"], 2) for number in range(2)]


def test_a_plan_is_not_written_over(workdir):
    """Two sweeps that start at once in one directory both find it unused."""
    write_plan(workdir, PLANNED)
    with pytest.raises(UserError, match=r"already holds a sweep; finish=\S+ trains what is left"):
        write_plan(workdir, PLANNED[:1])
    assert read_plan(workdir) == PLANNED


def test_a_damaged_plan_is_refused(workdir):
    """A seed with a flipped bit is a seed, too."""
    write_plan(workdir, PLANNED)
    plan = workdir / "jobs.json"
    plan.write_text(plan.read_text().replace("seed=1", "seed=3"))
    with pytest.raises(UserError, match=r"jobs\.json is damaged: its checksum is not that of"):
        read_plan(workdir)


def test_a_plan_of_an_earlier_version(workdir):
    """It has no threads and no checksum."""
    (workdir / "jobs.json").write_text('[{"name": "0_job", "overrides": ["seed=1"]}]')
    assert read_plan(workdir) == [PlannedJob("0_job", ["seed=1"], None)]


@pytest.mark.parametrize(("text", "said"), [("[]", "names no job"), ('[{"name": "/"}]', "cannot be read")])
def test_what_is_no_plan(workdir, text, said):
    (workdir / "jobs.json").write_text(text)
    with pytest.raises(UserError, match=f"jobs.json {said}.*name the directory of a sweep"):
        read_plan(workdir)


def test_a_plan_means_the_same_everywhere(command, npz, workdir, monkeypatch):
    """Its paths are full, and it names the threads of a job that was never started."""
    (workdir / "my data.npz").write_bytes(npz.read_bytes())
    monkeypatch.setattr(ParallelLauncher, "launch", lambda *_: [])
    few = [*tiny(Path("my data.npz")), "seed=1,2", "run_dir=sweep", "hydra.launcher.jobs=1"]
    code, _, err = command("train", "-m", *few)
    assert code == 0, err
    for job in read_plan(Path("sweep")):
        assert job.threads == torch.get_num_threads()
        assert [o for o in job.overrides if "data.path" in o] == [f"++data.path='{workdir}/my data.npz'"]


class Started:
    """In place of a process: it has ended, with an error or not, or runs until it is stopped."""

    def __init__(self, job, code=None):
        self.job, self.process, self.returncode, self.printed = job, self, code, io.StringIO()

    def poll(self):
        return self.returncode

    def wait(self):
        assert self.returncode is not None


def test_a_job_that_cannot_be_started_leaves_no_other_behind(workdir, monkeypatch):
    """The lock of the sweep is given back, so no other may still be running."""
    write_plan(workdir, [job._replace(threads=1) for job in PLANNED])
    first = Started(PLANNED[0])
    started = iter([first])
    monkeypatch.setattr(finishing, "share_cores", lambda *_: (2, 1))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(finishing, "_start", lambda *_: next(started))
    monkeypatch.setattr(finishing, "_stop", lambda process: setattr(process, "returncode", 130))
    with pytest.raises(StopIteration):
        finishing.finish(workdir)
    assert first.returncode == 130


OTHER = User("in use by process 1", elsewhere=False)


@pytest.mark.parametrize("users", [[None, OTHER, OTHER], [None]], ids=["still trains", "has finished"])
def test_a_job_of_an_earlier_finish_is_waited_for(workdir, monkeypatch, users):
    """Killed, that command left a process that was still importing; of the two it got the run."""
    write_plan(workdir, PLANNED[:1])
    seen, finished = iter(users), iter([False, False])
    monkeypatch.setattr(finishing, "in_use", lambda path: next(seen, None))
    monkeypatch.setattr(finishing, "_finished", lambda path: next(finished, True))
    monkeypatch.setattr(finishing, "_start", lambda job, *_: Started(job, 1))
    monkeypatch.setattr(finishing, "POLL", 0)
    assert finishing.finish(workdir) == ""


@pytest.mark.parametrize("asked", [True, False])
def test_jobs_give_the_detail_that_was_asked_for(workdir, monkeypatch, asked):
    environments = []
    monkeypatch.setattr(finishing, "DETAILED", asked)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # as every command sets it for itself
    monkeypatch.setattr(subprocess, "Popen", lambda *_, env, **__: environments.append(env))
    finishing._start(PLANNED[0], [], 1).printed.close()
    assert ("HYDRA_FULL_ERROR" in environments[0]) is asked


def test_a_sweep_of_a_user_without_a_home(workdir, monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UserError, match="finish=~/sweep: this user has no home directory"):
        finishing.asked(["finish=~/sweep"])


def alive(*which: str) -> set[int]:
    """The processes that pgrep finds."""
    return {int(pid) for pid in subprocess.run(["pgrep", *which], capture_output=True).stdout.split()}


@pytest.mark.slow
def test_kills_at_any_moment_change_no_result(npz, workdir):
    """SIGKILL of parent, child or group, again and again: the table is that of the undisturbed sweep."""
    train = [sys.executable, "-m", "ladder_vae.train"]
    few = ["-m", *tiny(npz), "trainer.max_epochs=8", "seed=1,2", "hydra.launcher.jobs=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    subprocess.run([*train, *few, "run_dir=whole"], check=True, env=environment, capture_output=True)
    subprocess.run([sys.executable, "-m", "ladder_vae.report", "whole"], check=True, capture_output=True)
    undisturbed, chance, kills = table(Path("whole")), random.Random(0), 0
    number = 0
    while kills < 50:
        number += 1
        sweep = Path(f"sweep_{os.getpid()}_{number}")  # no other process has this in its command line

        def command(sweep=sweep):
            planned = (sweep / "jobs.json").exists()
            return [*train, f"finish={sweep}"] if planned else [*train, *few, f"run_dir={sweep}"]

        for _ in range(9):
            process = subprocess.Popen(
                command(),
                env=environment,
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(2, 25))
                break  # it had nothing more to do
            victims = alive("-s", str(process.pid)) | alive("-f", str(sweep))  # jobs have sessions, too
            if chance.random() < 0.3:
                victims = {process.pid}
            elif chance.random() < 0.5:
                victims = {chance.choice(sorted(victims))}
            for victim in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    kills += 1
            time.sleep(chance.uniform(0, 3))  # those that are left notice
            process.kill()
            process.wait()
        subprocess.run(command(), check=True, env=environment, capture_output=True)
        assert table(sweep) == undisturbed
        for run in sorted(Path("whole").glob("*_seed*")):
            assert_same_weights(run, sweep / run.name)
            assert read_record(sweep / run.name).finished


def test_a_sweep_is_not_finished_on_other_images(command, npz, workdir):
    """Its runs would not compare, and nothing would say so."""
    shutil.copy(npz, "mine.npz")
    code, _, err = command(
        "train", "-m", *tiny(Path("mine.npz")), "seed=1,2", "run_dir=sweep", "hydra.launcher.jobs=1"
    )
    assert code == 0, err
    with np.load("mine.npz") as kept:
        arrays = dict(kept)
    np.savez("mine.npz", **arrays | {"x_train": 255 - arrays["x_train"]})
    (lost,) = Path("sweep").glob("*seed2")
    shutil.rmtree(lost)
    plan = read_plan(Path("sweep"))
    arguments = finishing._arguments(
        lost, next(job.overrides for job in plan if job.name == lost.name), trust=True
    )
    code, _, err = command("train", *arguments)
    assert code == 1
    assert "sweep/jobs.json was made with other images than the data of" in err
    assert not (lost / "config.yaml").exists()
