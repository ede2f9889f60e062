"""Passes of an evaluation: the same draws however they are cut, and recorded as they are computed.

On a GPU the recording is a CUDA graph; here it is a graph of PyTorch's operations (tests/test_replay.py).
"""

import json

import pytest
import torch
from contracts import MODELS, binary_images, small
from test_replay import Doubts, Recorder, Refuses

from ladder_vae.maths import LogisticMixture
from ladder_vae.models import Diffusion, LadderVAE
from ladder_vae.models.evaluator import Settings, image_statistics
from ladder_vae.models.passes import Group, Passes, draws_per_pass
from ladder_vae.models.statistics import IMAGE_FIELDS
from ladder_vae.system.recording import REHEARSALS

SETTINGS = Settings(300, (1, 10, 300), chunk_size=80)  # of 4 images: 20 draws a pass
LATER = (300 - 100) // 20  # passes behind the first 100 draws, of which more is kept


@pytest.fixture
def model_and_images(request):
    torch.manual_seed(0)
    model = small(getattr(request, "param", LadderVAE)).eval()
    return model, binary_images()[:4]


def same(one, two, exactly=False):
    tolerance = {"rtol": 0, "atol": 0} if exactly else {"rtol": 1e-5, "atol": 1e-5}
    for name in IMAGE_FIELDS:
        torch.testing.assert_close(
            getattr(one, name), getattr(two, name), **tolerance, equal_nan=True, msg=lambda m, n=name: n + m
        )
    for name, value in vars(one.units).items():
        torch.testing.assert_close(value, getattr(two.units, name), **tolerance)


@pytest.mark.parametrize(
    "model_and_images",
    [pytest.param(cls, marks=() if cls is LadderVAE else pytest.mark.slow) for cls in MODELS],
    indirect=True,
)
def test_a_replayed_evaluation_is_the_plain_one(model_and_images):
    """Group after group, also with other draws of the pixels and with another number of images."""
    model, x = model_and_images
    recorder = Recorder()
    passes = Passes(model, None, recorder)
    cases = [(x, range(4), SETTINGS), (x.flip(0), range(9, 13), SETTINGS)]
    cases.append((x, range(4), Settings(300, (1, 10, 300), 5, chunk_size=80, binarization=3)))
    cases.append((x[:2], [7, 3], SETTINGS))
    for images, indices, settings in cases:
        ours = image_statistics(model, images, indices, settings, passes)
        same(ours, image_statistics(model, images, indices, settings))
    assert recorder.recordings == 2  # of four images, and of two
    assert recorder.replays == 3 * LATER - REHEARSALS + LATER // 2 - REHEARSALS


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Refuses, "operation not permitted when stream is capturing"),
        (Doubts, "it reads numbers from the GPU"),
    ],
)
def test_passes_that_cannot_be_recorded_are_made_all_the_same(model_and_images, capsys, kind, said):
    model, x = model_and_images
    passes = Passes(model, None, kind())
    for _ in range(2):
        ours = image_statistics(model, x, range(4), SETTINGS, passes)
        same(ours, image_statistics(model, x, range(4), SETTINGS))
    assert capsys.readouterr().err == (
        f"warning: going on without CUDA graphs, more slowly: the evaluation cannot be recorded ({said})\n"
    )


def test_few_draws_are_not_recorded(model_and_images):
    model, x = model_and_images
    recorder = Recorder()
    image_statistics(model, x, range(4), Settings(100, (100,)), Passes(model, None, recorder))
    assert recorder.recordings == 0


def test_noise_is_that_of_the_draw_however_it_is_cut(model_and_images):
    model, x = model_and_images
    group = Group(model, x, 30)
    group.begin(x, torch.arange(4) * 12345)
    whole = group.noise(30)
    parts = []
    for count in (1, 9, 20):
        parts.append(group.noise(count))
        group.add(torch.zeros(count, 4), torch.zeros(3, count, 4))
    for level, noise in enumerate(whole):
        assert torch.equal(torch.cat([part[level] for part in parts]), noise)
    assert torch.equal(torch.cat([part[0] for part in parts])[:, 2], whole[0][:, 2])


def test_the_first_draws_are_the_same_of_however_many(model_and_images):
    model, x = model_and_images
    firsts = []
    for draws in (10, 200):
        passes = Passes(model)
        image_statistics(model, x, range(4), Settings(draws, (1,)), passes)
        (group,) = passes._groups.values()
        firsts.append(group.log_weights[:10])
    torch.testing.assert_close(*firsts, rtol=0, atol=1e-4)


@pytest.mark.parametrize("draws", [1, 3, 10, 101])
@pytest.mark.parametrize("chunk", [4, 12, 1000])
def test_as_many_draws_are_weighted_as_were_asked_for(model_and_images, draws, chunk):
    model, x = model_and_images
    found = image_statistics(model, x, range(4), Settings(draws, (draws,), chunk_size=chunk))
    passes = Passes(model)
    image_statistics(model, x, range(4), Settings(200, (200,)), passes)
    (group,) = passes._groups.values()
    weights = group.log_weights[:draws]
    torch.testing.assert_close(found.elbo, weights.mean(0), rtol=0, atol=1e-4)
    assert found.log_px.shape == (4, 1)


@pytest.mark.parametrize("likelihood", [None, LogisticMixture(2)])
@pytest.mark.parametrize("cls", MODELS)
def test_no_pass_reads_from_the_host(cls, likelihood):
    """On the meta device nothing has a value that could be read."""
    with torch.device("meta"):
        model = cls((1, 28, 28), 3, likelihood=likelihood).eval()
        x, keys = torch.empty(4, 1, 28, 28), torch.empty(4, dtype=torch.int64)
    with torch.inference_mode():
        passes = Passes(model)
        group = passes.group(x, keys, 50)
        passes(group, model.encode(x), 20)
        passes(group, None, 30)
        assert [sums.device.type for sums in group.sums()] == ["meta"] * 3


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_an_evaluation_on_a_device_that_records(trained, command, monkeypatch):
    run = trained()
    recorder, found = Recorder(), []
    for recorders in ({}, {"cpu": lambda: recorder}):
        monkeypatch.setattr("ladder_vae.evaluation.parts.RECORDERS", recorders)
        code, _, err = command("evaluate", f"run={run}", "num_samples=400", "k=[1,400]", "chunk_size=480")
        assert code == 0, err
        assert "warning:" not in err
        found.append(json.loads((run / "metrics.json").read_text()))
        for path in (run / "evaluation").rglob("images.npz"):
            path.unlink()
    assert recorder.replays > 10
    for name in set(found[0]) - {"test/evaluation_seconds"}:
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-4, abs=1e-5), name


def test_a_pass_fills_a_gpu_and_not_its_memory():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    model = small(LadderVAE)
    assert draws_per_pass(model, (1, 12, 16), cpu) == 1000
    assert draws_per_pass(model, (1, 12, 16), cuda) == 50_000
    color = LadderVAE((3, 32, 32), 2, likelihood=LogisticMixture(10))
    numbers = LogisticMixture(10).channels(3) * 32 * 32
    assert draws_per_pass(color, (3, 32, 32), cuda) * numbers == pytest.approx(40e6, rel=0.01)
    spatial = small(LadderVAE)
    for rung in spatial.rungs:
        rung.event_shape = (16, 64, 64)
    for device in (cpu, cuda):
        assert draws_per_pass(spatial, (1, 12, 16), device) == 40_000_000 // (3 * 16 * 64 * 64)
    for levels in (3, 5_001):  # of which a draw looks at one
        assert draws_per_pass(small(Diffusion, levels), (1, 12, 16), cpu) == 1000
