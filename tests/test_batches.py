import math

import pytest
import torch

from ladder_vae.batches import Batches, draw_binary, draw_binary_fast, warp
from ladder_vae.images import load_mnist


@pytest.mark.parametrize("draw", [draw_binary, draw_binary_fast])
def test_draws_have_the_intensity_as_probability(draw):
    intensities = torch.arange(256, dtype=torch.uint8).repeat(20_000, 1)
    mean = draw(intensities, torch.Generator().manual_seed(0)).double().mean(0)
    p = torch.arange(256) / 255
    assert mean[0] == 0
    assert mean[255] == 1
    z = (mean - p)[1:255] / (p * (1 - p) / 20_000).sqrt()[1:255]
    assert z.abs().max() < 5
    assert abs(z.mean()) < 5 / math.sqrt(254)


def test_fast_draws_of_neighbours_are_independent():
    draws = draw_binary_fast(
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


def generator():
    return torch.Generator().manual_seed(0)


def test_warped_images_are_as_bright_and_as_certain_as_before():
    images = load_mnist().train[:512]

    def mean_and_entropy(intensities):
        p = intensities.double() / 255
        return torch.stack([p.mean(), -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).mean()])

    warped = warp(images, 0.1, generator())
    assert warped.dtype == torch.uint8
    assert warped.shape == images.shape
    torch.testing.assert_close(mean_and_entropy(warped), mean_and_entropy(images), rtol=0.02, atol=0.0)
    assert (warped != images).float().mean() > 0.1


def test_a_map_that_is_nearly_the_identity_moves_nothing():
    images = load_mnist().train[:64]
    assert torch.equal(warp(images, 1e-7, generator()), images)


def test_warps_turn_and_stretch_about_the_center_by_as_much_as_they_should():
    """A bar along a row, whose angle and length tell the first column of the inverse map."""
    bar = torch.zeros(2_000, 1, 61, 61, dtype=torch.uint8)
    bar[:, :, 29:32, 15:46] = 255
    strength = 0.05
    mass = warp(bar, strength, generator())[:, 0].double()
    mass = mass / mass.sum((1, 2), keepdim=True)
    at = torch.arange(61.0, dtype=torch.float64) - 30
    x, y = (mass.sum(1) * at).sum(1), (mass.sum(2) * at).sum(1)
    assert max(x.abs().max(), y.abs().max()) < 0.2  # pixels
    xx = (mass.sum(1) * at**2).sum(1)
    xy = torch.einsum("nij,i,j->n", mass, at, at)
    slope, length = xy / xx, (xx * 12).sqrt() / 31
    for moved in (slope, length):
        assert abs(moved.std() / strength - 1) < 0.1
    assert abs(slope.mean()) < 0.005
    assert abs(length.mean() - 1) < 0.02


def test_an_image_that_is_not_square_is_warped_as_a_square_one_is():
    """The same bar, in an image and in that image with its left and right cut off."""
    bar = torch.zeros(50, 1, 61, 61, dtype=torch.uint8)
    bar[:, :, 20:41, 27:34] = 255
    whole, cut = warp(bar, 0.1, generator()), warp(bar[..., 15:46].contiguous(), 0.1, generator())
    difference = (whole[..., 15:46].float() - cut.float()).abs().mean()
    assert difference < 0.1  # gray levels; 1.7 if each axis is measured in its own length


@pytest.mark.parametrize("strength", [0.0, 0.1])
def test_an_epoch_repeats_itself(strength):
    images = load_mnist().train[:50]
    first, again = (
        torch.cat(list(Batches(images, 20, seed=4, draw=True, strength=lambda epoch: strength)))
        for _ in range(2)
    )
    assert torch.equal(first, again)
