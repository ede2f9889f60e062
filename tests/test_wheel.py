"""The package as others install it: nothing of the checkout is at hand."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def installed(tmp_path) -> Path:
    """The Python of a fresh environment with the wheel, which sees the libraries but not the checkout."""
    there = tmp_path / "wheel"
    there.mkdir()
    source = there / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in ("src", "conf"):
        shutil.copytree(
            ROOT / folder, source / folder, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
        )
    build = [
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "-w",
        str(there),
    ]
    subprocess.run([sys.executable, *build, str(source)], check=True)
    shutil.rmtree(source)
    (wheel,) = there.glob("*.whl")
    venv.create(there / "env", with_pip=False)
    python = there / "env" / "bin" / "python"
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.check_output([python, "-c", script], text=True).strip())
    # A path in a .pth file is searched; .pth files that lie there, as that of the checkout, are not followed.
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    subprocess.run([sys.executable, *install], check=True)
    return python


def run(python: Path, *arguments: str) -> str:
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV", "PYTEST"))
    }
    done = subprocess.run([python, *arguments], cwd=python.parent, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_composes_its_configuration_and_holds_what_it_needs(installed):
    out = run(
        installed,
        "-c",
        "import runpy, sys\n"
        "sys.argv = ['train', '--cfg', 'job', 'experiment=record']\n"
        "try:\n"
        "    runpy.run_module('ladder_vae.train', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as leaving:\n"
        "    print('left with', leaving.code)\n"
        "import ladder_vae, ladder_vae.data as d\n"
        "from ladder_vae import load_run\n"
        "print(ladder_vae.__file__)\n"
        "print(load_run('record').model.generate(2).params.shape)\n"
        "print(len(d.MNIST(val_size=0).split('train')))\n"
        "from importlib import resources\n"
        "from ladder_vae.explorer import page\n"
        "there = resources.files(page.__package__)\n"
        "print(all((there / name).is_file() for name in (*page.SCRIPTS, 'page.html', 'explorer.css')))",
    )
    out, ended, rest = out.partition("left with 0\n")
    assert ended
    assert "_target_: ladder_vae.models.ResidualVAE" in out
    assert "max_epochs: 450" in out
    where, shape, images, explorer = rest.splitlines()
    assert Path(where).is_relative_to(installed.parents[1])
    assert not Path(where).is_relative_to(ROOT)
    assert shape == "torch.Size([2, 1, 28, 28])"
    assert images == "60000"
    assert explorer == "True"
