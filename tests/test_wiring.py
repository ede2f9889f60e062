"""What connects the parts of a run, held to numbers: each could once be deleted with all tests green."""

import math
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import scalars, tiny, weights
from contracts import binary_images, small

from ladder_vae import load_run
from ladder_vae.data import Npz
from ladder_vae.data.batches import Batches
from ladder_vae.models import LadderVAE
from ladder_vae.runs.checkpoints import read_checkpoint
from ladder_vae.training import lightning_module
from ladder_vae.training.averaging import ExponentialMovingAverage
from ladder_vae.training.lightning_module import HierarchicalVAE
from ladder_vae.training.objective import Objective

STEPS = 3  # an epoch of the tiny run
UNTIL = 4  # epochs


def test_beta_of_every_step_is_what_the_loss_uses(train, monkeypatch):
    """It rises from 0 by a fraction of an epoch a step, and multiplies the rates in what is minimized."""
    used = []
    loss = Objective.loss

    def record(self, terms, beta, units):
        value = loss(self, terms, beta, units)
        if torch.is_grad_enabled() and not value.is_meta:  # there the memory of a step is counted
            parts = (value, terms.distortion.mean(), terms.rate.mean())
            used.append((float(beta), *(float(part.detach()) for part in parts)))
        return value

    monkeypatch.setattr(Objective, "loss", record)
    train(f"trainer.max_epochs={UNTIL}", "objective.beta_warmup_epochs=2.5", "trainer.compile=false")
    expected = [min(1.0, step / (STEPS * 2.5)) for step in range(UNTIL * STEPS)]
    assert [beta for beta, *_ in used] == pytest.approx(expected, abs=1e-6)
    for beta, value, distortion, rate in used:
        assert value == pytest.approx(distortion + beta * rate, rel=1e-5)


def test_what_is_logged_as_the_loss_is_what_was_minimized(train, monkeypatch):
    minimized = []
    step = HierarchicalVAE.training_step

    def record(self, x, batch_idx):
        value = step(self, x, batch_idx)
        minimized.append(float(value.detach()))
        return value

    monkeypatch.setattr(HierarchicalVAE, "training_step", record)
    monkeypatch.setattr(lightning_module, "STEPS_PER_READING", 1)
    run = train("objective.beta_warmup_epochs=1.5")
    assert [reading.value for reading in scalars(run, "train/loss")] == pytest.approx(minimized, rel=1e-6)
    betas = [reading.value for reading in scalars(run, "train/beta")]
    assert betas == pytest.approx([min(1, step / (1.5 * STEPS)) for step in range(2 * STEPS)], abs=1e-6)


@pytest.mark.parametrize("scheduler", ["cosine", "constant"])
def test_learning_rate_of_every_step(train, monkeypatch, scheduler):
    """As the optimizer applies it, and as it is logged."""
    applied = []
    step = torch.optim.Adam.step

    def record(self, closure=None):
        result = step(self, closure)
        applied.append(self.param_groups[0]["lr"])
        return result

    monkeypatch.setattr(torch.optim.Adam, "step", record)
    monkeypatch.setattr(lightning_module, "STEPS_PER_READING", 1)
    settings = ["scheduler=constant"] if scheduler == "constant" else ["scheduler.warmup_steps=4"]
    run = train(f"trainer.max_epochs={UNTIL}", "optimizer.lr=0.01", *settings)
    total = UNTIL * STEPS
    cosine = [0.5 * (1 + math.cos(math.pi * (step - 4) / (total - 4))) for step in range(4, total)]
    factors = [1.0] * total if scheduler == "constant" else [0.25, 0.5, 0.75, 1.0, *cosine]
    assert applied == pytest.approx([0.01 * factor for factor in factors], rel=1e-6)
    assert [reading.value for reading in scalars(run, "train/lr")] == pytest.approx(applied, rel=1e-6)


def test_the_average_over_five_updates_of_one_weight():
    """d of the average, 1 - d of the weight; d = min(decay, (1 + n) / (10 + n)); the first is a copy."""

    class Weight(torch.nn.Module):
        def __init__(self, value):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor([value], dtype=torch.float64))
            self.register_buffer("count", torch.tensor(0))

    class Kept:
        def __init__(self, module):
            self.module, self.n_averaged = module, torch.tensor(0)

    class Trainer:
        global_step = 0

    model, average = Weight(3.0), ExponentialMovingAverage(decay=0.3)
    average._average_model = kept = Kept(Weight(-50.0))
    average.on_train_start(Trainer, model)
    expected, values = None, [3.0, 1.0, 4.0, -2.0, 7.0]
    for n, value in enumerate(values):
        model.w.data.fill_(value)
        model.count.fill_(n)
        Trainer.global_step = n + 1
        average.on_train_batch_end(Trainer, model, None, None, n)
        average.on_train_batch_end(Trainer, model, None, None, n)  # no step was made meanwhile: no update
        decay = min(0.3, (1 + n) / (10 + n))
        expected = value if n == 0 else decay * expected + (1 - decay) * value
        assert kept.module.w.item() == pytest.approx(expected, rel=1e-12)
        assert kept.module.count.item() == n
        assert kept.n_averaged.item() == n + 1
    assert min(0.3, 4 / 13) == 0.3  # the warm-up ends within these five


def test_the_average_of_a_run_is_that_of_its_weights(train, monkeypatch):
    """What last.ckpt holds, from the weights after every step."""
    seen = []
    step = torch.optim.Adam.step

    def record(self, closure=None):
        result = step(self, closure)
        seen.append(self.param_groups[0]["params"][0].detach().double().clone())
        return result

    monkeypatch.setattr(torch.optim.Adam, "step", record)
    run = train("callbacks.averaging.decay=0.4", "optimizer.lr=0.01")
    average = seen[0]
    for n, value in enumerate(seen[1:], start=1):
        decay = min(0.4, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * value
    first = next(name for name, _ in load_run(run, "last").model.named_parameters())
    torch.testing.assert_close(weights(run)[f"model.{first}"].double(), average, rtol=1e-5, atol=1e-7)


def test_batch_norm_of_averaged_weights_is_measured_anew_if_asked(train, npz, command):
    """On evenly spaced training images, each batch from all over the split; training stays the same."""
    anew = "callbacks.averaging.recalibrate_batches=3"
    settings = ("optimizer.lr=0.05", "scheduler=constant", "data.batch_size=8", "trainer.max_epochs=3")
    runs = [train(*settings, run_dir="averaged"), train(*settings, anew, run_dir="measured")]
    raw = [read_checkpoint(run / "checkpoints/last.ckpt")["current_model_state"] for run in runs]
    assert all(torch.equal(raw[0][name], raw[1][name]) for name in raw[0])
    data = Npz(path=str(npz), batch_size=8)
    x = data.observe("train", data.sample("train", 24))
    for run in runs:
        layer, norm, *_ = load_run(run, "last").model.encoder[0]
        with torch.no_grad():
            batches = [layer(x[start::3].flatten(1)) for start in range(3)]
        means, variances = (
            torch.stack([of(b, 0) for b in batches]).mean(0) for of in (torch.mean, torch.var)
        )
        same = [
            torch.allclose(kept, expected, rtol=1e-3, atol=1e-5)
            for kept, expected in ((norm.running_mean, means), (norm.running_var, variances))
        ]
        assert same == [str(run) == "measured"] * 2
    fine_tuned = ("init_from=measured", "objective.importance_samples=2", "objective.beta_warmup_epochs=0")
    code, _, err = command("train", *tiny(npz), *fine_tuned, anew)
    assert code != 0
    assert err.splitlines()[-1].startswith("error: training on L_K keeps the batch-norm statistics")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_clipping_bounds_the_update_that_is_applied(precision):
    """With plain gradient descent an update is as long as its gradient, times the rate."""
    lengths = {}
    for limit in (None, 0.5):

        class Descent(torch.optim.SGD):
            def step(self, closure=None, limit=limit):
                before = [w.detach().clone() for w in self.param_groups[0]["params"]]
                result = super().step(closure)
                after = self.param_groups[0]["params"]
                moved = [(w.detach() - b).flatten() for w, b in zip(after, before, strict=True)]
                lengths.setdefault(limit, []).append(torch.cat(moved).norm().item())
                return result

        trained = HierarchicalVAE(small(LadderVAE), Objective(), lambda weights: Descent(weights, lr=1e-3))
        trainer = L.Trainer(
            max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu", precision=precision, gradient_clip_val=limit,
        )  # fmt: skip
        trainer.fit(trained, Batches(255 * binary_images(24).byte(), 8))
    assert min(lengths[None]) > 1.5 * 1e-3 * 0.5  # without a limit, every step is longer
    assert lengths[0.5] == pytest.approx([1e-3 * 0.5] * 3, rel=2e-3)


def test_gradients_below_the_limit_are_left_alone(train, trained):
    clipped = train("trainer.gradient_clip_val=1e9", run_dir="clipped")
    plain = trained(run_dir="plain")
    for name, value in weights(plain).items():
        assert torch.equal(value, weights(clipped)[name]), name


def test_weight_decay_reaches_the_optimizer(train, command, npz):
    assert (
        command("train", *tiny(npz), "optimizer=adamw", "optimizer.weight_decay=0.5", "run_dir=decayed")[0]
        == 0
    )
    a, b = (
        weights(Path("decayed")),
        weights(train("optimizer=adamw", "optimizer.weight_decay=0", run_dir="kept")),
    )
    assert any(not torch.equal(a[name], b[name]) for name in a)
