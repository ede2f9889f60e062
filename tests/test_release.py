"""Runs made small enough to pass on, and those that come with the package."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from ladder_vae.models.evaluator import Settings, image_statistics
from ladder_vae.release import KEPT_METRICS
from ladder_vae.runs import releases
from ladder_vae.runs.checkpoints import load_run
from ladder_vae.runs.opened import load_subject
from ladder_vae.runs.record import write_status
from ladder_vae.runs.releases import RELEASES, own_copy, released

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def small(trained, command):
    """The release of a tiny residual model."""
    run = trained("model=residual", "data.val_size=8")
    code, out, err = command("release", run, "small")
    assert code == 0, err
    assert out == "small\n"
    return run


def test_weights_come_back_rounded_to_half_precision(small):
    before, after = (load_run(path).model.state_dict() for path in (small, "small"))
    for name, value in before.items():
        expected = value.half().float() if value.is_floating_point() else value
        assert torch.equal(after[name], expected), name
        assert after[name].dtype == value.dtype
    files = sorted(path.name for path in Path("small").iterdir())
    assert files == ["checksums.json", "config.yaml", "metrics.json", "status.json", "weights.safetensors"]
    assert (Path("small") / "weights.safetensors").stat().st_size < 0.3 * (
        small / "checkpoints/best.ckpt"
    ).stat().st_size


def test_a_release_is_evaluated_as_a_run_is(small, command):
    found = []
    for path in (small, "small"):
        assert command("evaluate", f"run={path}", "num_samples=20")[0] == 0
        found.append(json.loads((Path(path) / "metrics.json").read_text()))
    assert found[1]["test/log_px/K=20"] == pytest.approx(found[0]["test/log_px/K=20"], abs=0.05)
    assert command("report", small, "small")[0] == 0


def test_a_release_that_was_not_evaluated_is_reported(small, trained, command):
    other = trained("model=residual", "model.blocks=2", run_dir="other")
    assert command("evaluate", f"run={other}", "num_samples=10", "images=1")[0] == 0
    for runs_given in (["small"], ["small", other]):
        code, _, err = command("report", *runs_given, "--output", "out")
        assert code == 0, err
        assert "parameters" in Path("out/report.md").read_text()


@pytest.mark.usefixtures("short_judge")
def test_a_release_goes_by_its_name(small, command, monkeypatch, workdir):
    monkeypatch.setattr(releases, "RELEASES", workdir / "package")
    shutil.copytree("small", workdir / "package/tiny")
    assert released() == ["tiny"]
    assert torch.equal(
        load_run("tiny").model.generate(2, generator=torch.Generator().manual_seed(0)).params,
        load_run("small").model.generate(2, generator=torch.Generator().manual_seed(0)).params,
    )
    before = (workdir / "package/tiny/metrics.json").read_bytes()
    for _ in range(2):  # the second time finds the copy of the first
        code, out, err = command("evaluate", "run=tiny", "num_samples=10", "k=[10]")
        assert code == 0, err
        assert out.splitlines()[-1] == "runs/released/tiny"
    assert "test/log_px/K=10" in json.loads((workdir / "runs/released/tiny/metrics.json").read_text())
    assert (workdir / "package/tiny/metrics.json").read_bytes() == before  # the package is left alone
    assert command("analyze", "run=tiny", "images=10", "draws=1", "probe_images=20", "embedded=10")[0] == 0
    (workdir / "package/tiny/weights.safetensors").write_bytes(b"another version")
    code, _, err = command("evaluate", "run=tiny", "num_samples=10")
    assert (code, err) == (
        1, "error: runs/released/tiny holds other weights than the package has now; move it away\n"
    )  # fmt: skip


def test_the_models_of_the_package_are_small():
    assert released() == ["convolutional", "diffusion", "record", "three_levels"]
    sizes = [path.stat().st_size for path in RELEASES.rglob("*") if path.is_file()]
    assert sum(sizes) < 25e6


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name == "convolutional" else name for name in released()],
)
def test_a_model_of_the_package_gives_its_stored_figures(name):
    stored = json.loads((RELEASES / name / "metrics.json").read_text())
    images = min(int(found[1]) for key in stored if (found := re.match(r"test_(\d+)/elbo", key)))
    known = (re.fullmatch(rf"test_{images}/log_px/K=(\d+)", key) for key in stored)
    bounds = tuple(sorted(int(found[1]) for found in known if found))  # a limit has no weights
    subject = load_subject(name, "best", images=images)
    x = subject.data.observe("test", subject.indices)
    assert bool(bounds) == subject.run.model.has_weights
    found = image_statistics(subject.run.model, x, subject.indices, Settings(max(bounds, default=10), bounds))
    assert found.elbo.mean().item() == pytest.approx(stored[f"test_{images}/elbo"], abs=5e-3)
    assert found.log_px.mean(0).tolist() == pytest.approx(
        [stored[f"test_{images}/log_px/K={k}"] for k in bounds], abs=5e-3
    )


def test_a_release_cannot_be_resumed(small, command):
    code, _, err = command("train", "resume=small", "trainer.max_epochs=9")
    assert (code, err.count("\n")) == (1, 1)
    assert "small has no checkpoints/last.ckpt to go on from" in err
    code, _, err = command("evaluate", "run=small", "checkpoint=last")
    assert (code, err) == (1, "error: small is a release, which has its best weights only\n")


def test_a_release_can_be_begun_with(small, trained):
    run = trained("model=residual", "data.val_size=8", "init_from=small", "optimizer.lr=0", run_dir="next")
    assert set(json.loads((Path("small") / "metrics.json").read_text())) == set(KEPT_METRICS)
    before, after = (dict(load_run(path).model.named_parameters()) for path in ("small", run))
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_two_first_uses_of_a_release(workdir, monkeypatch):
    """Both make a copy; the second finds that of the first."""
    replace = os.replace

    def late(source, target):
        shutil.copytree(source, target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    assert own_copy("record") == Path("runs/released/record")
    assert [path.name for path in Path("runs/released").iterdir()] == ["record"]


def test_what_cannot_be_released(small, command, trained):
    code, _, err = command("release", small, "small")
    assert (code, err) == (1, "error: small is there already; choose another directory\n")
    code, _, err = command("release", "nowhere", "there")
    assert code == 1
    assert "nowhere is not a directory" in err
    write_status(small, "interrupted")
    code, _, err = command("release", small, "other")
    assert code == 1
    assert "has not finished; only a finished run can be released" in err


def test_a_damaged_release(small, command):
    weights = Path("small/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    code, _, err = command("evaluate", "run=small", "num_samples=10")
    assert (code, err.count("\n")) == (1, 1)
    assert "small/weights.safetensors is damaged" in err
