"""Whole journeys of a run: train, test, stop, resume, break."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from conftest import scalars, tiny

from ladder_vae import load_run
from ladder_vae.batches import Batches
from ladder_vae.callbacks import EpochCheckpoints
from ladder_vae.data import Npz
from ladder_vae.errors import UserError
from ladder_vae.models import LadderVAE
from ladder_vae.module import HierarchicalVAE
from ladder_vae.objective import Objective, elbo
from ladder_vae.randomness import stream_seed
from ladder_vae.runs import read_checkpoint


def weights(run):
    return read_checkpoint(run / "checkpoints/last.ckpt")["state_dict"]


def assert_same_weights(a, b):
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_a_run_directory_is_complete(train):
    run = train("data.val_size=8")
    metrics = json.loads((run / "metrics.json").read_text())
    expected = {
        f"test/{name}" for name in ("elbo", "rate", "distortion", "rate/z1", "rate/z2", "mse", "ssim")
    }
    expected |= {"model/parameters", "train/epochs", "train/seconds", "train/images_per_second"}
    assert metrics.keys() == expected
    assert all(isinstance(value, (int, float)) for value in metrics.values())
    assert metrics["test/elbo"] == pytest.approx(
        -(metrics["test/rate"] + metrics["test/distortion"]), rel=1e-5
    )
    assert metrics["test/rate"] == pytest.approx(metrics["test/rate/z1"] + metrics["test/rate/z2"], rel=1e-5)
    assert metrics["train/epochs"] == 2
    assert json.loads((run / "status.json").read_text())["status"] == "finished"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["input_shape"] == [1, 12, 16]
    assert not {"run_dir", "resume", "hydra"} & config.keys()
    assert sorted(path.name for path in run.rglob("*.ckpt")) == ["best.ckpt", "last.ckpt"]
    for name in ("figures/samples.png", "figures/reconstructions.png", "images.npz"):
        assert (run / name).is_file(), name
    assert list(run.glob("events.out.tfevents.*"))


def test_what_was_tested_is_what_best_ckpt_holds(train, npz):
    """Averaged weights of the best epoch, not of the last; the mean over all images of uneven batches."""
    run = train(
        "data.val_size=8",
        "data.eval_batch_size=10",
        "trainer.max_epochs=12",
        "optimizer.lr=0.05",
        "scheduler=constant",
        "objective.beta_warmup_epochs=0",
        "callbacks.averaging.decay=0.5",
    )
    best, last = (read_checkpoint(run / f"checkpoints/{name}.ckpt") for name in ("best", "last"))
    assert best["epoch"] < last["epoch"]
    raw, averaged = best["current_model_state"], best["state_dict"]
    assert any(not torch.equal(raw[name], averaged[name]) for name in raw)

    loaded = load_run(run)
    assert not loaded.model.training
    data = Npz(path=str(npz), val_size=8, eval_batch_size=10)
    torch.manual_seed(stream_seed(loaded.config["seed"], "test"))
    with torch.no_grad():
        total = sum(elbo(loaded.model.infer(x)).elbo.item() * len(x) for x in data.test_dataloader())
    assert json.loads((run / "metrics.json").read_text())["test/elbo"] == pytest.approx(total / 24, rel=1e-6)


class Stop(Exception):
    """Ends a run at once, as a crash would."""


@pytest.mark.parametrize("val_size", [0, 8])
def test_stopped_and_resumed_is_the_run_that_was_never_stopped(
    train, command, npz, workdir, monkeypatch, val_size
):
    settings = [f"data.val_size={val_size}", "trainer.max_epochs=4"]
    whole = train(*settings, run_dir="whole")

    saved = EpochCheckpoints.on_train_epoch_end

    def crash_after_two(self, trainer, pl_module):
        saved(self, trainer, pl_module)
        if trainer.current_epoch == 1:
            raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(EpochCheckpoints, "on_train_epoch_end", crash_after_two)
        code, _, err = command("train", *tiny(npz), *settings, "run_dir=stopped")
    assert code == 1
    assert "Stop" in err
    code, _, err = command("train", "resume=stopped")
    assert code == 0, err

    stopped = workdir / "stopped"
    assert_same_weights(whole, stopped)
    a, b = (json.loads((run / "metrics.json").read_text()) for run in (whole, stopped))
    same = [k for k in a if not k.startswith("train/") or k == "train/epochs"]
    assert {k: a[k] for k in same} == {k: b[k] for k in same}


def test_ctrl_c_in_the_first_epoch_loses_no_exactness(train, command, npz, workdir, monkeypatch):
    whole = train(run_dir="whole")
    step = HierarchicalVAE.training_step

    def interrupted(self, x, batch_idx):
        if batch_idx == 1:
            raise KeyboardInterrupt
        return step(self, x, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(HierarchicalVAE, "training_step", interrupted)
        code, _, err = command("train", *tiny(npz), "run_dir=cut")
    assert code == 130
    assert "python -m ladder_vae.train resume=cut continues this run" in err
    code, _, err = command("train", "resume=cut")
    assert code == 0, err
    assert_same_weights(whole, workdir / "cut")


def test_ctrl_c_during_the_test_loses_no_training(train, command, npz, workdir, monkeypatch):
    whole = train(run_dir="whole")

    def interrupted(self, x, batch_idx):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(HierarchicalVAE, "test_step", interrupted)
        code, _, _ = command("train", *tiny(npz), "run_dir=cut")
    assert code == 130
    code, _, err = command("train", "resume=cut")
    assert code == 0, err
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


def test_a_finished_run_trains_on_and_totals_accumulate(train, command):
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


def test_same_seed_same_run_other_seed_other_run(train):
    a, b, c = (train(f"seed={seed}", run_dir=name) for seed, name in ((1, "a"), (1, "b"), (2, "c")))
    assert_same_weights(a, b)
    assert not torch.equal(weights(a)["model.decoder.1.weight"], weights(c)["model.decoder.1.weight"])


def test_a_multirun_gives_what_single_runs_give(train, command, npz, workdir):
    code, _, err = command("train", "-m", *tiny(npz), "seed=1,2", "run_dir=sweep", "hydra.launcher.jobs=1")
    assert code == 0, err
    for seed in (1, 2):
        single = train(f"seed={seed}", run_dir=f"single{seed}")
        (job,) = (workdir / "sweep").glob(f"*_seed{seed}")
        assert_same_weights(single, job)


def test_early_stopping_and_no_averaging(train):
    run = train("data.val_size=8", "callbacks=early_stopping", "callbacks.early_stopping.patience=1",
                "trainer.max_epochs=30", "optimizer.lr=1e-9", "callbacks.averaging=null", "logger=none",
                "scheduler=constant", "optimizer=adamw")  # fmt: skip
    assert json.loads((run / "metrics.json").read_text())["train/epochs"] < 30
    assert "current_model_state" not in read_checkpoint(run / "checkpoints/best.ckpt")


def test_a_loss_that_is_not_finite_ends_the_run_before_any_checkpoint(command, npz, workdir):
    code, _, err = command("train", *tiny(npz), "optimizer.lr=1e30", "scheduler=constant", "run_dir=run")
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert "not finite at step 1: " in line
    assert "z1" in line
    assert not list((workdir / "run").rglob("*.ckpt"))
    assert json.loads((workdir / "run/status.json").read_text())["status"] == "failed"


@pytest.mark.parametrize("broken", [7, 60])
def test_the_step_and_the_level_are_named_within_50_steps(broken):
    """Level z2's rate turns into NaN at a step of our choosing."""
    import lightning as L

    class Breaks(LadderVAE):
        step = -1

        def infer(self, x, num_samples=1, *, noise=None):
            self.step += 1
            inference = super().infer(x, num_samples, noise=noise)
            if self.step == broken:
                inference.levels[1].p.mean.mul_(float("nan"))
            return inference

    model = Breaks((1, 4, 4), 2, batch_norm=False)
    module = HierarchicalVAE(model, Objective(), lambda p: torch.optim.SGD(p, lr=1e-6))
    trainer = L.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                        enable_model_summary=False, accelerator="cpu")  # fmt: skip
    batches = Batches(torch.zeros(400, 1, 4, 4, dtype=torch.uint8), 2)
    with pytest.raises(UserError, match=f"at step {broken}: the rate of z2"):
        trainer.fit(module, batches)
    assert model.step < broken + 50


@pytest.mark.parametrize("epochs_before", [0, 1])
def test_ctrl_c_exits_130_and_leaves_something_to_resume(workdir, npz, epochs_before):
    """A real signal to a real process, in the first epoch and in a later one."""
    settings = [*tiny(npz), "data.batch_size=2", "run_dir=run"]
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
    checkpoint = read_checkpoint(workdir / "run/checkpoints/last.ckpt")
    assert (checkpoint["global_step"] > 0) == bool(epochs_before)
    assert "resume=run" in err
    assert json.loads((workdir / "run/status.json").read_text())["status"] == "interrupted"
    load_run(workdir / "run", "last")


def _large(workdir):
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (100_000, 12, 16), dtype=np.uint8)
    np.savez(workdir / "large.npz", x_train=images, x_test=images[:10])
    return workdir / "large.npz"


def test_training_lowers_the_loss_on_real_mnist(command, workdir):
    code, _, err = command(
        "train", "model.num_layers=2", "data.batch_size=128", "trainer.max_epochs=3", "run_dir=run",
        "trainer.limit_train_batches=30", "objective.beta_warmup_epochs=0", "trainer.accelerator=cpu",
    )  # fmt: skip
    assert code == 0, err
    for name in ("train/loss", "train/elbo", "val/elbo"):
        first, *_, last = [reading.value for reading in scalars(workdir / "run", name)]
        assert abs(last) < 0.9 * abs(first)
        assert 100 < abs(last) < 300


@pytest.mark.slow
def test_depth_pays_on_real_mnist(command, workdir):
    """Three epochs are enough for two levels to pass one; numbers as of torch 2.15, tolerance 3 nats."""
    code, _, err = command(
        "train", "-m", "experiment=depth_sweep", "model.num_layers=1,2", "trainer.max_epochs=3",
        "objective.beta_warmup_epochs=1", "run_dir=sweep", "trainer.accelerator=cpu",
    )  # fmt: skip
    assert code == 0, err
    elbos = [json.loads(p.read_text())["test/elbo"] for p in sorted(workdir.rglob("metrics.json"))]
    assert elbos == pytest.approx([-110.0, -106.2], abs=3)
    assert elbos[1] > elbos[0]
