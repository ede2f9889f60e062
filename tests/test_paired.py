"""Differences of runs on the same images, from what their evaluations kept."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from ladder_vae.comparison.groups import group_runs
from ladder_vae.comparison.paired import paired_differences, read_image_bounds
from ladder_vae.comparison.tables import paired_rows
from ladder_vae.runs.record import read_record

pytestmark = pytest.mark.usefixtures("undrawn")


def kept(run, k, sizes=(1, 10)):
    """Bounds of each image as `evaluate` keeps them."""
    (path,) = run.glob("evaluation/*/images.npz")
    with np.load(path) as images:
        return images["log_px"][:, sizes.index(k)].astype(float)


@pytest.fixture
def evaluated(trained, command, shelf):
    """Two seeds of one level and one run of two, evaluated on all 24 test images; each test has a copy."""
    before, sweep = shelf / "paired", Path("sweep")
    if before.exists():
        shutil.copytree(before, sweep)
    else:
        for seed in (1, 2):
            one = ("model.num_layers=1", "model.latent_sizes=[4]", "model.hidden_sizes=[16]")
            trained(*one, f"seed={seed}", run_dir=f"sweep/one{seed}")
        trained(run_dir="sweep/two")
        assert command("evaluate", f"run={sweep}", "num_samples=10", "k=[1,10]")[0] == 0
        shutil.copytree(sweep, before)
    return [sweep / "one1", sweep / "one2"], sweep / "two"


def test_the_difference_image_by_image(evaluated, command):
    one, two = evaluated
    records = [read_record(run) for run in (*one, two)]
    groups = sorted(group_runs(records), key=lambda group: group.depth)
    (difference,) = paired_differences(groups, "test", 10)
    by_hand = kept(two, 10) - (kept(one[0], 10) + kept(one[1], 10)) / 2
    assert difference.images == 24
    assert (difference.first.depth, difference.second.depth) == (1, 2)
    assert difference.log_px == pytest.approx(by_hand.mean(), abs=1e-9)
    assert difference.log_px_error == pytest.approx(by_hand.std(ddof=1) / math.sqrt(24), abs=1e-9)
    assert difference.elbo == pytest.approx(
        records[2].metrics["test/elbo"]
        - (records[0].metrics["test/elbo"] + records[1].metrics["test/elbo"]) / 2
    )
    assert difference.log_px_error < difference.unpaired_error  # the same images are hard for both
    code, out, err = command("report", "sweep")
    assert code == 0, err
    text = Path("sweep/report.md").read_text()
    cell = f"{abs(difference.log_px):.2f} ± {difference.log_px_error:.2f}"
    (row,) = [line for line in text.splitlines() if " → " in line and " | 24 | " in line]
    assert all(group.label in row for group in groups)
    assert cell in row
    assert "on the same images" in out
    assert cell in out


def test_differences_of_bounds_on_256_values_are_in_bits_per_dimension_too(evaluated):
    one, two = evaluated
    groups = group_runs([read_record(run) for run in (*one, two)])
    headings, ((*plain,),) = paired_rows(groups)
    assert not [heading for heading in headings if "bits" in heading]
    for group in groups:
        for run in group.runs:
            bound = "test/log_px/K=10"
            run.metrics["test/bits_per_dim/K=10"] = -0.25 * run.metrics[bound]
    (difference,) = paired_differences(groups, "test", 10)
    headings, (row,) = paired_rows(groups)
    cells = dict(zip(headings, row, strict=True))
    assert row[:4] + row[6:] == plain
    value, error = difference.log_px, difference.log_px_error
    assert cells["change of L_10 (nats)"] == f"{value:+.2f} ± {error:.2f}"
    assert cells["change of L_10 (bits per dimension)"] == f"{-0.25 * value:+.4f} ± {0.25 * error:.4f}"
    changes = (-0.25 * difference.elbo, 0.25 * difference.elbo_error)
    assert cells["change of ELBO (bits per dimension)"] == "{:+.4f} ± {:.4f}".format(*changes)


@pytest.mark.parametrize("other", ["images", "pixels", "gone"])
def test_other_images_have_no_difference(evaluated, command, other):
    one, two = evaluated
    (path,) = two.glob("evaluation/*/images.npz")
    if other == "gone":
        path.unlink()
    else:
        with np.load(path) as archive:
            arrays = dict(archive)
        if other == "images":
            arrays["indices"] = arrays["indices"] + 1
        else:
            arrays["identity"] = np.asarray("other pixels")
        np.savez(path, **arrays)
    groups = group_runs([read_record(run) for run in (*one, two)])
    assert paired_differences(groups, "test", 10) == []
    assert paired_rows(groups)[1] == []
    assert command("report", "sweep")[0] == 0
    assert "on the same images" not in Path("sweep/report.md").read_text()


def test_only_the_evaluation_that_the_bound_is_from_counts(evaluated, command):
    _, two = evaluated
    record = read_record(two)
    assert read_image_bounds(record, "test", 10).log_px.mean() == pytest.approx(
        record.metrics["test/log_px/K=10"]
    )
    stale = json.loads((two / "metrics.json").read_text()) | {"test/log_px/K=10": -1.0}
    (two / "metrics.json").write_text(json.dumps(stale))
    assert read_image_bounds(read_record(two), "test", 10) is None


def test_an_evaluation_without_metrics_is_passed_over(evaluated, capsys):
    """As ``evaluate binarizations=10`` leaves one for each draw of the pixels."""
    _, two = evaluated
    (path,) = two.glob("evaluation/*/images.npz")
    (two / "evaluation/0").mkdir()
    shutil.copy(path, two / "evaluation/0")
    assert read_image_bounds(read_record(two), "test", 10) is not None
    assert capsys.readouterr().err == ""


def test_of_many_groups_each_is_compared_with_the_best(monkeypatch, evaluated):
    one, two = evaluated
    groups = group_runs([read_record(run) for run in (*one, two)])
    monkeypatch.setattr("ladder_vae.comparison.paired.MOST_GROUPS", 1)
    (difference,) = paired_differences(groups, "test", 10)
    means = [group.mean("test/log_px/K=10") for group in groups]
    assert difference.second is groups[means.index(max(means))]
    assert difference.log_px > 0
