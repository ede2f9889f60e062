"""Tiles of photographs."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

from ladder_vae.data import Photographs
from ladder_vae.data import photographs as module
from ladder_vae.data.photographs import NAMES, photograph, tiles
from ladder_vae.maths import LogisticMixture
from ladder_vae.system.errors import UserError

MIXTURE = LogisticMixture(2)


def test_no_photograph_is_in_two_splits():
    data = Photographs(val=["grace_hopper"], likelihood=MIXTURE)
    china, flower = (load_sample_image(f"{name}.jpg") for name in ("china", "flower"))
    splits = [data.split(name) for name in ("train", "val", "test")]
    assert [len(split) for split in splits] == [260, 288, 260]
    for images, picture in zip(splits, (china, photograph("grace_hopper"), flower), strict=True):
        rows, columns = picture.shape[0] // 32, picture.shape[1] // 32
        assert images.dtype == torch.uint8
        assert images.is_contiguous()
        assert np.array_equal(images[0].permute(1, 2, 0), picture[:32, :32])
        assert np.array_equal(images[columns + 1].permute(1, 2, 0), picture[32:64, 32:64])
        last = picture[(rows - 1) * 32 : rows * 32, (columns - 1) * 32 : columns * 32]
        assert np.array_equal(images[-1].permute(1, 2, 0), last)


def test_without_a_photograph_to_validate_the_last_tiles_do():
    """As runs of the first version of this data set did."""
    data = Photographs(val_size=60, likelihood=MIXTURE)
    assert [len(data.split(name)) for name in ("train", "val", "test")] == [200, 60, 260]
    assert torch.equal(data.split("val"), tiles(photograph("china"), 32)[-60:])


def test_tiles_do_not_overlap():
    image = np.arange(7 * 5 * 3).reshape(7, 5, 3)
    cut = tiles(image, 2)
    assert cut.shape == (6, 3, 2, 2)
    assert len(cut.unique()) == cut.numel()


def test_overlapping_and_mirrored_tiles_train_only():
    plain = Photographs(size=64, val=["grace_hopper"], likelihood=MIXTURE)
    more = Photographs(size=64, val=["grace_hopper"], stride=32, mirror=True, likelihood=MIXTURE)
    china = photograph("china")
    half = (427 // 32 - 1) * (640 // 32 - 1)  # from the first to the last but one of 32 pixels
    train = more.split("train")
    assert len(train) == 2 * half
    assert np.array_equal(train[1].permute(1, 2, 0), china[:64, 32:96])
    assert torch.equal(train[half:], train[:half].flip(-1))
    for name in ("val", "test"):
        assert torch.equal(more.split(name), plain.split(name))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "data.size=0 must be from 1 to 213"),
        ({"size": 214}, "data.size=214 must be from 1 to 213"),
        ({"stride": 33}, "data.stride=33 must be from 1 to data.size=32"),
        ({"train": ["moon"]}, "data.train names moon; the photographs are china"),
        ({"train": []}, "data.train is empty; name photographs"),
        ({"train": ["china", "flower"]}, "flower is in data.train and data.test; each belongs to one"),
        ({"val": ["china"]}, "china is in data.train and data.val"),
        ({"train": ["china", "china"]}, "data.train names china twice"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        Photographs(likelihood=MIXTURE, **settings)


@pytest.mark.parametrize("settings", [{"stride": 16}, {"mirror": True}])
def test_pixels_that_train_do_not_validate(settings):
    with pytest.raises(UserError, match=r"data\.val_size=60 would validate on pixels that train"):
        Photographs(val_size=60, likelihood=MIXTURE, **settings).setup()


def test_more_tiles_than_memory_are_refused(monkeypatch):
    monkeypatch.setattr(module, "total_memory", lambda device: 10 * 2**20)
    with pytest.raises(UserError, match=r"data\.stride=8 makes 3,850 training tiles, which take 0\.0 GiB"):
        Photographs(stride=8, likelihood=MIXTURE).setup()


def test_a_missing_package_is_named(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'skimage'")

    monkeypatch.setitem(module._READERS, "scikit-image", missing)
    photograph.cache_clear()
    with pytest.raises(
        UserError, match=r"coffee comes with scikit-image; install it \(pip install scikit-im"
    ):
        Photographs(train=["coffee"], likelihood=MIXTURE).setup()


def test_all_photographs_are_there():
    pytest.importorskip("skimage")
    for name in NAMES:
        image = photograph(name)
        assert image.dtype == np.uint8
        assert image.shape[2:] == (3,)
        assert 300 <= image.shape[0] <= 600
        assert 451 <= image.shape[1] <= 741


@pytest.mark.slow
def test_a_run_on_photographs(command):
    settings = [
        "model.num_layers=1",
        "model.latent_sizes=[4]",
        "model.hidden_sizes=[8]",
        "trainer.max_epochs=1",
    ]
    code, _, err = command(
        "train", "data=photographs", "data.size=64", "data.val_size=20", "likelihood=logistic_mixture",
        "likelihood.components=2", *settings, "trainer.limit_train_batches=2", "trainer.accelerator=cpu",
        "run_dir=run",
    )  # fmt: skip
    assert code == 0, err
