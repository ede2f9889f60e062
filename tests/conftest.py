import base64
import hashlib
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from contracts import BY_NAME, sizes
from hydra._internal.hydra import Hydra
from matplotlib.figure import Figure
from omegaconf import omegaconf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ladder_vae.analysis import classifier
from ladder_vae.explorer import page
from ladder_vae.runs.checkpoints import read_checkpoint
from ladder_vae.system import devices
from ladder_vae.training.epoch_checkpoints import EpochCheckpoints

os.environ.pop("HYDRA_FULL_ERROR", None)
# `make test` runs two tests at once; threads that wait for each other would slow both.
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def parse_once():
    """Each text of YAML that Hydra loads is parsed once; OmegaConf copies what it is given."""
    parsed: dict[str, object] = {}

    def load(stream, Loader):
        text = stream if isinstance(stream, str) else stream.read()
        if text not in parsed:
            parsed[text] = yaml.load(text, Loader)
        return parsed[text]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(omegaconf, "yaml", SimpleNamespace(**{**vars(yaml), "load": load}))
        yield


@pytest.fixture
def float64():
    """The test computes in float64, and draws the same at every call."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def npz(tmp_path_factory) -> Path:
    """40 training and 24 test images of 12x16 pixels, with labels."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(
        path,
        x_train=rng.integers(0, 256, (40, 12, 16), dtype=np.uint8),
        x_test=rng.integers(0, 256, (24, 12, 16), dtype=np.uint8),
        y_train=rng.integers(0, 3, 40),
        y_test=rng.integers(0, 3, 24),
    )
    return path


@pytest.fixture(autouse=True)
def on_the_cpu(request, monkeypatch):
    """Beside a GPU, too, but for tests that are marked ``gpu``: figures of two devices differ by rounding."""
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setattr(devices, "best_device", lambda: "cpu")


PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def save_a_pixel(figure: Figure, path: Path, **settings) -> None:
    """In place of ``Figure.savefig``."""
    Path(path).write_bytes(PIXEL)


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are put together, but a pixel is saved in their place: where no test looks at them.

    So is an empty page in place of the one to play with.
    """
    monkeypatch.setattr(Figure, "savefig", save_a_pixel)

    def save_nothing(subject, seed=0):
        (subject.run.path / page.FILE).write_text("")
        return subject.run.path / page.FILE

    monkeypatch.setattr(page, "write", save_nothing)


@pytest.fixture
def short_judge(monkeypatch):
    """The classifier of an analysis is trained for a few steps: where no test asks how good it is."""
    monkeypatch.setattr(classifier, "EPOCHS", 1)
    monkeypatch.setattr(classifier, "LEAST_STEPS", 10)


@pytest.fixture
def workdir(tmp_path, monkeypatch) -> Path:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def folder(workdir) -> Path:
    """A good run and one to be broken."""
    from test_report import fake_run

    for name in ("good", "broken"):
        fake_run(workdir / "runs" / name, 2, 1, -100.0)
        (workdir / "runs" / name / "checksums.json").unlink()  # a stranger has none, or makes them fit
    return Path("runs")


SETS_A_MODE = ("experiment", "hydra", "--config")


def finds_no_mode(args) -> bool:
    """Whether what Hydra composes first, only to look up ``hydra.mode``, could but find null there."""
    return not any(str(arg).lstrip("+~").startswith(SETS_A_MODE) for arg in args)


@pytest.fixture
def command(workdir, monkeypatch, capsys):
    """Calls ``python -m ladder_vae.NAME args`` in this process: (exit code, stdout, stderr)."""
    from ladder_vae import analyze, evaluate, explore, export, limit, release, report, sweep, train

    mains = {
        "train": train.main,
        "evaluate": evaluate.main,
        "analyze": analyze.main,
        "limit": limit.main,
        "explore": explore.main,
        "export": export.main,
        "release": release.main,
        "report": report.main,
        "sweep": sweep.main,
    }

    def call(name: str, *args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"ladder_vae/{name}.py", *map(str, args)])
        capsys.readouterr()
        with monkeypatch.context() as patched:
            if finds_no_mode(args):  # then composing once is enough
                patched.setattr(Hydra, "get_mode", lambda *_, **__: None)
            with pytest.raises(SystemExit) as leaving:
                mains[name]()
        out, err = capsys.readouterr()
        return int(leaving.value.code or 0), out, err

    return call


@pytest.fixture
def train(command, npz):
    """Trains a tiny model on the tiny images; returns its run directory."""

    def call(*args: str, run_dir: str = "run") -> Path:
        model = next((a.removeprefix("model=") for a in args if a.startswith("model=")), "ladder")
        code, out, err = command("train", *tiny(npz, model), f"run_dir={run_dir}", *args)
        assert code == 0, err
        assert out.splitlines()[-1] == run_dir
        return Path(run_dir)

    return call


@pytest.fixture(scope="session")
def shelf(tmp_path_factory) -> Path:
    """Keeps what tests have trained."""
    return tmp_path_factory.mktemp("trained")


@pytest.fixture
def trained(train, shelf, monkeypatch):
    """As ``train``, but a run that another test has trained is copied: for tests of what comes after.

    Its pictures are a pixel each, whichever test comes first.
    """

    def call(*args: str, run_dir: str = "run") -> Path:
        kept = shelf / hashlib.sha256(repr(args).encode()).hexdigest()[:16]
        if not kept.exists():
            with monkeypatch.context() as patched:
                patched.setattr(Figure, "savefig", save_a_pixel)
                shutil.copytree(train(*args, run_dir=run_dir), kept)
        else:
            shutil.copytree(kept, run_dir)
        return Path(run_dir)

    return call


class Stop(Exception):
    """Ends a run at once, as a crash would."""


@pytest.fixture
def broken_off(command, npz, monkeypatch):
    """Trains a tiny model into ``cut`` until a method ends it, then resumes it.

    Returns exit code and stderr of what was broken off.
    """

    def call(owner: type, method: str, stand_in, *args: str) -> tuple[int, str]:
        with monkeypatch.context() as patched:
            patched.setattr(owner, method, stand_in)
            code, _, err = command("train", *tiny(npz), *args, "run_dir=cut")
        resumed, _, said = command("train", "resume=cut")
        assert resumed == 0, said
        return code, err

    return call


def crash_after(epochs: int):
    """``EpochCheckpoints.on_train_epoch_end``, with a crash once the checkpoints of an epoch are written."""
    saved = EpochCheckpoints.on_train_epoch_end

    def crash(self, trainer, pl_module):
        saved(self, trainer, pl_module)
        if trainer.current_epoch + 1 == epochs:
            raise Stop

    return crash


def tiny(npz: Path, model: str = "ladder") -> list[str]:
    """Settings of a run of a second: two levels, three steps an epoch, two epochs."""
    return [
        "data=npz",
        f"data.path={npz}",
        "data.batch_size=16",
        "model.num_layers=2",
        *(
            f"model.{key}={str(value).replace(' ', '')}"
            for key, value in sizes(BY_NAME[model], [4, 3], [16, 8]).items()
        ),
        "trainer.max_epochs=2",
        "trainer.accelerator=cpu",
        "callbacks.pictures.every_n_epochs=1",
    ]


def events(run: Path) -> EventAccumulator:
    """What a run told TensorBoard."""
    return EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()


def scalars(run: Path, name: str) -> list:
    """The readings of one curve."""
    return events(run).Scalars(name)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Those of ``last.ckpt``, averaged where averages are kept."""
    return read_checkpoint(run / "checkpoints/last.ckpt")["state_dict"]


def assert_same_weights(a: Path, b: Path) -> None:
    """To the last bit."""
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
