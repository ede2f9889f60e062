"""Whole journeys of a run: train, test, break."""

import json

import pytest
import torch
import yaml
from conftest import assert_same_weights, scalars, tiny, weights

from ladder_vae import load_run
from ladder_vae.data import Npz
from ladder_vae.data.batches import Batches
from ladder_vae.models import LadderVAE
from ladder_vae.models.evaluator import Settings, image_statistics
from ladder_vae.models.summary import summarize
from ladder_vae.runs.checkpoints import read_checkpoint
from ladder_vae.system.errors import UserError
from ladder_vae.training import fit
from ladder_vae.training.lightning_module import HierarchicalVAE
from ladder_vae.training.objective import Objective


def test_a_run_directory_is_complete(train):
    run = train("data.val_size=8")
    metrics = json.loads((run / "metrics.json").read_text())
    by_level = {"active_units", "active_units_var", "rate", "variance_ratio"}
    expected = {f"test/{name}/{z}" for name in by_level for z in ("z1", "z2")}
    totals = {"elbo", "rate", "distortion", "mse", "ssim", "active_units", "active_units_var"}
    expected |= {f"test/{name}" for name in totals}
    expected |= {f"test/{part}_stderr" for part in ("elbo", "rate", "distortion")}
    expected |= {"test/draws", "test/draws_seed", "test/binarizations"}
    expected |= {
        "train_eval/rate/z1",
        "train_eval/rate/z2",
        "model/parameters",
        "train/epochs",
        "train/seconds",
        "train/images_per_second",
    }
    parts = ("elbo", "rate", "distortion")
    expected |= {f"train_eval/{part}{error}" for part in parts for error in ("", "_stderr")}
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
    data.setup()
    x = data.observe("test", range(24))
    settings = Settings(10, ())
    expected = summarize(image_statistics(loaded.model, x, range(24), settings), settings, [4, 3])
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"test/elbo", "test/rate/z2", "test/ssim", "test/active_units/z1"} <= set(expected)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5), name


def test_training_images_are_measured_as_test_images_are(train, npz, monkeypatch):
    """Evenly spaced, unwarped, by the averaged weights in evaluation mode; in TensorBoard, too."""
    monkeypatch.setattr(fit, "TRAINING_IMAGES", 20)
    seen, measure = [], fit.shared_statistics

    def record(model, x, indices, settings):
        seen.append(len(x))
        return measure(model, x, indices, settings)

    monkeypatch.setattr(fit, "shared_statistics", record)
    run = train("data.val_size=8", "data.warp=0.2", "data.eval_batch_size=7", "optimizer.lr=0.05")
    metrics, loaded = json.loads((run / "metrics.json").read_text()), load_run(run)
    index = [i * 32 // 20 for i in range(20)]
    x = Npz(path=str(npz), val_size=8).observe("train", index)
    found = image_statistics(loaded.model, x, index, Settings(10, ()))
    for name, values in (
        ("elbo", found.elbo),
        ("distortion", found.distortion),
        ("rate", found.rates.sum(1)),
    ):
        assert metrics[f"train_eval/{name}"] == pytest.approx(values.mean().item(), rel=1e-5)
        error = values.std().item() / 20**0.5
        assert metrics[f"train_eval/{name}_stderr"] == pytest.approx(error, rel=1e-4)
    assert train("trainer.limit_test_batches=1", "data.eval_batch_size=7", run_dir="short")
    assert seen == [7, 7, 6, 7]  # images that were measured; as few as test images, where those are limited
    (reading,) = scalars(run, "train_eval/elbo")
    assert reading.value == pytest.approx(metrics["train_eval/elbo"], rel=1e-6)


def test_same_seed_same_run_other_seed_other_run(train, trained):
    a, c = (trained(f"seed={seed}", run_dir=name) for seed, name in ((1, "a"), (2, "c")))
    b = train("seed=1", run_dir="b")
    assert_same_weights(a, b)
    assert not torch.equal(weights(a)["model.decoder.1.weight"], weights(c)["model.decoder.1.weight"])


def test_a_multirun_gives_what_single_runs_give(trained, command, npz, workdir):
    code, _, err = command("train", "-m", *tiny(npz), "seed=1,2", "run_dir=sweep", "hydra.launcher.jobs=1")
    assert code == 0, err
    for seed in (1, 2):
        single = trained(f"seed={seed}", run_dir=f"single{seed}")
        (job,) = (workdir / "sweep").glob(f"*_seed{seed}")
        assert_same_weights(single, job)


@pytest.mark.usefixtures("undrawn")
def test_out_of_memory_says_which_batches_to_lower(command, npz, workdir, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fit, "train_and_test", full)
    code, _, err = command("train", *tiny(npz), "run_dir=run")
    assert code == 1
    assert "error: out of memory on cpu; lower data.batch_size=16, or" in err
    assert "data.eval_batch_size=1000" in err
    assert json.loads((workdir / "run/status.json").read_text())["status"] == "failed"


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


def test_training_lowers_the_loss_on_real_mnist(command, workdir):
    code, _, err = command(
        "train", "model.num_layers=2", "data.batch_size=128", "trainer.max_epochs=3", "run_dir=run",
        "trainer.limit_train_batches=30", "objective.beta_warmup_epochs=0", "trainer.accelerator=cpu",
        "trainer.limit_val_batches=2", "trainer.limit_test_batches=2", "data.eval_batch_size=200",
        "model.hidden_sizes=[128,64]",
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
