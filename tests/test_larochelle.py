"""The fixed binarization of MNIST, from few images in files of the same format."""

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import tiny

from ladder_vae.data import MNIST
from ladder_vae.data import mnist as mnist_module
from ladder_vae.data.mnist import load_larochelle
from ladder_vae.system.errors import UserError

BITS = np.random.default_rng(0).integers(0, 2, (50, 784))
FEW = {"train": BITS[:30], "valid": BITS[30:40], "test": BITS[40:]}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A directory of the three files, of 30, 10 and 10 images."""
    monkeypatch.setattr(mnist_module, "ROWS", {name: len(bits) for name, bits in FEW.items()})
    directory = tmp_path / "binarized"
    directory.mkdir()
    hashes = {}
    for name, bits in FEW.items():
        path = directory / f"binarized_mnist_{name}.amat"
        np.savetxt(path, bits, "%d")
        hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(mnist_module, "PUBLISHED", hashes)
    load_larochelle.cache_clear()
    yield directory
    load_larochelle.cache_clear()


def test_splits_are_the_files(files, capsys):
    data = MNIST(path=str(files), binarization="larochelle", val_size=10, batch_size=8)
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        assert torch.equal(data.split(split), torch.from_numpy(FEW[name].reshape(-1, 1, 28, 28) * 255).byte())
    assert data.labels("test") is None
    rows = [
        sorted(bytes(image.byte().numpy()) for image in torch.cat(list(data.training_batches())))
        for _ in "ab"
    ]
    assert rows[0] == rows[1] == sorted(bytes(bits.astype(np.uint8)) for bits in FEW["train"])
    assert torch.equal(data.observe("test", [2]).flatten(), torch.from_numpy(FEW["test"][2]).float())
    with pytest.raises(ValueError, match="binarization=larochelle has no draw 1"):
        data.observe("test", [2], draw=1)
    said = capsys.readouterr().err
    for name, known in mnist_module.PUBLISHED.items():
        assert f"binarized_mnist_{name}.amat: SHA-256 {known}, as published\n" in said
    assert "warning" not in said


def test_other_pixels_are_another_fingerprint_and_a_warning(files, capsys):
    before = MNIST(path=str(files), binarization="larochelle", val_size=10).fingerprint
    other = FEW["test"].copy()
    other[3, 5] ^= 1
    path = files / "binarized_mnist_test.amat"
    np.savetxt(path, other, "%d")
    load_larochelle.cache_clear()
    capsys.readouterr()
    assert MNIST(path=str(files), binarization="larochelle", val_size=10).fingerprint != before
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"warning: {path}: SHA-256 {found} is not that of the published file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.unlink(), "cannot be read .*data.path is the directory of"),
        (
            lambda path: np.savetxt(path, FEW["test"][:9], "%d"),
            "holds 7,056 digits in 9 lines, where 10 lines of 784",
        ),
        (lambda path: np.savetxt(path, FEW["test"].reshape(20, -1), "%d"), "holds 7,840 digits in 20 lines"),
        (lambda path: np.savetxt(path, FEW["test"], "%d", delimiter=""), "holds 7,840 digits in 10 lines"),
        (lambda path: np.savetxt(path, FEW["test"], "%.1f"), "holds '.', where each pixel is 0 or 1"),
        (lambda path: np.savetxt(path, FEW["test"] * 255, "%d"), "holds '2', where each pixel is 0 or 1"),
        (lambda path: path.write_bytes(b""), "holds 0 digits"),
    ],
)
def test_a_file_of_another_form_is_named(files, write, message):
    write(files / "binarized_mnist_test.amat")
    with pytest.raises(UserError, match=f"binarized_mnist_test.amat {message}"):
        MNIST(path=str(files), binarization="larochelle", val_size=10).setup()


def test_settings_that_contradict_each_other(tmp_path):
    with pytest.raises(UserError, match=r"larochelle reads the files .*set data.path to the directory"):
        MNIST(binarization="larochelle")
    with pytest.raises(UserError, match=r"data.path=x is for data.binarization=larochelle alone"):
        MNIST(path="x")
    with pytest.raises(UserError, match=r"nowhere does not exist; it holds binarized_mnist_train.amat"):
        MNIST(path=str(tmp_path / "nowhere"), binarization="larochelle").setup()


def test_a_run_trains_and_is_evaluated_on_the_files(command, npz, files):
    settings = [setting for setting in tiny(npz) if not setting.startswith(("data=", "data.path="))]
    where = ["data.binarization=larochelle", f"data.path={files}", "data.val_size=10"]
    code, _, err = command("train", *settings, *where, "run_dir=run")
    assert code == 0, err
    assert "as published" in err
    with open("run/config.yaml") as file:
        assert yaml.safe_load(file)["data"]["path"] == str(files)
    kept = {f"binarized_mnist_{name}.amat": known for name, known in mnist_module.PUBLISHED.items()}
    state = json.loads(Path("run/status.json").read_text())
    assert (state["status"], state["data_files"]) == ("finished", kept)
    code, _, err = command("evaluate", "run=run", "num_samples=2")
    assert code == 0, err


@pytest.mark.slow
def test_fifty_thousand_rows_take_seconds(tmp_path, monkeypatch):
    line = (" ".join("01" * 392) + "\n").encode()
    monkeypatch.setattr(mnist_module, "ROWS", {"train": 50_000})
    (tmp_path / "binarized_mnist_train.amat").write_bytes(line * 50_000)
    began = time.process_time()
    images, _ = mnist_module._read(tmp_path / "binarized_mnist_train.amat", "train")
    assert time.process_time() - began < 20
    assert images.float().mean() == 127.5
