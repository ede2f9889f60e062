"""The package from Python: open a run, ask it for what people ask, train without a command line."""

import importlib
import json
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch

import ladder_vae
from ladder_vae.data.arrays import binarize, gray_bytes, model_inputs
from ladder_vae.maths.likelihoods import Bernoulli
from ladder_vae.maths.logistic_mixture import LogisticMixture
from ladder_vae.models.innovations import innovations, render, swap
from ladder_vae.runs.checkpoints import load_run
from ladder_vae.settings.help import COMMANDS
from ladder_vae.system.errors import UserError
from ladder_vae.system.naming import level_index

SHAPE = (1, 12, 16)


@pytest.fixture
def run(trained):
    """Of two levels, on 12x16 pixels."""
    return load_run(trained())


@pytest.fixture
def x(run):
    return run.data.observe("test", range(24))


def test_no_module_hides_a_public_function():
    """Importing ``ladder_vae.report`` sets the attribute ``report`` of the package."""
    for module in pkgutil.walk_packages(ladder_vae.__path__, "ladder_vae."):
        if not module.name.startswith("ladder_vae.conf"):
            importlib.import_module(module.name)
    for name in ladder_vae.__all__:
        assert callable(getattr(ladder_vae, name)), name
    assert not set(ladder_vae.__all__) & set(COMMANDS)
    assert set(ladder_vae.__all__) <= set(dir(ladder_vae))
    assert ladder_vae.binarize([[0, 255]]).tolist() == [[0.0, 1.0]]
    assert ladder_vae.load_run("three_levels").model.num_layers == 3


def test_the_elbo_of_test_images_is_what_training_reports(run, x):
    elbo = run.elbo(x)
    assert elbo.shape == (24,)
    assert float(elbo.mean()) == pytest.approx(run.metrics["test/elbo"], abs=1e-4)
    assert torch.equal(elbo, run.elbo(x))
    assert not torch.equal(elbo, run.elbo(x, seed=1))


def test_the_bound_of_test_images_is_what_an_evaluation_reports(run, x, command):
    command("evaluate", f"run={run.path}", "num_samples=20", "k=[20]", "device=cpu", "compile=false")
    bound = run.log_px(x, 20)
    assert bound.shape == (24,)
    assert float(bound.mean()) == pytest.approx(run.metrics["test/log_px/K=20"], abs=1e-4)
    assert bound.mean() > run.elbo(x, 20).mean()


def test_shapes_are_the_same_on_every_level(run, x):
    found = run.encode(x, 3)
    for level in (0, 1):
        of = found[level]
        assert of is found[f"z{level + 1}"]
        shape = (3, 24, *run.model.event_shapes[level])
        for values in (of.z, of.q.mean, of.q.std, of.p.mean, of.p.std):
            assert values.shape == shape
        assert of.rate().shape == (3, 24)
    plain = run.model.infer(x, noise=run.model.draw_noise(3, 24, like=x))
    assert plain["z1"].z.shape == found["z1"].z.shape
    assert found.log_px.shape == (3, 24)


def test_reconstructions_and_samples(run, x):
    assert run.reconstruct(x).shape == x.shape
    assert torch.equal(run.reconstruct(x, seed=1), run.reconstruct(x, seed=1))
    assert not torch.equal(run.reconstruct(x), run.reconstruct(x))
    assert run.sample(3).shape == (3, *SHAPE)
    assert torch.equal(run.sample(3, seed=1), run.sample(3, seed=1))
    z = run.encode(x[:3])["z1"].z[0]
    for wrong in (0, -1, 2.5, "2"):
        with pytest.raises(ValueError, match=f"n={wrong!r} must be a whole number of images"):
            run.sample(wrong)
    held = run.sample(3, hold={"z1": z})
    assert torch.equal(held, run.sample(3, hold={0: z}))  # a Markov model: the image sees z1 alone
    cold = run.sample(3, temperature={"z2": 0.0, 0: 0.0})
    assert torch.allclose(cold[0], cold[1])


def test_codes_are_swapped_by_name(run, x):
    code = innovations(run.encode(x[:2], seed=0))
    other = innovations(run.encode(x[2:4], seed=1))
    assert torch.equal(render(run.model, swap(code, other, "z2")), render(run.model, swap(code, other, 1)))


def test_nothing_takes_gradients(run, x):
    assert not any(parameter.requires_grad for parameter in run.model.parameters())
    run.model.infer(x).log_px.numpy()
    run.elbo(x).numpy()
    run.reconstruct(x).numpy()


def test_what_is_shown_of_an_object_is_a_line(run, x):
    found = run.encode(x)
    generated = run.model.generate(2)
    for value in (run, run.model, run.data, run.data.source, found, found["z1"], found["z2"].q, generated):
        assert len(repr(value).splitlines()) == 1
        assert len(repr(value)) < 200
    assert "LadderVAE(levels: 2, z1 (4,) to z2 (3,); " in repr(run)
    assert repr(found) == "Inference(levels: 2, draws: 1, images: 24)"


def forms(x):
    """Binary images in the forms that people have them in."""
    return {
        "as they are": x,
        "bytes": (x * 255).byte(),
        "floats up to 255": x * 255,
        "NumPy": x.double().numpy(),
        "booleans": x.bool(),
        "integers": x.long().numpy(),
        "without channels": x[:, 0],
        "rows of pixels": x.flatten(1).numpy(),
        "channels last": x.permute(0, 2, 3, 1),
        "lists": x.tolist(),
        "backwards": x.numpy()[::-1][::-1],
    }


@pytest.mark.parametrize("form", list(forms(torch.zeros(1, *SHAPE))))
def test_images_are_taken_in_any_form(form):
    x = torch.randint(0, 2, (5, *SHAPE), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(model_inputs(forms(x)[form], SHAPE, Bernoulli()), x)


@pytest.mark.parametrize("shape", [SHAPE, SHAPE[1:], (192,)])
def test_a_single_image_is_a_batch_of_one(shape):
    x = torch.ones(SHAPE)
    assert model_inputs(x.reshape(shape), SHAPE, Bernoulli()).shape == (1, *SHAPE)


def test_images_in_color_are_scaled():
    data = torch.arange(256, dtype=torch.uint8).repeat(3)[:600].reshape(2, 3, 10, 10)
    likelihood = LogisticMixture()
    x = likelihood.prepare(data)
    for images in (data, data.permute(0, 2, 3, 1).numpy(), data / 255, data.double(), x, x.numpy()):
        assert torch.allclose(model_inputs(images, (3, 10, 10), likelihood), x, atol=1e-6)
    bright = torch.full((1, 3, 10, 10), 200, dtype=torch.uint8)  # prepared, none of its values is negative
    bright[0, 0, 0] = 131
    assert torch.allclose(
        model_inputs(likelihood.prepare(bright), (3, 10, 10), likelihood), likelihood.prepare(bright)
    )


GRAY = "image 1 has gray pixels, and the pixels of this model are 0 or 1; ladder_vae.binarize"
REFUSED = {
    "gray bytes": (lambda x: (x * 255).byte() // torch.tensor([1, 2]).view(2, 1, 1, 1), GRAY),
    "gray floats": (lambda x: x / torch.tensor([1, 2]).view(2, 1, 1, 1), GRAY),
    "too narrow": (
        lambda x: x[..., 1:],
        r"images of shape \(2, 1, 12, 15\) do not fit; this model takes \(N, 1, 12, 16\), \(N, 12, 16\) or "
        r"\(N, 192\)",
    ),
    "no images": (lambda x: x[:0], "there are no images"),
    "negative": (lambda x: x - 0.5, "images hold values from -0.5 to 0.5; gray values are from 0 to 1, or"),
    "too bright": (lambda x: x * 1000, "images hold values from 0 to 1000"),
    "NaN": (lambda x: x * torch.nan, "images hold values from nan to nan"),
    "text": (lambda x: np.array(["a"]), "images are of type <U1; they are numbers or booleans"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_are_no_images_of_the_model_is_refused(form):
    change, message = REFUSED[form]
    x = torch.ones(2, *SHAPE)
    x[:, :, :6] = 0
    with pytest.raises(ValueError, match=message):
        model_inputs(change(x), SHAPE, Bernoulli())


def test_every_question_looks_at_its_images(run, x):
    for ask in (run.elbo, run.log_px, run.encode, run.reconstruct):
        with pytest.raises(ValueError, match="binarize"):
            ask(x / 2)
    with pytest.raises(ValueError, match="num_samples=0 must be at least 1"):
        run.log_px(x, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * 255, r"values from 0 to 255, and Bernoulli takes 0 to 1; ladder_vae.binarize"),
        (lambda x: x[:, 0], r"images have the shape \(24, 12, 16\); a model takes \(B, C, H, W\)"),
    ],
)
def test_the_model_itself_refuses_what_gave_a_number_in_silence(run, x, change, message):
    with pytest.raises(ValueError, match=message):
        run.model.infer(change(x))


def test_binarize_draws_pixels_with_the_probability_of_their_gray_value():
    gray = torch.full((100, 100), 51, dtype=torch.uint8)
    drawn = binarize(gray)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert abs(float(drawn.mean()) - 0.2) < 0.02
    assert torch.equal(drawn, binarize(gray.numpy() / 255))
    assert torch.equal(drawn, binarize(gray.double()))
    assert not torch.equal(drawn, binarize(gray, seed=1))
    assert gray_bytes([0, 1]).tolist() == [0, 255]


@pytest.mark.parametrize("level", ["z2", 1, np.int64(1), torch.tensor(1)])
def test_a_level_has_a_name_and_an_index(level):
    assert level_index(level, 3) == 1


@pytest.mark.parametrize("level", ["z0", "z4", "2", "Z2", "z", "z-1", -1, 3, 1.0, True, None])
def test_a_level_that_there_is_not(level):
    with pytest.raises(ValueError, match="levels are z1 to z3, or their indices 0 to 2"):
        level_index(level, 3)
    with pytest.raises(ValueError, match="there is one level, z1, whose index is 0"):
        level_index("z2", 1)


TINY = {
    "latent_sizes": [4, 3],
    "hidden_sizes": [16, 8],
    "trainer": {"max_epochs": 1, "accelerator": "cpu"},
    "objective": {"beta_warmup_epochs": 0},
    "logger": "none",
}


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (40, 12, 16), dtype=np.uint8)


@pytest.mark.usefixtures("undrawn", "workdir")
def test_training_from_python_is_training_from_the_command_line(images, command):
    run = ladder_vae.train_model("ladder", num_layers=2, data=images, seed=3, **TINY)
    assert len(run.data.split("test")) == 4  # every tenth
    assert run.path.parent == Path("runs/train")
    data = run.config["data"]["path"]
    code, _, err = command(
        "train",
        "model.num_layers=2",
        "model.latent_sizes=[4,3]",
        "model.hidden_sizes=[16,8]",
        "trainer.max_epochs=1",
        "trainer.accelerator=cpu",
        "objective.beta_warmup_epochs=0",
        "logger=none",
        "seed=3",
        "data=npz",
        f"data.path={data}",
        "run_dir=typed",
    )
    assert code == 0, err
    assert json.loads(Path("typed/metrics.json").read_text())["test/elbo"] == run.metrics["test/elbo"]
    assert run.config == load_run("typed").config


@pytest.mark.usefixtures("undrawn", "workdir")
def test_arrays_with_labels_and_settings(images):
    data = {"x_train": images[:30] / 255, "x_test": images[30:], "y_train": range(30), "batch_size": 8}
    data["y_test"] = range(10)
    run = ladder_vae.train_model("textbook", num_layers=2, data=data, run_dir="run", **TINY)
    assert run.path == Path("run")
    assert run.config["data"]["batch_size"] == 8
    assert torch.equal(run.data.source.test[:, 0], torch.from_numpy(images[30:]))
    assert torch.equal(run.data.source.train[:, 0], torch.from_numpy(images[:30]))
    assert run.data.labels("test").tolist() == list(range(10))
    assert len(list(Path("runs/arrays").iterdir())) == 1
    with pytest.raises(UserError, match="run_dir=run already holds a run"):
        ladder_vae.train_model("textbook", num_layers=2, data=data, run_dir="run", **TINY)
    assert len(list(Path("runs/arrays").iterdir())) == 1  # written once


@pytest.mark.usefixtures("workdir")
def test_an_experiment_chooses_the_model_and_its_settings(monkeypatch):
    composed = []

    def refuse(config):
        composed.append(config)
        raise UserError("seen")

    monkeypatch.setattr("ladder_vae.training.from_python.check_run", refuse)
    with pytest.raises(UserError, match="seen"):
        ladder_vae.train_model(experiment="diffusion_limit", width=8, **{"optimizer.lr": 0.5})
    with pytest.raises(UserError, match="seen"):
        ladder_vae.train_model("residual", experiment="diffusion_limit")
    chosen, named = composed
    assert (chosen.model._target_, chosen.model.width) == ("ladder_vae.models.Diffusion", 8)
    assert (chosen.optimizer._target_, chosen.optimizer.lr) == ("torch.optim.AdamW", 0.5)
    assert chosen.data._target_.endswith("MNIST")
    assert named.model._target_ == "ladder_vae.models.ResidualVAE"


WRONG = {
    "model": ({"model": "laddr"}, "there is no model/laddr; choose bottom_up"),
    "name": ({"num_layer": 3}, "there is no setting model.num_layer; did you mean model.num_layers?"),
    "group": ({"max_epochs": 3}, "did you mean trainer.max_epochs?"),
    "type": ({"num_layers": "three"}, "it takes a whole number"),
    "together": ({"num_layers": 3, "latent_sizes": [1, 2]}, "num_layers=3 needs 3 latent sizes"),
    "data set": ({"data": "mnits"}, "there is no data/mnits; choose cifar10"),
    "sweep": ({"experiment": "depth_sweep"}, "trains several runs; ladder-vae sweep does"),
    "labels alone": ({"data": {"y_train": [1]}}, "data has y_train, but no x_train"),
    "color": ({"data": np.zeros((40, 8, 8, 3))}, "set likelihood=logistic_mixture"),
    "seed": ({"seed": -1}, "seed=-1 must be from 0"),
}


@pytest.mark.usefixtures("workdir")
@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_trained_is_refused_before_a_run_begins(wrong):
    settings, message = WRONG[wrong]
    with pytest.raises(UserError, match=message) as refused:
        ladder_vae.train_model(**settings)
    assert "--cfg" not in str(refused.value)
    assert not list(Path().rglob("status.json"))


@pytest.mark.usefixtures("workdir")
def test_images_of_no_gray_values_are_refused(images):
    with pytest.raises(ValueError, match="gray values are from 0 to 1"):
        ladder_vae.train_model(data=images - 300.0)


@pytest.mark.usefixtures("undrawn", "workdir")
def test_rows_of_pixels_of_square_images_are_images():
    rows = np.random.default_rng(0).random((20, 64))
    run = ladder_vae.train_model(num_layers=2, data=rows, **TINY)
    assert run.data.image_shape == (1, 8, 8)
    assert run.elbo(binarize(rows)).shape == (20,)
