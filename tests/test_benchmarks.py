"""The benchmarks still run, and their pages show what they found. How fast anything is, is no test."""

import json
import re
import sys
from pathlib import Path

import pytest
from conftest import tiny
from test_replay import Again

from ladder_vae.data import Npz
from ladder_vae.models.passes import weigher

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import __main__ as bench  # noqa: E402
from benchmarks import draw, gpu, growth, training, usual  # noqa: E402


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


def test_the_benchmark_of_a_gpu_measures_and_draws(npz, tmp_path, monkeypatch):
    """On a CPU, few and small images, and steps that are replayed by doing them again."""
    monkeypatch.setitem(gpu.RECORDERS, "cpu", Again)
    monkeypatch.setattr(gpu, "BATCH", 20)
    monkeypatch.setattr(gpu, "MNIST", lambda **given: Npz(npz, **given))
    monkeypatch.setattr(gpu, "five_levels", lambda: gpu.LadderVAE((1, 12, 16), 2, [4, 3], [16, 8]))
    monkeypatch.setattr(gpu, "compiled", lambda function, doubt: function)
    run, small = gpu.run_speed, [*tiny(npz), "trainer.compile=false"]
    monkeypatch.setattr(gpu, "run_speed", lambda *given: run(*given[:-2], given[-1], *small))
    found = gpu.measure(1, "cpu", steps=1, epochs=2)
    assert found.keys() == gpu.WAYS.keys()
    assert all(speed > 0 for (speed,) in found.values())
    assert [row[0] for row in gpu.rows(found)] == list(gpu.WAYS.values())
    assert gpu.rows(found)[0][2] == "1.00"
    gpu.draw(found, "a title", tmp_path / "gpu.png")
    assert (tmp_path / "gpu.png").stat().st_size > 5_000


def test_the_benchmark_of_a_gpu_evaluates(npz, monkeypatch):
    monkeypatch.setitem(gpu.RECORDERS, "cpu", Again)
    monkeypatch.setattr(gpu, "DRAWS", 300)
    monkeypatch.setattr(gpu, "MNIST", lambda **given: Npz(npz, **given))
    monkeypatch.setattr(gpu, "five_levels", lambda: gpu.LadderVAE((1, 12, 16), 2, [4, 3], [16, 8]))
    monkeypatch.setattr(gpu, "compiled_weigher", weigher)
    found = gpu.measure_evaluation(1, "cpu", images=20)
    assert found.keys() == gpu.EVALUATIONS.keys()
    assert all(speed > 0 for (speed,) in found.values())
    assert [row[0] for row in gpu.rows(found, gpu.EVALUATIONS)] == list(gpu.EVALUATIONS.values())


def test_the_benchmark_of_a_gpu_needs_one(monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(gpu.UserError, match="there is no NVIDIA GPU here"):
        gpu.main()


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
