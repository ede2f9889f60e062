"""Images that stay on disk give what the same images in memory give."""

import io
import math
import zipfile

import numpy as np
import pytest
import torch
from conftest import assert_same_weights, tiny

from ladder_vae.data import Npz
from ladder_vae.data import data_sets as data_sets_module
from ladder_vae.data import npz as npz_module
from ladder_vae.data.npz import load_npz
from ladder_vae.maths import LogisticMixture
from ladder_vae.system.errors import UserError
from ladder_vae.system.memory import total_memory

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (30, 4, 3), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (30, 5, 4, 3), dtype=np.uint8)
FORMS = {
    "gray": GRAY,
    "one channel": GRAY[:, None],
    "channels last": COLOR,
    "channels first": np.ascontiguousarray(COLOR.transpose(0, 3, 1, 2)),
}


@pytest.fixture
def on_disk(monkeypatch):
    """From now on, whatever can stay on disk does."""

    def call():
        monkeypatch.setattr(npz_module, "MAPPED_FROM", 0)
        npz_module._load.cache_clear()

    yield call
    npz_module._load.cache_clear()


def everything(path, images):
    """What a data set gives, of images at the path."""
    likelihood = LogisticMixture(2) if images.ndim == 4 and 3 in images.shape[1:] else None
    data = Npz(str(path), val_size=6, batch_size=7, likelihood=likelihood)
    served = [
        *data.training_batches(),
        *data.batches("val"),
        *data.batches("test"),
        data.observe("train", [3, 1]),
        data.observe("test", [2]),
        data.expected("train"),
        data.examples(3)[1],
    ]
    return data, served


@pytest.mark.parametrize("form", FORMS)
def test_images_on_disk_are_the_images_in_memory(tmp_path, on_disk, monkeypatch, form):
    images = FORMS[form]
    np.savez(tmp_path / "own.npz", notes=np.zeros(3), x_train=images, y_train=np.arange(30) % 3,
             x_test=images[:8], y_test=np.arange(8) % 3)  # fmt: skip
    there, expected = everything(tmp_path / "own.npz", images)
    assert not there.source.mapped
    on_disk()
    read = []
    take = npz_module.npy.read_array
    monkeypatch.setattr(
        npz_module.npy, "read_array", lambda *args, **kw: read.append(take(*args, **kw)) or read[-1]
    )
    data, served = everything(tmp_path / "own.npz", images)
    assert data.source.mapped
    assert [array.shape for array in read] == [(30,), (8,)]  # labels alone
    assert data.fingerprint == there.fingerprint
    assert torch.equal(data.labels("val"), there.labels("val"))
    for ours, theirs in zip(served, expected, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.is_contiguous()


def test_what_has_to_be_converted_is_read(tmp_path, on_disk):
    on_disk()
    np.savez(tmp_path / "own.npz", x_train=GRAY / 255, x_test=GRAY[:5])
    images = load_npz(tmp_path / "own.npz")
    assert torch.equal(images.train, torch.from_numpy(GRAY[:, None]))
    np.savez_compressed(tmp_path / "own.npz", x_train=GRAY, x_test=GRAY[:5])
    assert not load_npz(tmp_path / "own.npz").mapped


def test_a_small_file_is_read_so_that_it_may_change(tmp_path):
    np.savez(tmp_path / "own.npz", x_train=GRAY, x_test=GRAY[:5])
    assert not load_npz(tmp_path / "own.npz").mapped


def test_more_than_there_is_memory(tmp_path, monkeypatch):
    """A sparse file of twice the memory, of which nothing is read but what a batch needs."""
    monkeypatch.setattr(npz_module, "_check_not_black", lambda images, where: None)
    count = 2 * total_memory("cpu") // 10**6
    path = tmp_path / "own.npz"
    np.savez(path, x_test=np.zeros((2, 1000, 1000), np.uint8))
    append_zeros(path, "x_train.npy", (count, 1000, 1000))
    data = Npz(str(path), likelihood=LogisticMixture(2))
    assert data.split("train").shape == (count, 1, 1000, 1000)
    assert data.observe("train", [7, count - 1]).eq(-1).all()


def append_zeros(path, name, shape):
    """Append an array of zeros to a file that np.savez wrote, without writing the zeros."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo(name)
        info.CRC, info.header_offset = 0, archive.start_dir
        info.file_size = info.compress_size = len(header.getvalue()) + math.prod(shape)
        archive.fp.seek(archive.start_dir)
        archive.fp.write(info.FileHeader(zip64=True) + header.getvalue())
        archive.start_dir = archive.fp.tell() + math.prod(shape)
        archive.filelist.append(info)
        archive.NameToInfo[name], archive._didModify = info, True
        try:
            archive.fp.truncate(archive.start_dir)
        except OSError:
            pytest.skip("this file system holds no sparse file of twice the memory")


def test_a_run_on_images_that_stay_on_disk(command, npz, on_disk, workdir):
    for run in ("memory", "disk"):
        code, _, err = command("train", *tiny(npz), "data.val_size=8", f"run_dir={run}")
        assert code == 0, err
        on_disk()
    assert_same_weights(workdir / "memory", workdir / "disk")


def test_its_own_validation_split_is_named(tmp_path, on_disk):
    on_disk()
    np.savez(tmp_path / "own.npz", x_train=GRAY, x_test=GRAY[:5], x_val=GRAY[:6])
    with pytest.raises(UserError, match=r"own.npz stays on disk.*as the last ones of x_train.*data.val_size"):
        Npz(str(tmp_path / "own.npz")).setup()
    assert len(Npz(str(tmp_path / "own.npz"), val_size=4).split("val")) == 4


@pytest.mark.parametrize("binarization", ["dynamic", "static", "threshold"])
def test_pixels_that_are_drawn_have_to_fit(tmp_path, monkeypatch, binarization):
    np.savez(tmp_path / "own.npz", x_train=GRAY, x_test=GRAY[:5])
    monkeypatch.setattr(data_sets_module, "total_memory", lambda device: 2 * GRAY.nbytes - 1)
    data = Npz(str(tmp_path / "own.npz"), binarization=binarization)
    if binarization == "dynamic":
        data.setup()
        return
    with pytest.raises(UserError, match=r"drawing the pixels of 30 images .*likelihood=logistic_mixture"):
        data.setup()


def test_bytes_of_0_and_1_on_disk_are_refused(tmp_path, on_disk, monkeypatch):
    on_disk()
    monkeypatch.setattr(npz_module, "BLOCK", 4)
    np.savez(tmp_path / "own.npz", x_train=GRAY % 2, x_test=GRAY[:5])
    with pytest.raises(UserError, match="x_train holds bytes 0 and 1"):
        load_npz(tmp_path / "own.npz")
    bright = GRAY % 2
    bright[-1] = 9
    np.savez(tmp_path / "own.npz", x_train=bright, x_test=GRAY[:5])
    assert load_npz(tmp_path / "own.npz").train.max() == 9
