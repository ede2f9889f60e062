"""The benchmarks still run, and their pages show what they found. How fast anything is, is no test."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import __main__ as bench  # noqa: E402
from benchmarks import draw, growth, training, usual  # noqa: E402


@pytest.fixture
def found():
    return json.loads((ROOT / "benchmarks/results.json").read_text())


@pytest.mark.parametrize("name", ["results", "results_amx"])
def test_the_page_shows_the_results(name):
    found = json.loads((ROOT / f"benchmarks/{name}.json").read_text())
    page = (ROOT / "benchmarks/README.md").read_text()
    assert found["machine"] in page
    for measure, value in bench.rows(found):
        assert f"| {measure} | {value} |" in page, measure


def test_pictures(found, tmp_path):
    draw.speeds(found, tmp_path / "speed.png")
    draw.growth(found, tmp_path / "growth.png")
    assert (tmp_path / "speed.png").stat().st_size > 10_000
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_the_usual_way_trains(tmp_path):
    assert usual.usual_training(tmp_path, training.five_levels(), 16, workers=0)(2) > 0


def test_a_step_costs_time():
    assert growth.step_cost(2, 8)["ms"] > 0


def test_the_settings_compose(tmp_path):
    cfg = training.settings(tmp_path, "trainer.max_epochs=3")
    assert (cfg.data.batch_size, cfg.trainer.max_epochs, cfg.model.num_layers) == (training.BATCH, 3, 5)


def test_phases_of_the_start_have_names():
    from benchmarks import jobs

    assert len(re.findall(r"\blap\(\)", jobs.START)) - 1 == len(jobs.PHASES)


def test_what_the_start_imports_is_there():
    from benchmarks import jobs

    lines = re.findall(r"^(?:from|import) ladder_vae.*?(?=;|$)", jobs.START, re.MULTILINE)
    assert lines
    for line in lines:
        exec(line, {})
