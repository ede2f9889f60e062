"""How the code hangs together: floors, the list of packages, the length of files, what a start imports."""

import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from ladder_vae.settings import hydra_internals

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/ladder_vae"
SOURCES = [*PACKAGE.rglob("*.py"), *(ROOT / "src/hydra_plugins").glob("*.py")]
LONGEST = 300  # lines


def test_imports_point_down():
    """The floors stand in pyproject.toml."""
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def test_the_wheel_holds_every_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = project["tool"]["setuptools"]["packages"]
    folders = [path.parent.relative_to(ROOT / "src") for path in PACKAGE.rglob("__init__.py")]
    there = [".".join(folder.parts) for folder in folders]
    assert sorted(listed) == sorted([*there, "ladder_vae.conf", "hydra_plugins"])


def test_no_file_is_long():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {str(path): lines for path, lines in lengths.items() if lines > LONGEST} == {}


def test_one_file_knows_the_inside_of_hydra():
    knowing = [path for path in SOURCES if "from hydra._internal" in path.read_text(encoding="utf-8")]
    assert knowing == [Path(hydra_internals.__file__)]


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("ladder_vae.report, ladder_vae.__main__", ["torch", "hydra", "lightning", "matplotlib"]),
        ("ladder_vae.evaluate, ladder_vae.analyze", ["lightning", "torchmetrics"]),
    ],
)
def test_what_a_command_need_not_import(modules, absent):
    code = f"import sys, {modules}; print([name for name in {absent} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
