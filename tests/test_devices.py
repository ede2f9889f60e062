"""Runs on several devices, which are processes of the CPU here, beside runs on one."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from conftest import scalars, tiny, weights

from ladder_vae.comparison.groups import group_runs
from ladder_vae.maths import Bernoulli
from ladder_vae.models.layers import BatchNorm
from ladder_vae.runs.record import read_record
from ladder_vae.system import devices, ranks
from ladder_vae.system.errors import UserError
from ladder_vae.system.machine import processors
from ladder_vae.training import cluster, processes, settle
from ladder_vae.training.epoch_checkpoints import EpochCheckpoints
from ladder_vae.training.lightning_module import HierarchicalVAE

TWO = ("trainer.devices=2", "trainer.strategy=ddp")
#: 21 training images: batches of 16 and 5
UNEVEN = ("data.val_size=19", "data.eval_batch_size=7")


@pytest.fixture
def several(monkeypatch):
    """Processes are forked, which is quicker than importing anew, and compute in float64."""
    if sys.platform != "linux" or torch.cuda.is_available():
        pytest.skip("processes that compute cannot be forked here")
    monkeypatch.setattr(processes, "fresh_processes", lambda *_: multiprocessing.get_context("fork"))
    monkeypatch.setattr(settle, "choose_precision", lambda *_: "32-true")
    monkeypatch.setattr(Bernoulli, "prepare", lambda self, images: images.gt(0).double())
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(devices, "processors", lambda: 4)
    yield
    torch.set_default_dtype(torch.float32)


def assert_close(a, b):
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-9, atol=1e-11, msg=name)


def figures(run):
    """What was measured, but for the time."""
    found = json.loads((run / "metrics.json").read_text())
    return {name: value for name, value in found.items() if "second" not in name}


def test_two_processes_train_as_one(several, train, command, npz, undrawn):
    alone = train(*UNEVEN, run_dir="alone")
    code, out, err = command("train", *tiny(npz), "run_dir=shared", *UNEVEN, *TWO)
    assert code == 0, err
    shared = Path("shared")
    assert_close(alone, shared)
    assert figures(shared) == pytest.approx(figures(alone), rel=1e-6, nan_ok=True)
    for name in ("train/elbo", "val/elbo", "val/rate/z2"):
        ours, theirs = ([point.value for point in scalars(run, name)] for run in (shared, alone))
        assert ours == pytest.approx(theirs)
    # one record, one voice
    assert [line.split(":")[0] for line in err.splitlines()] == ["warning", "epoch 1/2", "epoch 2/2"]
    assert out.splitlines()[-1] == "shared"
    there = {
        path.relative_to(run)
        for run in (alone, shared)
        for path in run.rglob("*")
        if "tfevents" not in path.name
    }
    assert there == {path.relative_to(alone) for path in alone.rglob("*") if "tfevents" not in path.name}
    assert len(list(shared.glob("*tfevents*"))) == len(list(alone.glob("*tfevents*")))
    records = [read_record(run) for run in (alone, shared)]
    assert all(record.finished for record in records)
    assert len(group_runs(records)) == 1  # a report finds nothing that sets them apart


@pytest.mark.slow
def test_processes_that_start_anew_train_as_one(train, npz, undrawn):
    """As users start them, from the command line."""
    if processors() < 2 or torch.cuda.is_available():
        pytest.skip("each process of a CPU needs a processor of its own")
    alone = train(*UNEVEN, "trainer.precision=32-true", run_dir="alone")
    line = [sys.executable, "-m", "ladder_vae.train", *tiny(npz), *UNEVEN, *TWO, "run_dir=shared"]
    ran = subprocess.run([*line, "trainer.precision=32-true"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert figures(Path("shared")) == pytest.approx(figures(alone), rel=1e-3, nan_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ("model=textbook", "objective.free_bits=0.3", "trainer.gradient_skip_factor=1.01"),
        (
            "model=residual",
            "model.norm=layer",
            "objective.importance_samples=2",
            "objective.beta_warmup_epochs=0",
        ),
        (
            "objective.spectral=0.1",
            "objective.balance_rates=true",
            "trainer.gradient_clip_val=1",
        ),
        ("trainer.strategy=ddp_find_unused_parameters_true", "+trainer.accumulate_grad_batches=2"),
    ],
)
def test_whatever_is_asked_for_is_the_same(several, train, undrawn, settings):
    alone = train(*UNEVEN, *settings, run_dir="alone")
    shared = train(*UNEVEN, "trainer.devices=2", *settings, run_dir="shared")
    assert_close(alone, shared)
    assert figures(shared) == pytest.approx(figures(alone), rel=1e-6, nan_ok=True)


@pytest.mark.parametrize(("before", "after"), [(1, 2), pytest.param(2, 1, marks=pytest.mark.slow)])
def test_a_run_goes_on_with_more_devices_or_fewer(several, train, command, undrawn, before, after):
    whole = train(*UNEVEN, "scheduler=constant", run_dir="whole")
    once = ("scheduler=constant", "trainer.max_epochs=1")
    cut = train(*UNEVEN, *once, f"trainer.devices={before}", run_dir="cut")
    code, _, err = command("train", f"resume={cut}", f"trainer.devices={after}", "trainer.max_epochs=2")
    assert code == 0, err
    assert_close(whole, cut)


def breaks(how):
    """A step of a worker that ends in this way, in its second epoch; the first process goes on."""
    step = HierarchicalVAE.training_step

    def training_step(self, x, batch_idx):
        if self.current_epoch == 1 and ranks.rank() == 1:
            how()
        return step(self, x, batch_idx)

    return training_step


def stumble():
    raise ValueError("a stone")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (stumble, "process 2 of 2: ValueError: a stone"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "process 2 of 2 ended with code -9, killed"),
    ],
    ids=["raises", "is killed"],
)
def test_a_process_that_fails_is_named(several, command, npz, workdir, monkeypatch, how, said):
    monkeypatch.setattr(HierarchicalVAE, "training_step", breaks(how))
    code, _, err = command("train", *tiny(npz), "run_dir=run", *TWO)
    assert code == 1
    assert err.splitlines()[-1].startswith(f"error: {said}")
    record = read_record(Path("run"))
    assert record.status == "failed"
    assert record.message.startswith(said)
    assert Path("run/checkpoints/last.ckpt").is_file()
    assert multiprocessing.active_children() == []
    assert not torch.distributed.is_initialized()


def test_an_error_of_the_first_process_is_its_own(several, command, npz, workdir, monkeypatch):
    monkeypatch.setattr(EpochCheckpoints, "_write", lambda *_: stumble())
    code, _, err = command("train", *tiny(npz), "run_dir=run", *TWO)
    assert code == 1
    assert err.splitlines()[-1].startswith("error: ValueError: a stone")
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_after_a_stop_nobody_is_left(several, command, npz, workdir, monkeypatch, number, expected):
    step = HierarchicalVAE.training_step

    def training_step(self, x, batch_idx):
        if self.current_epoch == 1 and ranks.rank() == 0:
            os.kill(os.getpid(), number)
        return step(self, x, batch_idx)

    monkeypatch.setattr(HierarchicalVAE, "training_step", training_step)
    monkeypatch.setattr(processes, "PATIENCE", timedelta(seconds=60))
    code, _, _ = command("train", *tiny(npz), "run_dir=run", *TWO)
    assert code == expected
    assert read_record(Path("run")).status == "interrupted"
    assert Path("run/checkpoints/last.ckpt").is_file()
    assert multiprocessing.active_children() == []
    assert torch.get_num_threads() == 1


def test_a_batch_smaller_than_its_processes(several, command, npz, workdir):
    settings = [s for s in tiny(npz) if not s.startswith("data.batch_size")]
    code, _, err = command("train", *settings, "data.batch_size=3", "trainer.devices=4")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("error: trainer.devices=4 cannot share a batch of 3: data.batch_size counts")


def test_batch_norm_of_another_kind_is_refused():
    with pytest.raises(
        UserError, match="Sequential has BatchNorm2d, which sees the images of one device only"
    ):
        cluster.check_layers(torch.nn.Sequential(torch.nn.BatchNorm2d(3)), 2)
    cluster.check_layers(torch.nn.Sequential(torch.nn.BatchNorm2d(3)), 1)
    cluster.check_layers(torch.nn.Sequential(BatchNorm(3)), 2)


def test_what_several_processes_do_without(several, command, npz, workdir):
    code, _, err = command(
        "train", *tiny(npz), "run_dir=run", *TWO, "trainer.compile=true", "trainer.cuda_graph=true",
        "trainer.max_epochs=1", "logger=none", "callbacks.pictures=null", "callbacks.averaging=null",
    )  # fmt: skip
    assert code == 0, err
    for setting in ("compile", "cuda_graph"):
        assert err.count(f"(trainer.{setting}), for several processes share each batch") == 1
