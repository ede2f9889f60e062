"""Images in color, from the file to the report."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny
from PIL import Image

from ladder_vae.data.npz import load_npz
from ladder_vae.drawing.image_grids import strip, to_bytes
from ladder_vae.runs.images import read_images

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (20, 12, 16, 3), dtype=np.uint8)


@pytest.fixture
def colors(workdir) -> Path:
    np.savez(
        "colors.npz", x_train=BYTES, x_test=BYTES[:8], y_train=np.arange(20) % 3, y_test=np.arange(8) % 3
    )
    return workdir / "colors.npz"


@pytest.mark.parametrize("form", ["channels last", "channels first", "floats", "in another order of memory"])
def test_forms_of_images_in_color(workdir, form):
    arrays = {
        "channels last": BYTES,
        "channels first": BYTES.transpose(0, 3, 1, 2),
        "floats": BYTES / 255,
        "in another order of memory": np.asfortranarray(BYTES),
    }
    np.savez("a.npz", x_train=arrays[form], x_test=arrays[form][:2])
    images = load_npz(workdir / "a.npz").train
    assert images.shape == (20, 3, 12, 16)
    assert images.is_contiguous()
    assert np.array_equal(images.permute(0, 2, 3, 1), BYTES)


def test_a_strip_keeps_colors():
    x = torch.from_numpy(BYTES).permute(0, 3, 1, 2) / 255
    canvas = strip(to_bytes(x), 5)
    assert canvas.shape == (4 * 14 - 2, 5 * 18 - 2, 3)
    assert np.array_equal(canvas[14:26, 18:34], BYTES[6])


@pytest.mark.usefixtures("short_judge")
def test_from_training_to_the_report(command, colors):
    settings = [*tiny(colors), "likelihood=logistic_mixture", "likelihood.components=2", "data.warp=0.05"]
    code, _, err = command("train", *settings, "run_dir=run")
    assert code == 0, err
    kept = read_images(Path("run"))
    assert kept["originals"].shape[1:] == (12, 16, 3)
    assert all(any(np.array_equal(image, other) for other in BYTES[:8]) for image in kept["originals"])
    with Image.open("run/figures/reconstructions.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert (np.ptp(pixels, axis=2) > 100).mean() > 0.05  # in color
    for name, *more in (("evaluate", "num_samples=10"), ("analyze", "classifier_dir=judge", "draws=1")):
        code, _, err = command(name, "run=run", *more)
        assert code == 0, err
    assert json.loads(Path("run/metrics.json").read_text())["test/bits_per_dim"] > 6
    code, _, err = command("report", "run", "--output", "out")
    assert code == 0, err


def test_binary_pixels_have_no_color(command, colors):
    code, _, err = command("train", *tiny(colors), "run_dir=run")
    assert (code, err.count("\n")) == (1, 1)
    assert "pixels of 3 channels are not binary; set likelihood=logistic_mixture" in err


def test_kept_images_are_all_gray_or_all_in_color(tmp_path, capsys):
    gray, color = np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4, 3), np.uint8)
    for samples, fits in ((color, True), (gray, False), (gray[0, 0], False)):
        np.savez(tmp_path / "images.npz", originals=color, reconstructions=color, samples=samples)
        assert bool(read_images(tmp_path)) == fits
    assert capsys.readouterr().err.count("does not hold originals") == 2
