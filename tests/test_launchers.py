"""Jobs of any launcher: where they start, what becomes of them if they are stopped, what is missing."""

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import pytest
from conftest import Stop, assert_same_weights, crash_after, tiny
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus, run_job
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from ladder_vae.runs.plan import read_plan
from ladder_vae.runs.record import read_record
from ladder_vae.settings import launchers
from ladder_vae.settings.composition import compose_run, without_hydra
from ladder_vae.settings.hydra_internals import BasicLauncher
from ladder_vae.system.errors import UserError
from ladder_vae.training import restart
from ladder_vae.training.epoch_checkpoints import EpochCheckpoints
from ladder_vae.training.job import job
from ladder_vae.training.lightning_module import HierarchicalVAE


class Elsewhere(BasicLauncher):
    """Starts a job in another directory, as a Ray cluster may, and as often as it is told."""

    def __init__(self, times=1):
        super().__init__()
        self.times = times

    def launch(self, job_overrides, initial_job_idx):
        (overrides,) = job_overrides
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = initial_job_idx
        here, keys = os.getcwd(), {"job_dir_key": "hydra.sweep.dir", "job_subdir_key": "hydra.sweep.subdir"}
        os.chdir("/")
        returns = [
            run_job(self.task_function, config, hydra_context=self.hydra_context, **keys)
            for _ in range(self.times)
        ]
        os.chdir(here)
        Elsewhere.returns = pickle.loads(pickle.dumps(returns))
        return returns[-1:]


@pytest.fixture
def elsewhere(workdir, monkeypatch):
    """Settings that choose a launcher that is not ours."""
    target = "hydra_plugins.elsewhere.Elsewhere"
    monkeypatch.setitem(Plugins.instance().class_name_to_class, target, Elsewhere)
    return ["-m", "hydra/launcher=basic", f"hydra.launcher._target_={target}", "run_dir=sweep"]


def test_jobs_find_their_data_and_their_directory_from_elsewhere(command, npz, elsewhere, workdir):
    shutil.copy(npz, "here.npz")
    code, _, err = command("train", *elsewhere, *tiny(npz), "data.path=here.npz")
    assert code == 0, err
    assert Path.cwd() == workdir
    (planned,) = read_plan(Path("sweep"))
    assert read_record(Path("sweep") / planned.name).finished
    assert planned.threads is None  # those of the other machine are not known


def test_devices_of_a_machine_elsewhere_are_judged_there(command, npz, elsewhere):
    code, _, err = command("train", *elsewhere, *tiny(npz), "trainer.devices=999", "data.batch_size=9999")
    (planned,) = read_plan(Path("sweep"))  # this machine let it go
    assert code == 1
    assert err.splitlines()[-1].startswith(f"error: {planned.name}: trainer.devices=999: there ")
    code, _, err = command("train", *elsewhere, *tiny(npz), "trainer.precision=half", "run_dir=other")
    assert "trainer.precision=half is unknown" in err
    assert not Path("other").exists()


def test_a_fresh_process_reads_settings_as_soon_as_it_has_the_job():
    """Before it calls it: Ray and submitit name a job's directory by them."""
    read = (
        "import pickle; from omegaconf import OmegaConf; from hydra.core.config_store import ConfigStore; "
        f"pickle.loads({pickle.dumps(job)!r}); "
        "assert OmegaConf.create({'n': '${sum:[[14,3],[7,5]],16}'}).n == 8; "
        "assert ConfigStore.instance().list('')"
    )
    subprocess.run([sys.executable, "-c", read], check=True)


def test_a_job_that_is_started_again_goes_on(train, command, npz, elsewhere, monkeypatch):
    """It ends as an undisturbed one and returns the same; once it has finished, nothing is trained."""
    whole = train("data.val_size=8", run_dir="whole")
    saved, attempts = EpochCheckpoints.on_train_epoch_end, []

    def crash_once(self, trainer, pl_module):
        attempts.append(trainer.current_epoch)
        saved(self, trainer, pl_module)
        if len(attempts) == 1:
            raise Stop

    monkeypatch.setattr(EpochCheckpoints, "on_train_epoch_end", crash_once)
    code, _, err = command("train", *elsewhere, "+hydra.launcher.times=3", *tiny(npz), "data.val_size=8")
    assert code == 0, err
    assert attempts == [0, 1]
    first, second, third = Elsewhere.returns
    assert first.status == JobStatus.FAILED
    assert second.return_value == third.return_value == restart.validation_bound(whole)
    (planned,) = read_plan(Path("sweep"))
    run = Path("sweep") / planned.name
    assert_same_weights(whole, run)
    found = [json.loads((path / "metrics.json").read_text()) for path in (whole, run)]
    assert found[0]["test/elbo"] == found[1]["test/elbo"]


def test_a_failure_comes_back_in_words(command, npz, elsewhere, monkeypatch):
    """Its class may be unknown where it arrives."""
    monkeypatch.setattr(EpochCheckpoints, "on_train_epoch_end", crash_after(1))
    code, _, err = command("train", *elsewhere, *tiny(npz))
    assert code == 1
    assert err.splitlines()[-1].startswith("error: 0_ladder_L2_seed1: Stop")
    with pytest.raises(UserError, match="0_ladder_L2_seed1: Stop"):
        _ = Elsewhere.returns[0].return_value


@pytest.mark.parametrize(
    ("changed", "mode"),
    [(["optimizer.lr=0.5"], RunMode.MULTIRUN), ([], RunMode.RUN)],
    ids=["other", "single"],
)
def test_only_the_same_job_of_a_sweep_goes_on_with_a_run(trained, npz, changed, mode):
    run = trained()
    with pytest.raises(UserError, match="already holds a run"):
        restart.started_again(without_hydra(compose_run([*tiny(npz), *changed])), run, mode)
    same = without_hydra(compose_run([*tiny(npz), "trainer.compile=false"]))  # "auto" was false, too
    assert restart.started_again(same, run, RunMode.MULTIRUN).resume == str(run)


def test_an_exit_that_is_asked_for_stays_one(command, npz, monkeypatch):
    """As of submitit, which leaves once it has put the job back into the queue; the code says so."""

    def leave(*arguments):
        raise SystemExit(144)

    monkeypatch.setattr(HierarchicalVAE, "training_step", leave)
    assert command("train", *tiny(npz), "run_dir=run")[0] == 144
    assert read_record(Path("run")).status == "interrupted"


@pytest.mark.parametrize(
    ("choice", "extra"),
    [
        ("hydra/launcher=ray", "ray"),
        ("hydra/launcher=submitit_slurm", "slurm"),
        ("hydra/launcher=submitit_local", "slurm"),
        ("hydra/sweeper=optuna", "optuna"),
    ],
)
def test_a_package_that_is_missing(command, npz, monkeypatch, choice, extra):
    """Whether Hydra's part of it is there or not."""
    monkeypatch.setattr(launchers, "find_spec", lambda name: None)
    code, _, err = command("train", "-m", *tiny(npz), choice, "run_dir=sweep")
    assert code == 1
    assert err.splitlines() == [
        f"error: {choice} needs packages that are not installed; pip install 'ladder-vae[{extra}]'"
    ]
    assert not Path("sweep").exists()


def of_ray(address):
    """The part of a configuration that asks for the Ray cluster at an address."""
    launcher = {"_target_": "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"}
    return OmegaConf.create(
        {"launcher": launcher | {"ray": {"init": {"address": address}}}, "runtime": {"choices": {}}}
    )


@pytest.mark.parametrize("address", ["127.0.0.1:x", "127.0.0.1", "ray://", ":6379", "127.0.0.1:70000"])
def test_an_address_that_is_none(address):
    with pytest.raises(UserError, match="is no address of a Ray cluster; write it as host:port"):
        launchers.check_launcher(of_ray(address))


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_at_which_nobody_answers(scheme, monkeypatch):
    with socket.socket() as taken:  # bound, so that nobody else listens there
        taken.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"address={address} does not answer .*ray start --head"):
            launchers.check_launcher(of_ray(address))
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UserError, match="does not answer"):
            launchers.check_launcher(of_ray(None))
    monkeypatch.setenv("RAY_ADDRESS", "local")
    launchers.check_launcher(of_ray(None))


def test_an_address_that_hangs(monkeypatch):
    """It takes connections and says nothing."""
    monkeypatch.setattr(launchers, "PATIENCE", 0.01)
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(UserError, match=r"does not answer .*timed out"):
        launchers.check_launcher(of_ray(f"127.0.0.1:{silent.getsockname()[1]}"))


@pytest.mark.parametrize(
    ("frame", "fits"), [(bytes(3) + b"\x04" + bytes(5), True), (b"HTTP/1.1 400 ", False)]
)
def test_an_address_of_something_else(frame, fits):
    """Such as Ray's dashboard; servers of gRPC, as all others of Ray's, begin with a frame of settings."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                assert connection.recv(100).startswith(b"PRI * HTTP/2.0")
                connection.sendall(frame)

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        try:
            if fits:
                launchers.check_launcher(of_ray(address))
            else:
                with pytest.raises(UserError, match="is no address of a Ray cluster; start a cluster there"):
                    launchers.check_launcher(of_ray(address))
        finally:
            thread.join()


def test_slurm_that_is_not_there(monkeypatch, workdir):
    monkeypatch.setenv("PATH", str(workdir))
    launcher = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"}
    with pytest.raises(UserError, match="there is no sbatch on this machine"):
        launchers.check_launcher(OmegaConf.create({"launcher": launcher, "runtime": {"choices": {}}}))


def test_a_run_that_was_in_an_object_store(trained, command):
    """What comes back is whole."""
    run, store = trained(), fsspec.filesystem("memory")
    store.put(f"{run}/", "/bucket/run/", recursive=True)
    store.get("/bucket/run/", "back/", recursive=True)
    store.rm("/bucket", recursive=True)
    code, _, err = command("evaluate", "run=back", "num_samples=5")
    assert code == 0, err
    assert "checksum" not in err
