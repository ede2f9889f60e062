"""One command for all: ``ladder-vae``, its help, and the sweep."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import tiny
from test_errors import only_line

import ladder_vae.__main__ as front
from ladder_vae.settings.help import COMMANDS, command_keys, help_of, keys

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


@pytest.fixture
def ladder_vae(monkeypatch, capsys):
    """Calls ``ladder-vae args`` in this process: (exit code, stdout, stderr)."""

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ladder-vae", *args])
        with pytest.raises(SystemExit) as leaving:
            front.main()
        return int(leaving.value.code or 0), *capsys.readouterr()

    return call


def test_the_package_installs_the_command():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = project["scripts"]["ladder-vae"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("args", [[], ["--help"], ["help"]])
def test_it_lists_its_commands(ladder_vae, args):
    code, out, _ = ladder_vae(*args)
    assert code == 0
    for name, what in COMMANDS.items():
        assert f"  {name}" in out
        assert what in out


def test_a_command_that_there_is_not(ladder_vae):
    code, _, err = ladder_vae("trian", "model=ladder")
    assert code == 1
    assert "there is no command trian; did you mean train? choose train, sweep" in only_line(err)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_its_keys_and_nothing_else(ladder_vae, name, workdir):
    code, out, err = ladder_vae(name, "--help")
    assert code == 0
    assert out.startswith(f"usage: ladder-vae {name} ")
    assert err == ""
    assert "Hydra" not in out
    assert not list(workdir.iterdir())


@pytest.mark.parametrize("config", ["evaluate", "analyze"])
def test_help_has_every_key_and_says_what_it_is(config):
    file = ROOT / "conf" / f"{config}.yaml"
    named = {key.name: key for key in keys(file.read_text())}
    values = {k: v for k, v in yaml.safe_load(file.read_text()).items() if k not in ("defaults", "hydra")}
    assert {name for name in named if "." not in name} == set(values)
    assert all(key.said for key in named.values())
    for name, value in values.items():
        if not isinstance(value, dict):
            assert yaml.safe_load(named[name].value) == value
    text = help_of(config, config)
    assert all(f"{key.name}={key.value}" in text for key in named.values() if key.value)


def test_help_of_training_has_the_keys_of_the_choices():
    text = help_of("train", "config", ["model=nvae", "seed=2"])
    assert "model=nvae" in text
    assert "(bottom_up, convolutional, diffusion, ladder, nvae, residual, textbook)" in " ".join(text.split())
    assert "model.scale=0.5" in text
    assert "model.latent_sizes" not in text
    assert "data.batch_size=512" in text  # of the file that data sets begin with
    assert "_target_" not in text
    for line in text.splitlines():
        assert not line.strip().endswith("=")
    settings = [line.split("=")[0].strip() for line in text.splitlines() if "=" in line.split(" # ")[0][:34]]
    assert len(settings) == len(set(settings))


def test_all_keys_of_training_are_explained():
    for group in ("model", "data", "likelihood", "optimizer", "scheduler", "logger", "callbacks"):
        for file in sorted((ROOT / "conf" / group).glob("*.yaml")):
            found = command_keys("config", {group: file.stem})
            groups = ("model", "data", "objective", "likelihood", "trainer", "optimizer", "scheduler")
            silent = [key.name for key in found if not key.said and key.name not in groups]
            assert silent == [], file


@pytest.mark.usefixtures("undrawn")
def test_a_sweep_trains_its_depths_and_compares_them(command, npz, workdir):
    settings = [a for a in tiny(npz) if not a.startswith(("model.num_layers", "trainer.max_epochs"))]
    sizes = ["model.latent_sizes=null", "model.hidden_sizes=null", "trainer.max_epochs=1"]
    code, out, err = command(
        "sweep", *settings, *sizes, "model.num_layers=1,2", "hydra.launcher.jobs=1", "logger=none"
    )
    assert code == 0, err
    report = Path(out.splitlines()[-1])
    assert report.name == "report.html"
    assert report.parent.parent == Path("runs/depth_sweep")
    assert len(list(report.parent.glob("*/metrics.json"))) == 2
    code, out, err = command("sweep", f"resume={report.parent}")  # nothing is left to do
    assert code == 0, err
    assert out.splitlines()[-1] == str(report)


BAD = {
    "resume=x seed=1": "resume= takes the settings of the sweep; leave out all others",
    "run_dir=": "run_dir is empty",
    "model.num_layer=3": "there is no setting model.num_layer; did you mean model.num_layers?",
    "--depth=3": "unrecognized arguments: --depth=3",
}


@pytest.mark.parametrize("arguments", BAD)
def test_a_sweep_that_cannot_start(command, workdir, arguments):
    code, _, err = command("sweep", *arguments.split())
    assert code == 1
    assert BAD[arguments] in only_line(err)
    assert not list(workdir.iterdir())


def test_python_m_finds_the_command(workdir):
    done = subprocess.run([sys.executable, "-m", "ladder_vae", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("ladder-vae ")
