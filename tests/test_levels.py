"""The figures of an analysis, against what can be known without it."""

import math

import numpy as np
import pytest
import torch
from test_hierarchy import MODELS
from test_manipulate import cut

from ladder_vae import levels
from ladder_vae.classifier import Classifier, trained_classifier
from ladder_vae.data import Npz
from ladder_vae.levels import level_metrics, measure_influence, probe_levels, read_levels
from ladder_vae.models import LadderVAE, TextbookVAE
from ladder_vae.probes import probe_accuracy


@pytest.fixture
def halves(tmp_path) -> Npz:
    """Images whose left (class 3) or right (class 7) half is lit; two rows tell nothing."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 240), ("test", 80)):
        labels = rng.integers(0, 2, count)
        images = np.zeros((count, 8, 8), np.uint8)
        images[labels == 0, :, :4] = images[labels == 1, :, 4:] = 255
        images[:, :2] = rng.integers(0, 2, (count, 2, 8), dtype=np.uint8) * 255
        arrays |= {f"x_{split}": images, f"y_{split}": np.where(labels, 7, 3)}
    np.savez(tmp_path / "halves.npz", **arrays)
    return Npz(str(tmp_path / "halves.npz"), val_size=40)


def build(cls):
    torch.manual_seed(0)
    return cls((1, 8, 8), 3, [5, 4, 3], [12, 10, 8]).eval()


def test_labels_follow_their_images(halves):
    for split in ("train", "val", "test"):
        x = halves.binary(split, range(len(halves.split(split))))
        left = x[:, 0, 2:, :4].mean((1, 2)) > 0.5
        assert torch.equal(halves.labels(split), torch.where(left, 3, 7))
    assert len(halves.labels("train")) == 200


def test_readings_agree_with_the_model(halves):
    model = build(LadderVAE)
    index = [4, 0, 9]
    readings = read_levels(model, halves, "test", index, seed=1)
    x = halves.binary("test", index)
    # the top level's posterior reads the image alone
    torch.testing.assert_close(readings.means[2], model.encode(x)[2].mean)
    assert readings.rates.shape == (3, 3)
    for level, (mean, unit_rate) in enumerate(zip(readings.means, readings.unit_rates, strict=True)):
        assert mean.shape == readings.innovations[level].shape == (3, model.event_shapes[level][0])
        torch.testing.assert_close(unit_rate.sum(), readings.rates[:, level].mean())
    again = read_levels(model, halves, "test", index, seed=1)
    assert torch.equal(again.innovations[0], readings.innovations[0])
    other = read_levels(model, halves, "test", index, seed=2)
    assert torch.equal(other.means[2], readings.means[2])
    assert not torch.equal(other.innovations[0], readings.innovations[0])


@pytest.mark.parametrize("cls", MODELS)
def test_a_level_cut_off_changes_nothing(halves, cls):
    model, index = cut(build(cls), 1), range(20)
    judge = trained_classifier(halves, halves.path.parent)
    influence = measure_influence(model, halves, index, judge, draws=2, seed=0)
    assert influence.pixels.shape == influence.classes.shape == (20, 5)
    for level in (1, 2):  # what z_3 says reaches the image through z_2 alone
        assert not influence.pixels[:, level].any()
        assert not influence.classes[:, level].any()
    assert (influence.pixels[:, 0] > 0).all()
    # all that is left is z_1: drawn anew with the others or alone, it does as much in the mean
    alone, together = influence.pixels.mean(0)[[0, 3]].tolist()
    assert alone == pytest.approx(together, rel=0.2)


def test_influence_is_the_mean_change_of_a_pixel(halves):
    """One image, one draw, by hand."""
    model = build(TextbookVAE)
    influence = measure_influence(model, halves, [3], None, draws=1, seed=9)
    assert influence.classes is None
    assert influence.kept is None
    with torch.no_grad():
        generator = torch.Generator().manual_seed(levels.stream_seed(9, "influence"))
        x = halves.binary("test", [3])
        one, other = (
            model.infer(x, noise=model.draw_noise(1, 1, like=x, generator=generator)) for _ in range(2)
        )
        base = one.params[0].sigmoid()
        expected = [(other.params[0].sigmoid() - base).abs().mean()]
        code = [(level.z[0] - level.p.mean[0]) / level.p.std[0] for level in one.levels[:2]]
        code.append(one.levels[2].z[0])
        fresh = [torch.randn(e.shape, generator=generator) for e in code]
        changed = model.generate(1, noise={0: fresh[0], 1: code[1], 2: code[2]}).params.sigmoid()
        expected.append((changed - base).abs().mean())
    torch.testing.assert_close(influence.pixels[0, [4, 0]], torch.stack(expected), rtol=1e-4, atol=1e-7)


def test_parts_of_the_images_do_not_matter(halves, monkeypatch):
    """An image's figures come from its own draws, whatever the size of a pass; all of them are there."""
    model = build(LadderVAE)
    whole = measure_influence(model, halves, range(30), None, draws=40, seed=0)
    monkeypatch.setattr(levels, "CHUNK", 7)
    parts = measure_influence(model, halves, range(30), None, draws=40, seed=0)
    assert parts.pixels.shape == whole.pixels.shape
    torch.testing.assert_close(parts.pixels.mean(0), whole.pixels.mean(0), rtol=0.1, atol=0)


def test_probes(halves):
    """Pixels tell the halves apart; the commonest class and pure noise do not."""
    train, test = range(200), range(80)
    labels = halves.labels("train"), halves.labels("test")
    model = build(LadderVAE)
    readings = [read_levels(model, halves, s, i, 0) for s, i in (("train", train), ("test", test))]
    probes = probe_levels(halves, train, readings[0], test, readings[1])
    assert probes["probe_pixels"] == 1.0
    common = int(labels[0].mode().values)
    assert probes["probe_none"] == pytest.approx((labels[1] == common).double().mean().item())
    assert {f"probe_{kind}/z{n}" for kind in ("mean", "innovation") for n in (1, 2, 3)} <= probes.keys()
    noise = np.random.default_rng(1).normal(size=(280, 4))
    y = [label.numpy() for label in labels]
    assert abs(probe_accuracy(noise[:200], y[0], noise[200:], y[1]) - 0.5) < 0.2
    told = np.concatenate(y)[:, None] + 0.1 * noise[:, :1]
    assert probe_accuracy(told[:200], y[0], told[200:], y[1]) == 1.0


def test_metrics_and_their_errors():
    torch.manual_seed(0)
    readings = levels.Readings([], [], [], torch.rand(50, 2))
    influence = levels.Influence(torch.rand(50, 4), torch.rand(50, 4).round(), torch.rand(50).round())
    judge = Classifier(torch.nn.Identity(), torch.arange(2), accuracy=0.9, test_images=100)
    metrics = level_metrics(readings, influence, {"probe_mean/z1": 0.8}, judge, draws=3)
    assert metrics["images"] == 50
    assert metrics["draws"] == 3
    assert metrics["rate/z2"] == pytest.approx(readings.rates[:, 1].mean().item(), rel=1e-6)
    by_hand = influence.pixels[:, 2].double().std().item() / math.sqrt(50)
    assert metrics["pixel_change/all_stderr"] == pytest.approx(by_hand)
    assert metrics["class_change/posterior"] == pytest.approx(influence.classes[:, 3].mean().item())
    assert metrics["probe_mean/z1_stderr"] == pytest.approx(math.sqrt(0.8 * 0.2 / 50))
    assert metrics["judge_accuracy_stderr"] == pytest.approx(0.03)
    single = level_metrics(
        levels.Readings([], [], [], torch.rand(1, 2)),
        levels.Influence(torch.rand(1, 4), None, None),
        {},
        None,
        draws=1,
    )
    assert not any("stderr" in name or "class" in name for name in single)


def test_the_judge_is_trained_once_and_kept(halves, tmp_path):
    told = []
    judge = trained_classifier(halves, tmp_path / "judge", told.append)
    assert judge.accuracy == 1.0
    assert judge.test_images == 80
    images = halves.binary("test", range(80))
    assert torch.equal(judge.predict(images), halves.labels("test"))
    again = trained_classifier(halves, tmp_path / "judge", told.append)
    assert len(told) == 1
    assert again.accuracy == 1.0
    assert torch.equal(again.predict(images), judge.predict(images))
    (kept,) = (tmp_path / "judge").iterdir()
    kept.write_bytes(b"damaged")
    assert trained_classifier(halves, tmp_path / "judge", told.append).accuracy == 1.0
    assert len(told) == 2


def test_the_judge_leaves_the_global_random_state_alone(halves, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    trained_classifier(halves, tmp_path)
    assert torch.equal(torch.rand(1), expected)
