"""Speed changes no result: the fast path against the plain one."""

import copy
import json
import signal

import pytest
import torch
from conftest import assert_same_weights, crash_after, tiny, weights
from contracts import MODELS
from omegaconf import OmegaConf

from hydra_plugins import ladder_vae_launcher
from ladder_vae.evaluation.parts import compiled_weigher
from ladder_vae.models import LadderVAE, TextbookVAE
from ladder_vae.models.evaluator import Settings, image_statistics
from ladder_vae.models.passes import Passes
from ladder_vae.system import devices
from ladder_vae.system.compilation import compiler
from ladder_vae.system.devices import fast_products
from ladder_vae.training import job
from ladder_vae.training.epoch_checkpoints import EpochCheckpoints
from ladder_vae.training.objective import Objective
from ladder_vae.training.step import batch_values

FAST = ["trainer.precision=bf16-mixed", "trainer.compile=true"]
PLAIN = ["trainer.precision=32-true", "trainer.compile=false"]
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def bfloat16(monkeypatch):
    """bfloat16 is slow where the CPU has no units for it, but works."""
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: True)


def metrics(run):
    return json.loads((run / "metrics.json").read_text())


@needs_compiler
def test_fast_and_plain_training_agree(trained):
    fast, plain = trained(*FAST, run_dir="fast"), trained(*PLAIN, run_dir="plain")
    for name, value in metrics(plain).items():
        if name.startswith("test/"):
            assert metrics(fast)[name] == pytest.approx(value, rel=0.01, abs=0.05), name
    a, b = weights(fast), weights(plain)
    assert a.keys() == b.keys()  # no _orig_mod
    assert all(a[name].dtype == b[name].dtype for name in a)


@needs_compiler
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(FAST, id="both", marks=pytest.mark.slow),
        pytest.param(FAST[:1], id="bf16", marks=pytest.mark.slow),
        pytest.param(FAST[1:], id="compiled", marks=pytest.mark.slow),
    ],
)
def test_fast_runs_repeat_and_resume_exactly(train, trained, broken_off, workdir, settings):
    """40 images in batches of 16: the last batch of an epoch is a smaller one."""
    whole = trained(*settings, run_dir="whole")
    assert_same_weights(whole, train(*settings, run_dir="again"))
    assert broken_off(EpochCheckpoints, "on_train_epoch_end", crash_after(1), *settings)[0] == 1
    assert_same_weights(whole, workdir / "cut")


def steps():
    """Every model with every objective; all are slow to trace, so that two of them have to do."""
    quick = {(LadderVAE, "elbo"), (TextbookVAE, "weighted")}
    for kind in MODELS:
        for name, samples in (("elbo", 1), ("weighted", 3))[: 1 if kind.estimates_rates else 2]:
            marks = () if (kind, name) in quick else pytest.mark.slow
            yield pytest.param(
                kind, Objective(importance_samples=samples), id=f"{kind.__name__}-{name}", marks=marks
            )


@pytest.mark.parametrize(("kind", "objective"), steps())
def test_what_is_compiled_is_the_step(kind, objective):
    """The traced graph gives the values and gradients of the plain function, of any model."""
    torch.manual_seed(0)
    model = kind((1, 6, 6), 2).train(objective.importance_samples == 1)
    x = (torch.rand(8, 1, 6, 6) < 0.5).float()
    noise, beta = model.terms_noise(objective.importance_samples, 8, like=x), torch.tensor(0.7)
    plain = batch_values(model, objective)
    other = copy.deepcopy(model)
    traced = torch.compile(batch_values(other, objective), backend="aot_eager")
    ours, theirs = traced(x, beta, *noise), plain(x, beta, *noise)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    ours.loss.backward()
    theirs.loss.backward()
    for one, two in zip(other.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-5)


def test_products_in_half_precision_leave_sums_in_float32():
    model = LadderVAE((1, 28, 28), 2)
    x = (torch.rand(4, 1, 28, 28) < 0.2).float()
    with torch.autocast("cpu", torch.bfloat16):
        inference = model.infer(x)
        values = batch_values(model, Objective())(x, torch.ones(()), *model.draw_noise(1, 4, like=x))
    assert inference.params.dtype == torch.bfloat16  # the nets did compute in it
    assert inference.log_px.dtype == inference.rates().dtype == values.loss.dtype == torch.float32


@needs_compiler
def test_fast_evaluation_is_near_float64():
    torch.manual_seed(0)
    model = LadderVAE((1, 28, 28), 2, [8, 4], [32, 16]).eval()
    x = (torch.rand(5, 1, 28, 28) < 0.3).float()
    settings = Settings(300, (300,), chunk_size=500)
    with fast_products("cpu"):
        fast = image_statistics(model, x, range(5), settings, Passes(model, compiled_weigher(model)))
    exact = image_statistics(copy.deepcopy(model).double(), x.double(), range(5), settings)
    assert (fast.log_px - exact.log_px).abs().max() < 0.01
    assert (fast.elbo - exact.elbo).abs().max() < 0.01


def test_jobs_at_once_give_what_jobs_alone_give(trained, command, npz, workdir):
    # The precision is named, for the fixture above does not reach the processes of the jobs.
    settings = ["trainer.precision=32-true"]
    code, out, err = command(
        "train", "-m", *tiny(npz), *settings, "seed=1,2", "run_dir=sweep", "hydra.launcher.jobs=2"
    )
    assert code == 0, err
    assert out.count(": test ELBO -") == 2  # a line a job; the report has the tables
    assert "1 of 2 runs done, about " in err
    assert "2 of 2 runs done" in err
    names = sorted(path.name for path in (workdir / "sweep").glob("*_seed*"))
    assert names == ["0_ladder_L2_seed1", "1_ladder_L2_seed2"]
    for seed, name in enumerate(names, start=1):
        a, b = (
            weights(trained(*settings, f"seed={seed}", run_dir=f"single{seed}")),
            weights(workdir / "sweep" / name),
        )
        for key in a:  # one thread or two: sums in another order
            torch.testing.assert_close(a[key], b[key], rtol=1e-4, atol=1e-5)


def test_of_jobs_at_once_one_may_fail(command, npz, workdir):
    code, _, _ = command(
        "train", "-m", *tiny(npz), "optimizer.lr=1e30,1e-3", "scheduler=constant", "run_dir=sweep",
        "hydra.launcher.jobs=2",
    )  # fmt: skip
    assert code == 1
    states = [json.loads(path.read_text()) for path in sorted(workdir.rglob("status.json"))]
    assert [state["status"] for state in states] == ["failed", "finished"]
    assert "not finite" in states[0]["message"]


DEADLY = """
import os, signal, torch

class Deadly(torch.optim.Adam):
    steps = 0

    def step(self, closure=None):
        Deadly.steps += 1
        if Deadly.steps == 4:  # in the second epoch
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(closure)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_a_job_that_is_killed_does_not_take_the_others_along(command, npz, workdir, monkeypatch):
    (workdir / "deadly.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(str(workdir))
    code, _, err = command(
        "train", "-m", *tiny(npz), "optimizer._target_=deadly.Deadly,torch.optim.Adam", "run_dir=sweep",
        "hydra.launcher.jobs=2",
    )  # fmt: skip
    assert code == 1
    first, second = sorted((workdir / "sweep").glob("*_seed1"))
    assert f"{first.name}: the process ended with code -9" in err
    assert "Traceback" not in err
    assert not (first / "metrics.json").exists()
    assert weights(first)  # of its first epoch, to go on from
    assert json.loads((second / "status.json").read_text())["status"] == "finished"
    assert "test/elbo" in metrics(second)
    assert command("report", "sweep")[0] == 0
    assert f"| {first.name} | failed " in (workdir / "sweep/report.md").read_text()


def test_a_job_that_is_killed_is_told(tmp_path):
    """By a process that ends itself as the system would end it."""
    config = OmegaConf.create(
        {"model": {}, "hydra": {"sweep": {"dir": str(tmp_path), "subdir": "job"}, "job": {"name": None}}}
    )
    (result,) = ladder_vae_launcher._run(
        job.job, [config], 1, 1
    )  # no whole configuration: the job dies of it
    with pytest.raises(RuntimeError, match="job: the process ended with code 1"):
        _ = result.return_value
