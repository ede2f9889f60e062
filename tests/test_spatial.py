"""The analysis of levels whose latents are images: by resolution and by place."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from contracts import binary_images, small
from test_words import figures

from ladder_vae.analysis import by_place, findings, page, rate_maps, resolutions
from ladder_vae.analysis.level_tables import numbers, sleeping_units
from ladder_vae.analysis.manipulations import open_gallery, traversed
from ladder_vae.analysis.readings import Readings, read_levels
from ladder_vae.analysis.sentences import describe
from ladder_vae.drawing.maps import Cell, save_maps
from ladder_vae.maths.logistic_mixture import LogisticMixture
from ladder_vae.models import ConvolutionalVAE
from ladder_vae.models.innovations import render, resample_places, traverse_channel

SHAPE = (1, 16, 16)
LEVELS = [(8, 2), (4, 1), (1, 1)]


def build(shape=SHAPE, levels=LEVELS, **settings):
    depth = sum(count for _, count in levels)
    return small(ConvolutionalVAE, depth, shape, levels=levels, **settings).eval()


def gallery_of(model, n=3, shape=SHAPE):
    return open_gallery(model, binary_images(n, shape), 0)


class Images:
    """As much of a data set as reading levels takes."""

    image_shape = SHAPE

    def observe(self, split, index):
        return binary_images(9, SHAPE)[list(index)]


def cells(picture):
    return [cell for row in picture.draw.keywords["rows"] for cell in row]


def test_maps_are_the_divergences_of_the_channels_at_each_place(monkeypatch):
    model, index = build(), range(7)
    monkeypatch.setattr(resolutions, "PASS", 3)  # in several passes
    readings = read_levels(model, Images(), "test", index, 0)
    monkeypatch.undo()
    # the top posterior reads the image alone, so that its divergence needs no draw
    with torch.no_grad():
        q = model.encode(binary_images(9, SHAPE)[:7])[3]
        top = model.rung(3).posterior(q, None, None)
    by_hand = 0.5 * (top.mean**2 + top.log_var.exp() - top.log_var - 1)
    torch.testing.assert_close(readings.unit_rates[3], by_hand.mean(0))
    assert [tuple(rates.shape) for rates in readings.unit_rates] == list(model.event_shapes)
    for level, rates in enumerate(readings.unit_rates):
        torch.testing.assert_close(rates.sum(), readings.rates[:, level].mean())
    drawn = cells(rate_maps._maps(readings))
    assert len(drawn) == 3  # not of the level of a single place
    np.testing.assert_allclose(drawn[0].values, readings.unit_rates[2].sum(0))
    assert drawn[0].title == f"z3, 4x4\n{readings.rates[:, 2].mean():.2f} nats"
    assert drawn[1].title.startswith("z2, 8x8")


def test_single_images_stand_beside_their_own_maps():
    model = build()
    gallery = gallery_of(model)
    noise = model.draw_noise(1, 3, like=gallery.x, generator=gallery.generator())
    with torch.no_grad():
        level = model.infer(gallery.x, noise=noise).levels[1]
        by_hand = level.q.unit_kl(level.p)[0].sum(1)  # (n, H, W)
    picture = rate_maps._examples(gallery, [0, 1])
    rows = picture.draw.keywords["rows"]
    assert [len(row) for row in rows] == [3, 3, 3]
    for i, row in enumerate(rows):
        assert np.array_equal(row[0].values, 255 * gallery.x[i, 0].numpy())
        np.testing.assert_allclose(row[1].values, by_hand[i], rtol=1e-5)


def made_up(*rates):
    """Readings of 2 images, with these rates of levels at 8x8, 8x8, 4x4 and 1x1."""
    events = [(2, 8, 8), (2, 8, 8), (3, 4, 4), (5, 1, 1)]
    units = [torch.full(e, r / torch.Size(e).numel()) for e, r in zip(events, rates, strict=True)]
    return Readings([], [], [], units, torch.tensor([rates, rates]))


def test_which_resolutions_carry_the_rate():
    readings = made_up(1.0, 2.0, 6.0, 0.03)
    found = rate_maps.by_resolution(readings)
    assert found[8, 8] == pytest.approx((3.0, 0.0))
    section = rate_maps.where_the_rate_is(readings, gallery_of(build()), [0, 2])
    assert section.paragraphs == [
        "The level at 4x4 carries 6.0 of 9.0 nats (66 %); those at 8x8 3.0 (33 %), the one at 1x1 0.03 (0 %)."
        " Hardly any rate lies at 1x1, which could be spared."
    ]
    rows = {row[0]: row[1:] for row in section.table.rows}
    assert list(rows) == ["1x1 (z4)", "4x4 (z3)", "8x8 (z1, z2)"]
    assert rows["8x8 (z1, z2)"] == ["2", "3.00 ± 0.00", "33.2 %", "1.50", f"{3 / 64:.4f}"]
    bars = section.pictures[0].draw.keywords["models"]
    assert bars["8x8, 2 levels: 3.0 nats"] == [1.0, 2.0, 0.0, 0.0]
    assert [picture.file for picture in section.pictures] == [
        "rate_by_resolution.png",
        "rate_maps.png",
        "rate_maps_of_images.png",
    ]


def test_a_channel_sleeps_when_all_its_places_together_do():
    rates = [torch.full((3, 8, 8), 0.001), torch.tensor([[[1.0]], [[0.0]]])]
    rates[0][1] = 0.0001  # 0.0064 nats at 64 places
    assert sleeping_units(rates).rows == [["z2", "1", "1"], ["z1", "1", "1"]]
    found = figures([0.1, 0.8])
    table = numbers(found, rates, "class")
    assert table.headings[2] == "channels awake"
    assert [row[2] for row in table.rows[:2]] == ["1 of 2", "2 of 3"]
    text = describe(found, rates, "class", True)[-1]
    assert "Single channels asleep" in text
    assert "model.latent_channels" in text
    assert "latent_sizes" not in text


def test_large_levels_are_pooled(monkeypatch):
    features = torch.rand(5, 3, 8, 8)
    assert resolutions.pooled(features, 4) is features  # 192 units
    monkeypatch.setattr(resolutions, "MOST_OF_LEVEL", 50)
    by_hand = features.unflatten(3, (4, 2)).mean(4).unflatten(2, (4, 2)).mean(3)
    torch.testing.assert_close(resolutions.pooled(features, 4), by_hand)
    monkeypatch.setattr(resolutions, "MOST_OF_ALL", 40)  # 10 of each of 4 levels
    torch.testing.assert_close(resolutions.pooled(features, 4), features.mean((2, 3), keepdim=True))
    vectors = torch.rand(5, 1000)
    assert resolutions.pooled(vectors, 4) is vectors
    readings = read_levels(build(), Images(), "test", range(4), 0)
    assert [tuple(means.shape[1:]) for means in readings.means] == [
        (8, 1, 1),
        (8, 1, 1),
        (16, 1, 1),
        (16, 1, 1),
    ]
    assert page._pooling(readings) == [
        "Probes and embeddings of z1 to z3 read no single units, of which there are many, but the means of "
        "each channel over a grid of 1x1 places."
    ]


def test_fewer_large_images_fit_a_pass_where_levels_have_places():
    assert resolutions.images_per_pass(build(), 28 * 28) == 1000
    assert resolutions.images_per_pass(build(), 64 * 64) == 191
    assert resolutions.images_per_pass(SimpleNamespace(event_shapes=[(64,)]), 64 * 64) == 1000


@pytest.mark.parametrize(
    ("pixels", "count", "expected"),
    [(28, 14, 2), (28, 4, 8), (28, 1, 32), (33, 5, 8), (16, 16, 1), (9, 2, 8)],
)
def test_pixels_that_a_place_covers(pixels, count, expected):
    assert resolutions.covered(pixels, count) == expected


def test_only_the_places_named_are_drawn_anew():
    model = build((1, 28, 28), [(14, 1), (7, 1), (1, 1)])
    gallery = gallery_of(model, 2, (1, 28, 28))
    where = torch.zeros(14, 14, dtype=torch.bool)
    where[0, 0] = True
    generator = torch.Generator().manual_seed(1)
    changed = resample_places(gallery.code, where, 0, generator=generator)
    moved = changed[0] != gallery.code[0]
    assert moved[:, :, 0, 0].all()
    assert moved.sum() == moved[:, :, 0, 0].numel()
    assert all(torch.equal(changed[level], gallery.code[level]) for level in (1, 2))
    difference = (render(model, changed) - render(model, gallery.code)).abs()
    assert difference[..., :2, :2].min() > 0
    assert not difference[..., 20:, :].any()  # out of reach of the nets
    assert not difference[..., :, 20:].any()
    everywhere = resample_places(gallery.code, torch.ones_like(where), 0)
    assert (everywhere[0] != gallery.code[0]).all()
    for level, message in ((1, "have shape"), (3, "level 3 does not exist")):
        with pytest.raises(ValueError, match=message):
            resample_places(gallery.code, where, level)


def test_a_place_is_measured_by_the_pixels_that_it_covers():
    model = build((1, 28, 28), [(14, 1), (7, 1), (4, 1)])
    gallery = gallery_of(model, 2, (1, 28, 28))
    found = by_place.touched(gallery, 2, (1, 3))
    assert found.box == (8, 8, 24, 8)
    assert found.inside == pytest.approx(float(found.change[8:16, 24:].sum() / found.change.sum()))
    section = by_place.what_a_place_does(gallery, torch.tensor([1.0, 2.0, 0.5]))
    assert "8x8 pixels of a place at 4x4 (z3)" in section.paragraphs[0]
    assert "2x2 pixels of a place at 14x14 (z1)" in section.paragraphs[0]
    assert "z2 (7x7) by 0." in section.paragraphs[1]
    assert len(cells(section.pictures[0])) == 9
    assert all(cell.values.max() == pytest.approx(1.0) for cell in cells(section.pictures[0]))


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([(8, 2), (4, 1), (1, 1)], [0, 1, 2, 3, 4]),
        ([(32, 4), (16, 9), (8, 9), (4, 3), (2, 2), (1, 1)], [0, 1, 3, 6, 15, 24, 28]),
        ([(14, 12), (7, 11), (1, 1)], [0, 1, 4, 9, 12, 14, 19, 24]),
    ],
)
def test_how_many_levels_are_kept(levels, expected):
    events = [(2, side, side) for side, count in levels for _ in range(count)]
    assert by_place.numbers_kept(events) == expected


def test_a_level_of_a_single_column_has_no_left_half():
    shape = (1, 16, 4)
    model = build(shape, [(8, 1), (4, 1), (1, 1)])
    section = by_place.what_a_place_does(gallery_of(model, shape=shape), torch.ones(3))
    assert not any("nan" in text for text in section.paragraphs)
    assert list(section.pictures[1].draw.keywords["rows"])[2:] == ["left half of z1 (8x2) drawn anew"]
    model = build(shape, [(4, 1)])
    section = by_place.what_a_place_does(gallery_of(model, shape=shape), torch.ones(1))
    assert len(section.paragraphs) == len(section.pictures) == 1


def test_from_no_level_to_all_that_are_kept():
    gallery = gallery_of(build())
    keywords = by_place.kept_levels(gallery).draw.keywords
    assert keywords["headings"] == [
        "image", "none kept", "top 1,\nto 1x1", "top 2,\nto 4x4", "top 3,\nto 8x8", "top 4,\nto 8x8"
    ]  # fmt: skip
    reconstructions = gallery.render(gallery.code)
    for i, images in enumerate(keywords["rows"].values()):
        by_draw = images.reshape(by_place.KEPT_DRAWS, 6, 16, 16)
        assert np.array_equal(by_draw[0, 0], 255 * gallery.x[i, 0].numpy())
        for draw in by_draw:
            assert np.array_equal(draw[-1], reconstructions[i])
        assert not np.array_equal(by_draw[0, 1], by_draw[1, 1])


def test_a_channel_goes_from_end_to_end_at_all_places():
    gallery = gallery_of(build(), 1)
    values = torch.linspace(-1, 1, 3)
    walked = traverse_channel(gallery.code, 0, 5, values)
    assert torch.equal(walked[0][:, 5], values[:, None, None].expand(3, 8, 8))
    others = [channel for channel in range(8) if channel != 5]
    assert torch.equal(walked[0][:, others], gallery.code[0][:, others].expand(3, -1, -1, -1))
    with pytest.raises(ValueError, match="channel 8 does not exist"):
        traverse_channel(gallery.code, 0, 8, values)
    rates = torch.arange(8.0)[:, None, None].expand(8, 8, 8) / 64
    picture = traversed(gallery, 0, rates)
    assert list(picture.draw.keywords["rows"])[:2] == ["channel 7: 7.00 nats", "channel 6: 6.00 nats"]
    assert picture.draw.keywords["headings"][:4] == ["-1.0", "-0.7", "-0.3", "0"]


def test_maps_share_their_colors(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("ladder_vae.drawing.maps.save", lambda figure, path: saved.append(figure))
    image = np.zeros((4, 4, 3), np.uint8)
    row = [Cell("image", image), Cell("a", np.full((2, 2), 0.1)), Cell("b", np.eye(3), (0, 1, 0, 1))]
    save_maps(tmp_path / "maps.png", [row, row * 4], label="nats", title="t")
    shown = [ax for ax in saved[0].axes if ax.get_visible() and ax.images]
    assert len(shown) == 3 + 12  # twelve on two lines
    assert {ax.images[0].get_clim() for ax in shown if ax.images[0].get_array().ndim == 2} == {(0.0, 1.0)}
    assert len(shown[2].patches) == 1


@pytest.mark.usefixtures("undrawn")
def test_in_color(tmp_path):
    """Pictures of all kinds can be drawn."""
    shape = (3, 8, 8)
    model = build(shape, [(4, 1), (1, 1)], likelihood=LogisticMixture(components=2))
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    gallery = open_gallery(model, x, 0)
    events = [torch.rand(event) for event in model.event_shapes]
    section = rate_maps.where_the_rate_is(Readings([], [], [], events, torch.rand(2, 2)), gallery, [0, 1])
    pictures = [*section.pictures, *by_place.what_a_place_does(gallery, torch.rand(2)).pictures]
    for picture in [*pictures, by_place.kept_levels(gallery)]:
        picture.draw(tmp_path / picture.file)
        assert (tmp_path / picture.file).exists()
    assert cells(section.pictures[2])[0].values.shape == (8, 8, 3)


@pytest.mark.usefixtures("undrawn", "short_judge")
def test_the_page_of_a_convolutional_run(trained, command, monkeypatch):
    monkeypatch.setattr(resolutions, "MOST_OF_LEVEL", 100)
    run = trained("model=convolutional")
    code, _, err = command("analyze", f"run={run}", "classifier_dir=judge", "draws=1")
    assert code == 0, err
    text = (run / "analysis.md").read_text()
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "At a glance", "Play with the levels", "The figures", "Where the rate is", "All levels",
        "What a place does", "Level z2", "Level z1", "How it was made",
    ]  # fmt: skip
    drawn = {path.stem for path in (run / "figures/levels").iterdir()}
    assert drawn >= {
        "rate_by_resolution", "rate_maps", "rate_maps_of_images", "kept_levels", "one_place", "left_half"
    }  # fmt: skip
    assert "Of each channel, both are means over a grid of" in text
    assert "read no single units" in text
    (tensors,) = run.glob("*/z1/tensors.tsv")
    first = tensors.read_text().splitlines()[0].split("\t")
    channels = len(first) // findings.PROJECTED**2
    assert len(first) == channels * findings.PROJECTED**2 <= 64
