"""`python -m ladder_vae.limit`: what it leaves, and what it refuses."""

import csv
import json
import math
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny
from contracts import binary_images, small
from PIL import Image

from ladder_vae.analysis.limit import Kind, Settings, _on_grid, check
from ladder_vae.analysis.limit_page import _density
from ladder_vae.drawing import limit_charts
from ladder_vae.evaluation.own_steps import load_with_steps
from ladder_vae.evaluation.parts import plan
from ladder_vae.models import Diffusion
from ladder_vae.models.evaluator import Settings as Draws
from ladder_vae.runs.checkpoints import load_run
from ladder_vae.system.errors import UserError

SETTINGS = ("draws=4", "images=6", "steps=[1,2,4]", "device=cpu")


@pytest.fixture
def diffusion(trained):
    return trained("model=diffusion", "model.denoiser=dense", "model.width=4", "model.continuous=true",
                   "model.num_layers=3", run_dir="diffusion")  # fmt: skip


def test_what_a_look_at_the_limit_leaves(diffusion, trained, command, monkeypatch):
    other = trained("model=ladder", run_dir="ladder")
    beside, draw = [], limit_charts.save_bounds_by_steps
    monkeypatch.setattr(
        limit_charts,
        "save_bounds_by_steps",
        lambda *given, **named: (beside.append(named["others"]), draw(*given, **named)),
    )
    code, out, err = command("limit", f"run={diffusion}", *SETTINGS, f"beside=[{other}]")
    assert code == 0, err
    assert out.splitlines()[-1] == str(diffusion / "limit.html")
    assert out.startswith("With infinitely many steps the ELBO is -")
    with open(diffusion / "limit" / "limit.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = [(row["steps"], row["transition"], row["placed"]) for row in rows]
    assert kinds[0] == ("inf", "gaussian", "False")
    for transition in ("gaussian", "mixture"):
        for steps in "124":
            assert (steps, transition, "False") in kinds
            assert ((steps, transition, "True") in kinds) == (steps != "1")
    assert "bits_per_dim" not in rows[0]  # of binary pixels nobody compares these
    for row in rows:
        elbo, rate, distortion = (float(row[name]) for name in ("elbo", "rate", "distortion"))
        assert math.isclose(elbo, -(rate + distortion), rel_tol=1e-6)
        assert 0 <= float(row["prior"]) < rate
    by_kind = {kind: float(row["elbo"]) for kind, row in zip(kinds, rows, strict=True)}
    assert by_kind["1", "gaussian", "False"] < by_kind["4", "gaussian", "False"]
    page = (diffusion / "limit.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert page.count("data:image/gif;base64,") == 1
    elbo = json.loads((other / "metrics.json").read_text())["test/elbo"]
    assert beside == [{f"LadderVAE, 2 levels (ladder): {elbo:.2f}": (2, elbo)}]
    assert (diffusion / "limit/bounds.png").exists()
    with Image.open(diffusion / "limit" / "there_and_back.gif") as animation:
        assert animation.n_frames > 10


def test_what_is_measured_on_the_grid_is_the_bound_of_each_hierarchy():
    """Rates by level, of copies of three images, against draws of all levels."""
    model, copies = small(Diffusion, 2).eval(), 1_500
    x = binary_images(3)
    paths = {
        Kind(steps, transition, placed): path
        for transition in ("gaussian", "mixture")
        for steps, placed, path in ((2, False, [0, 64, 128]), (4, True, [0, 9, 40, 90, 128]))
    }
    data = SimpleNamespace(observe=lambda source, which, binarization: x[torch.tensor(which) % 3])
    subject = SimpleNamespace(indices=range(3 * copies), data=data, source="test")
    for bound in _on_grid(model, subject, Settings((2, 4), 1), torch.device("cpu"), paths):
        times = torch.tensor(paths[bound.kind]) / 128
        with torch.no_grad():
            drawn = model.with_steps(bound.kind.steps, bound.kind.transition, times).infer(x, copies).terms()
        rates = drawn.rates.double()
        error = 2**0.5 * rates.std(1).mean(1) / (3 * copies) ** 0.5
        assert ((bound.rates - rates.mean((1, 2))).abs() < 5 * error + 1e-5).all()


def test_of_256_values_the_bound_is_in_bits_per_dimension_too(trained, command, monkeypatch):
    drawn, draw = [], limit_charts.bits_axis
    monkeypatch.setattr(limit_charts, "bits_axis", lambda ax, f: (drawn.append(f), draw(ax, f)))
    run = trained("model=diffusion", "model.denoiser=dense", "model.width=4", "model.num_layers=3",
                  "likelihood=logistic_mixture", "likelihood.components=2", run_dir="gray")  # fmt: skip
    code, out, err = command("limit", f"run={run}", *SETTINGS)
    assert code == 0, err
    per_nat = 1 / (12 * 16 * math.log(2))
    assert drawn == pytest.approx([-per_nat, per_nat])  # of the bound, and of its distance to the limit
    with open(run / "limit" / "limit.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert float(row["bits_per_dim"]) == pytest.approx(-per_nat * float(row["elbo"]))
    limit = float(rows[0]["bits_per_dim"])
    assert f"In bits per dimension that is {limit:.3f}, " in out.splitlines()[0]
    assert f" | {limit:.3f} | " in (run / "limit.md").read_text()


@pytest.mark.parametrize("levels", [3, 32, 50, 97, 1024])
def test_the_density_of_the_rate_has_parts_of_equal_length(levels):
    even = _density(np.full(levels, 80 / levels), 32)
    assert len(even) == min(32, levels)
    np.testing.assert_allclose(even, 80)
    rising = _density(np.arange(levels) + 0.5, 32)
    assert rising.mean() == pytest.approx(levels**2 / 2)
    assert (np.diff(rising) > 0).all()


def test_a_split_of_one_image_has_no_error():
    run = SimpleNamespace(model=small(Diffusion, 3), path="run")
    with pytest.raises(UserError, match="run has 1 test image; errors need two or more"):
        check(SimpleNamespace(run=run, indices=[0], source="test"))


def test_what_has_no_limit_is_refused(diffusion, trained, command):
    ladder = trained("model=ladder", run_dir="ladder")
    for arguments, message in (
        ((f"run={ladder}",), "ladder is a LadderVAE"),
        ((f"run={diffusion}", "steps=[0]"), "steps=[0] must be numbers of steps T"),
        ((f"run={diffusion}", "steps=[]"), "steps=[] must be numbers of steps T"),
        ((f"run={diffusion}", "images=1"), "images=1 must be at least 2"),
        ((f"run={diffusion}", "draws=0"), "draws=0 must be at least 1"),
        ((f"run={diffusion}", "split=tset"), "split=tset is unknown"),
        ((f"run={diffusion}", "beside=[nowhere]"), "nowhere"),
        (("run=nowhere",), "nowhere"),
        ((), "run=<dir> is missing"),
    ):
        code, _, err = command("limit", *arguments)
        assert code != 0
        assert message in err
        assert err.splitlines()[-1].startswith("error:")


def test_a_run_in_the_limit_is_evaluated_as_a_hierarchy_of_few_steps(diffusion, command):
    """As ``with_steps`` says; the record of the run keeps what it had."""
    before = (diffusion / "metrics.json").read_text()
    run, found = load_run(diffusion), {}
    x = run.data.observe("test", range(24))
    for given, transition in (((), "gaussian"), (("transition=mixture",), "mixture")):
        code, out, err = command("evaluate", f"run={diffusion}", "num_samples=10", "steps=3", *given)
        assert code == 0, err
        assert "not in metrics.json: they are of another hierarchy than the one that was trained" in err
        assert f"T = 3 ({transition})" in " ".join(out.split())
        assert ("transition=mixture gives a better bound" in err) == (not given)
        (new,) = (diffusion / "evaluation").glob(f"best_10_T3-{transition}_*/metrics.json")
        found[new] = json.loads(new.read_text())
        expected = replace(run, model=run.model.with_steps(3, transition)).log_px(x, 10).mean()
        assert found[new][f"test/{transition}_steps"] == 3
        assert np.load(new.with_name("images.npz"))["steps"] == f"T3-{transition}"
        assert found[new]["test/log_px/K=10"] == pytest.approx(float(expected), rel=1e-5)
        assert {f"test/rate/z{level}" for level in range(1, 5)} <= found[new].keys()
    assert (diffusion / "metrics.json").read_text() == before
    opened = pickle.loads(pickle.dumps(partial(load_with_steps, 3, "mixture", diffusion, "best")))()
    assert repr(opened.run.model) == repr(run.model.with_steps(3))  # as each of several processes has it
    assert plan(opened, Draws(10, (1, 10))).name == new.parent.name


def test_a_run_of_few_steps_is_evaluated_as_it_is(trained, command):
    run = trained("model=diffusion", "model.denoiser=dense", "model.width=4", "model.continuous=false",
                  "model.num_layers=4", run_dir="few")  # fmt: skip
    assert "test/sampled_levels" not in json.loads((run / "metrics.json").read_text())
    for given in ((), ("steps=3",)):  # the same
        code, _, err = command("evaluate", f"run={run}", "num_samples=10", *given)
        assert code == 0, err
        assert "not in metrics.json" not in err
    (kept,) = (run / "evaluation").iterdir()
    assert len(kept.name.split("_")) == 3  # the run itself says of which steps
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test/log_px/K=10"] > metrics["test/log_px/K=1"]


def test_steps_that_cannot_be_evaluated_are_refused(diffusion, trained, command):
    ladder = trained("model=ladder", run_dir="ladder")
    gray = trained("model=diffusion", "model.denoiser=dense", "model.width=4", "model.num_layers=3",
                   "likelihood=logistic_mixture", "likelihood.components=2", run_dir="gray")  # fmt: skip
    for arguments, message in (
        (
            (f"run={ladder}", "steps=3"),
            "ladder is a LadderVAE, whose levels are fixed by its training; leave out steps=3",
        ),
        ((f"run={diffusion}", "steps=0"), "steps=0 must be from 1 to 64"),
        ((f"run={diffusion}", "steps=65"), "steps=65 must be from 1 to 64"),
        ((f"run={diffusion}", "transition=mixture"), "add steps=T"),
        ((f"run={diffusion}", "steps=3", "transition=cubic"), "transition=cubic is unknown"),
        ((f"run={gray}", "steps=3", "transition=mixture"), "transition=mixture is for binary pixels"),
    ):
        code, _, err = command("evaluate", *arguments, "num_samples=10")
        assert code != 0
        assert message in err
        assert err.splitlines()[-1].startswith("error:")


def test_who_reads_an_estimate_is_told_from_how_many_levels_it_is(command, npz):
    """In the metrics, where a training ends, and in a report."""
    settings = [*tiny(npz, "diffusion"), "model=diffusion", "model.continuous=true"]
    code, out, err = command("train", *settings, "run_dir=many")
    assert code == 0, err
    assert json.loads(Path("many/metrics.json").read_text())["test/sampled_levels"] == 10
    assert "each image was looked at on 10 levels, spread evenly over all of them" in " ".join(out.split())
    code, _, err = command("report", "many", "--output", "report")
    assert code == 0, err
    assert "each image was looked at on at most 10 levels" in Path("report/report.md").read_text()


def test_commands_of_learned_levels_refuse_a_diffusion(diffusion, command):
    code, _, err = command("evaluate", f"run={diffusion}", "num_samples=10")
    assert code != 0
    assert "Diffusion whose draws have no importance weights" in err
    assert "add steps=T" in err
    for name in ("analyze", "explore"):
        code, _, err = command(name, f"run={diffusion}")
        assert code != 0
        assert "python -m ladder_vae.limit shows what its levels do" in err


@pytest.mark.parametrize("setting", ["objective.free_bits=1", "objective.balance_rates=true",
                                     "objective.monte_carlo_rates=true"])  # fmt: skip
def test_objectives_that_need_all_levels_are_refused(train, command, npz, setting):
    code, _, err = command("train", "model=diffusion", "data=npz", f"data.path={npz}", setting)
    assert code != 0
    assert "needs all levels of each image" in err
