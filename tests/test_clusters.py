"""Real sweeps by Ray, submitit and Optuna on this machine, and what becomes of a job that is stopped.

Each needs an extra of its own and is skipped without it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from conftest import assert_same_weights, tiny

from ladder_vae.runs.record import read_record

FOLDER = Path(__file__).parent
HELD = "+callbacks.hold._target_=holding.Hold"


ENVIRONMENT = {  # of processes that find holding.py, and train on one thread
    "PYTHONPATH": os.pathsep.join([str(FOLDER), *filter(None, sys.path)]),
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray would send them over the network
}


@contextmanager
def training(*settings, directory="."):
    """A process that trains with settings; its output is in ``out`` and ``err``."""
    command = [sys.executable, "-m", "ladder_vae.train", *map(str, settings)]
    with Path(directory, "out").open("w") as out, Path(directory, "err").open("w") as err:
        process = subprocess.Popen(
            command, stdout=out, stderr=err, cwd=directory, env={**os.environ, **ENVIRONMENT}
        )
    try:
        yield process
    finally:
        process.kill()


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, Path("err").read_text()
        time.sleep(0.02)


def held(directory):
    """Settings of runs that wait in their second epoch until they are stopped, and then no more."""
    return [HELD, f"+callbacks.hold.held={directory}/held_${{seed}}"]


@pytest.fixture(scope="module")
def whole(npz, tmp_path_factory):
    """The run that a stopped one has to end as."""
    directory = tmp_path_factory.mktemp("undisturbed")
    (directory / "held_1").touch()
    few = [*tiny(npz), "seed=1", *held(directory), "run_dir=whole"]
    with training(*few, directory=directory) as process:
        assert process.wait() == 0, (directory / "err").read_text()
    return directory / "whole"


def assert_same_end(whole, run):
    """To the last bit of weights and metrics."""
    assert_same_weights(whole, run)
    ours, theirs = (json.loads((path / "metrics.json").read_text()) for path in (whole, run))
    for metrics in (ours, theirs):
        for cost in ("train/seconds", "train/images_per_second"):
            del metrics[cost]
    assert ours == theirs
    for path in (whole, run):
        record = read_record(path)
        assert (record.status, record.metrics["train/epochs"]) == ("finished", 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_run_that_a_scheduler_stops_ends_as_if_it_had_not(npz, workdir, whole, name):
    """The signal arrives in the middle of an epoch; the epoch before it is kept."""
    with training(*tiny(npz), "seed=1", *held(workdir), "run_dir=run") as process:
        wait_for(workdir / "held_1", process)
        process.send_signal(getattr(signal, name))
        assert process.wait() == 143, Path("err").read_text()
    assert read_record(Path("run")).status == "interrupted"
    with training("resume=run", "trust=true") as process:
        assert process.wait() == 0, Path("err").read_text()
    assert_same_end(whole, Path("run"))


def programs(directory, **scripts):
    """Commands of a shell, as SLURM has them, and the PATH on which they are found first."""
    folder = directory / "bin"
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.slow
def test_the_script_of_the_page_is_put_back_and_goes_on(npz, workdir, whole):
    page = (FOLDER.parent / "docs/many_jobs.md").read_text()
    script = textwrap.dedent(
        re.search(r"^ *#!/bin/bash\n.*?exit \$code\n", page, re.MULTILINE | re.DOTALL)[0]
    )
    for there, here in {
        "/shared/runs/one": "run",
        "model=residual": " ".join([*tiny(npz), "seed=1", HELD, f"+callbacks.hold.held={workdir}/held_1"]),
        "resume=$run": "resume=$run trust=true",
        "python -m": f"{sys.executable} -m",
    }.items():
        assert there in script
        script = script.replace(there, here)
    Path("job.sh").write_text(script)
    path = programs(workdir, srun='exec "$@"', scontrol='echo "$@" >> asked')
    settings = {**os.environ, **ENVIRONMENT, "PATH": path, "SLURM_JOB_ID": "7"}
    with Path("err").open("w") as err:
        job = subprocess.Popen(["bash", "job.sh"], env=settings, stderr=err)
    wait_for(workdir / "held_1", job)
    os.kill(json.loads(Path("run/status.json").read_text())["process"], signal.SIGUSR1)
    assert job.wait() == 143
    assert Path("asked").read_text() == "requeue 7\n"
    assert subprocess.run(["bash", "job.sh"], env=settings).returncode == 0
    assert_same_end(whole, Path("run"))


@pytest.mark.slow
def test_a_sweep_on_a_ray_cluster_of_two_workers(npz, workdir, whole, monkeypatch):
    """Its nodes run in another directory, and one of them loses the process of a job."""
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="needs ladder-vae[ray]")
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="needs ladder-vae[ray]")
    node = {
        "num_cpus": 1,
        "node_ip_address": "127.0.0.2",
    }  # Ray takes 127.0.0.1 for the machine's own address
    (workdir / "elsewhere").mkdir()
    os.chdir("elsewhere")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    before = signal.getsignal(signal.SIGTERM)
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    os.chdir(workdir)
    few = [*tiny(npz), "seed=1,2", *held(workdir), "run_dir=sweep", "hydra/launcher=ray"]
    Path("held_2").touch()
    try:
        with training("-m", *few, f"hydra.launcher.ray.init.address={cluster.address}") as process:
            wait_for(workdir / "held_1", process)
            (run,) = Path("sweep").glob("*_seed1")
            os.kill(json.loads((run / "status.json").read_text())["process"], signal.SIGKILL)
            assert process.wait() == 0, Path("err").read_text()
    finally:
        cluster.shutdown()
        signal.signal(signal.SIGTERM, before)  # which the cluster has changed
    assert [read_record(path).status for path in Path("sweep").glob("*_seed*")] == ["finished"] * 2
    assert_same_end(whole, run)


@pytest.fixture
def submitit():
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs ladder-vae[slurm]")
    return pytest.importorskip("submitit", reason="needs ladder-vae[slurm]")


@pytest.mark.slow
def test_a_sweep_by_submitit_whose_job_is_preempted(npz, workdir, whole, submitit):
    """As SLURM does by --signal; submitit puts the job back, which goes on where it was."""
    few = [*tiny(npz), "seed=1,2", *held(workdir), "run_dir=sweep", "hydra/launcher=submitit_local"]
    Path("held_2").touch()
    with training("-m", *few) as process:
        wait_for(workdir / "held_1", process)
        (run,) = Path("sweep").glob("*_seed1")
        os.kill(json.loads((run / "status.json").read_text())["process"], signal.SIGUSR2)
        assert process.wait() == 0, Path("err").read_text()
    logs = "".join(path.read_text() for path in Path("sweep/.submitit").rglob("*_log.*"))
    assert "this job is preempted" in logs
    assert "Requeued job" in logs
    assert [read_record(path).status for path in Path("sweep").glob("*_seed*")] == ["finished"] * 2
    assert_same_end(whole, run)


def test_what_slurm_is_asked_for(command, npz, workdir, submitit, monkeypatch):
    """The script that submitit submits; where that fails, the report lists what never started."""
    refuse = 'cp "$1" submitted; echo "no such partition" >&2; exit 1'
    monkeypatch.setenv("PATH", programs(workdir, srun="exit 1", sbatch=refuse))
    launcher = [
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.timeout_min=240",
        "hydra.launcher.signal_delay_s=60",
        "hydra.launcher.max_num_timeout=20",
        "hydra.launcher.cpus_per_task=4",
        "hydra.launcher.array_parallelism=50",
        "+hydra.launcher.additional_parameters.requeue=true",
    ]
    code, _, err = command("train", "-m", *tiny(npz), "seed=1,2,3", *launcher, "run_dir=sweep")
    assert code == 1
    assert "no such partition" in err.splitlines()[-1]
    lines = Path("submitted").read_text().splitlines()
    assert {
        "#SBATCH --time=240",
        "#SBATCH --signal=USR2@60",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --array=0-2%3",
    } <= set(lines)
    (started,) = (line for line in lines if line.startswith("srun "))
    assert f"{sys.executable} -u -m submitit.core._submit {workdir}/sweep/.submitit/" in started
    code, _, err = command("report", "sweep")
    assert code == 1
    report = Path("sweep/report.md").read_text()
    assert report.count("never started") == 3
    assert "seed=3" in report


@pytest.mark.slow
def test_optuna_looks_for_the_best_bound(npz, workdir):
    pytest.importorskip("optuna", reason="needs ladder-vae[optuna]")
    few = [*tiny(npz), "data.val_size=8", "run_dir=sweep", "hydra.launcher.jobs=1", "hydra/sweeper=optuna"]
    with training("-m", *few, "optimizer.lr=tag(log, interval(1e-4, 1e-2))") as process:
        assert process.wait() == 1
    assert Path("err").read_text().endswith("set hydra.sweeper.direction=maximize\n")
    optuna = [
        f"hydra.sweeper.{setting}"
        for setting in (
            "direction=maximize",
            "n_trials=3",
            "sampler.seed=1",
            "study_name=a",
            "storage=sqlite:///a.db",
        )
    ]
    with training("-m", *few, *optuna, "optimizer.lr=tag(log, interval(1e-4, 1e-2))") as process:
        assert process.wait() == 0, Path("err").read_text()
    found = yaml.safe_load(Path("sweep/optimization_results.yaml").read_text())
    runs = [path for path in Path("sweep").iterdir() if path.is_dir()]
    rates = [yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["lr"] for run in runs]
    assert len(set(rates)) == 3
    assert found["best_params"]["optimizer.lr"] in rates
    from ladder_vae.training.restart import validation_bound

    assert found["best_value"] == max(validation_bound(run) for run in runs)
