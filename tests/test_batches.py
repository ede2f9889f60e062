import math

import pytest
import torch

from ladder_vae.data.batches import Batches
from ladder_vae.data.sources import load_mnist
from ladder_vae.maths.likelihoods import Bernoulli


@pytest.mark.parametrize("draw", [Bernoulli().draw, Bernoulli().draw_anew])
def test_draws_have_the_intensity_as_probability(draw):
    intensities = torch.arange(256, dtype=torch.uint8).repeat(20_000, 1)
    mean = draw(intensities, torch.Generator().manual_seed(0)).gt(0).double().mean(0)
    p = torch.arange(256) / 255
    assert mean[0] == 0
    assert mean[255] == 1
    z = (mean - p)[1:255] / (p * (1 - p) / 20_000).sqrt()[1:255]
    assert z.abs().max() < 5
    assert abs(z.mean()) < 5 / math.sqrt(254)


def test_fast_draws_of_neighbors_are_independent():
    draws = Bernoulli().draw_anew(
        torch.full((4_000, 785), 100, dtype=torch.uint8), torch.Generator().manual_seed(0)
    )
    assert draws.shape == (4_000, 785)
    centered = draws.double() - draws.double().mean()
    for lag in (1, 2, 3, 4, 7, 8, 9, 16):
        correlation = (centered[:, lag:] * centered[:, :-lag]).mean() / centered.var()
        assert abs(correlation) * math.sqrt(4_000 * (785 - lag)) < 5, lag


def test_an_epoch_serves_every_image_once():
    pixels = torch.zeros(103, 1, 7, 1, dtype=torch.uint8)
    for i in range(103):
        pixels[i, 0, :, 0] = torch.tensor([255 * ((i >> bit) & 1) for bit in range(7)])
    loader = Batches(pixels, 20, seed=3)
    batches = list(loader)
    assert len(batches) == len(loader) == 6
    code = (torch.cat(batches)[:, 0, :, 0] @ (2.0 ** torch.arange(7))).long()
    assert code.tolist() != list(range(103))
    assert sorted(code.tolist()) == list(range(103))


def test_a_lone_last_training_image_waits_but_a_lone_test_image_does_not():
    pixels = torch.zeros(41, 1, 2, 2, dtype=torch.uint8)
    assert [len(b) for b in Batches(pixels, 20, seed=0)] == [20, 20]
    assert [len(b) for b in Batches(pixels, 20)] == [20, 20, 1]


@pytest.mark.parametrize("strength", [0.0, 0.1])
def test_an_epoch_repeats_itself(strength):
    images = load_mnist().train[:50]
    first, again = (
        torch.cat(list(Batches(images, 20, seed=4, draw=True, strength=lambda epoch: strength)))
        for _ in range(2)
    )
    assert torch.equal(first, again)
