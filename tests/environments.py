"""Run the tests in an environment of its own, with other versions than pip would choose today.

    python tests/environments.py --torch 2.11.0   # that torch, and the torchvision that fits
    python tests/environments.py --oldest         # the lowest allowed versions of six other packages

The environment is made once, below ``.venvs/``. Further arguments go to pytest; without any, the quick tests
run.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
OLDEST = ("lightning", "torchmetrics", "numpy", "matplotlib", "scikit-learn", "tensorboard")
TESTS = ("-n", "2", "-m", "not slow")


class CannotTest(Exception):
    """One line that says why the environment cannot be made."""


def floors() -> dict[str, str]:
    """The lowest version that pyproject.toml allows, by package."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return dict(re.findall(r'^  "([a-z-]+)>=([0-9.]+)', text, re.MULTILINE))


def requirements(torch: str) -> list[str]:
    """That torch and the torchvision that fits; for an empty string the oldest of other packages.

    Raises:
        CannotTest: If it is not a version that could fit.
    """
    if not torch:
        return [f"{name}=={floors()[name]}" for name in OLDEST]
    match = re.fullmatch(r"2\.(\d+)\.\d+", torch)
    if not match:
        raise CannotTest(f"{torch} is not a version of torch 2; name one like 2.11.0")
    # torchvision 0.15 came with torch 2.0, and each minor version since with the next
    return [f"torch=={torch}", f"torchvision==0.{int(match[1]) + 15}.*"]


def environment(name: str, wanted: list[str]) -> Path:
    """The Python of ``.venvs/<name>``, which is made if it is not there.

    Raises:
        CannotTest: If pip does not find the versions, or they do not fit the package.
    """
    directory = ROOT / ".venvs" / name
    python, ready = directory / "bin" / "python", directory / ".ready"
    made_of = "\n".join([*wanted, *floors().values()])  # other floors ask for another environment
    if not ready.exists() or ready.read_text() != made_of:
        print(f"making {directory} with {', '.join(wanted)}; this takes some minutes, once", flush=True)
        venv.create(directory, with_pip=True, clear=True)
        install = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-e",
            f"{ROOT}[dev]",
        ]
        done = subprocess.run([*map(str, install), *wanted], capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(directory)
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
            why = said[-1].removeprefix("ERROR: ") if said else f"pip ended with code {done.returncode}"
            raise CannotTest(
                f"{' and '.join(wanted)} cannot be installed here: {why}; choose another version"
            )
        ready.write_text(made_of)
    return python


def main() -> int:
    """Exit code of the tests, or 1 after one ``error:`` line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--torch", metavar="VERSION")
    which.add_argument("--oldest", action="store_true")
    chosen, options = parser.parse_known_args()
    try:
        if chosen.torch == "":
            raise CannotTest("no version was named; make test-torch TORCH=2.11.0")
        python = environment(
            f"torch-{chosen.torch}" if chosen.torch else "oldest", requirements(chosen.torch or "")
        )
    except CannotTest as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    versions = (
        "import torch, torchvision; print('torch', torch.__version__, 'torchvision', torchvision.__version__)"
    )
    subprocess.run([python, "-c", versions], cwd=ROOT, check=True)
    return subprocess.run([python, "-m", "pytest", *(options or TESTS)], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
