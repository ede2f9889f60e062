"""Data sets of torchvision in color, from small files of the same format."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
import torchvision
from scipy.io import savemat

from ladder_vae.data import CIFAR10, SVHN
from ladder_vae.data import downloaded as downloaded_module
from ladder_vae.data.downloaded import Place, load_torchvision
from ladder_vae.maths import LogisticMixture
from ladder_vae.system.errors import UserError

RNG = np.random.default_rng(0)
MIXTURE = LogisticMixture(2)


def md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Writes few images as CIFAR-10 and SVHN are, with their checksums; returns images and labels."""
    monkeypatch.setitem(downloaded_module.PLACES, "CIFAR10", Place(("cifar-10-batches-py",), 6, 4))
    monkeypatch.setitem(downloaded_module.PLACES, "SVHN", Place(("train_32x32.mat", "test_32x32.mat"), 6, 4))
    images = {"train": RNG.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)}
    images["test"] = images["train"][:4, ::-1]
    labels = {"train": [10, 3, 9, 1, 2, 10], "test": [5, 10, 1, 9]}
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    parts = {
        "data_batch_1": (images["train"][:3], labels["train"][:3]),
        "data_batch_2": (images["train"][3:], labels["train"][3:]),
        "test_batch": (images["test"], labels["test"]),
    }
    for name, (x, y) in parts.items():
        content = {"data": x.reshape(len(x), -1), "labels": y}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    cifar, svhn = torchvision.datasets.CIFAR10, torchvision.datasets.SVHN
    known = [[name, md5(folder / name)] for name in parts]
    monkeypatch.setattr(cifar, "train_list", known[:2])
    monkeypatch.setattr(cifar, "test_list", known[2:])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": md5(folder / "batches.meta")})
    for split in ("train", "test"):
        path = tmp_path / f"{split}_32x32.mat"
        savemat(path, {"X": images[split].transpose(2, 3, 1, 0), "y": np.array(labels[split])[:, None]})
        monkeypatch.setitem(svhn.split_list, split, ["", path.name, md5(path)])
    load_torchvision.cache_clear()
    yield images, labels
    load_torchvision.cache_clear()


@pytest.mark.parametrize("kind", [CIFAR10, SVHN])
def test_color_files_are_read_as_they_are(tmp_path, files, kind):
    images, labels = files
    data = kind(directory=str(tmp_path), likelihood=MIXTURE, val_size=2)
    for split, expected in (
        ("train", images["train"][:4]),
        ("val", images["train"][4:]),
        ("test", images["test"]),
    ):
        assert torch.equal(data.split(split), torch.from_numpy(expected.copy()))
        assert data.split(split).is_contiguous()
    assert data.labels("test").dtype == torch.int64
    digits = [y % 10 for y in labels["test"]]  # torchvision takes SVHN's 10 for the digit 0, which it means
    assert data.labels("test").tolist() == (digits if kind is SVHN else labels["test"])


@pytest.mark.parametrize(
    ("kind", "file", "named"),
    [
        (CIFAR10, "cifar-10-batches-py/data_batch_2", "cifar-10-batches-py"),
        (SVHN, "test_32x32.mat", "test_32x32.mat"),
    ],
)
def test_damaged_color_files_are_named_and_not_opened(tmp_path, files, kind, file, named):
    (tmp_path / file).write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    with pytest.raises(UserError, match=f"{kind.__name__} could not .*delete .*{named} and try again"):
        kind(directory=str(tmp_path), likelihood=MIXTURE).setup()
    assert "opened" not in [path.name for path in tmp_path.iterdir()]


def test_too_few_images_are_named(tmp_path, files, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda self: True)
    with pytest.raises(UserError, match="6 and 4 images instead of 73,257 and 26,032"):
        SVHN(directory=str(tmp_path), likelihood=MIXTURE).setup()


@pytest.mark.parametrize("kind", [CIFAR10, SVHN])
def test_a_run_that_somebody_sent_downloads_nothing(tmp_path, kind):
    with pytest.raises(UserError, match=f"{kind.__name__} is not in .*trust=true downloads it"):
        kind(directory=str(tmp_path), likelihood=MIXTURE).setup()


@pytest.mark.parametrize("name", ["cifar10", "svhn", "photographs"])
def test_binary_pixels_are_refused_before_a_download(command, workdir, monkeypatch, name):
    monkeypatch.setattr(downloaded_module, "load_torchvision", None)
    where = [] if name == "photographs" else ["data.directory=here"]
    code, _, err = command("train", f"data={name}", *where, "run_dir=run")
    assert (code, err.count("\n")) == (1, 1)
    assert "pixels of 3 channels are not binary; set likelihood=logistic_mixture" in err
    assert list(workdir.iterdir()) == []
