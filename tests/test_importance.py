import json
import math
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import events, tiny
from contracts import DENSE, LEARNED
from test_hierarchy import build, images

from ladder_vae.comparison.groups import evaluated_split, group_runs
from ladder_vae.models import ResidualVAE
from ladder_vae.models.evaluator import Settings, image_statistics
from ladder_vae.runs.checkpoints import load_run
from ladder_vae.runs.opened import load_subject
from ladder_vae.runs.record import read_record
from ladder_vae.training import lightning_module
from ladder_vae.training.objective import Objective
from ladder_vae.training.step import batch_values

pytestmark = pytest.mark.usefixtures("undrawn")
K = 5
EXPERIMENT = Path(__file__).parents[1] / "experiments/deep_hierarchies/doubly_reparameterized.py"
doubly_reparameterized = runpy.run_path(str(EXPERIMENT))["doubly_reparameterized"]


def plain(model, x, noise):
    """Minus L_K, differentiated as it stands."""
    log_weights = model.infer(x, noise=noise).log_weights()
    return -(log_weights.logsumexp(0) - math.log(len(log_weights))).mean()


def gradient(loss, model):
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return torch.cat(
        [
            torch.zeros(p.numel()).double() if g is None else g.flatten()
            for g, p in zip(grads, model.parameters(), strict=True)
        ]
    )


def step(model, x, noise):
    """Minus L_K, as a training step computes it."""
    return batch_values(model, Objective(importance_samples=K))(x, torch.ones(()), *noise).loss


@pytest.mark.parametrize("loss", [step, doubly_reparameterized])
@pytest.mark.parametrize("cls", LEARNED)
def test_the_loss_is_minus_the_bound(cls, loss):
    model, x = build(cls), images()
    noise = model.draw_noise(K, len(x), like=x)
    torch.testing.assert_close(loss(model, x, noise), plain(model, x, noise), rtol=0, atol=1e-10)


@pytest.mark.parametrize("cls", LEARNED)
def test_the_plain_gradient_against_differences(cls):
    model, x = build(cls), images()
    noise = model.draw_noise(K, len(x), like=x)
    direction = [torch.randn_like(p) for p in model.parameters()]
    slope = gradient(step(model, x, noise), model) @ torch.cat([d.flatten() for d in direction])

    @torch.no_grad()
    def at(distance):
        for p, d in zip(model.parameters(), direction, strict=True):
            p.add_(d, alpha=distance)
        value = step(model, x, noise).item()
        for p, d in zip(model.parameters(), direction, strict=True):
            p.sub_(d, alpha=distance)
        return value

    assert slope.item() == pytest.approx((at(1e-6) - at(-1e-6)) / 2e-6, rel=1e-4)


@pytest.mark.parametrize("cls", DENSE)
def test_the_gradient_is_that_of_the_bound_in_the_mean(cls):
    """For weights of p, of q, and of both: over many draws, the two gradients differ by noise."""
    model = build(cls, 2)
    x = images(1).expand(2_000, -1, -1, -1)
    found = {"plain": [], "doubly": []}
    for _ in range(12):
        noise = model.draw_noise(K, len(x), like=x)
        found["plain"].append(gradient(plain(model, x, noise), model))
        noise = model.draw_noise(K, len(x), like=x)
        found["doubly"].append(gradient(doubly_reparameterized(model, x, noise), model))
    (a, b) = (torch.stack(values) for values in found.values())
    error = ((a.var(0) + b.var(0)) / len(a)).sqrt()
    moved = error > 1e-9
    z = (a.mean(0) - b.mean(0))[moved] / error[moved]
    assert moved.float().mean() > 0.5
    assert z.pow(2).mean().sqrt() < 1.5  # about 1 if the means are the same; t of few draws has long tails
    assert (a.mean(0)[moved].abs() / error[moved]).median() > 3  # and the gradient stands out from that noise


def test_a_perfect_posterior_is_left_alone():
    """Where q is p(z | x), each draw's gradient of q is zero; that of the plain bound is only in the mean."""
    model, x = build(ResidualVAE, posterior="relative"), images()
    for rung in model.rungs:  # q = p
        rung.posterior_net[-1].weight.data.zero_()
        rung.posterior_net[-1].bias.data.zero_()
    model.decoder[1].weight.data.zero_()  # and the image tells nothing of z
    noise = model.draw_noise(K, len(x), like=x)
    heads = [rung.posterior_net[-1].weight for rung in model.rungs]
    for loss, vanishes in (
        (doubly_reparameterized(model, x, noise), True),
        (plain(model, x, noise), False),
    ):
        for grad in torch.autograd.grad(loss, heads):
            assert (grad.abs().max() < 1e-12) == vanishes


def test_what_the_bound_has_no_place_for_is_refused():
    for setting in ({"beta_warmup_epochs": 3}, {"free_bits": 0.5}, {"monte_carlo_rates": True}):
        with pytest.raises(ValueError, match="importance_samples=8 trains on L_K, which has no place for"):
            Objective(importance_samples=8, **setting)
    with pytest.raises(ValueError, match="importance_samples must be at least 1"):
        Objective(importance_samples=0)


@pytest.fixture
def residual(train, trained):
    """Trains a tiny residual model, anew where it begins with another; returns its run directory."""

    def call(run_dir, *args):
        begun = any(arg.startswith("init_from=") for arg in args)
        return (train if begun else trained)("model=residual", *args, run_dir=run_dir)

    return call


def buffers(run, checkpoint="last"):
    return dict(load_run(run, checkpoint).model.named_buffers())


def test_fine_tuning_begins_with_the_weights_and_keeps_the_statistics(residual, command):
    first = residual("first")
    options = [
        "objective.importance_samples=3",
        "objective.beta_warmup_epochs=0",
        "init_from=first",
    ]
    still = residual("still", *options, "optimizer.lr=0")
    kept = load_run(still).model.state_dict()
    for name, value in load_run(first).model.state_dict().items():
        assert torch.equal(kept[name], value), name
    tuned = residual("tuned", *options)
    of_first = buffers(first)
    assert all(torch.equal(value, of_first[name]) for name, value in buffers(tuned).items())
    before, after = (dict(load_run(run).model.named_parameters()) for run in (first, tuned))
    assert all(not torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))
    assert load_run(tuned).config["init_from"] == str(first.absolute())
    shutil.rmtree(first)  # a run that goes on needs it no more
    assert command("train", f"resume={tuned}", "trainer.max_epochs=3")[0] == 0


def test_weights_that_do_not_fit_are_refused(residual, train, command, npz):
    residual("first")
    width, norm = ((load_run("first").config["model"][key]) for key in ("width", "norm"))
    for model, its in {
        "model.width=8": f"model.width={width}",
        "model.norm=layer": f"model.norm={norm}",
    }.items():
        code, _, err = command("train", *tiny(npz, "residual"), "model=residual", model, "init_from=first")
        assert code == 1
        assert err.splitlines()[-1].startswith("error: init_from=")
        assert f"it has {its}; give both the same model settings" in err
    code, _, err = command("train", *tiny(npz), "init_from=first")
    assert code == 1
    assert "it holds a ResidualVAE, not a LadderVAE" in err
    code, _, err = command("train", *tiny(npz), "init_from=nowhere")
    assert code == 1
    assert err.startswith("error: init_from: ")
    assert "nowhere is not a directory" in err


@pytest.mark.parametrize("rise", [1000, -1000])
def test_the_best_epoch_is_the_best_by_what_was_trained_on(residual, monkeypatch, rise):
    """Whether L_K rises or falls from epoch to epoch, and whatever becomes of the ELBO."""
    residual("first", "data.val_size=12")
    found = []

    def bounds(log_weights):
        if not torch.is_grad_enabled():
            found.append(len(log_weights))
        return log_weights.logsumexp(0) + rise * len(found)

    monkeypatch.setattr(lightning_module, "image_bounds", bounds)
    tuned = residual(
        "tuned", "data.val_size=12", "init_from=first", "trainer.max_epochs=3",
        "objective.importance_samples=3", "objective.beta_warmup_epochs=0",
    )  # fmt: skip
    assert set(found) == {3}
    best, last = (dict(load_run(tuned, name).model.named_parameters()) for name in ("best", "last"))
    assert all(torch.equal(best[name], last[name]) for name in last) == (rise > 0)


def test_what_training_on_the_bound_cannot_begin_with(residual, command, npz):
    settings = [*tiny(npz, "residual"), "model=residual", "objective.importance_samples=3"]
    settings += ["objective.beta_warmup_epochs=0"]
    for said, *more in (
        ("begin with a trained one (init_from=<run_dir>)",),
        ("leaves out no units; set model.dropout=0", "model.norm=layer", "model.dropout=0.1"),
    ):
        code, _, err = command("train", *settings, *more)
        assert (code, err.count("\n")) == (1, 1)
        assert said in err
    residual("first", "data.val_size=6")
    code, _, err = command("train", *settings, "init_from=first", "data.val_size=12")
    assert (code, err.count("\n")) == (1, 1)
    assert "data.val_size=12 would validate on images that init_from=" in err
    assert "set data.val_size=6" in err
    residual("plain", "model.norm=layer", "objective.importance_samples=3", "objective.beta_warmup_epochs=0")


def test_a_run_on_other_images_knows_none_of_these(residual, npz, workdir):
    with np.load(npz) as images:
        np.savez(workdir / "others.npz", x_train=255 - images["x_train"], x_test=255 - images["x_test"])
    residual("first", "data.val_size=0")
    residual("next", "data.val_size=12", f"data.path={workdir / 'others.npz'}", "init_from=first")


def test_validation_images_are_evaluated_under_their_own_name(residual, command):
    run = residual("run", "data.val_size=12")
    assert command("evaluate", f"run={run}", "num_samples=20", "split=val", "k=[20]")[0] == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["val/log_px/K=20"] >= metrics["val/elbo"]
    assert "test/log_px/K=20" not in metrics
    recorded = events(run)  # where the curves of training keep their own points
    assert len(recorded.Scalars("val/elbo")) == 2
    assert recorded.Scalars("val/log_px/K=20")[-1].value == pytest.approx(metrics["val/log_px/K=20"])
    subject = load_subject(run, "best", source="val")
    x = subject.data.observe("val", range(12))
    statistics = image_statistics(subject.run.model, x, range(12), Settings(20, (20,)))
    assert statistics.log_px.mean().item() == pytest.approx(metrics["val/log_px/K=20"], abs=1e-4)
    assert command("evaluate", f"run={run}", "num_samples=40", "split=train", "images=12", "k=[40]")[0] == 0
    assert "train_12/log_px/K=40" in json.loads((run / "metrics.json").read_text())
    assert evaluated_split(group_runs([read_record(run)])) == "val"  # not what it was trained on
    code, _, err = command("evaluate", f"run={run}", "split=all")
    assert (code, err) == (1, "error: split=all is unknown; choose test, val, train\n")
    residual("all", "data.val_size=0")
    code, _, err = command("evaluate", "run=all", "split=val")
    assert code == 1
    assert "all has no validation images (data.val_size=0); leave out split=val" in err
