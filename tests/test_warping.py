import torch

from ladder_vae.data.sources import load_mnist
from ladder_vae.data.warping import warp


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


def test_a_bar_leans_by_as_much_as_it_should():
    """A bar along a row, between corners that hold the box, whose angle tells one of the coefficients."""
    images = torch.zeros(2_000, 1, 61, 61, dtype=torch.uint8)
    images[:, :, 29:32, 20:41] = 255
    images[:, :, 10:51:40, 10:51:40] = 255
    strength = 0.05
    mass = warp(images, strength, generator())[:, 0, 20:41, 15:46].double()  # without the corners
    mass = mass / mass.sum((1, 2), keepdim=True)
    x = torch.arange(31.0, dtype=torch.float64) - 15
    y = torch.arange(21.0, dtype=torch.float64) - 10
    slope = torch.einsum("nij,i,j->n", mass, y, x) / (mass.sum(1) * x**2).sum(1)
    assert abs(slope.std() / strength - 1) < 0.1
    assert abs(slope.mean()) < 0.005


def box(images, level):
    """First and last row and column where a pixel has at least this gray level, ``(B, 4)``."""
    sides = []
    for ink in (images.ge(level).any(1).any(axis).float() for axis in (2, 1)):
        sides += [ink.argmax(1), ink.shape[1] - 1 - ink.flip(1).argmax(1)]
    return torch.stack(sides, 1)


def test_ink_keeps_the_rows_and_columns_that_it_fills():
    images = load_mnist().train[:1_000]
    moved = (box(warp(images, 0.05, generator()), 64) - box(images, 64)).abs()
    assert (moved > 0).float().mean() < 0.05
    assert (moved > 1).float().mean() < 0.002


def test_images_without_a_shape_to_bend_stay_as_they_are():
    images = torch.zeros(3, 1, 9, 9, dtype=torch.uint8)
    images[1] = 255
    images[2, 0, 4, 4] = 255
    warped = warp(images, 0.1, generator())
    assert torch.equal(warped[0], images[0])
    assert torch.equal(box(warped[2:], 64), box(images[2:], 64))
    assert warped[1].eq(255).all()


def test_an_image_that_is_not_square_is_warped_as_a_square_one_is():
    """The same bar, in an image and in that image with its left and right cut off."""
    bar = torch.zeros(50, 1, 61, 61, dtype=torch.uint8)
    bar[:, :, 20:41, 27:34] = 255
    whole, cut = warp(bar, 0.1, generator()), warp(bar[..., 15:46].contiguous(), 0.1, generator())
    difference = (whole[..., 15:46].float() - cut.float()).abs().mean()
    assert difference < 0.1  # gray levels; 2.3 if each axis is measured in its own length


def test_the_channels_of_an_image_are_warped_alike():
    gray = torch.randint(
        0, 256, (6, 1, 24, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    color = gray.expand(-1, 3, -1, -1).contiguous()
    warped = warp(color, 0.08, torch.Generator().manual_seed(1))
    assert not torch.equal(warped, color)
    assert torch.equal(warped[:, :1].expand(-1, 3, -1, -1), warped)
