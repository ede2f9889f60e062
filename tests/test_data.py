import gzip
import shutil

import numpy as np
import pytest
import torch

from ladder_vae.data import MNIST, FashionMNIST, Npz
from ladder_vae.data.data_sets import ImageData
from ladder_vae.data.downloaded import load_torchvision
from ladder_vae.data.sources import MNIST_DIR, Images, load_mnist
from ladder_vae.system.errors import UserError


def test_mnist_is_whole():
    mnist = load_mnist()
    assert mnist.train.shape == (60_000, 1, 28, 28)
    assert mnist.test.shape == (10_000, 1, 28, 28)
    assert mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.test_labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (MNIST_DIR / "LICENSE.md").read_text().count("CC BY-SA 3.0")


def test_splits_are_the_official_ones():
    data = MNIST(binarization="threshold")
    whole = load_mnist()
    assert torch.equal(data.split("val") > 0, whole.train[50_000:] >= 128)
    assert torch.equal(data.split("train") > 0, whole.train[:50_000] >= 128)
    assert torch.equal(data.split("test") > 0, whole.test >= 128)
    everything = MNIST(val_size=0)
    assert torch.equal(everything.split("train"), whole.train)
    assert len(everything.split("val")) == 0


def test_validation_and_test_pixels_stay_what_they_always_were():
    """Numbers of runs compare only on the same draw, which no change of code may move."""
    data = MNIST()
    assert [int(data.split(split).gt(0).sum()) for split in ("val", "test")] == [1_012_084, 1_039_084]


def test_dynamic_training_images_are_drawn_anew_and_test_images_once(npz):
    data = Npz(path=str(npz), batch_size=40, val_size=8, seed=1)
    epochs = []
    for epoch in (0, 0, 1):
        loader = data.training_batches()
        loader.epoch = lambda epoch=epoch: epoch
        epochs.append(torch.cat(list(loader)))
    assert torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0].sum(0), epochs[2].sum(0))  # not only another order
    for split in ("val", "test"):
        assert set(data.split(split).unique().tolist()) == {0, 255}
        other = Npz(path=str(npz), val_size=8, seed=2)
        assert torch.equal(data.split(split), other.split(split))


def test_training_images_are_warped_in_the_epochs_that_ask_for_it(npz):
    def epoch(number, **settings):
        loader = Npz(path=str(npz), batch_size=40, val_size=0, seed=1, **settings).training_batches()
        loader.epoch = lambda: number
        return torch.cat(list(loader))

    plain = [epoch(number) for number in (0, 1)]
    warped = [epoch(number, warp=0.2, warp_epochs=1) for number in (0, 1)]
    assert not torch.equal(plain[0].sum(0), warped[0].sum(0))
    assert torch.equal(warped[0], epoch(0, warp=0.2))
    assert torch.equal(plain[1], warped[1])


def test_a_training_image_to_evaluate_has_the_same_pixels_in_any_company(npz):
    data = Npz(path=str(npz), val_size=6)
    pair = data.observe("train", [3, 5])
    assert torch.equal(pair[1:], data.observe("train", [5]))
    gray = data.split("train")[:9]
    assert set(data.observe("train", range(9))[(gray > 0) & (gray < 255)].unique().tolist()) == {0.0, 1.0}


def test_static_is_one_draw_whatever_the_seed_and_the_split(npz):
    a, b = (Npz(path=str(npz), binarization="static", val_size=v, seed=v) for v in (0, 8))
    assert torch.equal(a.split("train")[:32], b.split("train"))
    assert torch.equal(a.split("train")[32:], b.split("val"))
    assert set(a.split("train").unique().tolist()) == {0, 255}
    rows = [sorted(map(bytes, torch.cat(list(a.training_batches())).byte().numpy())) for _ in range(2)]
    assert rows[0] == rows[1]


def test_data_module_takes_any_height_and_width(npz):
    assert Npz(path=str(npz), val_size=0).image_shape == (1, 12, 16)
    batch = next(iter(Npz(path=str(npz), val_size=0, batch_size=5).training_batches()))
    assert batch.shape == (5, 1, 12, 16)
    assert batch.dtype == torch.float32
    assert set(batch.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "truncated"),
        (lambda path: path.write_bytes(b"hello"), "truncated or unreadable"),
        (lambda path: path.write_bytes(gzip.compress(b"\0" * 10_008)), "was altered"),
    ],
)
def test_damaged_mnist_is_named(tmp_path, damage, message):
    for file in MNIST_DIR.glob("t10k*.gz"):
        shutil.copy(file, tmp_path)
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        (tmp_path / name).symlink_to(MNIST_DIR / name)
    damage(tmp_path / "t10k-labels-idx1-ubyte.gz")
    with pytest.raises(UserError, match=f"t10k-labels-idx1-ubyte.gz.*{message}.*reinstall"):
        load_mnist(tmp_path)


def test_torchvision_files_are_read_as_they_are(tmp_path):
    """MNIST's own files where Fashion-MNIST's would lie: same names, same format."""
    raw = tmp_path / "FashionMNIST/raw"
    raw.mkdir(parents=True)
    for file in MNIST_DIR.glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    loaded, expected = FashionMNIST(directory=str(tmp_path)).load(), load_mnist()
    for name in ("train", "test", "train_labels", "test_labels"):
        assert torch.equal(getattr(loaded, name), getattr(expected, name))
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"cut")
    load_torchvision.cache_clear()
    with pytest.raises(UserError, match=f"delete {raw.parent} and try again"):
        FashionMNIST(directory=str(tmp_path)).load()


@pytest.mark.parametrize(
    "settings",
    [
        {"binarization": "stochastic"},
        {"batch_size": 1},
        {"val_size": -1},
        {"val_size": 39},
        {"eval_batch_size": 0},
        {"warp": -0.1},
        {"warp": 0.6},
        {"warp": 0.1, "binarization": "static"},
        {"warp_epochs": -1},
    ],
)
def test_bad_settings_are_named(npz, settings):
    with pytest.raises(UserError, match=f"data.{next(iter(settings))}="):
        Npz(path=str(npz), **settings).setup()


def test_the_fingerprint_is_of_the_pixels_alone(npz, tmp_path):
    arrays = dict(np.load(npz))
    arrays["x_test"][0, 0, 0] ^= 1
    np.savez(tmp_path / "other.npz", **arrays)
    assert Npz(str(npz), val_size=0).fingerprint == Npz(str(npz), val_size=5).fingerprint
    assert Npz(str(tmp_path / "other.npz"), val_size=0).fingerprint != Npz(str(npz), val_size=0).fingerprint


class Turned(ImageData):
    """Images that lie in memory in another order than their axes."""

    def load(self):
        images = load_mnist()
        train, test = images.train[:50], images.test[:20]
        return Images(
            train.transpose(2, 3).contiguous().transpose(2, 3),
            test.permute(3, 2, 1, 0).clone().permute(3, 2, 1, 0),
        )


class Straight(Turned):
    def load(self):
        images = super().load()
        return Images(images.train.contiguous(), images.test.contiguous())


@pytest.mark.parametrize("binarization", ["dynamic", "static"])
def test_draws_do_not_depend_on_the_order_in_memory(binarization):
    a, b = (kind(val_size=9, batch_size=8, binarization=binarization) for kind in (Turned, Straight))
    assert not a.load().train.is_contiguous()
    assert a.fingerprint == b.fingerprint
    for split in ("train", "val", "test"):
        assert torch.equal(a.split(split), b.split(split))
    assert torch.equal(torch.cat(list(a.training_batches())), torch.cat(list(b.training_batches())))


def test_a_single_training_image_is_named():
    class Single(Straight):
        def load(self):
            images = super().load()
            return Images(images.train[:1], images.test)

    with pytest.raises(UserError, match="data=Single holds 1 training images; give it two or more"):
        Single(val_size=0).setup()
    with pytest.raises(UserError, match=r"data.val_size=49 leaves too few of 50 .* lower it to 48 or less"):
        Straight(val_size=49).setup()


def test_a_part_of_the_training_images_is_of_all_writers():
    """Even and odd images of MNIST differ in ink by a tenth; a part of them must not be of one kind."""
    data = MNIST(val_size=10_000)
    data.setup()
    ink = data.source.train.float().mean((1, 2, 3))
    assert ink[1::2].mean() > 1.1 * ink[::2].mean()
    for split, count in (
        ("train", 10_000),
        ("train", 5_000),
        ("train", 2_500),
        ("val", 1_000),
        ("val", 2_500),
    ):
        index = list(data.sample(split, count))
        assert len(set(index)) == count
        assert max(index) < len(data.split(split))
        assert abs(sum(i % 2 for i in index) / count - 0.5) < 0.01
    assert list(data.sample("test", 1_000)) == list(range(0, 10_000, 10))  # as ever
    assert list(data.sample("train", 50_000)) == list(range(50_000))
    with pytest.raises(ValueError, match="tset is no split; choose train, val, test"):
        data.observe("tset", [0])
