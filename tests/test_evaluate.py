"""``python -m ladder_vae.evaluate``: what it leaves, and what it keeps when interrupted."""

import json

import numpy as np
import pytest
import torch
from conftest import events, save_a_pixel
from contracts import BY_NAME, DENSE, NAMES
from matplotlib.figure import Figure
from test_errors import only_line

from ladder_vae.evaluation import parts as evaluation_parts
from ladder_vae.evaluation.parts import choose_sample_sizes, evaluate
from ladder_vae.models.evaluator import Settings
from ladder_vae.runs.opened import load_subject
from ladder_vae.runs.record import write_metrics

CPU = torch.device("cpu")
UNDRAWN = pytest.mark.usefixtures("undrawn")  # for all but the two that look at the pictures


@pytest.mark.parametrize("model", NAMES)
def test_what_an_evaluation_leaves(trained, command, model):
    run = trained(f"model={model}")
    before = json.loads((run / "metrics.json").read_text())
    code, out, err = command("evaluate", f"run={run}", "num_samples=100")
    assert code == 0, err
    assert out.splitlines()[-1] == str(run)
    metrics = json.loads((run / "metrics.json").read_text())
    for k in (1, 10, 100):
        for name in (f"log_px/K={k}", f"log_px/K={k}_stderr", f"log_px/K={k}_mc_stderr", f"ess/K={k}"):
            assert np.isfinite(metrics[f"test/{name}"])
    for k in (10, 100):
        low, middle, high = (metrics[f"test/ess/K={k}/q{q}"] for q in ("05", "50", "95"))
        assert 1 <= low <= middle <= high <= k
        assert low <= metrics[f"test/ess/K={k}"] <= high
    assert 0 <= metrics["test/khat/K=100/above_1"] <= metrics["test/khat/K=100/above_0.7"] <= 1
    assert "Pareto k-hat of 100 weights: median " in out
    assert metrics["test/binarizations"] == 1
    (directory,) = (run / "evaluation").iterdir()
    with np.load(directory / "images.npz") as kept:
        assert metrics["test/khat/K=100/median"] == pytest.approx(np.quantile(kept["khat"], 0.5))
        assert metrics["test/ess/K=100/q50"] == pytest.approx(np.quantile(kept["ess"][:, 2], 0.5))
    assert metrics["test/log_px/K=1"] <= metrics["test/log_px/K=10"] <= metrics["test/log_px/K=100"]
    assert metrics["test/elbo"] == pytest.approx(metrics["test/log_px/K=1"])
    assert metrics["test/elbo"] == pytest.approx(-metrics["test/rate"] - metrics["test/distortion"])
    assert metrics["test/rate"] == pytest.approx(metrics["test/rate/z1"] + metrics["test/rate/z2"])
    assert metrics["test/gap/K=100"] == pytest.approx(metrics["test/log_px/K=100"] - metrics["test/elbo"])
    for name in ("active_units", "active_units_var"):
        assert metrics[f"test/{name}"] == metrics[f"test/{name}/z1"] + metrics[f"test/{name}/z2"]
        units = 4 if BY_NAME[model] in DENSE else 1_000
        assert 0 <= metrics[f"test/{name}/z1"] <= units
    for name in ("test/elbo", "test/distortion", "test/mse", "test/ssim"):  # one draw, and a hundred
        assert metrics[name] == pytest.approx(before[name], rel=0.05, abs=0.01)
    for name in ("model/parameters", "train/epochs", "train/seconds"):
        assert metrics[name] == before[name]
    recorded = events(run)
    assert recorded.Scalars("test/log_px/K=100")[-1].value == pytest.approx(metrics["test/log_px/K=100"])
    assert {"test/log_px", "test/units"} <= set(recorded.Tags()["images"])
    for name in ("log_px", "units"):
        assert (directory / f"{name}.png").stat().st_size > 1000
    assert json.loads((directory / "metrics.json").read_text()).items() <= metrics.items()
    assert not list(run.rglob("part-*"))


def test_an_evaluation_enters_the_report(trained, command, monkeypatch):
    for seed in (1, 2):
        run = trained(f"seed={seed}", run_dir=f"sweep/{seed}")
    trained("model.num_layers=1", "model.latent_sizes=[4]", "model.hidden_sizes=[16]", run_dir="sweep/3")
    with monkeypatch.context() as patched:
        patched.setattr(Figure, "savefig", save_a_pixel)
        code, _, err = command("evaluate", f"run={run.parent}", "num_samples=20", "k=[1,5,20]")
    assert code == 0, err
    command("report", run.parent)
    text = (run.parent / "report.md").read_text()
    assert "| ELBO (nats) | L_5 (nats) | L_20 (nats) |" in text
    assert "L_20 - ELBO (nats)" in text
    assert "active units (KL)" in text
    for name in ("log_px", "active_units"):
        assert f"figures/{name}.png" in text
        assert (run.parent / "figures" / f"{name}.png").stat().st_size > 1000
    assert "test/active_units_var/z2" in (run.parent / "report.csv").read_text()


@UNDRAWN
def test_an_interruption_costs_one_part(trained, command, monkeypatch):
    monkeypatch.setattr(evaluation_parts, "PART", 6)
    run = trained()
    arguments = ("evaluate", f"run={run}", "num_samples=40", "chunk_size=80")
    before = (run / "metrics.json").read_bytes()
    compute, seen = evaluation_parts.image_statistics, []

    def stop_later(model, x, indices, settings, weigh):
        if len(seen) == 7:  # of 12 passes of two images
            raise KeyboardInterrupt
        seen.append(list(indices))
        return compute(model, x, indices, settings, weigh)

    monkeypatch.setattr(evaluation_parts, "image_statistics", stop_later)
    code, _, err = command(*arguments)
    assert code == 130
    assert "the same command continues" in err
    assert (run / "metrics.json").read_bytes() == before  # partial results are no results
    parts = sorted(run.rglob("part-*.npz"))
    assert len(parts) == 2
    parts[1].write_bytes(parts[1].read_bytes()[:100])  # a damaged part is computed anew

    again = []
    monkeypatch.setattr(
        evaluation_parts,
        "image_statistics",
        lambda m, x, i, *rest: again.append(list(i)) or compute(m, x, i, *rest),
    )
    code, _, err = command(*arguments)
    assert code == 0, err
    assert [i for batch in again for i in batch] == list(range(6, 24))
    continued = json.loads((run / "metrics.json").read_text())
    subject = load_subject(run, "best")
    for path in run.rglob("images.npz"):
        if path.parent != run:
            path.unlink()
    whole = evaluate(subject, Settings(40, (1, 10, 40), chunk_size=1000), CPU).metrics
    for name in set(whole) - {"test/evaluation_seconds"}:
        assert continued[name] == pytest.approx(whole[name], abs=1e-4), name


@UNDRAWN
def test_what_is_finished_is_not_computed_again(trained, command, monkeypatch):
    run = trained()
    command("evaluate", f"run={run}", "num_samples=10")
    first = (run / "metrics.json").read_text()
    monkeypatch.setattr(evaluation_parts, "image_statistics", None)
    code, _, err = command("evaluate", f"run={run}", "num_samples=10", "chunk_size=7")
    assert code == 0, err
    assert (run / "metrics.json").read_text() == first
    code, _, err = command("evaluate", f"run={run}", "num_samples=10", "seed=1")  # other draws
    assert code == 1


@UNDRAWN
def test_metrics_hold_one_evaluation_that_with_most_draws(trained, command):
    run = trained()

    def metrics():
        return json.loads((run / "metrics.json").read_text())

    command("evaluate", f"run={run}", "num_samples=20")
    first = metrics()
    code, out, err = command("evaluate", f"run={run}", "num_samples=6", "k=[2,3]")
    assert code == 0
    assert "it keeps an evaluation with more draws" in err
    assert "│ 3 │" in out
    assert metrics() == first
    command("evaluate", f"run={run}", "num_samples=40", "k=[4,40]")
    second = metrics()
    assert {name for name in second if "log_px/K" in name and "err" not in name} == {
        "test/log_px/K=4",
        "test/log_px/K=40",
    }
    command("evaluate", f"run={run}", "num_samples=40", "k=[1,8]")  # of the same draws
    third = metrics()
    assert second.items() <= (third | {"test/evaluation_seconds": second["test/evaluation_seconds"]}).items()
    bounds = [third[f"test/log_px/K={k}"] for k in (1, 4, 8, 40)]
    assert bounds == sorted(bounds)
    earlier = {name: n for name, n in third.items() if name != "test/draws_version"}
    write_metrics(run, earlier)  # as version 6 left them, from other draws
    command("evaluate", f"run={run}", "num_samples=40", "k=[1,8]")
    assert {name for name in metrics() if "log_px/K=" in name and "err" not in name} == {
        "test/log_px/K=1",
        "test/log_px/K=8",
    }
    write_metrics(run, third)
    command("evaluate", f"run={run}", "num_samples=40", "k=[2]", "seed=1")  # of others
    assert "test/log_px/K=40" not in metrics()
    for k in (4, 40):
        gap = second[f"test/log_px/K={k}"] - second["test/elbo"]
        assert second[f"test/gap/K={k}"] == pytest.approx(gap, abs=1e-6)


@UNDRAWN
def test_a_run_that_went_on_training_meanwhile(trained, command, monkeypatch):
    run = trained()
    compute = evaluation_parts.image_statistics

    def retrained(*args):
        best = run / "checkpoints/best.ckpt"
        saved = torch.load(best, weights_only=True)
        best.unlink()
        torch.save(saved | {"global_step": 99}, best)
        return compute(*args)

    monkeypatch.setattr(evaluation_parts, "image_statistics", retrained)
    before = (run / "metrics.json").read_bytes()
    code, _, err = command("evaluate", f"run={run}", "num_samples=10")
    assert code == 0
    assert "was trained further meanwhile" in err
    assert (run / "metrics.json").read_bytes() == before


@UNDRAWN
def test_weights_that_are_not_finite(trained, command):
    run = trained("model=textbook")
    best = run / "checkpoints/best.ckpt"
    saved = torch.load(best, weights_only=True)
    saved["state_dict"]["model.rungs.0.posterior_net.bias"].fill_(1e30)
    best.unlink()
    torch.save(saved, best)
    before = (run / "metrics.json").read_bytes()
    code, _, err = command("evaluate", f"run={run}", "num_samples=10")
    assert code == 1
    assert "test image 0 are not finite" in only_line(err)
    assert (run / "metrics.json").read_bytes() == before


@UNDRAWN
def test_a_diverged_run_does_not_take_the_others_along(trained, command):
    broken, sound = trained("model=textbook", run_dir="sweep/a"), trained(run_dir="sweep/b")
    best = broken / "checkpoints/best.ckpt"
    saved = torch.load(best, weights_only=True)
    saved["state_dict"]["model.rungs.0.posterior_net.bias"].fill_(1e30)
    best.unlink()
    torch.save(saved, best)
    code, _, err = command("evaluate", "run=sweep", "num_samples=10")
    assert code == 1
    assert "warning: sweep/a: the weights of test image 0 are not finite" in err
    assert "1 of 2 runs could not be evaluated" in only_line(err)
    assert "test/log_px/K=10" in (sound / "metrics.json").read_text()


@UNDRAWN
def test_a_report_of_runs_of_which_some_were_evaluated(trained, command):
    for seed in (1, 2):
        run = trained(f"seed={seed}", run_dir=f"sweep/{seed}")
    trained("model=bottom_up", run_dir="sweep/3")
    command("evaluate", "run=sweep/2", "num_samples=10")
    code, _, err = command("report", "sweep")
    assert code == 0, err
    text = (run.parent / "report.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| LadderVAE | 2 |")]
    runs_counted = [line.split(" | ")[2] for line in lines]
    assert runs_counted == ["2", "1", "1"]  # all seeds, and those that were evaluated
    elbo = json.loads((run / "metrics.json").read_text())["test/elbo"]
    assert lines[1].split(" | ")[3] == f"{elbo:.2f}"  # of the evaluated run alone


@UNDRAWN
def test_a_part_of_the_test_split(trained, command):
    run = trained(run_dir="sweep/a")
    before = json.loads((run / "metrics.json").read_text())
    code, _, err = command("evaluate", f"run={run}", "num_samples=20", "images=7")
    assert code == 0, err
    metrics = json.loads((run / "metrics.json").read_text())
    assert before.items() <= metrics.items()  # nothing of the whole split has changed
    command("report", run.parent)
    text = (run.parent / "report.md").read_text()
    assert "of 7 test images, evenly spaced" in text
    assert f"{metrics['test_7/log_px/K=20']:.2f}" in text
    command("evaluate", f"run={run}", "num_samples=20")  # the images that are in both have the same draws
    part, whole = (
        np.load(path / "images.npz")["log_px"]
        for path in sorted((run / "evaluation").iterdir(), key=n_images)
    )
    # 3e-4 apart at most on a CPU with AMX, which rounds the factors of products
    np.testing.assert_allclose(part, whole[[0, 3, 6, 10, 13, 17, 20]], atol=1e-3)
    command("report", run.parent)
    assert "Bounds and units are of all test images" in (run.parent / "report.md").read_text()


def n_images(directory):
    return len(np.load(directory / "images.npz")["mse"])


def test_sample_sizes():
    assert choose_sample_sizes(5000) == (1, 10, 100, 1000, 5000)
    assert choose_sample_sizes(500) == (1, 10, 100, 500)
    assert choose_sample_sizes(1) == (1,)
    assert choose_sample_sizes(12, [12, 3, 3]) == (3, 12)


@UNDRAWN
def test_a_usual_k_that_does_not_divide_is_left_out_aloud(trained, command):
    run = trained()
    _, _, err = command("evaluate", f"run={run}", "num_samples=25")
    assert "warning: K=10 is left out: it does not divide num_samples=25" in err


@UNDRAWN
def test_settings_of_training_do_not_matter(trained, command):
    """A run that was tested on a few batches, and logged nothing, is evaluated on all images."""
    run = trained("trainer.limit_test_batches=1", "data.eval_batch_size=5", "logger=none")
    code, _, err = command("evaluate", f"run={run}", "num_samples=10")
    assert code == 0, err
    (found,) = (run / "evaluation").rglob("images.npz")
    assert len(np.load(found)["mse"]) == 24
    assert not list(run.glob("events*"))
