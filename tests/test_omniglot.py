"""Burda's Omniglot, from few images in a file of the same format."""

import numpy as np
import pytest
import torch
from scipy.io import savemat

from ladder_vae.data import Omniglot
from ladder_vae.data import omniglot as omniglot_module
from ladder_vae.data.omniglot import load_omniglot
from ladder_vae.system.errors import UserError

RNG = np.random.default_rng(0)
COUNTS = {"": 12, "test": 5}
UPRIGHT = {key: RNG.integers(0, 256, (count, 28, 28)) for key, count in COUNTS.items()}
LABELS = {key: RNG.integers(0, 50, count) for key, count in COUNTS.items()}


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Saves the file, with other arrays than good ones if need be; returns its path."""
    monkeypatch.setattr(omniglot_module, "SPLITS", COUNTS)

    def save(**arrays):
        for key in COUNTS:
            columns = UPRIGHT[key].transpose(0, 2, 1).reshape(COUNTS[key], -1)  # column after column
            arrays.setdefault(f"{key}data", columns.T / 255)
            arrays.setdefault(f"{key}target", np.eye(50)[:, LABELS[key]])
        savemat(tmp_path / "chardata.mat", {key: array for key, array in arrays.items() if array is not None})
        return tmp_path / "chardata.mat"

    load_omniglot.cache_clear()
    yield save
    load_omniglot.cache_clear()


def test_images_are_upright_and_labels_go_with_them(saved):
    data = Omniglot(path=str(saved()), val_size=3, binarization="threshold")
    data.setup()
    assert np.array_equal(data.source.test[:, 0], UPRIGHT["test"])
    assert data.labels("test").tolist() == LABELS["test"].tolist()
    order = [
        next(i for i, x in enumerate(UPRIGHT[""]) if np.array_equal(x, image[0]))
        for image in data.source.train
    ]
    assert order == np.random.RandomState(123).permutation(12).tolist()  # of yburda/iwae, datasets.py
    assert data.labels("train").tolist() + data.labels("val").tolist() == LABELS[""][order].tolist()
    assert torch.equal(data.split("val")[:, 0] > 0, torch.from_numpy(UPRIGHT[""][order[9:]] >= 128))


def test_pixels_are_drawn_anew_in_training(saved):
    data = Omniglot(path=str(saved()), val_size=3, batch_size=9)
    assert not torch.equal(*(next(iter(data.training_batches(lambda e=e: e))).sum(0) for e in (0, 1)))
    assert set(data.split("test").unique().tolist()) == {0, 255}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": np.zeros((784, 11))}, r"data is \(784, 11\), where \(784, 12\) belongs"),
        ({"testdata": None}, r"testdata is missing, where \(784, 5\)"),
        ({"testtarget": np.zeros((50, 5))}, "testtarget does not name one alphabet per image"),
        ({"data": np.full((784, 12), 3.0)}, r"data holds 3 in image 0"),
    ],
)
def test_another_file_is_named(saved, arrays, message):
    with pytest.raises(UserError, match=f"chardata.mat: {message}"):
        Omniglot(path=str(saved(**arrays))).setup()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(b"no matrix" * 99), "is not a readable .mat file"),
        (lambda path: path.write_bytes(path.read_bytes()[:300]), "is not a readable .mat file"),
        (lambda path: (path.unlink(), path.mkdir()), "is a directory; name the file"),
    ],
)
def test_a_file_that_is_none_is_named(saved, write, message):
    path = saved()
    write(path)
    with pytest.raises(UserError, match=f"{message}.*; take datasets/OMNIGLOT/chardata.mat"):
        Omniglot(path=str(path)).setup()
