"""One catalogue of metrics: what stands there shows up everywhere."""

import json
import sys

import pytest
from conftest import events

from ladder_vae.analysis.influence import CHANGES
from ladder_vae.runs.metrics import DRAWS, OF_LEVELS, OF_RUNS, OF_UNITS, Metric, hparams_columns

LEFT = Metric(
    "left_change",
    "left half",
    1,
    "%",
    in_hparams=True,
    drawn="drawn anew: left half (%)",
    against=DRAWS,
    said="the ink on the left by",
    what="the left half",
)


def left_change(image, base):
    half = image.shape[-1] // 2
    return (image - base)[..., :half].abs().flatten(1).mean(1)


@pytest.mark.usefixtures("undrawn", "short_judge")
def test_a_metric_of_a_level_is_one_entry(train, command, workdir, monkeypatch):
    """In table, chart, sentence, page, report and TensorBoard's table of hyperparameters."""
    for module in [m for name, m in sys.modules.items() if name.startswith("ladder_vae.")]:
        if getattr(module, "OF_LEVELS", None) is OF_LEVELS:
            monkeypatch.setattr(module, "OF_LEVELS", (*OF_LEVELS, LEFT))
    monkeypatch.setitem(CHANGES, "left_change", left_change)
    seen = []
    from ladder_vae.drawing import charts

    save = charts.save_estimates
    monkeypatch.setattr(
        charts,
        "save_estimates",
        lambda path, panels, **how: seen.append(panels) or save(path, panels, **how),
    )
    run = train("data.val_size=0")
    code, out, err = command("analyze", f"run={run}", "draws=1", "embedded=5", f"classifier_dir={workdir}")
    assert code == 0, err
    page = (run / "analysis.md").read_text()
    assert "left half" in out
    assert "| left half |" in page
    assert "the ink on the left by" in page
    assert "three things are measured" in page
    assert [bar.label for bar in seen[0]["drawn anew: left half (%)"]] == [
        "z2", "z1", "all levels", "same posterior",
    ]  # fmt: skip
    found = json.loads((run / "metrics.json").read_text())["test/levels/left_change/z1"]
    assert command("report", str(run), "--output", "compared")[0] == 0
    assert f"{100 * found:.1f}" in (workdir / "compared/report.md").read_text()
    assert "left half (%)" in seen[-1]
    summary = str(events(run).SummaryMetadata("_hparams_/experiment").plugin_data.content)
    assert "test/levels/left_change/z2" in summary


def test_names_are_unique_and_headings_have_units():
    names = [metric.name for metric in (*OF_RUNS, *OF_UNITS, *OF_LEVELS)]
    assert len(set(names)) == len(names)
    assert OF_RUNS[0].heading == "ELBO (nats)"
    assert OF_LEVELS[1].text(0.1234) == "12.3"
    assert hparams_columns(3)[:2] == ["test/elbo", "test/log_px/K=1000"]
