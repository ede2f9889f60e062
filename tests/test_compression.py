"""How many bits photographs take: tiles that cover them, the ELBO of their pixels, files."""

import csv
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_readme import script

from ladder_vae.data.photographs import tiles
from ladder_vae.maths import LogisticMixture
from ladder_vae.models import ConvolutionalVAE

MIXTURE = LogisticMixture(2)
compression = script("photographs/compression.py")


@pytest.mark.parametrize("shape", [(8, 12), (7, 9), (3, 2)])
def test_every_pixel_lies_in_one_tile(shape):
    image = np.arange(math.prod(shape) * 3).reshape(*shape, 3)  # each number is there once
    cut, own = compression.cover(image, 4)
    assert cut.shape == (-(-shape[0] // 4) * -(-shape[1] // 4), 3, 4, 4)
    counted = cut.movedim(1, -1)[own]
    assert sorted(counted.flatten().tolist()) == list(range(image.size))
    assert set(cut.flatten().tolist()) == set(range(image.size))  # what fills a tile up is of the image


def small_run(size=8):
    """What ``compression`` asks of a run, with weights that were not trained."""
    torch.manual_seed(0)
    model = ConvolutionalVAE((3, size, size), num_layers=2, width=4, encoder_blocks=1, likelihood=MIXTURE)
    model.requires_grad_(False)

    def encode(x, seed):
        generator = torch.Generator().manual_seed(seed)
        return model.infer(x, noise=model.draw_noise(1, len(x), like=x, generator=generator))

    return SimpleNamespace(model=model, encode=encode)


def test_pixels_add_up_to_the_likelihood():
    run, x = small_run(), MIXTURE.prepare(torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8))
    found = run.encode(x, 0)
    pixels = compression.pixel_log_prob(MIXTURE, found.params, x)
    assert pixels.shape == (1, 5, 8, 8)
    assert torch.allclose(pixels.sum((-2, -1)), found.log_px, rtol=1e-5)


def test_bits_of_whole_tiles_are_the_elbo():
    run, image = small_run(), np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    total, rate = compression.nats(run, image, 8, draws=50)
    x = MIXTURE.prepare(tiles(image, 8))
    found = run.model.infer(x, noise=run.model.draw_noise(50, len(x), like=x))
    terms = found.terms()
    for mine, theirs in ((total, -terms.elbo.sum(1)), (rate, terms.rate.sum(1))):
        error = math.hypot(mine.std(), theirs.std()) / math.sqrt(50)
        assert abs(mine.mean() - theirs.mean()) < 5 * error


def test_pixels_that_fill_a_tile_up_cost_nothing():
    """A photograph of 8x5 pixels, and the same filled up to 8x8: what is counted less is what was added."""
    run, image = small_run(), np.random.default_rng(0).integers(0, 256, (8, 5, 3), np.uint8)
    filled = np.pad(image, [(0, 0), (0, 3), (0, 0)], mode="symmetric")
    (total,), (rate,) = compression.nats(run, image, 8, draws=1)
    (more,), (same,) = compression.nats(run, filled, 8, draws=1)
    x = MIXTURE.prepare(tiles(filled, 8))
    found = run.encode(x, compression.stream_seed(0, "photographs", 0, 0))
    added = -compression.pixel_log_prob(MIXTURE, found.params, x)[..., 5:].double().sum()
    assert rate == same
    assert added > 0
    assert total + added == pytest.approx(more.item(), rel=1e-6)


def test_files_in_bits():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for codec in compression.CODECS:
        assert 8 <= compression.file_bits(image, codec) < 9  # noise goes into no less
        assert compression.file_bits(np.full_like(image, 7), codec) < 0.3


@pytest.fixture
def found() -> list:
    bits = [{"model": 3.0, "PNG": 4.0, "WebP": 2.5}, {"model": 2.0, "PNG": 4.0, "WebP": 2.5}]
    return [
        compression.Sizes(name, "test", sizes, 0.001, 1.5)
        for name, sizes in zip(("flower", "china"), bits, strict=True)
    ]


def test_the_table_names_who_wins(found, tmp_path):
    compression.write(found, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["fewest"] for row in rows] == ["WebP", "model"]
    assert [float(row["model"]) for row in rows] == [3.0, 2.0]
    assert [compression.line(sizes).split()[-1] for sizes in found] == ["WebP", "model"]


def test_the_figure_has_a_row_of_each_photograph(found, tmp_path):
    compression.draw(found[:1], tmp_path / "one.png")
    compression.draw(found, tmp_path / "two.png")
    one, two = (compression.Image.open(tmp_path / f"{name}.png").size for name in ("one", "two"))
    assert one[0] == two[0]
    assert one[1] < two[1]
