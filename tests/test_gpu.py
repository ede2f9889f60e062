"""On a GPU: a run trains, resumes and is evaluated there, compiled, replayed and plain, as on the CPU."""

import json
from pathlib import Path

import pytest
import torch
from conftest import assert_same_weights, crash_after, scalars, tiny, weights
from contracts import MODELS, binary_images, small

from ladder_vae.maths.keyed_normals import fold, keyed_normals
from ladder_vae.models.evaluator import Settings, image_statistics
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.models.passes import Passes, weigher
from ladder_vae.system import recording
from ladder_vae.system.compilation import compiler
from ladder_vae.system.devices import best_device
from ladder_vae.training import lightning_module
from ladder_vae.training.epoch_checkpoints import EpochCheckpoints
from ladder_vae.training.lightning_module import HierarchicalVAE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
ON = ["trainer.accelerator=cuda", "trainer.precision=32-true"]
COMPILED = [
    pytest.param("false", id="plain"),
    pytest.param(
        "true", id="compiled", marks=pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
    ),
]


def metrics(run):
    return json.loads((run / "metrics.json").read_text())


@pytest.mark.parametrize("compile", COMPILED)
@pytest.mark.parametrize("model", ["ladder", "residual"])
def test_a_run_is_complete_and_was_on_the_device(train, monkeypatch, capfd, compile, model):
    """Its noise is drawn on the device: it is another run than on the CPU, near it in its figures."""
    devices, step = set(), HierarchicalVAE.training_step

    def record(self, x, batch_idx):
        devices.add(x.device.type)
        return step(self, x, batch_idx)

    monkeypatch.setattr(HierarchicalVAE, "training_step", record)
    there = train(
        f"model={model}", *ON, f"trainer.compile={compile}", "trainer.max_epochs=6", run_dir="there"
    )
    assert devices == {"cuda"}
    assert "warning:" not in capfd.readouterr().err  # nothing went on without compilation
    here = train(f"model={model}", "trainer.max_epochs=6", "trainer.compile=false", run_dir="here")
    assert metrics(there).keys() == metrics(here).keys()
    for name in ("elbo", "distortion"):
        assert metrics(there)[f"test/{name}"] == pytest.approx(metrics(here)[f"test/{name}"], rel=0.05)
    assert all(value.device.type == "cpu" for value in weights(there).values())  # opens anywhere


@pytest.mark.parametrize("compile", COMPILED)
def test_a_run_resumes_exactly(train, broken_off, workdir, compile):
    settings = [*ON, f"trainer.compile={compile}"]
    whole = train(*settings, run_dir="whole")
    assert broken_off(EpochCheckpoints, "on_train_epoch_end", crash_after(1), *settings)[0] == 1
    assert_same_weights(whole, workdir / "cut")


@pytest.mark.parametrize("compile", COMPILED)
@pytest.mark.parametrize("model", ["ladder", "residual", "textbook", "bottom_up", "diffusion"])
def test_a_replayed_run_is_the_plain_run(train, monkeypatch, capfd, compile, model):
    """The weights, their average, and beta and learning rate of every step; the last batch is smaller."""
    monkeypatch.setattr(lightning_module, "STEPS_PER_READING", 1)
    recordings, record = [], recording.CudaGraphs.record
    monkeypatch.setattr(
        recording.CudaGraphs, "record", lambda self, function: recordings.append(1) or record(self, function)
    )
    settings = [
        *ON,
        f"model={model}",
        *(["model.norm=layer"] if model == "residual" else []),
        f"trainer.compile={compile}",
        "trainer.max_epochs=4",
        "trainer.gradient_clip_val=100",
        "objective.beta_warmup_epochs=3",
    ]
    ours = train(*settings, "trainer.cuda_graph=true", run_dir="ours")
    assert len(recordings) == 2  # of the last batch of an epoch, too
    assert "warning:" not in capfd.readouterr().err
    theirs = train(*settings, "trainer.cuda_graph=false", run_dir="theirs")
    assert len(recordings) == 2
    for name, value in weights(ours).items():
        torch.testing.assert_close(value, weights(theirs)[name], rtol=1e-3, atol=1e-4)
    for name in ("beta", "lr", "loss"):
        one, two = (scalars(run, f"train/{name}") for run in (ours, theirs))
        assert [(p.step, p.value) for p in one] == [(p.step, pytest.approx(p.value, rel=1e-3)) for p in two]


REGULARIZED = [
    "optimizer=adamax",
    "objective.spectral=0.1",
    "objective.balance_rates=true",
    "objective.beta_warmup_epochs=3",
    "trainer.gradient_skip_factor=1.05",
]


@pytest.mark.parametrize("more", [[], REGULARIZED], ids=["plain", "regularized"])
def test_a_replayed_run_resumes_exactly(train, broken_off, workdir, capfd, more):
    settings = [*ON, "trainer.compile=false", "trainer.cuda_graph=true", "trainer.max_epochs=5", *more]
    whole = train(*settings, run_dir="whole")
    assert "CUDA graph" not in capfd.readouterr().err  # nothing was done without
    assert broken_off(EpochCheckpoints, "on_train_epoch_end", crash_after(3), *settings)[0] == 1
    assert_same_weights(whole, workdir / "cut")


@pytest.mark.parametrize("when", [lambda: True, torch.cuda.is_current_stream_capturing], ids=["", "late"])
def test_a_step_that_reads_from_the_host_goes_on_without_a_graph(command, npz, monkeypatch, when):
    """Also where only the recording fails, which CUDA then invalidates."""
    terms = Hierarchy.terms

    def reading(self, x, noise, *, monte_carlo=False):
        if when():
            x.sum().item()
        return terms(self, x, noise, monte_carlo=monte_carlo)

    monkeypatch.setattr(Hierarchy, "terms", reading)
    code, _, err = command(
        "train", *tiny(npz), *ON, "trainer.compile=false", "trainer.max_epochs=4", "run_dir=run"
    )
    assert code == 0, err
    assert "going on without a CUDA graph, more slowly" in err
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert metrics(Path("run"))["test/elbo"] < 0


def test_a_recording_that_fails_leaves_the_device_as_it_was():
    """Random numbers go on, the cache of memory can be emptied, and other recordings are possible."""
    torch.manual_seed(7)
    expected = [torch.randn(5, device="cuda") for _ in range(2)]
    torch.manual_seed(7)
    found, into = [torch.randn(5, device="cuda")], torch.empty(5, device="cuda")
    with pytest.raises(RuntimeError):
        recording.CudaGraphs().record(lambda: torch.randn(5, device="cuda").sum().item())
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    torch.cuda.empty_cache()
    recording.CudaGraphs().record(lambda: into.normal_())()
    found.append(into)
    torch.testing.assert_close(found, expected)


def test_bfloat16_trains(train):
    run = train("trainer.accelerator=cuda", "trainer.precision=bf16-mixed")
    plain = train(*ON, run_dir="plain")
    assert metrics(run)["test/elbo"] == pytest.approx(metrics(plain)["test/elbo"], rel=0.02)


@pytest.mark.parametrize("compile", COMPILED)
def test_an_evaluation_agrees_with_that_on_the_cpu(train, command, compile):
    """Draws are the same bits, and products are in float32."""
    run = train()
    found = {}
    for device in ("cpu", "cuda"):
        asked = ["num_samples=600", "chunk_size=480", "k=[1,100,600]", f"device={device}"]
        asked.append(f"compile={compile if device == 'cuda' else 'false'}")
        code, _, err = command("evaluate", f"run={run}", *asked)
        assert code == 0, err
        assert "warning:" not in err
        found[device] = metrics(run)
        for path in (run / "evaluation").rglob("images.npz"):
            path.unlink()
    for name in ("log_px/K=600", "log_px/K=100", "elbo", "distortion", "rate"):
        assert found["cuda"][f"test/{name}"] == pytest.approx(found["cpu"][f"test/{name}"], abs=1e-3)
    assert found["cuda"]["test/active_units"] == found["cpu"]["test/active_units"]


def test_noise_of_an_evaluation_is_the_same_bits_as_on_the_cpu():
    events = [(64,), (5,), (2, 3, 3)]
    seed, images, draws = torch.tensor(7), torch.arange(300), torch.arange(1000)[:, None]
    here = keyed_normals(fold(fold(seed, images), draws), events)
    there = keyed_normals(fold(fold(seed.cuda(), images.cuda()), draws.cuda()), events)
    for one, two in zip(here, there, strict=True):
        assert two.device.type == "cuda"
        assert torch.equal(one, two.cpu())


@pytest.mark.parametrize("cls", MODELS)
def test_a_replayed_evaluation_is_the_plain_one(cls, monkeypatch, capfd):
    """Several groups of images, the last of which is smaller; in float32, on the same draws."""
    model = small(cls).cuda().eval()
    recordings, record = [], recording.CudaGraphs.record
    monkeypatch.setattr(
        recording.CudaGraphs, "record", lambda self, work: recordings.append(1) or record(self, work)
    )
    settings = Settings(1000, (1, 10, 1000), chunk_size=400)
    passes = Passes(model, None, recording.CudaGraphs())
    for images in (8, 8, 5):
        x, indices = binary_images(images).cuda(), range(images)
        ours = image_statistics(model, x, indices, settings, passes)
        plain = image_statistics(model, x, indices, settings)
        here = image_statistics(model.cpu(), x.cpu(), indices, settings)
        model.cuda()
        for name in ("log_px", "distortion", "rates", "draw_var"):
            torch.testing.assert_close(getattr(ours, name), getattr(plain, name), rtol=0, atol=1e-4)
            torch.testing.assert_close(getattr(ours, name), getattr(here, name), rtol=0, atol=1e-3)
    assert len(recordings) >= 2  # of eight images, and of five
    assert "warning:" not in capfd.readouterr().err


def test_an_evaluation_that_reads_from_the_host_goes_on_without_graphs(capfd):
    model, x = small(MODELS[0]).cuda().eval(), binary_images(8).cuda()

    def reading(x, features, *noise):
        x.sum().item()
        return weigher(model)(x, features, *noise)

    settings = Settings(1000, (1000,), chunk_size=400)
    ours = image_statistics(model, x, range(8), settings, Passes(model, reading, recording.CudaGraphs()))
    assert capfd.readouterr().err.count("going on without CUDA graphs, more slowly") == 1
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    torch.testing.assert_close(
        ours.log_px, image_statistics(model, x, range(8), settings).log_px, rtol=0, atol=1e-4
    )


def test_auto_chooses_the_device(train, command):
    assert best_device() == "cuda"
    run = train("trainer.accelerator=auto")
    assert command("evaluate", f"run={run}", "num_samples=10")[0] == 0
    assert command("analyze", f"run={run}")[0] == 0
