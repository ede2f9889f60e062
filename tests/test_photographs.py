"""Tiles of photographs."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

from ladder_vae.data import Photographs
from ladder_vae.data.photographs import tiles
from ladder_vae.maths import LogisticMixture
from ladder_vae.system.errors import UserError

MIXTURE = LogisticMixture(2)


def test_no_photograph_is_in_two_splits():
    data = Photographs(likelihood=MIXTURE)
    china, flower = (load_sample_image(f"{name}.jpg") for name in ("china", "flower"))
    train, val, test = (data.split(name) for name in ("train", "val", "test"))
    assert [len(split) for split in (train, val, test)] == [200, 60, 260]
    for images, photograph in ((torch.cat([train, val]), china), (test, flower)):
        assert images.dtype == torch.uint8
        assert images.is_contiguous()
        assert np.array_equal(images[0].permute(1, 2, 0), photograph[:32, :32])
        assert np.array_equal(images[21].permute(1, 2, 0), photograph[32:64, 32:64])  # 20 in a row
        assert np.array_equal(images[-1].permute(1, 2, 0), photograph[12 * 32 : 13 * 32, 19 * 32 :])


def test_tiles_do_not_overlap():
    image = np.arange(7 * 5 * 3).reshape(7, 5, 3)
    cut = tiles(image, 2)
    assert cut.shape == (6, 3, 2, 2)
    assert len(cut.unique()) == cut.numel()


@pytest.mark.parametrize("size", [0, 214])
def test_a_size_without_tiles_is_named(size):
    with pytest.raises(UserError, match=f"data.size={size} must be from 1 to 213"):
        Photographs(size=size, likelihood=MIXTURE)


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
