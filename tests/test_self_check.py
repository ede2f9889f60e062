"""A compiled step that computes something else is found out before it trains anything."""

import copy
from pathlib import Path

import pytest
import torch
from conftest import assert_same_weights, tiny, weights
from contracts import MODELS, binary_images, small
from torch import nn

from ladder_vae.evaluation.parts import compiled_weigher
from ladder_vae.maths.gaussian import Gaussian
from ladder_vae.models import LadderVAE, ResidualVAE
from ladder_vae.models.passes import weigher
from ladder_vae.system import compilation
from ladder_vae.system.compilation import compiled, compiler
from ladder_vae.system.self_check import step_doubt
from ladder_vae.training import lightning_module
from ladder_vae.training.objective import Objective
from ladder_vae.training.step import batch_values

OBJECTIVES = {"elbo": Objective(), "weighted": Objective(importance_samples=3)}
PRECISIONS = pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])


class Scaled(torch.autograd.Function):
    """The identity, with a gradient that is off."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


def step_of(model, objective):
    """Arguments of a first step, and what doubts a compiled one."""
    noise = model.terms_noise(objective.importance_samples, 4, like=binary_images())
    doubt = step_doubt(model, lambda twin: batch_values(twin, objective))
    return (binary_images(), torch.tensor(0.0), *noise), doubt  # beta is 0 where it warms up


@PRECISIONS
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("cls", MODELS)
def test_no_model_raises_an_alarm(cls, objective, half):
    """The ELBO of two models in half precision as a compiler traces it; the rest plain.

    All models: in float32 in test_speed.py, and truly compiled in the slow test below.
    """
    if cls.estimates_rates:
        objective = Objective()
    model = small(cls, 2).train(objective.importance_samples == 1)
    arguments, doubt = step_of(model, objective)
    step = batch_values(model, objective)
    if objective.importance_samples == 1 and half and cls in (LadderVAE, ResidualVAE):
        torch.compiler.reset()
        step = torch.compile(step, backend="aot_eager", dynamic=False)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        assert doubt(step, arguments) == ""


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
@PRECISIONS
@pytest.mark.parametrize("cls", MODELS)
def test_no_model_raises_an_alarm_when_compiled(cls, half, capsys):
    torch.manual_seed(0)
    model = cls((1, 28, 28), 3)
    x, objective = (torch.rand(64, 1, 28, 28) < 0.3).float(), Objective()
    plain = batch_values(model, objective)
    step = compiled(plain, step_doubt(model, lambda twin: batch_values(twin, objective)))
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        step(x, torch.tensor(0.3), *model.terms_noise(1, 64, like=x))
    assert capsys.readouterr().err.count("warning:") == 0


@PRECISIONS
@pytest.mark.parametrize("factor", [0.13, 3.0, float("nan")])  # five times the rounding is let pass
def test_a_wrong_gradient_of_right_values_is_caught(factor, half):
    model, objective = small(LadderVAE), Objective()
    arguments, doubt = step_of(model, objective)
    decode = model.decoder.forward
    plain = batch_values(model, objective)

    def broken(*given):
        model.decoder.forward = lambda z: Scaled.apply(decode(z), factor)
        try:
            return plain(*given)
        finally:
            model.decoder.forward = decode

    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        said = doubt(broken, arguments)
    assert said.startswith("the gradient of ")
    assert "is off by " in said


WRONG = {
    "the loss": lambda v: v._replace(loss=v.loss * 1.2),
    "the distortion": lambda v: v._replace(distortion=v.distortion + 3),
    "the rate of z2": lambda v: v._replace(rates=v.rates + torch.tensor([0, 0.5, 0])),
    "the rate of z3": lambda v: v._replace(rates=v.rates * torch.tensor([1, 1, float("nan")])),
}


@PRECISIONS
@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_caught_and_named(name, half):
    model, objective = small(LadderVAE), Objective()
    arguments, doubt = step_of(model, objective)
    plain = batch_values(model, objective)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        assert doubt(lambda *given: WRONG[name](plain(*given)), arguments).startswith(f"{name} is off by ")


def test_a_kink_that_one_batch_meets_is_no_alarm():
    """Two right ways may differ in the sign of an activation that is zero but for rounding."""
    model, objective = small(LadderVAE), Objective()
    arguments, doubt = step_of(model, objective)
    plain, bias = batch_values(model, objective), model.decoder[1].bias

    def flipped(x, *others):
        values = plain(x, *others)
        by = 0.02 if torch.equal(x, arguments[0]) else 0.0
        return values._replace(loss=values.loss + by * (bias - bias.detach()).sum())

    assert doubt(flipped, arguments) == ""


def test_one_weight_among_many_is_named():
    """A gradient that is wrong for a single weight of hundreds."""
    model, objective = small(ResidualVAE), Objective()
    arguments, doubt = step_of(model, objective)
    plain, bias = batch_values(model, objective), model.decoder[1].bias

    def broken(*given):
        values = plain(*given)
        return values._replace(loss=values.loss + 0.05 * (bias - bias.detach()).sum())

    assert doubt(broken, arguments).startswith("the gradient of decoder.1.bias is off by ")


@PRECISIONS
def test_a_wrong_gradient_of_the_rates_is_caught_though_beta_begins_at_zero(monkeypatch, half):
    model, objective = small(LadderVAE), Objective()
    arguments, doubt = step_of(model, objective)
    plain, unit_kl = batch_values(model, objective), Gaussian.unit_kl

    def broken(*given):
        with monkeypatch.context() as patched:
            patched.setattr(Gaussian, "unit_kl", lambda q, p: Scaled.apply(unit_kl(q, p), -3.0))
            return plain(*given)

    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        assert doubt(broken, arguments).startswith("the gradient of ")


def test_what_cannot_be_compared_is_not_compiled():
    class Odd(LadderVAE):
        def encode(self, x):
            if x.dtype == torch.float64:
                raise RuntimeError("expected m1 and m2 to have\nthe same dtype")
            return super().encode(x)

    model, objective = Odd((1, 6, 5), 2), Objective()
    arguments, doubt = step_of(model, objective)
    said = doubt(batch_values(model, objective), arguments)
    assert said == "it could not be compared with the plain one (expected m1 and m2 to have the same dtype)"


def test_frozen_weights_are_no_obstacle():
    model, objective = small(LadderVAE), Objective()
    model.decoder[1].bias.requires_grad_(False)
    arguments, doubt = step_of(model, objective)
    assert doubt(batch_values(model, objective), arguments) == ""


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_the_check_leaves_no_trace(norm):
    model, objective = small(ResidualVAE, dropout=0.4, norm=norm), Objective()
    arguments, doubt = step_of(model, objective)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    before, state = copy.deepcopy(model), torch.get_rng_state()
    assert doubt(batch_values(model, objective), arguments) == ""
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert all((parameter.grad == 7.0).all() for parameter in model.parameters())
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert any(isinstance(m, nn.Dropout) and m.training for m in model.modules())


@pytest.fixture
def traced(monkeypatch):
    """``torch.compile`` without a compiler: what it traces is computed by PyTorch itself."""
    compile = torch.compile
    monkeypatch.setattr(compilation, "compiler", lambda: "g++")
    monkeypatch.setattr(
        torch, "compile", lambda f, **settings: compile(f, backend="aot_eager", dynamic=False)
    )


ONE_LEVEL = ["model=residual", "model.num_layers=1", "model.latent_sizes=[4]"]  # quick to trace


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param([], id="plain", marks=pytest.mark.slow),
        pytest.param([*ONE_LEVEL, "model.norm=layer", "model.dropout=0.5"], id="dropout"),
    ],
)
def test_a_run_is_the_same_with_and_without_the_check(train, traced, monkeypatch, settings):
    """To the last bit; with dropout as well, which the check turns off and on again."""
    checked = train(*settings, "trainer.compile=true", run_dir="checked")
    asked = []
    monkeypatch.setattr(lightning_module, "step_doubt", lambda *_: lambda *given: asked.append(given) or "")
    assert_same_weights(checked, train(*settings, "trainer.compile=true", run_dir="trusted"))
    assert len(asked) == 1  # once a run
    plain = weights(train(*settings, "trainer.compile=false", run_dir="plain"))
    for name, value in weights(checked).items():
        torch.testing.assert_close(value, plain[name])


def test_a_run_that_compiles_wrong_goes_on_as_a_plain_one(command, train, npz, monkeypatch):
    monkeypatch.setattr(compilation, "compiler", lambda: "g++")
    monkeypatch.setattr(
        torch,
        "compile",
        lambda f, **_: (
            lambda *given: (v := f(*given))._replace(loss=v.loss.detach() + 0.1 * (v.loss - v.loss.detach()))
        ),
    )
    code, _, err = command("train", *tiny(npz), "trainer.compile=true", "run_dir=wrong")
    assert code == 0
    (line,) = [line for line in err.splitlines() if line.startswith("warning: going on")]
    assert (
        f"going on without compilation, more slowly: as compiled by torch {torch.__version__} with g++"
        in line
    )
    assert "the gradient of " in line
    assert " is off by 0.9 of its size; another torch may compile it right" in line
    assert_same_weights(train("trainer.compile=false", run_dir="plain"), Path("wrong"))


@pytest.mark.parametrize("cls", MODELS)
def test_a_pass_of_evaluation_is_checked_too(cls, monkeypatch, capsys):
    monkeypatch.setattr(compilation, "compiler", lambda: "g++")
    model, x = small(cls).eval(), binary_images()
    with torch.inference_mode():
        noise, features = model.draw_noise(5, 4, like=x), model.encode(x)
        right = weigher(model)(x, features, *noise)
        for factor, warnings in ((1.0, 0), (1.001, 1)):
            monkeypatch.setattr(
                torch, "compile", lambda f, factor=factor, **_: lambda *g: tuple(factor * v for v in f(*g))
            )
            found = compiled_weigher(model)(x, features, *noise)
            assert torch.equal(found[0], right[0])  # what is wrong is not used
            err = capsys.readouterr().err
            assert err.count("warning: going on without compilation") == warnings
    what = "the rates" if cls.estimates_rates else "log p(x | z)"  # of a diffusion rates are nearly all
    assert f"{what} is off by 0.001 of its size" in err


def test_a_loss_that_is_not_finite_is_not_blamed_on_the_compiler():
    model, objective = small(LadderVAE), Objective()
    model.decoder[1].bias.data.fill_(float("nan"))
    arguments, doubt = step_of(model, objective)
    assert doubt(batch_values(model, objective), arguments) == ""
