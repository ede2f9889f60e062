"""What a user adds from outside the package: one importable module and one YAML each, by ``--config-dir``."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from conftest import tiny

from ladder_vae import load_run
from ladder_vae.runs.record import write_config
from ladder_vae.system.errors import UserError

MODEL = '''
"""Inference without a dependence between levels: q(z | x) = prod_l q(z_l | x)."""

from ladder_vae.models.rung import Rung
from ladder_vae.models.ladder import LadderVAE


class Alone(Rung):
    def posterior(self, evidence, state, p):
        return evidence


class MeanFieldVAE(LadderVAE):
    """Every level reads the image alone."""

    def __init__(self, input_shape, num_layers: int = 3, latent_sizes: list[int] | None = None, **given):
        super().__init__(input_shape, num_layers, latent_sizes, **given)
        for rung in self.rungs:
            rung.__class__ = Alone
'''
DATA = '''
"""Slanted strokes."""

import torch

from ladder_vae.data.data_sets import ImageData
from ladder_vae.data.sources import Images


class Strokes(ImageData):
    """Lines of three slants on images of 12 x 10 pixels."""

    def __init__(self, count: int = 60, **settings):
        super().__init__(**settings)
        self.count = count

    def load(self):
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(0, 3, (self.count,), generator=generator)
        rows = torch.arange(12).view(1, 12, 1)
        columns = torch.arange(10).view(1, 1, 10)
        place = 4 + (labels.view(-1, 1, 1) - 1) * (rows - 6) / 3
        images = (255 * torch.exp(-((columns - place) ** 2))).byte()[:, None]
        cut = self.count // 3
        return Images(images[cut:], images[:cut], labels[cut:], labels[:cut])
'''
LIKELIHOOD = '''
"""Gray levels as counts."""

import torch

from ladder_vae.maths.gaussian import full_precision
from ladder_vae.maths.likelihoods import Likelihood


class Poisson(Likelihood):
    """Gray levels 0 to ``levels``, Poisson; parameters are logarithms of the expected count."""

    def __init__(self, levels: int = 8):
        self.levels = levels

    def prepare(self, images):
        return (images.float() * self.levels / 255).round()

    def log_prob(self, params, x):
        log_rate = full_precision(params).clamp(max=10)
        return (x * log_rate - log_rate.exp() - torch.lgamma(x + 1)).flatten(-3).sum(-1)

    def mean(self, params):
        return (full_precision(params).exp() / self.levels).clamp(max=1)

    def sample(self, params, generator=None):
        return torch.poisson(full_precision(params).exp(), generator=generator)

    def intensities(self, x):
        return (x / self.levels).clamp(max=1)
'''
PLUGINS = {
    "model": (MODEL, "_target_: my_model.MeanFieldVAE\nnum_layers: 3\nlatent_sizes: null\n"),
    "data": (
        DATA,
        "defaults:\n  - /base/data@_here_\n  - _self_\n\n_target_: my_data.Strokes\ncount: 60\nval_size: 0\n",
    ),
    "likelihood": (LIKELIHOOD, "_target_: my_likelihood.Poisson\nlevels: 8\n"),
}
SMALL = {
    "model": ["model.latent_sizes=[3,2]"],
    "data": ["model.latent_sizes=[3,2]", "model.hidden_sizes=[16,8]"],
    "likelihood": ["model.latent_sizes=[3,2]", "model.hidden_sizes=[16,8]"],
}


@pytest.fixture
def plugin(workdir, monkeypatch):
    """Writes the plug-in of a group; returns what goes on the command line."""
    monkeypatch.syspath_prepend(str(workdir))

    def write(group: str, code: str = "", yaml: str = "") -> list[str]:
        given, configuration = PLUGINS[group]
        (workdir / f"my_{group}.py").write_text(code or given)
        (workdir / "mine" / group).mkdir(parents=True, exist_ok=True)
        (workdir / "mine" / group / "mine.yaml").write_text(yaml or configuration)
        sys.modules.pop(f"my_{group}", None)
        return ["--config-dir", str(workdir / "mine"), f"{group}=mine"]

    return write


@pytest.mark.usefixtures("undrawn", "short_judge")
@pytest.mark.parametrize(
    "group", [pytest.param(group, marks=() if group == "model" else pytest.mark.slow) for group in PLUGINS]
)
def test_a_plugin_trains_resumes_and_is_evaluated_analyzed_and_reported(group, plugin, npz, command, workdir):
    settings = [f"data.path={npz}"] if group != "data" else []
    chosen = [] if group == "data" else ["data=npz"]
    training = [*plugin(group), *chosen, *settings, *SMALL[group], "model.num_layers=2", "data.batch_size=16"]
    code, _, err = command("train", *training, "data.val_size=0", "trainer.max_epochs=2", "run_dir=run")
    assert code == 0, err
    code, _, err = command("train", "resume=run", "trainer.max_epochs=3", "trust=true")
    assert code == 0, err

    code, _, err = command("evaluate", "run=run", "num_samples=20")
    assert code == 1
    assert f"names {group}._target_='my_{group}." in err
    assert "if you trust it, trust=true opens the run" in err
    if group != "data":
        with pytest.raises(UserError, match="trust=true"):
            load_run("run")
    code, _, err = command("evaluate", "run=run", "num_samples=20", "trust=true")
    assert code == 0, err
    small = ["draws=1", "embedded=12", f"classifier_dir={workdir}"]
    code, _, err = command("analyze", "run=run", "trust=true", *small)
    assert code == 0, err
    assert (workdir / "run/analysis.html").exists()
    assert command("report", "run", "--output", "compared")[0] == 0
    metrics = json.loads((workdir / "run/metrics.json").read_text())
    assert metrics["train/epochs"] == 3
    assert metrics["test/log_px/K=20"] > metrics["test/log_px/K=1"]
    assert metrics["test/levels/pixel_change/z1"] > 0
    images = load_run("run", trust=True).model.generate(4).mean
    assert images.shape[0] == 4
    assert 0 <= images.min() <= images.max() <= 1


def test_weights_of_a_plugin_begin_another_run_and_are_released(plugin, npz, command, workdir):
    training = [*plugin("model"), "data=npz", f"data.path={npz}", *SMALL["model"], "model.num_layers=2"]
    few = ["data.batch_size=16", "data.val_size=0", "trainer.max_epochs=1"]
    assert command("train", *training, *few, "run_dir=run")[0] == 0
    code, _, err = command("train", *training, *few, "init_from=run", "run_dir=next")
    assert code == 0, err
    code, _, err = command("train", "data=npz", f"data.path={npz}", "init_from=run", "run_dir=other")
    assert code == 1
    assert "names model._target_='my_model.MeanFieldVAE'" in err

    shutil.copytree("run", "theirs")  # they name our plug-in, too
    saved = yaml.safe_load(Path("theirs/config.yaml").read_text())
    for evil in ({"_target_": "os.system", "command": "touch ran"}, "${oc.decode:1}"):
        write_config(Path("theirs"), saved | {"model": saved["model"] | {"latent_sizes": evil}})
        code, _, err = command("train", *training, *few, "init_from=theirs", "run_dir=other")
        assert code == 1
        assert "theirs/config.yaml names model._target_='my_model.MeanFieldVAE'" in err
    assert not Path("ran").exists()

    code, _, err = command("release", "run", "small")
    assert code == 1
    assert "if you trust it" in err
    assert command("release", "--trust", "run", "small")[0] == 0


def test_a_class_that_a_trusted_run_names_and_that_is_gone(plugin, npz, command):
    training = [*plugin("model"), "data=npz", f"data.path={npz}", *SMALL["model"], "model.num_layers=2"]
    assert command("train", *training, "data.batch_size=16", "trainer.max_epochs=1", "run_dir=run")[0] == 0
    plugin("model", "x = 1\n")
    code, _, err = command("evaluate", "run=run", "num_samples=10", "trust=true")
    assert code == 1
    assert err.count("\n") == 1
    assert "its config.yaml does not make a my_model.MeanFieldVAE" in err


BROKEN = {
    "that does not import": ("import nowhere_to_be_found\n", "", "my_model.MeanFieldVAE cannot be imported"),
    "without its class": ("x = 1\n", "", "my_model.MeanFieldVAE does not exist"),
    "of another kind": ("class MeanFieldVAE:\n    num_layers = 3\n", "", "does not make a Hierarchy"),
    "with a setting that it does not have": (
        MODEL,
        "_target_: my_model.MeanFieldVAE\nnum_layers: 3\nwidth: 3\n",
        "there is no setting model.width",
    ),
    "that names a module": (
        MODEL + "\n\nclass Other(LadderVAE):\n    pass\n",
        "_target_: my_model\nnum_layers: 3\n",
        "model._target_=my_model is a module; name my_model.MeanFieldVAE or my_model.Other",
    ),
    "with the name of one of ours": (
        MODEL.replace("class MeanFieldVAE(LadderVAE)", "class TextbookVAE(LadderVAE)"),
        "_target_: my_model.TextbookVAE\nnum_layers: 3\n",
        "has the name of ladder_vae.models.textbook.TextbookVAE, so that reports could not tell",
    ),
    "that names nothing": (
        MODEL,
        "num_layers: 3\n",
        "model names nothing to make; set model._target_ to a Hierarchy",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("multirun", [False, True])
def test_a_broken_plugin_is_refused_before_anything_starts(what, multirun, plugin, npz, command, workdir):
    code, yaml, said = BROKEN[what]
    settings = [*plugin("model", code, yaml), "data=npz", f"data.path={npz}", "run_dir=run"]
    exit_code, _, err = command("train", *(["-m", *settings, "seed=1,2"] if multirun else settings))
    assert exit_code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert said in line
    assert not (workdir / "run").exists()


def test_a_config_folder_that_is_not_there(command, npz):
    code, _, err = command("train", "--config-dir", "nowhere", *tiny(npz), "run_dir=run")
    assert code == 1
    assert err.count("\n") == 1


def test_a_config_folder_without_our_groups(npz, command, workdir):
    (workdir / "mine").mkdir()
    (workdir / "mine/mine.yaml").write_text("_target_: my_model.MeanFieldVAE\n")
    code, _, err = command("train", "--config-dir", "mine", "model=mine", *tiny(npz), "run_dir=run")
    assert code == 1
    assert err.count("\n") == 1
    assert "--config-dir=mine holds no file of a group; put one into a folder of it that is named" in err
    assert "as in mine/model/mine.yaml" in err


def test_a_configuration_with_the_name_of_one_of_ours(plugin, npz, command, workdir):
    given = plugin("model")
    (workdir / "mine/model/mine.yaml").rename(workdir / "mine/model/ladder.yaml")
    code, _, err = command("train", *given[:2], "model=ladder", *tiny(npz), "run_dir=run")
    assert code == 1
    assert err.count("\n") == 1
    assert "mine/model/ladder.yaml has the name of a configuration of ours" in err


def test_an_old_run_whose_names_are_not_in_the_table(trained, command):
    """It names a class that no version has any more, and trust would not help."""
    run = trained()
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("ladder_vae.models.LadderVAE", "ladder_vae.nets.GoneVAE"))
    code, _, err = command("evaluate", f"run={run}", "num_samples=10", "trust=true")
    assert code == 1
    assert err.count("\n") == 1
    assert "model._target_=ladder_vae.nets.GoneVAE, which this version does not have; it has" in err
    code, _, err = command("train", f"resume={run}", "trainer.max_epochs=3")
    assert code == 1
    assert "model._target_=ladder_vae.nets.GoneVAE, which is not of this version" in err
