"""Runs that stop, by themselves or not, and runs that go on; which epoch is the best."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from itertools import count
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import assert_same_weights, crash_after, tiny

from ladder_vae import load_run
from ladder_vae.runs.checkpoints import read_checkpoint
from ladder_vae.runs.record import read_record, write_config
from ladder_vae.training import callbacks
from ladder_vae.training.epoch_checkpoints import EpochCheckpoints
from ladder_vae.training.lightning_module import HierarchicalVAE

pytestmark = pytest.mark.usefixtures("undrawn")


def interrupted(*args):
    raise KeyboardInterrupt


@pytest.mark.parametrize("val_size", [0, 8])
def test_stopped_and_resumed_is_the_run_that_was_never_stopped(trained, broken_off, workdir, val_size):
    settings = [f"data.val_size={val_size}", "trainer.max_epochs=4"]
    settings.append(f"callbacks.averaging.recalibrate_batches={val_size // 4}")
    whole = trained(*settings, run_dir="whole")
    code, err = broken_off(EpochCheckpoints, "on_train_epoch_end", crash_after(2), *settings)
    assert code == 1
    assert "Stop" in err

    stopped = workdir / "cut"
    assert_same_weights(whole, stopped)
    a, b = (json.loads((run / "metrics.json").read_text()) for run in (whole, stopped))
    same = [k for k in a if not k.startswith("train/") or k == "train/epochs"]
    assert {k: a[k] for k in same} == {k: b[k] for k in same}


def test_ctrl_c_in_the_first_epoch_loses_no_exactness(trained, broken_off, workdir):
    whole = trained(run_dir="whole")
    step = HierarchicalVAE.training_step

    def interrupted_at_the_second(self, x, batch_idx):
        return interrupted() if batch_idx == 1 else step(self, x, batch_idx)

    code, err = broken_off(HierarchicalVAE, "training_step", interrupted_at_the_second)
    assert code == 130
    assert "python -m ladder_vae.train resume=cut continues this run" in err
    assert_same_weights(whole, workdir / "cut")


def test_ctrl_c_during_the_test_loses_no_training(trained, broken_off, workdir):
    whole = trained(run_dir="whole")
    code, _ = broken_off(HierarchicalVAE, "test_step", interrupted)
    assert code == 130
    assert_same_weights(whole, workdir / "cut")
    a, b = (json.loads((run / "metrics.json").read_text()) for run in (whole, workdir / "cut"))
    assert a["test/elbo"] == b["test/elbo"]
    assert b["train/epochs"] == 2


def test_an_unvalidated_epoch_leaves_the_best_alone(train, command):
    run = train("data.val_size=8", "trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4")
    best = read_checkpoint(run / "checkpoints/best.ckpt")
    assert best["epoch"] % 2 == 1
    code, _, err = command("train", f"resume={run}", "trainer.max_epochs=5")
    assert code == 0, err
    again = read_checkpoint(run / "checkpoints/best.ckpt")
    assert again["epoch"] == best["epoch"]


def test_before_any_validation_the_best_is_the_last(train):
    run = train("data.val_size=8", "trainer.check_val_every_n_epoch=5", "trainer.max_epochs=3")
    assert read_checkpoint(run / "checkpoints/best.ckpt")["epoch"] == 2


def test_a_kill_between_the_two_checkpoints_blocks_no_resumption(train, command):
    """last.part is then best.part, or best.ckpt if it came to that."""
    run = train("data.val_size=8", "trainer.max_epochs=3", "optimizer.lr=1e-12", "model.batch_norm=false")
    checkpoints = run / "checkpoints"
    best = read_checkpoint(checkpoints / "best.ckpt")["epoch"]
    assert best < 2  # too small a step is no improvement
    (checkpoints / "best.part").hardlink_to(checkpoints / "best.ckpt")
    (checkpoints / "last.part").hardlink_to(checkpoints / "best.ckpt")
    code, _, err = command("train", f"resume={run}", "trainer.max_epochs=4")
    assert code == 0, err
    assert read_checkpoint(checkpoints / "best.ckpt")["epoch"] == best
    assert read_checkpoint(checkpoints / "last.ckpt")["epoch"] == 3


def test_a_finished_run_trains_on_and_totals_accumulate(train, command, monkeypatch):
    clock = SimpleNamespace(perf_counter=map(float, count()).__next__)  # a second each time it is asked
    monkeypatch.setattr(callbacks, "time", clock)
    run = train()
    before = json.loads((run / "metrics.json").read_text())
    code, _, err = command("train", f"resume={run}")
    assert code == 1
    assert "has finished its 2 epochs; trainer.max_epochs=N trains it for longer" in err
    code, out, err = command("train", f"resume={run}", "trainer.max_epochs=3")
    assert code == 0, err
    assert out.splitlines()[-1] == str(run)
    after = json.loads((run / "metrics.json").read_text())
    assert after["train/epochs"] == 3
    assert after["train/seconds"] > before["train/seconds"]


def test_early_stopping_and_no_averaging(train):
    run = train("data.val_size=8", "callbacks=early_stopping", "callbacks.early_stopping.patience=1",
                "trainer.max_epochs=30", "optimizer.lr=1e-9", "callbacks.averaging=null", "logger=none",
                "scheduler=constant", "optimizer=adamw")  # fmt: skip
    assert json.loads((run / "metrics.json").read_text())["train/epochs"] < 30
    assert "current_model_state" not in read_checkpoint(run / "checkpoints/best.ckpt")


@pytest.mark.parametrize("epochs_before", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_ctrl_c_exits_130_and_leaves_something_to_resume(workdir, npz, epochs_before):
    """A real signal to a real process, in the first epoch and in a later one."""
    # where it interrupts compiling, Python may print what it drops
    settings = [*tiny(npz), "data.batch_size=2", "trainer.compile=false", "run_dir=run"]
    long = "trainer.max_epochs=100000"
    if epochs_before == 0:
        settings.append("data.path=" + str(_large(workdir)))
    log = workdir / "stderr"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "ladder_vae.train", *settings, long],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            # a shell that runs the tests in the background makes its children deaf to Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        ready = "checkpoints/last.ckpt" if epochs_before else "events.out.*"
        while not list((workdir / "run").glob(ready)):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        time.sleep(2)  # well into the first epoch, which takes much longer
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    finally:
        process.kill()
    err = log.read_text()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert (workdir / "run/checkpoints/last.ckpt").exists() == bool(epochs_before)
    assert "resume=run" in err
    assert json.loads((workdir / "run/status.json").read_text())["status"] == "interrupted"
    if epochs_before:
        load_run(workdir / "run", "last")


def test_ctrl_c_that_python_drops_still_stops(npz, command, monkeypatch):
    """As in a callback of a weak reference, whose exceptions are ignored."""
    step, steps = HierarchicalVAE.training_step, []

    def dropped(module, *args):
        steps.append(module.global_step)
        if len(steps) == 2:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        return step(module, *args)

    monkeypatch.setattr(HierarchicalVAE, "training_step", dropped)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, _, err = command("train", *tiny(npz), "run_dir=run")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130, err
    assert len(steps) == 2
    assert "resume=run" in err


def _large(workdir):
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (30_000, 12, 16), dtype=np.uint8)
    np.savez(workdir / "large.npz", x_train=images, x_test=images[:10])
    return workdir / "large.npz"


STOPS = ("data.val_size=8", "callbacks=early_stopping", "callbacks.early_stopping.patience=1",
         "trainer.max_epochs=30", "optimizer.lr=1e-9", "scheduler=constant")  # fmt: skip


def test_a_run_that_stopped_early_trains_no_further(train, command, broken_off, workdir):
    whole = train(*STOPS, run_dir="whole")
    epochs = read_record(whole).metrics["train/epochs"]
    code, _, err = command("train", "resume=whole", "trainer.max_epochs=60")
    assert (code, err) == (
        1, f"error: resume=whole has stopped early, after {epochs} epochs, and is finished\n"
    )  # fmt: skip

    assert broken_off(HierarchicalVAE, "test_step", interrupted, *STOPS)[0] == 130
    assert read_record(workdir / "cut").metrics["train/epochs"] == epochs
    assert_same_weights(whole, workdir / "cut")


def test_data_that_moved_to_a_name_with_an_apostrophe(trained, command, npz, workdir):
    run = trained()
    shutil.copy(npz, workdir / "bob's data.npz")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    write_config(run, settings | {"data": settings["data"] | {"path": "/gone.npz"}})
    code, _, err = command("train", f"resume={run}", "data.path=bob's data.npz", "trainer.max_epochs=3")
    assert code == 0, err
    moved = yaml.safe_load((run / "config.yaml").read_text())["data"]["path"]
    assert moved == str(workdir / "bob's data.npz")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"foo": 1}, "run/config.yaml has foo, which cannot be resumed with (Key 'foo' not in 'Config')"),
        ({"seed": "x"}, "run/config.yaml has seed='x'"),
        ({"trust": "x"}, "run/config.yaml has trust, which cannot be resumed with (Value 'x'"),
    ],
)
def test_a_configuration_that_was_edited_and_cannot_be_resumed(trained, command, more, said):
    run = trained()
    write_config(run, yaml.safe_load((run / "config.yaml").read_text()) | more)
    code, _, err = command("train", f"resume={run}", "trainer.max_epochs=3")
    assert (code, err.count("\n")) == (1, 1)
    assert said in err


def test_a_setting_of_the_trainer_that_does_not_exist(trained, command):
    code, _, err = command("train", f"resume={trained()}", "trainer.max_epochs=3", "+trainer.nonsense=3")
    assert (code, err.count("\n")) == (1, 1)
    assert "there is no setting trainer.nonsense" in err


def test_an_argument_of_lightnings_trainer_is_resumed(train, command):
    run = train("+trainer.benchmark=false")
    code, _, err = command("train", f"resume={run}", "trainer.max_epochs=3")
    assert code == 1
    assert "trust=true resumes it" in err
    code, _, err = command("train", f"resume={run}", "trainer.max_epochs=3", "trust=true")
    assert code == 0, err


@pytest.mark.parametrize("callbacks", [["x"], {"Totals": 3}, {"Totals": {"epochs": 2}, "x": "word"}])
def test_a_checkpoint_with_strange_callbacks(trained, command, callbacks):
    run = trained()
    last = run / "checkpoints/last.ckpt"
    torch.save(torch.load(last, weights_only=True) | {"callbacks": callbacks}, last)
    code, _, err = command("train", f"resume={run}", "trainer.max_epochs=3")
    assert (code, err.count("\n")) == (1, 1)
    assert f"{last} does not say how many epochs it has done; init_from=run begins" in err


def test_a_resumption_that_never_got_under_way_leaves_a_finished_run_finished(trained, command, monkeypatch):
    run = trained()
    before = read_record(run)
    for failure in (interrupted, lambda *args: 1 / 0):
        with monkeypatch.context() as patched:
            patched.setattr("ladder_vae.training.job.build", failure)
            assert command("train", f"resume={run}", "trainer.max_epochs=3")[0] != 0
        assert read_record(run) == before
