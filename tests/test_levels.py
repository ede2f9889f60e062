"""The figures of an analysis, against what can be known without it."""

import math
import shutil

import numpy as np
import pytest
import torch
from contracts import LEARNED, MARKOV, small
from test_manipulate import cut

from ladder_vae.analysis import resolutions
from ladder_vae.analysis.classifier import Classifier, trained_classifier
from ladder_vae.analysis.influence import Influence, measure_influence, slant
from ladder_vae.analysis.probes import Probes, probe_accuracy
from ladder_vae.analysis.readings import Readings, level_metrics, probe_levels, read_levels
from ladder_vae.data import Npz
from ladder_vae.models import LadderVAE, TextbookVAE
from ladder_vae.system.randomness import stream_seed


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


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """Where the classifier of ``halves`` is kept, whoever needs it first."""
    return tmp_path_factory.mktemp("judges")


def build(cls):
    return small(cls, 3, (1, 8, 8)).eval()


def test_labels_follow_their_images(halves):
    for split in ("train", "val", "test"):
        x = halves.observe(split, range(len(halves.split(split))))
        left = x[:, 0, 2:, :4].mean((1, 2)) > 0.5
        assert torch.equal(halves.labels(split), torch.where(left, 3, 7))
    assert len(halves.labels("train")) == 200


def test_readings_agree_with_the_model(halves):
    model = build(LadderVAE)
    index = [4, 0, 9]
    readings = read_levels(model, halves, "test", index, seed=1)
    x = halves.observe("test", index)
    # the top level's posterior reads the image alone
    torch.testing.assert_close(readings.means[2], model.encode(x)[2].mean)
    assert readings.rates.shape == (3, 3)
    for level, (mean, unit_rate) in enumerate(zip(readings.means, readings.unit_rates, strict=True)):
        assert mean.shape == readings.innovations[level].shape == (3, model.event_shapes[level][0])
        torch.testing.assert_close(unit_rate.sum(), readings.rates[:, level].mean())
    assert torch.equal(readings.samples[2], readings.innovations[2])  # at the top: nothing is above
    assert not torch.equal(readings.samples[0], readings.innovations[0])
    again = read_levels(model, halves, "test", index, seed=1)
    assert torch.equal(again.innovations[0], readings.innovations[0])
    other = read_levels(model, halves, "test", index, seed=2)
    assert torch.equal(other.means[2], readings.means[2])
    assert not torch.equal(other.innovations[0], readings.innovations[0])


@pytest.mark.parametrize("cls", LEARNED)
def test_a_level_cut_off_changes_nothing(halves, judges, cls):
    model, index = cut(build(cls), 1), range(20)
    judge = trained_classifier(halves, judges)
    changes = measure_influence(model, halves, index, judge, draws=2, seed=0).changes
    assert set(changes) == {"pixel_change", "ink_change", "slant_change", "class_change"}
    for name, change in changes.items():
        assert change.shape == (20, 5)
        assert not change[:, 1].any(), name
        if cls in MARKOV:  # what z_3 says reaches the image through z_2 alone
            assert not change[:, 2].any(), name
    assert (changes["pixel_change"][:, 0] > 0).all()
    if cls not in MARKOV:
        assert (changes["pixel_change"][:, 2] > 0).all()
        return
    # all that is left is z_1: drawn anew with the others or alone, it does as much in the mean
    alone, together = changes["pixel_change"].mean(0)[[0, 3]].tolist()
    assert alone == pytest.approx(together, rel=0.2)


def test_influence_by_hand(halves):
    """One image, one draw."""
    model = build(TextbookVAE)
    influence = measure_influence(model, halves, [3], None, draws=1, seed=9)
    assert "class_change" not in influence.changes
    assert influence.kept is None
    with torch.no_grad():
        generator = torch.Generator().manual_seed(stream_seed(9, "influence"))
        x = halves.observe("test", [3])
        one, other = (
            model.infer(x, noise=model.draw_noise(1, 1, like=x, generator=generator)) for _ in range(2)
        )
        base, again = one.params[0].sigmoid(), other.params[0].sigmoid()
        code = [(level.z[0] - level.p.mean[0]) / level.p.std[0] for level in one.levels[:2]]
        code.append(one.levels[2].z[0])
        fresh = [torch.randn(e.shape, generator=generator) for e in code]
        changed = model.generate(1, noise={0: fresh[0], 1: code[1], 2: code[2]}).mean
    for column, image in ((4, again), (0, changed)):
        expected = {
            "pixel_change": (image - base).abs().mean(),
            "ink_change": (image.sum() - base.sum()).abs() / base.sum(),
            "slant_change": (slant(image) - slant(base)).abs()[0],
        }
        for name, value in expected.items():
            found = influence.changes[name][0, column]
            torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("rise", "run"), [(4, 2), (4, -2), (4, 0), (3, 3)])
def test_slant_of_a_straight_stroke(rise, run):
    """Whatever its place, and its brightness."""
    steps = torch.linspace(-1, 1, 9)
    image = torch.zeros(1, 1, 40, 50)
    for step in steps:
        image[0, 0, 20 + round(float(step) * rise * 4), 23 + round(float(step) * run * 4)] = 0.7
    expected = math.degrees(math.atan2(run, rise))
    assert slant(image)[0].item() == pytest.approx(expected, abs=0.5)
    flat = torch.zeros(1, 1, 9, 9)
    flat[..., 4, :] = 1.0
    assert slant(torch.cat([flat, torch.ones(1, 1, 9, 9), torch.zeros(1, 1, 9, 9)])).tolist() == [0, 0, 0]


def test_more_images_than_a_pass_holds(halves, judges, monkeypatch):
    """All are there, in order, each beside its own label; the mean is that of one pass up to the draws."""
    model, judge = build(LadderVAE), trained_classifier(halves, judges)
    whole = measure_influence(model, halves, range(30), judge, draws=40, seed=0)
    monkeypatch.setattr(resolutions, "PASS", 7)
    parts = measure_influence(model, halves, range(30), judge, draws=40, seed=0)
    for name in ("pixel_change", "ink_change"):
        assert parts.changes[name].shape == (30, 5)
        a, b = parts.changes[name].mean(0), whole.changes[name].mean(0)
        torch.testing.assert_close(a, b, rtol=0.15, atol=0)
    # untrained, all reconstructions are alike: the judge names one class, right where that is the label
    for found in (whole, parts):
        assert found.kept.shape == (30,)
        named = {
            int(label) for label, kept in zip(halves.labels("test"), found.kept, strict=False) if kept > 0.5
        }
        assert len(named) == 1
        expected = halves.labels("test")[:30] == named.pop()
        assert torch.equal(found.kept > 0.5, expected)


def test_probes(halves):
    """Pixels tell the halves apart; the commonest class and pure noise do not."""
    train, test = range(200), range(80)
    labels = halves.labels("train"), halves.labels("test")
    model = build(LadderVAE)
    readings = [read_levels(model, halves, s, i, 0) for s, i in (("train", train), ("test", test))]
    probes = probe_levels(halves, train, readings[0], test, readings[1]).accuracies
    assert probes["probe_pixels"] == 1.0
    common = int(labels[0].mode().values)
    assert probes["probe_none"] == pytest.approx((labels[1] == common).double().mean().item())
    assert {
        f"probe_{kind}/z{n}" for kind in ("mean", "sample", "innovation") for n in (1, 2, 3)
    } <= probes.keys()
    assert probes["probe_sample/z3"] == probes["probe_innovation/z3"]
    noise = np.random.default_rng(1).normal(size=(280, 4))
    y = [label.numpy() for label in labels]
    assert abs(probe_accuracy(noise[:200], y[0], noise[200:], y[1])[0] - 0.5) < 0.2
    told = np.concatenate(y)[:, None] + 0.1 * noise[:, :1]
    assert probe_accuracy(told[:200], y[0], told[200:], y[1]) == (1.0, True)


def test_metrics_and_their_errors():
    torch.manual_seed(0)
    readings = Readings([], [], [], [], torch.rand(50, 2))
    changes = {"pixel_change": torch.rand(50, 4), "class_change": torch.rand(50, 4).round()}
    influence = Influence(changes, torch.rand(50).round())
    judge = Classifier(torch.nn.Identity(), torch.arange(2), accuracy=0.9, test_images=100)
    metrics = level_metrics(readings, influence, Probes({"probe_mean/z1": 0.8}, 50), judge, draws=3)
    assert metrics["images"] == 50
    assert metrics["draws"] == 3
    assert metrics["rate/z2"] == pytest.approx(readings.rates[:, 1].mean().item(), rel=1e-6)
    by_hand = changes["pixel_change"][:, 2].double().std().item() / math.sqrt(50)
    assert metrics["pixel_change/all_stderr"] == pytest.approx(by_hand)
    assert metrics["class_change/posterior"] == pytest.approx(changes["class_change"][:, 3].mean().item())
    assert metrics["probe_mean/z1_stderr"] == pytest.approx(math.sqrt(0.8 * 0.2 / 50))
    assert metrics["judge_accuracy_stderr"] == pytest.approx(0.03)
    one = Readings([], [], [], [], torch.rand(1, 2))
    single = level_metrics(
        one,
        Influence({"pixel_change": torch.rand(1, 4)}, None),
        Probes({"probe_none": 1.0}, 1),
        None,
        draws=1,
    )
    assert not any("stderr" in name or "class" in name for name in single)


def test_the_error_over_images_is_what_other_images_show():
    """Of many samples of 40 images, the spread of the figure is its error."""
    torch.manual_seed(1)
    found = []
    for _ in range(400):
        influence = Influence({"pixel_change": torch.rand(40, 3) ** 2}, None)
        readings = Readings([], [], [], [], torch.zeros(40, 1))
        metrics = level_metrics(readings, influence, Probes(), None, draws=1)
        found.append((metrics["pixel_change/z1"], metrics["pixel_change/z1_stderr"]))
    values, errors = torch.tensor(found).T
    assert values.std() == pytest.approx(errors.mean().item(), rel=0.12)


def test_the_judge_is_trained_once_and_kept(halves, tmp_path):
    told = []
    judge = trained_classifier(halves, tmp_path / "judge", told.append)
    assert judge.accuracy == 1.0
    assert judge.test_images == 80
    images = halves.observe("test", range(80))
    assert torch.equal(judge.predict(images), halves.labels("test"))
    again = trained_classifier(halves, tmp_path / "judge", told.append)
    assert len(told) == 1
    assert again.accuracy == 1.0
    assert torch.equal(again.predict(images), judge.predict(images))
    (kept,) = (tmp_path / "judge").iterdir()
    kept.write_bytes(b"damaged")
    assert trained_classifier(halves, tmp_path / "judge", told.append).accuracy == 1.0
    assert len(told) == 2


@pytest.mark.usefixtures("short_judge")
def test_the_judge_leaves_the_global_random_state_alone(halves, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    trained_classifier(halves, tmp_path)
    assert torch.equal(torch.rand(1), expected)


def test_the_judge_is_of_images_and_labels(halves, judges, tmp_path):
    """The same images with other labels have another judge."""
    first = trained_classifier(halves, judges)
    shutil.copytree(judges, tmp_path / "judge")
    arrays = dict(np.load(halves.path))
    arrays |= {name: 10 - arrays[name] for name in ("y_train", "y_test")}  # 3 and 7 change places
    np.savez(tmp_path / "swapped.npz", **arrays)
    second = trained_classifier(Npz(str(tmp_path / "swapped.npz"), val_size=40), tmp_path / "judge")
    images = halves.observe("test", range(80))
    assert torch.equal(second.predict(images), 10 - first.predict(images))
    assert len(list((tmp_path / "judge").iterdir())) == 2


@pytest.mark.parametrize(("labels", "expected"), [(None, [0, 1, 2, 3]), ([5, 5, 2, 5, 2, 9], [2, 0, 5, 1])])
def test_images_to_show(halves, labels, expected):
    """The first of each class, by class; then the first of all."""
    halves.setup()
    halves._splits["test"] = halves.split("test")[:6]
    object.__setattr__(halves.source, "test_labels", None if labels is None else torch.tensor(labels))
    assert halves.gallery(4) == expected
    assert len(halves.gallery(10)) == 6
