"""What figures draw, compared as numbers before it becomes pixels."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from contracts import MODELS, binary_images, small
from matplotlib.figure import Figure

from ladder_vae import load_run
from ladder_vae.analysis import manipulations
from ladder_vae.data import Npz
from ladder_vae.drawing import charts, embeddings, image_grids
from ladder_vae.drawing.depth_charts import Series, save_against_depth, save_panel
from ladder_vae.drawing.image_grids import save_strips, to_bytes
from ladder_vae.drawing.pages import Section, save_pictures
from ladder_vae.models.innovations import innovations, resample
from ladder_vae.system.randomness import stream_seed
from ladder_vae.training import tensorboard
from ladder_vae.training.tensorboard import draw_pictures


@pytest.fixture
def drawn(monkeypatch):
    """Figures by file name, as they were when they were saved."""
    kept = {}
    savefig = Figure.savefig

    def keep(self, path, *args, **settings):
        kept[re.sub(r"^\.part-[0-9a-f]+-", "", Path(path).name)] = (
            self  # a part gets its name when it is whole
        )
        savefig(self, path, *args, **settings)

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


def tiles(figure, rows, columns, height, width):
    """The images of a figure of strips: (row of labels, place in it) to the bytes that are drawn."""
    found = []
    for ax in figure.axes[:rows]:
        canvas = np.asarray(ax.images[0].get_array())
        pitch_y, pitch_x = height + image_grids.GAP, width + image_grids.GAP
        lines = (canvas.shape[0] + image_grids.GAP) // pitch_y
        found.append(
            np.stack(
                [
                    canvas[r * pitch_y : r * pitch_y + height, c * pitch_x : c * pitch_x + width]
                    for r in range(lines)
                    for c in range(columns)
                ]
            )
        )
    return found


def test_a_runs_pictures_are_its_model_on_its_test_images(train, npz, drawn):
    run = train("data.val_size=8")
    data, model = Npz(path=str(npz), val_size=8), load_run(run).model
    x = data.observe("test", data.gallery(10))
    torch.manual_seed(0)
    with torch.no_grad():
        reconstructions = torch.sigmoid(model.infer(x).params[0])
        samples = torch.sigmoid(model.generate(20).params)
    images, shown = tiles(drawn["reconstructions.png"], 2, 10, 12, 16)
    assert np.array_equal(images, to_bytes(x))
    assert np.abs(shown.astype(int) - to_bytes(reconstructions)).max() <= 1  # a rounding to bytes
    (shown,) = tiles(drawn["samples.png"], 1, 10, 12, 16)
    assert np.abs(shown.astype(int) - to_bytes(samples)).max() <= 1
    assert shown.std() > 0


def test_tensorboard_gets_originals_above_their_reconstructions(train, monkeypatch):
    grids, drew = [], []
    grid, draw = tensorboard.make_grid, draw_pictures

    def keep(model, x, samples):
        drew.append(draw(model, x, samples))
        return drew[-1]

    monkeypatch.setattr(
        tensorboard, "make_grid", lambda images, **how: grids.append(images) or grid(images, **how)
    )
    monkeypatch.setattr(tensorboard, "draw_pictures", keep)
    train("data.val_size=16", "trainer.max_epochs=1", "callbacks.pictures.count=12")
    originals, reconstructions, samples = drew[0]
    rows, shown = grids
    expected = torch.cat(
        [originals[:8], reconstructions[:8], originals[8:], reconstructions[8:]]
    )  # eight a row
    assert torch.equal(rows, expected)
    assert torch.equal(shown, samples)
    assert set(originals.unique().tolist()) == {0.0, 1.0}
    assert 0 < reconstructions.min() < reconstructions.max() < 1


def lines(ax):
    """Abscissae, ordinates and half the length of the error bars, of each line."""
    found = []
    for container in ax.containers:
        line, _, (bars,) = container.lines
        segments = np.asarray(bars.get_segments())
        found.append((line.get_xdata(), line.get_ydata(), (segments[:, 1, 1] - segments[:, 0, 1]) / 2))
    return found


def test_against_depth_and_bounds(tmp_path, drawn):
    series = [
        Series("a", [1, 2, 5], [[-97.5, -96.5], [-92.5], [-91.0]]),
        Series("b", [2], [[3.0]]),
    ]
    save_against_depth(tmp_path / "depth.png", {"ELBO (nats)": series, "MSE": series[1:]})
    first, second, *_ = drawn["depth.png"].axes
    assert [list(line.get_ydata()) for line in first.lines] == [[-97.0, -92.5, -91.0], [3.0]]
    points = [sorted(map(tuple, found.get_offsets())) for found in first.collections]
    assert points == [[(1, -97.5), (1, -96.5), (2, -92.5), (5, -91.0)], [(2, 3.0)]]  # a seed each
    assert list(second.lines[0].get_ydata()) == [3.0]
    curve = charts.BoundCurve("run", [1, 10, 100], [-90.0, -88.0, -87.5], [0.3, 0.2, 0.1])
    charts.save_bounds(tmp_path / "bounds.png", [curve], title="t")
    ((x, y, error),) = lines(drawn["bounds.png"].axes[0])
    assert (list(x), list(y)) == ([1, 10, 100], [-90.0, -88.0, -87.5])
    np.testing.assert_allclose(error, [0.3, 0.2, 0.1])


@pytest.mark.parametrize(
    ("values", "better", "fills"),
    [([0.0266, 0.0262], "down", 0.16), ([-97.0, -91.0], "up", 0.62), ([-100.0, -50.0], "up", 0.77)],
)
def test_a_small_difference_does_not_fill_a_large_panel(tmp_path, drawn, values, better, fills):
    series = [Series("a", [1, 2], [[value] for value in values])]
    save_panel(tmp_path / "panel.png", series, label="x", form=".2f", better=better)
    (ax,) = drawn["panel.png"].axes
    low, high = ax.get_ylim()
    assert (max(values) - min(values)) / (high - low) == pytest.approx(fills, abs=0.01)
    assert [f"{value:.2f}" in [text.get_text() for text in ax.texts] for value in values] == [True] * 2
    (arrow,) = [text for text in ax.texts if text.arrow_patch]
    assert (arrow.xy[1] > arrow.get_position()[1]) == (better == "up")


def test_notes_stand_beside_their_row(tmp_path, drawn):
    rows = {label: np.zeros((2, 4, 4), np.uint8) for label in ("test image", "1 level")}
    save_strips(tmp_path / "rows.png", rows, columns=2, title="t", notes={"1 level": "MSE 0.02"})
    assert [[text.get_text() for text in ax.texts] for ax in drawn["rows.png"].axes] == [[""], ["MSE 0.02"]]


def test_bars_of_levels_units_and_estimates(tmp_path, drawn):
    charts.save_by_level(
        tmp_path / "rates.png", {"L=1": [20.0], "L=3": [10.0, 5.0, 2.5]}, label="rate", title="t"
    )
    bars = {
        (b.get_y() + b.get_height() / 2, b.get_x()): b.get_width() for b in drawn["rates.png"].axes[0].patches
    }
    assert {place: width for place, width in bars.items() if width and not np.isnan(width)} == {
        (0.0, 0.0): 20.0, (1.0, 0.0): 10.0, (1.0, 10.0): 5.0, (1.0, 15.0): 2.5
    }  # fmt: skip
    charts.save_units(tmp_path / "units.png", [np.array([0.005, 2.0, -0.3]), np.array([0.5])], 0.01)
    first, second = drawn["units.png"].axes
    assert [bar.get_height() for bar in first.patches] == pytest.approx([2.0, 0.005, 0.001])
    assert first.get_title() == "z1: 1 of 3 active"
    assert second.get_title() == "z2: 1 of 1 active"
    panels = {"share": [charts.Estimate("z2", 0.4, 0.05), charts.Estimate("z1", 0.9, 0.01, reference=True)]}
    charts.save_estimates(tmp_path / "estimates.png", panels, title="t")
    ax = drawn["estimates.png"].axes[0]
    assert [bar.get_width() for bar in ax.patches] == [0.4, 0.9]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["z2", "z1"]
    points = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    embeddings.save_embedding(tmp_path / "points.png", {"p": points}, np.array([1, 0, 1]), title="t")
    scattered = [collection.get_offsets().data for collection in drawn["points.png"].axes[0].collections]
    np.testing.assert_array_equal(scattered[0], points[[1]])
    np.testing.assert_array_equal(scattered[1], points[[0, 2]])


def test_of_many_levels_units_are_drawn_of_some(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(charts, "save", lambda figure, path: figures.append(figure))
    charts.save_units(tmp_path / "units.png", [np.array([0.5])] * 100, 0.01)
    titles = [ax.get_title() for ax in figures[0].axes]
    assert len(titles) == charts.MAX_PANELS
    assert (titles[0], titles[-1]) == ("z1: 1 of 1 active", "z100: 1 of 1 active")
    assert f"{100 - charts.MAX_PANELS} of 100 levels are left out" in figures[0].get_suptitle()


def test_a_report_draws_the_means_of_its_groups(trained, command, drawn):
    for seed in (1, 2):
        trained(f"seed={seed}", run_dir=f"sweep/{seed}")
    assert command("evaluate", "run=sweep", "num_samples=10", "k=[1,10]")[0] == 0
    drawn.clear()
    assert command("report", "sweep")[0] == 0
    found = [json.loads((Path("sweep") / str(seed) / "metrics.json").read_text()) for seed in (1, 2)]
    panel = drawn["against_depth.png"].axes[0]
    assert panel.get_ylabel() == "ELBO (nats)"
    elbos = [metrics["test/elbo"] for metrics in found]
    assert list(panel.lines[0].get_xdata()) == [2]
    assert panel.lines[0].get_ydata()[0] == pytest.approx(np.mean(elbos))
    assert sorted(panel.collections[0].get_offsets()[:, 1]) == pytest.approx(sorted(elbos))
    texts = [text.get_text() for text in drawn["reconstructions.png"].axes[1].texts]
    assert texts == [f"ELBO {elbos[0]:.2f}\nMSE {found[0]['test/mse']:.5f}"]
    widths = [bar.get_width() for bar in drawn["rates.png"].axes[0].patches if bar.get_width() > 0]
    assert widths == pytest.approx([np.mean([m[f"test/rate/z{level}"] for m in found]) for level in (1, 2)])
    ((_, y, _),) = lines(drawn["log_px.png"].axes[0])
    assert list(y) == pytest.approx([np.mean([m[f"test/log_px/K={k}"] for m in found]) for k in (1, 10)])
    with np.load("sweep/1/images.npz") as kept:
        images, shown = tiles(drawn["reconstructions.png"], 2, 10, 12, 16)
        assert np.array_equal(images, kept["originals"])
        assert np.array_equal(shown, kept["reconstructions"])


@pytest.mark.parametrize("cls", MODELS)
def test_pictures_of_levels_are_the_manipulated_codes(cls, tmp_path, drawn):
    model, x = small(cls).eval(), binary_images(10)
    gallery = manipulations.open_gallery(model, x, 3)
    with torch.no_grad():
        code = innovations(model.infer(x, noise=[e[None] for e in _noise(gallery, model, x)]))
        for e, ours in zip(gallery.code, code, strict=True):
            torch.testing.assert_close(e, ours)
        pictures = [
            manipulations.resampled(gallery, 1),
            manipulations.heated(gallery, 0),
            manipulations.swapped(gallery, 1),
        ]
        save_pictures(tmp_path, [Section("levels", pictures=pictures)])
        image, reconstruction, anew = tiles(drawn["resample_z2.png"], 3, 10, 6, 5)
        assert np.array_equal(image, to_bytes(x))
        assert np.array_equal(reconstruction, gallery.render(code))
        generator = gallery.generator("resample", 1)
        for row in range(manipulations.DRAWS):
            expected = gallery.render(resample(code, 1, generator=generator))
            assert np.array_equal(anew[row * 10 : row * 10 + 10], expected)
        *_, last = tiles(drawn["temperature_z1.png"], len(manipulations.TEMPERATURES), 10, 6, 5)
        plain = model.generate(10, generator=gallery.generator("temperature"))
        assert np.array_equal(last, to_bytes(torch.sigmoid(plain.params)))
        cell = gallery.render([e[2:3] if level != 1 else e[5:6] for level, e in enumerate(code)])[0]
        canvas = np.asarray(drawn["swap_z2.png"].axes[0].images[0].get_array())
        # the row of image 2 and the column of image 5, one further each for the margins
        y, x_ = (
            3 * (6 + image_grids.GAP) + 2 * image_grids.GAP,
            6 * (5 + image_grids.GAP) + 2 * image_grids.GAP,
        )
        assert np.array_equal(canvas[y : y + 6, x_ : x_ + 5], cell)


def _noise(gallery, model, x):
    generator = torch.Generator().manual_seed(stream_seed(3, "pictures"))
    return [e[0] for e in model.draw_noise(1, len(x), like=x, generator=generator)]
