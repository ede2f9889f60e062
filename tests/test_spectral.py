"""The penalty on the largest singular values of the weights."""

import lightning as L
import pytest
import torch
from conftest import assert_same_weights, crash_after, scalars
from contracts import binary_images, small
from test_replay import Again, Recorder
from torch import nn

from ladder_vae import load_run
from ladder_vae.data.batches import Batches
from ladder_vae.models import LadderVAE, ResidualVAE
from ladder_vae.runs.checkpoints import read_checkpoint
from ladder_vae.training import lightning_module, spectral
from ladder_vae.training.epoch_checkpoints import EpochCheckpoints
from ladder_vae.training.lightning_module import HierarchicalVAE
from ladder_vae.training.objective import Objective
from ladder_vae.training.replay import REHEARSALS, WholeStep
from ladder_vae.training.spectral import SpectralNorms, penalized
from ladder_vae.training.step import batch_values

pytestmark = pytest.mark.usefixtures("undrawn")


class Convolutions(nn.Module):
    """Every kind of kernel, two of the same shape, and weights that are none."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.Conv2d(3, 4, 3, bias=False),
            nn.Conv2d(4, 8, 1),
            nn.Conv2d(4, 8, 3, groups=2),
            nn.ConvTranspose2d(8, 3, 2),
            nn.Linear(5, 4),
            nn.BatchNorm2d(4),
            nn.Embedding(3, 2),
        )

    def matrices(self):
        *kernels, transposed, linear, _, _ = self.layers
        return [
            *(k.weight.flatten(1) for k in kernels),
            transposed.weight.transpose(0, 1).flatten(1),
            linear.weight,
        ]


def exact(matrices):
    return sum(torch.linalg.matrix_norm(matrix, ord=2) for matrix in matrices)


def test_the_sum_of_the_largest_singular_values():
    model = Convolutions()
    norms = SpectralNorms(model)
    for _ in range(30):
        found = norms()
    torch.testing.assert_close(found, exact(model.matrices()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("cls", [LadderVAE, ResidualVAE])
def test_one_step_keeps_up_with_weights_that_change(cls):
    model = small(cls)
    norms = SpectralNorms(model)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    for _ in range(20):
        with torch.no_grad():
            for layer in layers:
                layer.weight.add_(torch.randn_like(layer.weight), alpha=0.01)
        found = norms()
    assert found <= exact(layer.weight for layer in layers) * (1 + 1e-5)  # never an overestimate
    torch.testing.assert_close(found, exact(layer.weight for layer in layers), rtol=0.01, atol=0)


def test_the_gradient_is_that_of_the_norms():
    model = Convolutions()
    norms = SpectralNorms(model)
    for _ in range(60):
        norms()
    found = torch.autograd.grad(norms(), [p for p in model.parameters() if p.ndim > 1], allow_unused=True)
    expected = torch.autograd.grad(
        exact(model.matrices()), [p for p in model.parameters() if p.ndim > 1], allow_unused=True
    )
    assert sum(gradient is None for gradient in found) == 1  # of the embedding
    for one, two in zip(found, expected, strict=True):
        if two is not None:
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


def test_a_layer_that_begins_at_zero_is_followed_when_it_wakes_up():
    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.weight)
    norms = SpectralNorms(layer)
    (gradient,) = torch.autograd.grad(norms(), [layer.weight])
    assert torch.equal(gradient, torch.zeros(3, 4))
    nn.init.normal_(layer.weight)
    for _ in range(20):
        found = norms()
    torch.testing.assert_close(found, exact([layer.weight]))


def test_a_model_without_weights_is_refused():
    with pytest.raises(ValueError, match="no linear or convolution layer"):
        SpectralNorms(nn.LayerNorm(3))


def test_the_terms_of_a_penalized_step_stay_as_they_are():
    model, x = small(LadderVAE), binary_images()
    noise, beta = model.draw_noise(1, len(x), like=x), torch.tensor(1.0)
    plain = batch_values(model, Objective())
    found, without = penalized(plain, SpectralNorms(model), 0.5)(x, beta, *noise), plain(x, beta, *noise)
    assert torch.equal(found.distortion, without.distortion)
    assert torch.equal(found.rates, without.rates)
    norms = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]
    torch.testing.assert_close(found.loss - without.loss, 0.5 * exact(norms), rtol=0.02, atol=1e-3)


def test_a_recorded_step_is_that_of_python(monkeypatch):
    """With balanced rates, too: both go on from tensors, which a recording reads and writes."""
    monkeypatch.setattr(spectral, "ITERATIONS", 1)  # for a shorter recording
    objective = Objective(beta_warmup_epochs=1, balance_rates=True)
    found = []
    for recorder in (Recorder(), Again()):
        model = small(LadderVAE, 2, batch_norm=False)
        norms = SpectralNorms(model)
        values = penalized(batch_values(model, objective), norms, 0.5)
        step = WholeStep(
            model, values, torch.optim.Adam(model.parameters(), 1e-2, fused=True), 1, None, recorder
        )
        losses = []
        for number in range(REHEARSALS + 3):
            torch.manual_seed(number)
            losses.append(step(binary_images(), min(1.0, 0.2 * number)).loss)
        found.append([*model.parameters(), *norms.state_dict().values(), *losses])
        assert not step.doubt
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_the_check_of_a_compiled_step_leaves_no_trace(monkeypatch):
    """The penalty is not part of what is compiled, and checked."""
    checks = []

    def checked(function, doubt):
        def call(*arguments):
            if not checks:
                checks.append(doubt(function, arguments))
            return function(*arguments)

        return call

    monkeypatch.setattr(lightning_module, "compiled", checked)
    found = []
    for compile in (True, False):
        make = lambda weights: torch.optim.Adam(weights, 1e-2)  # noqa: E731
        module = HierarchicalVAE(small(LadderVAE, 2), Objective(spectral=0.5), make, compile=compile)
        trainer = L.Trainer(
            max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu",
        )  # fmt: skip
        trainer.fit(module, Batches(255 * binary_images(24).byte(), 8))
        found.append([*module.model.state_dict().values(), *module._norms.state_dict().values()])
    assert checks == [""]
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_a_run_is_regularized_and_resumes_exactly(train, broken_off, workdir, monkeypatch):
    """The vectors are part of the checkpoint; the weights of the run are those of any run."""
    monkeypatch.setattr(lightning_module, "STEPS_PER_READING", 1)
    settings = ["objective.spectral=3", "optimizer.lr=0.02", "scheduler=constant", "trainer.max_epochs=3"]
    whole = train(*settings, run_dir="whole")
    assert broken_off(EpochCheckpoints, "on_train_epoch_end", crash_after(2), *settings)[0] == 1
    assert_same_weights(whole, workdir / "cut")
    kept = [
        read_checkpoint(run / "checkpoints/last.ckpt")[lightning_module.BESIDE]["spectral_norms"]
        for run in (whole, workdir / "cut")
    ]
    assert len(kept[0]) > 2
    for name, vectors in kept[0].items():
        assert torch.equal(vectors, kept[1][name])
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    loss, elbo, distortion, rate, beta = (
        [reading.value for reading in scalars(whole, f"train/{name}")]
        for name in ("loss", "elbo", "distortion", "rate", "beta")
    )
    for step, value in enumerate(loss):
        assert elbo[step] == pytest.approx(-distortion[step] - rate[step], rel=1e-5)
        assert value > distortion[step] + beta[step] * rate[step] + 3

    plain = load_run(train(*settings, "objective.spectral=0", run_dir="plain"), "last").model
    norms = [
        exact(p for p in model.parameters() if p.ndim == 2)
        for model in (load_run(whole, "last").model, plain)
    ]
    assert norms[0] < 0.9 * norms[1]
