"""Every preset trains a step; every group option composes."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from conftest import tiny
from test_readme import commands
from torch.utils.flop_counter import FlopCounterMode

import ladder_vae.conf
from ladder_vae.maths import LogisticMixture
from ladder_vae.models import ConvolutionalVAE
from ladder_vae.training.objective import Objective
from ladder_vae.training.step import batch_values, training_memory

CONF = Path(ladder_vae.conf.__file__).parent
ONE_STEP = [
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=1",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "trainer.accelerator=cpu",
    "data.batch_size=32",
    "data.eval_batch_size=50",
    "run_dir=run",
    "hydra.launcher.jobs=1",
]


NARROWED = {  # what makes few jobs of a sweep, or needs no other run; and how many jobs those are
    "depth_sweep": (["model.num_layers=1,5"], 2),
    "tighter_bound": (["seed=1", "model.num_layers=2"], 2),
    "collapse": (["seed=1", "model.num_layers=2", "model.batch_norm=false"], 2),
    "depth_residual": (["model.num_layers=2"], 2),
    "depth_ladder": (["model.num_layers=2"], 1),
    "convolutional_depth": (["model.num_layers=2"], 1),
    "fine_tune": (["model.batch_norm=false"], 1),  # instead of a trained model to begin with
    "restart": (["init_from=null"], 1),
    # without scikit-image
    "photographs": (["data.train=[china]", "data.test=[flower]", "data.stride=32"], 1),
}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


# Those that a command on a page trains are tested with the pages.
SHOWN = {name for line in commands() for name in re.findall(r"ladder_vae.train .*experiment=(\w+)", line)}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "experiment",
    [
        pytest.param(
            name, marks=pytest.mark.slow if name in ("collapse", "convolutional", "tighter_bound") else ()
        )
        for name in options("experiment")
        if name not in SHOWN
    ],
)
def test_every_experiment_trains_a_step(command, workdir, experiment):
    narrowed, jobs = NARROWED.get(experiment, ([], 1))
    code, _, err = command("train", f"experiment={experiment}", *ONE_STEP, *narrowed)
    assert code == 0, err
    finished = list(workdir.rglob("metrics.json"))
    assert len(finished) == jobs
    for path in finished:
        assert json.loads(path.read_text())["test/elbo"] < 0


PAIRED = [  # every model with every optimizer and every scheduler, and these two with each other
    (model, optimizer, scheduler)
    for number, model in enumerate(options("model"))
    for place, optimizer in enumerate(options("optimizer"))
    for turn, scheduler in enumerate(options("scheduler"))
    if (number + place + turn) % 2 == 0
]


def test_every_pair_of_choices_is_there():
    groups = [options(group) for group in ("model", "optimizer", "scheduler")]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert {(row[i], row[j]) for row in PAIRED} == {(a, b) for a in groups[i] for b in groups[j]}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("model", "optimizer", "scheduler"), PAIRED)
def test_every_model_optimizer_and_schedule_trains(train, model, optimizer, scheduler):
    run = train(
        f"model={model}", f"optimizer={optimizer}", f"scheduler={scheduler}", "trainer.gradient_clip_val=1"
    )
    metrics = json.loads((run / "metrics.json").read_text())
    least = -3000 if model == "diffusion" else -300  # that has one Gaussian step from noise to the image
    assert least < metrics["test/elbo"] < 0
    assert {"test/rate/z1", "test/rate/z2"} <= metrics.keys()


@pytest.mark.parametrize("group", ["data", "logger", "callbacks", "trainer"])
def test_every_option_composes(command, group):
    for option in options(group):
        code, out, err = command("train", f"{group}={option}", "--cfg", "job")
        assert code == 0, err
        assert yaml.safe_load(out)["name"] == "train"


def test_hydra_has_no_mode_but_where_it_is_set(command):
    """As ``finds_no_mode`` in conftest.py takes for granted."""
    code, out, err = command("train", "--cfg", "hydra")
    assert code == 0, err
    assert yaml.safe_load(out)["hydra"]["mode"] is None
    files = {path: yaml.safe_load(path.read_text()) or {} for path in CONF.rglob("*.yaml")}
    setting = {path.parent.name for path, content in files.items() if "mode" in content.get("hydra", {})}
    assert setting == {"experiment"}


def test_settings_that_no_file_lists_are_added_and_checked(command, npz):
    more = ["callbacks=early_stopping", "callbacks.early_stopping.min_delta=0.1", "data.val_size=8"]
    code, _, err = command("train", *tiny(npz), *more, "+optimizer.amsgrad=true", "run_dir=run")
    assert code == 0, err
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["optimizer"]["amsgrad"] is True
    code, _, err = command("train", *tiny(npz), "+optimizer.amsgrad=maybe", "run_dir=other")
    assert code == 1
    assert "optimizer.amsgrad=maybe" in err
    assert "it takes true or false" in err


def test_mixed_precision(train, monkeypatch):
    monkeypatch.setattr("ladder_vae.system.devices.has_bfloat16", lambda device: True)
    run = train("trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1")
    assert json.loads((run / "metrics.json").read_text())["test/elbo"] < 0


def test_the_paper_preset_is_the_papers(command):
    _, out, _ = command("train", "experiment=paper", "--cfg", "job")
    cfg = yaml.safe_load(out)
    assert cfg["model"]["_target_"].endswith("LadderVAE")
    assert (cfg["model"]["num_layers"], cfg["data"]["batch_size"], cfg["data"]["val_size"]) == (5, 256, 0)
    assert (cfg["trainer"]["max_epochs"], cfg["objective"]["beta_warmup_epochs"]) == (2000, 200)
    assert cfg["optimizer"]["lr"] == 1e-3
    assert cfg["optimizer"]["_target_"].endswith(".Adam")
    assert cfg["scheduler"]["_target_"].endswith(".constant")
    assert cfg["trainer"]["gradient_clip_val"] is cfg["callbacks"]["averaging"] is None


def test_the_command_for_cifar10_costs_what_is_said(command):
    """It composes, and its model has the weights, the arithmetic and the memory that stand beside it."""
    text = (Path(__file__).parents[1] / "docs/settings.md").read_text()
    written, said = re.search(r"\n    ladder-vae (train .*?)\n\n(.*?)\n\n", text, re.DOTALL).groups()
    code, out, err = command(*shlex.split(written.replace("\\\n", "")), "--cfg", "job", "--resolve")
    assert code == 0, err
    config = yaml.safe_load(out)
    assert config["data"]["_target_"].endswith(".CIFAR10")
    settings = {name: value for name, value in config["model"].items() if name != "_target_"}
    likelihood, size = LogisticMixture(config["likelihood"]["components"]), config["data"]["batch_size"]
    with torch.device("meta"):
        model = ConvolutionalVAE(**settings | {"input_shape": (3, 32, 32)}, likelihood=likelihood)
        x = torch.empty(2, 3, 32, 32)
        noise = model.terms_noise(1, 2, like=x)
    with FlopCounterMode(display=False) as counter:
        batch_values(model, Objective())(x, x.new_full((), 1.0), *noise).loss.backward()
    assert f"{model.num_layers} levels" in said
    assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million weights" in said
    assert f"{counter.get_total_flops() / 2e9:.1f} GFLOP for each image" in said.replace("\n", " ")
    memory = {w: training_memory(model, Objective(), (size, 3, 32, 32), w) / 2**30 for w in (4, 2)}
    assert "{:.1f} GiB in float32 and {:.1f} GiB in bfloat16".format(*memory.values()) in said.replace(
        "\n", " "
    )


def test_a_users_own_optimizer_by_target(train, workdir):
    (workdir / "mine/optimizer").mkdir(parents=True)
    (workdir / "mine/optimizer/sgd.yaml").write_text("_target_: torch.optim.SGD\n_partial_: true\nlr: 1e-5\n")
    run = train("optimizer=sgd", "--config-dir", "mine")
    assert yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["_target_"] == "torch.optim.SGD"


def test_tiny_images_have_all_metrics(train, workdir):
    import numpy as np

    images = np.random.default_rng(0).random((20, 4, 3))
    np.savez(workdir / "tiny.npz", x_train=images, x_test=images)
    metrics = json.loads((train("data.path=tiny.npz") / "metrics.json").read_text())
    assert 0 < metrics["test/mse"] < 1
    assert -1 <= metrics["test/ssim"] <= 1
