"""Pictures of any size of images, and of any number of rows, classes, levels; and a failure to draw."""

import json
import warnings

import numpy as np
import pytest
import torch
from conftest import tiny
from matplotlib.figure import Figure
from PIL import Image
from test_drawn import drawn  # noqa: F401  a fixture

from ladder_vae.analysis import probes
from ladder_vae.analysis.readings import Readings, probe_levels
from ladder_vae.data.data_sets import ImageData
from ladder_vae.data.sources import Images
from ladder_vae.drawing import charts, depth_charts, embeddings, image_grids
from ladder_vae.drawing.pages import Picture, Section, save_pictures, write_html
from ladder_vae.runs.record import read_record
from ladder_vae.training import tensorboard


def size(path):
    with Image.open(path) as image:
        return image.size


@pytest.mark.parametrize("shape", [(1, 1), (64, 1), (1, 64), (2000, 1), (1, 2000), (900, 1100)])
@pytest.mark.parametrize("count", [1, 10])
def test_images_of_any_shape(tmp_path, shape, count, drawn):  # noqa: F811
    rng = np.random.default_rng(0)
    originals, samples = (rng.integers(0, 256, (n, *shape), dtype=np.uint8) for n in (count, 20))
    kept = {"originals": originals, "reconstructions": originals, "samples": samples}
    image_grids.save_run(tmp_path, kept)
    many = rng.integers(0, 256, (count**2, *shape), dtype=np.uint8)
    image_grids.save_cross(tmp_path / "cross.png", originals, originals, many, labels=("a", "b"), title="t")
    assert len(drawn) == 3
    for name, figure in drawn.items():
        assert max(size(tmp_path / name)) <= image_grids.MAX_SIDE
        # designed to fit, not shrunk
        assert max(figure.get_size_inches()) * figure.dpi <= image_grids.MAX_SIDE
        ax = figure.axes[0]
        assert max(ax.images[0].get_array().shape) <= 1.1 * image_grids.MAX_SIDE
        box = ax.get_window_extent()
        assert min(box.width, box.height) > 15  # pixels
    grid = tensorboard._grid(torch.zeros(16, 1, *shape))
    assert max(grid.shape) <= 1.1 * image_grids.MAX_SIDE


def test_many_rows_of_images(tmp_path, drawn):  # noqa: F811
    rows = {f"run {i}": np.zeros((10, 28, 28), np.uint8) for i in range(300)}
    image_grids.save_strips(tmp_path / "rows.png", rows, columns=10, title="t")
    assert max(size(tmp_path / "rows.png")) <= image_grids.MAX_SIDE
    assert len(drawn["rows.png"].axes) == image_grids.MAX_STRIPS
    assert "260 of 300 rows are left out" in drawn["rows.png"].get_suptitle()


def names(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.slow
def test_many_classes_models_levels_and_units(tmp_path, drawn):  # noqa: F811
    rng = np.random.default_rng(0)
    classes = np.concatenate([np.arange(964), np.repeat(np.arange(100, 120), 3)])
    points = rng.normal(size=(len(classes), 2))
    embeddings.save_embedding(tmp_path / "classes.png", {"p": points, "q": points}, classes, title="t")
    assert names(drawn["classes.png"]) == ["944 others", *map(str, range(100, 120))]
    embeddings.save_embedding(tmp_path / "one.png", {"p": points}, np.zeros_like(classes), title="t")
    assert names(drawn["one.png"]) == ["0"]

    curves = [charts.BoundCurve(f"run {i}", [1, 10], [-90.0 + i, -89.0 + i], [0.1, 0.1]) for i in range(70)]
    charts.save_bounds(tmp_path / "bounds.png", curves, title="t")
    series = [depth_charts.Series(f"run {i}", [2], [[3.0 + i]]) for i in range(70)]
    depth_charts.save_against_depth(tmp_path / "depth.png", {"ELBO": series})
    for name in ("bounds.png", "depth.png"):
        assert names(drawn[name]) == [*(f"run {i}" for i in range(20)), "and 50 more, not named"]

    charts.save_by_level(tmp_path / "rates.png", {f"run {i}": [2.0] for i in range(70)}, label="x", title="t")
    assert drawn["rates.png"].axes[0].get_title() == "t; 10 of 70 models are left out"
    bars = [charts.Estimate(f"run {i}", 1.0, 0.1) for i in range(110)]
    charts.save_estimates(tmp_path / "estimates.png", dict.fromkeys("ab", bars), title="t")
    assert "10 of 110 bars a panel are left out" in drawn["estimates.png"].get_suptitle()
    assert len(drawn["estimates.png"].axes[0].patches) == 100

    levels = [np.linspace(0, 1, 400_000), *[np.ones(3)] * 3]
    charts.save_units(tmp_path / "units.png", levels, 0.01)
    first = drawn["units.png"].axes[0]
    assert len(first.patches) == charts.MAX_BARS
    assert first.get_title() == "z1: 396000 of 400000 active"
    for name in drawn:
        assert max(size(tmp_path / name)) <= image_grids.MAX_SIDE


def test_a_figure_of_any_size_is_bounded(tmp_path):
    image_grids.save(Figure(figsize=(9, 9000), dpi=110), tmp_path / "tall.png")
    assert size(tmp_path / "tall.png")[1] <= image_grids.MAX_SIDE


class Broken(Exception):
    pass


def broken(*args, **settings):
    raise Broken("no\npicture")


def test_a_run_whose_pictures_fail_is_finished(train, command, monkeypatch, capsys):
    monkeypatch.setattr(image_grids, "strip", broken)
    monkeypatch.setattr(tensorboard, "draw_pictures", broken)
    monkeypatch.setattr("ladder_vae.training.fit.draw_pictures", broken)
    run = train()
    assert read_record(run).finished
    assert "test/elbo" in read_record(run).metrics
    code, _, err = command("train", f"resume={run}", "trainer.max_epochs=3")
    assert code == 0
    said = [line for line in err.splitlines() if line.startswith("warning: drawing")]
    assert said == [
        "warning: drawing pictures for TensorBoard failed, the results are kept (Broken: no picture)",
        f"warning: drawing {run.absolute()}/figures failed, the results are kept (Broken: no picture)",
    ]


def test_an_evaluation_whose_pictures_fail_is_recorded(trained, command, monkeypatch):
    run = trained()
    monkeypatch.setattr(charts, "save", broken)
    code, _, err = command("evaluate", f"run={run}", "num_samples=10")
    assert code == 0, err
    assert "evaluation/best_10" in err
    assert "failed, the results are kept (Broken: no picture)" in err
    assert "test/log_px/K=10" in json.loads((run / "metrics.json").read_text())


def test_an_analysis_records_before_it_draws_and_does_without_a_picture(trained, command, monkeypatch):
    run = trained("logger=none")
    settings = [f"run={run}", "classifier_dir=judge", "draws=1"]
    seen = []

    def look(*args, **more):
        seen.append("test/levels/rate/z1" in read_record(run).metrics)
        broken()

    monkeypatch.setattr(embeddings, "save_embedding", look)
    code, _, err = command("analyze", *settings)
    assert code == 0, err
    assert seen == [True, True]
    (said,) = [line for line in err.splitlines() if line.startswith("warning: ") and "beta" not in line]
    assert "2 pictures could not be drawn" in said
    assert "embedding_z2.png (Broken: no picture)" in said
    assert "embedding" not in (run / "analysis.md").read_text()
    assert "resample_z1.png" in (run / "analysis.md").read_text()


def test_a_page_shows_only_what_was_drawn(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"of an earlier page")
    pictures = [
        Picture("bad.png", "bad", "", broken),
        Picture("good.png", "good", "", lambda path: image_grids.save(Figure(), path)),
    ]
    sections, files = save_pictures(tmp_path, [Section("a", pictures=pictures)])
    assert files == [tmp_path / "good.png"]
    assert not (tmp_path / "bad.png").exists()
    write_html(tmp_path / "page.html", "t", sections, tmp_path)
    assert (tmp_path / "page.html").read_text().count("data:image/png") == 1


@pytest.mark.parametrize("shape", [(64, 1), pytest.param((1, 5), marks=pytest.mark.slow)])
def test_thin_images_and_a_single_one_from_training_to_the_page(command, workdir, shape):
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (n, *shape), dtype=np.uint8) for n in (20, 1))
    np.savez("thin.npz", x_train=train, x_test=test, y_test=[3])  # labels of one split only
    settings = [s for s in tiny(workdir / "thin.npz") if "pictures" not in s]
    for name, *arguments in (
        ("train", *settings, "run_dir=run"),
        ("evaluate", "run=run", "num_samples=10"),
        ("analyze", "run=run", "draws=1", "levels=[z1]", "classifier_dir=judge"),
        ("report", "run"),
    ):
        code, _, err = command(name, *arguments)
        assert code == 0, err
        assert "warning" not in err.replace("warning: beta does not reach 1", "")
    for path in workdir.rglob("*.png"):
        assert max(size(path)) <= image_grids.MAX_SIDE


class ManyClasses(ImageData):
    """As many classes as there are pairs of images."""

    def load(self):
        images = torch.randint(0, 256, (600, 1, 3, 3), generator=torch.Generator().manual_seed(0)).byte()
        labels = torch.arange(600) // 2 * 7
        labels[:60] = 1
        return Images(images, images, labels, labels)


def test_probes_are_limited_and_say_so(monkeypatch):
    data, rng = ManyClasses(val_size=0), np.random.default_rng(0)
    features = [torch.from_numpy(rng.normal(size=(600, 4)))]
    readings = Readings(features, features, features, [torch.zeros(4)], torch.zeros(600, 1))
    monkeypatch.setattr(probes, "MAX_PRODUCTS", 1)
    monkeypatch.setattr(probes, "MIN_ITERATIONS", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = probe_levels(data, range(600), readings, range(600), readings)
    assert found.images == 60 + 99 * 2
    assert found.accuracies["probe_none"] == pytest.approx(60 / found.images)
    assert found.remarks == (
        "Probes tell the 100 commonest classes apart, on 258 test images of these; 171 other classes are "
        "left out. 4 of 4 probes were stopped before they had converged."
    )
