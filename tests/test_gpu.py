"""On a GPU: a run trains, resumes and is evaluated there, compiled and plain, and agrees with the CPU."""

import json

import pytest
import torch
from conftest import assert_same_weights, crash_after, weights

from ladder_vae.system.compilation import compiler
from ladder_vae.system.devices import best_device
from ladder_vae.training.epoch_checkpoints import EpochCheckpoints
from ladder_vae.training.lightning_module import HierarchicalVAE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
ON = ["trainer.accelerator=cuda", "trainer.precision=32-true"]
COMPILED = [
    pytest.param("false", id="plain"),
    pytest.param(
        "true", id="compiled", marks=pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
    ),
]


def metrics(run):
    return json.loads((run / "metrics.json").read_text())


@pytest.mark.parametrize("compile", COMPILED)
@pytest.mark.parametrize("model", ["ladder", "residual"])
def test_a_run_is_complete_and_was_on_the_device(train, monkeypatch, capfd, compile, model):
    """Its noise is drawn on the device: it is another run than on the CPU, near it in its figures."""
    devices, step = set(), HierarchicalVAE.training_step

    def record(self, x, batch_idx):
        devices.add(x.device.type)
        return step(self, x, batch_idx)

    monkeypatch.setattr(HierarchicalVAE, "training_step", record)
    there = train(
        f"model={model}", *ON, f"trainer.compile={compile}", "trainer.max_epochs=6", run_dir="there"
    )
    assert devices == {"cuda"}
    assert "warning:" not in capfd.readouterr().err  # nothing went on without compilation
    here = train(f"model={model}", "trainer.max_epochs=6", "trainer.compile=false", run_dir="here")
    assert metrics(there).keys() == metrics(here).keys()
    for name in ("elbo", "distortion"):
        assert metrics(there)[f"test/{name}"] == pytest.approx(metrics(here)[f"test/{name}"], rel=0.05)
    assert all(value.device.type == "cpu" for value in weights(there).values())  # opens anywhere


@pytest.mark.parametrize("compile", COMPILED)
def test_a_run_resumes_exactly(train, broken_off, workdir, compile):
    settings = [*ON, f"trainer.compile={compile}"]
    whole = train(*settings, run_dir="whole")
    assert broken_off(EpochCheckpoints, "on_train_epoch_end", crash_after(1), *settings)[0] == 1
    assert_same_weights(whole, workdir / "cut")


def test_bfloat16_trains(train):
    run = train("trainer.accelerator=cuda", "trainer.precision=bf16-mixed")
    plain = train(*ON, run_dir="plain")
    assert metrics(run)["test/elbo"] == pytest.approx(metrics(plain)["test/elbo"], rel=0.02)


@pytest.mark.parametrize("compile", COMPILED)
def test_an_evaluation_agrees_with_that_on_the_cpu(train, command, compile):
    """Draws are made on the CPU whatever the device; products are rounded to TF32, sums are not."""
    run = train()
    found = {}
    for device in ("cpu", "cuda"):
        asked = ["num_samples=100", f"device={device}", f"compile={compile if device == 'cuda' else 'false'}"]
        code, _, err = command("evaluate", f"run={run}", *asked)
        assert code == 0, err
        assert "warning:" not in err
        found[device] = metrics(run)
        for path in (run / "evaluation").rglob("images.npz"):
            path.unlink()
    for name in ("log_px/K=100", "elbo", "distortion", "rate"):
        assert found["cuda"][f"test/{name}"] == pytest.approx(found["cpu"][f"test/{name}"], abs=0.02)
    assert found["cuda"]["test/active_units"] == found["cpu"]["test/active_units"]


def test_auto_chooses_the_device(train, command):
    assert best_device() == "cuda"
    run = train("trainer.accelerator=auto")
    assert command("evaluate", f"run={run}", "num_samples=10")[0] == 0
    assert command("analyze", f"run={run}")[0] == 0
