"""What stops a run, and how it goes on afterwards."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import assert_same_weights, events, tiny
from lightning.pytorch.loggers import TensorBoardLogger

from ladder_vae.runs.record import read_record, write_status
from ladder_vae.system.files import remove_parts, write_text
from ladder_vae.training import fit
from ladder_vae.training.lightning_module import HierarchicalVAE
from ladder_vae.training.places import check_unused


def test_a_run_that_was_killed_in_its_first_epoch(train, command, npz, monkeypatch):
    """It begins again, by either way, and ends as the undisturbed one."""
    whole = train(run_dir="whole")
    for name in ("resumed", "anew"):
        with monkeypatch.context() as patched:
            patched.setattr(HierarchicalVAE, "training_step", lambda *_: os._exit(9))
            child = os.fork()
            if child == 0:
                command("train", *tiny(npz), f"run_dir={name}")
            os.waitpid(child, 0)
        assert read_record(Path(name)).status == "interrupted"
        again = ["resume=resumed"] if name == "resumed" else [*tiny(npz), "run_dir=anew"]
        code, _, err = command("train", *again)
        assert code == 0, err
        assert_same_weights(whole, Path(name))


class Killed(BaseException):
    """Ends what runs at once; nothing catches it."""


@pytest.mark.parametrize("writes", range(4))
def test_a_run_that_was_killed_as_it_began(workdir, monkeypatch, writes):
    """Whichever of its first files are there, the same command starts it again, or resume= does."""
    replace, left = os.replace, [writes]

    def kill(source, target):
        if not left[0]:
            raise Killed
        left[0] -= 1
        replace(source, target)

    run = workdir / "run"
    run.mkdir()
    data = SimpleNamespace(fingerprint="", source=SimpleNamespace(files={}))
    assembly = SimpleNamespace(config={"model": {}, "trainer": {"max_epochs": 1}}, data=data)
    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(Killed):
        fit.fit(assembly, run)
    check_unused(run)


def test_a_run_that_was_killed_between_its_first_checkpoints(train, command, npz, monkeypatch):
    """Of best.ckpt and last.ckpt one was there."""
    whole, replace = train(run_dir="whole"), os.replace

    def kill(source, target):
        replace(source, target)
        if Path(target).suffix == ".ckpt":
            os._exit(9)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", kill)
        child = os.fork()
        if child == 0:
            command("train", *tiny(npz), "run_dir=cut")
        os.waitpid(child, 0)
    assert len(list(Path("cut/checkpoints").glob("[!.]*.ckpt"))) == 1
    code, _, err = command("train", "resume=cut")
    assert code == 0, err
    assert_same_weights(whole, Path("cut"))
    assert (
        json.loads(Path("cut/metrics.json").read_text())["test/elbo"]
        == (json.loads(Path("whole/metrics.json").read_text())["test/elbo"])
    )


def test_what_a_killed_process_had_begun_to_write_is_removed(tmp_path):
    """Once nobody can be writing it any more; and nothing else is."""
    old, new, theirs = (f".part-{name}" for name in ("0123456789ab-a", "123456789abc-a", "theirs-a"))
    for name in (old, new, theirs):
        (tmp_path / name).touch()
    for name in (old, theirs):
        os.utime(tmp_path / name, (0, 0))
    write_text(tmp_path / "a", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([new, theirs, "a"])
    remove_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([theirs, "a"])


def test_a_run_goes_on_with_its_threads(trained, command, monkeypatch):
    run = trained()
    write_status(run, "finished", threads=3)
    used = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    code, _, err = command("train", "resume=run", "trainer.max_epochs=3")
    assert code == 0, err
    assert used[-1] == 3
    assert "run was trained on 3 threads, more than this machine has, and goes on with them" in err


def test_curves_do_not_run_backwards(trained, command, npz, monkeypatch):
    """Steps of an epoch that was broken off are hidden once the run goes on."""
    step = HierarchicalVAE.training_step

    def stop(module, x, batch_idx):
        if module.global_step == 5:
            raise KeyboardInterrupt
        return step(module, x, batch_idx)

    monkeypatch.setattr("ladder_vae.training.lightning_module.STEPS_PER_READING", 1)
    with monkeypatch.context() as patched:
        patched.setattr(HierarchicalVAE, "training_step", stop)
        assert command("train", *tiny(npz), "run_dir=run")[0] == 130
    assert command("train", "resume=run")[0] == 0
    steps = [reading.step for reading in events(Path("run")).Scalars("train/elbo")]
    assert steps == sorted(steps)
    assert set(steps) == set(range(6))


def test_data_that_were_moved(trained, command, npz, workdir):
    (workdir / "here.npz").write_bytes(npz.read_bytes())
    run = trained(f"data.path={workdir / 'here.npz'}")
    (workdir / "here.npz").rename(workdir / "there.npz")
    code, _, err = command("evaluate", f"run={run}", "num_samples=10")
    assert code == 1
    assert "data.path=... names where they are" in err
    assert command("evaluate", f"run={run}", "num_samples=10", "data.path=there.npz")[0] == 0
    code, _, err = command("train", f"resume={run}", "trainer.max_epochs=3", "data.path=there.npz")
    assert code == 0, err
    code, _, err = command("evaluate", f"run={run}", "num_samples=10", "data.directory=there.npz")
    assert code == 1
    assert "data.directory is no setting of the data" in err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_run_that_is_asked_to_stop_can_go_on(npz, command, monkeypatch, name):
    """As a scheduler asks, in the middle of an epoch."""
    number, step = getattr(signal, name), HierarchicalVAE.training_step
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop(module, x, batch_idx):
        if module.global_step == 4:
            signal.raise_signal(number)
        return step(module, x, batch_idx)

    try:
        with monkeypatch.context() as patched:
            patched.setattr(HierarchicalVAE, "training_step", stop)
            code, _, err = command("train", *tiny(npz), "run_dir=run")
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 143
    assert "resume=run continues this run" in err
    assert read_record(Path("run")).status == "interrupted"
    assert not list(Path().glob("hpc_ckpt*"))
    assert command("train", "resume=run")[0] == 0


def test_sigterm_stops_as_ctrl_c_does(npz, command, monkeypatch):
    """While pictures are drawn, too, when Lightning has nothing to say any more."""
    monkeypatch.setattr(fit, "_draw", lambda *_: signal.raise_signal(signal.SIGTERM))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, _, err = command("train", *tiny(npz), "run_dir=run")
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 143
    assert err.splitlines()[-1] == "interrupted: run is finished"  # so that nothing is said of resume=
    assert read_record(Path("run")).status == "finished"  # but for its pictures
    assert "test/elbo" in json.loads(Path("run/metrics.json").read_text())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_curves_that_cannot_be_written_fail_no_run(npz, command, monkeypatch):
    """The last ones, once all that counts is known."""
    log = TensorBoardLogger.log_metrics

    def full(logger, metrics, step=None):
        if "train/seconds" in metrics:
            raise OSError(errno.ENOSPC, "No space left on device")
        log(logger, metrics, step)

    monkeypatch.setattr(TensorBoardLogger, "log_metrics", full)
    code, _, err = command("train", *tiny(npz), "run_dir=run")
    assert code == 0, err
    assert "warning: writing to TensorBoard failed, the results are kept" in err
    assert read_record(Path("run")).finished


def test_a_closed_terminal_stops_nothing(npz, command, monkeypatch):
    step = HierarchicalVAE.training_step

    def hang_up(*arguments):
        signal.raise_signal(signal.SIGHUP)
        return step(*arguments)

    monkeypatch.setattr(HierarchicalVAE, "training_step", hang_up)
    assert command("train", *tiny(npz), "run_dir=run")[0] == 0


def test_sigterm_stops_what_is_deaf_to_ctrl_c(npz, command, monkeypatch):
    """As a command that a script has put into the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        monkeypatch.setattr(fit, "_draw", lambda *_: signal.raise_signal(signal.SIGTERM))
        assert command("train", *tiny(npz), "run_dir=run")[0] == 143
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_a_parallel_sweep_stops_by_sigterm(npz, workdir):
    """Every job stops, and one line says how to finish the sweep."""
    few = [*tiny(npz), "trainer.max_epochs=100000", "seed=1,2,3", "run_dir=my sweep", "hydra.launcher.jobs=2"]
    with Path("err").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "ladder_vae.train", "-m", *few], stdout=subprocess.DEVNULL, stderr=stderr
        )
    try:
        while len(list(Path("my sweep").glob("*/checkpoints/last.ckpt"))) < 2:
            assert process.poll() is None, Path("err").read_text()
            time.sleep(0.1)
        process.terminate()
        assert process.wait(timeout=120) == 143
    finally:
        process.kill()
    assert "python -m ladder_vae.train finish='my sweep' finishes this sweep" in Path("err").read_text()
    runs = [path for path in Path("my sweep").iterdir() if path.is_dir()]
    assert [read_record(run).status for run in runs] == ["interrupted", "interrupted"]


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_finished_run_without_its_metrics_is_tested_again(trained, command, damage):
    run = trained()
    file, before = run / "metrics.json", (run / "metrics.json").read_text()
    if damage == "cut":
        file.write_text(before[:100])
        code, _, err = command("train", f"resume={run}")
        assert (code, err.count("\n")) == (1, 1)
        assert "if you remove that file, resume= tests the run again" in err
    file.unlink()
    assert read_record(run).message == "metrics.json is missing; resume= tests the run again"
    code, _, err = command("train", f"resume={run}")
    assert code == 0, err
    kept, again = json.loads(before), json.loads(file.read_text())
    assert {k: v for k, v in again.items() if "seconds" not in k} == {
        k: v for k, v in kept.items() if "seconds" not in k
    }


def test_a_run_that_fails_says_so_in_one_line(command, npz):
    """Without a line of Hydra's in front."""
    code, _, err = command("train", *tiny(npz), "optimizer.lr=1e30", "scheduler=constant", "run_dir=run")
    assert code == 1
    assert "Error executing job" not in err
    assert err.splitlines()[-1].startswith("error: ")


def test_bounds_of_earlier_weights_leave_with_a_word(trained, command):
    run = trained()
    assert command("evaluate", f"run={run}", "num_samples=20")[0] == 0
    code, _, err = command("train", f"resume={run}", "trainer.max_epochs=3")
    assert code == 0, err
    assert "were of its earlier weights and are dropped; evaluate it again" in err
    assert "test/log_px/K=20" not in json.loads((run / "metrics.json").read_text())
