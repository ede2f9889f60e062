"""The benchmarks still run, and their pages show what they found. How fast anything is, is no test."""

import json
import re
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny
from hydra.utils import instantiate
from test_replay import Again
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ladder_vae.data import Npz
from ladder_vae.models.passes import weigher

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import __main__ as bench  # noqa: E402
from benchmarks import draw, gpu, growth, peers, training, turns, usual  # noqa: E402


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


class Given:
    """Stands for the connection to the process that gives the turns."""

    def __init__(self, *given):
        self.given, self.heard = [*given], []
        self.send, self.recv = self.heard.append, lambda: self.given.pop(0)


def test_a_clock_counts_one_step_and_leaves_out_the_warm_up(monkeypatch):
    monkeypatch.setattr(turns, "time", SimpleNamespace(perf_counter=count().__next__))
    given, model = Given((3.0, 2), (1.0, 1), None), nn.Linear(3, 2)
    clock = turns.Clock(given)
    clock.step(model, 8)
    model(torch.ones(8, 3)).sum().backward()
    clock.step(model, 8)
    assert given.heard == [(8, 2 * 2 * 3 * 2)]  # forward, and the gradient of the weights
    for _ in range(2 + 3):
        clock.step(model, 8)
    assert given.heard[1:] == [3 * 8 / 3]
    clock.step(model, 8)
    with pytest.raises(turns.Over):
        clock.step(model, 5)
    assert given.heard[2:] == [5 / 1]


def test_a_clock_does_not_count_if_told_so():
    given, model = Given(None), nn.Linear(3, 2)
    clock = turns.Clock(given)
    clock.counts = False
    with pytest.raises(turns.Over):
        clock.step(model, 8)
    assert given.heard == [(8, None)]


LOOPS = """
from torch import nn
def train(clock):
    while True:
        clock.step(nn.Linear(3, 2), 10)
def fail(clock):
    print("it begins")
    raise ValueError("and fails")
"""


def test_loops_train_in_turn(tmp_path, monkeypatch, capsys):
    (tmp_path / "some_loops.py").write_text(LOOPS)
    (tmp_path / "run.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    import some_loops

    ways = {"theirs": some_loops.train, "ladder_vae": some_loops.train}
    monkeypatch.setattr(peers, "loops", lambda *given: {"a peer": ways})
    given = ["--pytorch-vae", str(tmp_path), "--repetitions", "2", "--seconds", "0.01"]
    monkeypatch.setattr(sys, "argv", ["peers", *given, "--folder", str(tmp_path / "found")])
    peers.main()
    found = json.loads((tmp_path / "found/results.json").read_text())["peers"]["a peer"]
    assert [(loop["weights"], len(loop["speeds"])) for loop in found.values()] == [(8, 2), (8, 2)]
    assert found["ladder_vae"]["speeds"][0] > 0
    assert "images/s, median of 2 (range)" in capsys.readouterr().out
    with pytest.raises(peers.UserError, match=r"^that failed: ValueError: and fails$"):
        peers.measure({"that": some_loops.fail}, 2, 0.01, tmp_path)


def test_peers_are_compared_with_their_faster_loop():
    def size(operations, *speeds):
        return {"weights": 1000, "operations": operations, "speeds": [*speeds]}

    found = {
        "a": size(1.5e9, 5, 6, 7),
        "a, faster": size(1.5e9, 10, 8, 10),
        "ladder_vae": size(None, 20, 40, 30),
    }
    assert peers.rows(found) == [
        ("a", "1,000", "1.50", "6 (5 to 7)", "0.70 (0.50 to 0.75)"),
        ("a, faster", "1,000", "1.50", "10 (8 to 10)", "1.00 (1.00 to 1.00)"),
        ("ladder_vae", "1,000", "", "30 (20 to 40)", "3.00 (2.00 to 5.00)"),
    ]


@pytest.mark.parametrize(
    ("peer", "side", "weights", "operations"),
    [("ladder-vae-pytorch", 28, 3_209_153, 3.126e9), ("PyTorch-VAE", 64, 4_740_167, 0.317e9)],
)
def test_our_models_are_as_large_as_those_of_peers(tmp_path, peer, side, weights, operations):
    cfg = training.configuration(tmp_path, "model=convolutional", *peers.MODELS[peer])
    model = instantiate(cfg.model, input_shape=[1, side, side])
    with FlopCounterMode(display=False) as counter:
        terms = model.infer(torch.ones(2, 1, side, side)).terms().mean()
        (terms.distortion + terms.rate).backward()
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(weights, rel=0.04)
    assert counter.get_total_flops() / 2 == pytest.approx(operations, rel=0.04)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "give --ladder-vae-pytorch, --pytorch-vae or both"),
        (("--pytorch-vae", "nowhere"), "--pytorch-vae=nowhere has no run.py; give a checkout of github"),
        (("--pytorch-vae", ".", "--repetitions", "0"), "--repetitions must be at least 1"),
        (("--ladder-vae-pytorch", "."), "pip install --no-deps boilr"),
    ],
)
def test_the_benchmark_of_peers_needs_checkouts(tmp_path, monkeypatch, given, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(peers, "PACKAGES", ("boilr", "no_such_package"))
    for script in ("main.py", "run.py"):
        Path(script).touch()
    monkeypatch.setattr(sys, "argv", ["peers", *given])
    with pytest.raises(peers.UserError, match=said):
        peers.main()
