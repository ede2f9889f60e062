"""One binarization is one draw: `binarizations=8` averages over several and tells how they scatter."""

import json

import numpy as np
import pytest
import torch
from test_errors import only_line

from ladder_vae.data import MNIST, Npz
from ladder_vae.evaluation import parts
from ladder_vae.maths.logistic_mixture import LogisticMixture
from ladder_vae.models.passes import weigher
from ladder_vae.system.errors import UserError


def metrics(run):
    return json.loads((run / "metrics.json").read_text())


def test_the_first_draw_is_that_of_training_and_the_others_are_draws_too(npz):
    data = Npz(path=str(npz), val_size=8)
    for split, count in (("test", 24), ("val", 8), ("train", 32)):
        first, *others = (data.observe(split, range(count), draw) for draw in range(5))
        assert torch.equal(first, data.observe(split, range(count)))
        assert torch.equal(others[1], Npz(path=str(npz), val_size=8).observe(split, range(count), 2))
        for other in others:
            assert set(other.unique().tolist()) == {0.0, 1.0}
            assert (
                0.2 < (other - first).abs().mean() < 0.45
            )  # gray levels are uniform: a third of pixels moves
    with pytest.raises(ValueError, match="binarization=static has no draw 1 of its pixels, only 0"):
        Npz(path=str(npz), val_size=8, binarization="static").observe("test", [0], 1)
    split = data.observe("test", range(24), 1)
    assert torch.equal(data.observe("test", [3, 17], 1), split[[3, 17]])  # whatever is looked at beside it


@pytest.mark.parametrize("binarization", ["static", "threshold"])
def test_only_binary_pixels_are_binarized(npz, binarization):
    with pytest.raises(UserError, match=f"data.binarization={binarization} makes pixels binary"):
        Npz(path=str(npz), binarization=binarization, likelihood=LogisticMixture())


def test_pixels_are_drawn_with_their_gray_levels():
    data = MNIST()
    mean = torch.stack([data.observe("test", range(200), draw) for draw in range(1, 41)]).mean(0)
    gray = data.source.test[:200].double() / 255
    error = (gray * (1 - gray) / 40).sqrt()
    assert torch.equal(mean[error == 0].double(), gray[error == 0])
    z = ((mean - gray) / error)[error > 0]
    assert z.mean().abs() < 5 / len(z) ** 0.5
    assert z.std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.usefixtures("undrawn")
def test_the_mean_over_binarizations_and_their_spread(trained, command, monkeypatch):
    run = trained()
    compilations = []
    monkeypatch.setattr(parts, "compiled_weigher", lambda model: compilations.append(1) or weigher(model))
    single = {}
    assert command("evaluate", f"run={run}", "num_samples=20", "k=[1,20]")[0] == 0
    first = metrics(run)
    code, out, err = command(
        "evaluate", f"run={run}", "num_samples=20", "k=[1,20]", "binarizations=4", "compile=true"
    )
    assert code == 0, err
    found = metrics(run)
    for directory in (run / "evaluation").iterdir():
        with np.load(directory / "images.npz") as kept:
            of, draw = str(kept["identity"]).split()[-2:]
            single[of, int(draw)] = kept["log_px"][:, 1], kept["draw_var"][:, 1], kept["ess"][:, 1]
    means = [single["1", draw][0].mean() for draw in range(4)]
    assert means[0] == pytest.approx(first["test/log_px/K=20"])  # the first is what was evaluated before
    assert len(set(means)) == 4
    assert found["test/log_px/K=20"] == pytest.approx(np.mean(means))
    assert found["test/log_px/K=20_binarization_std"] == pytest.approx(np.std(means, ddof=1))
    assert found["test/binarizations"] == 4
    each = np.stack([single["1", draw][0] for draw in range(4)]).mean(0)
    assert found["test/log_px/K=20_stderr"] == pytest.approx(each.std(ddof=1) / 24**0.5)
    assert f"standard deviation of {found['test/log_px/K=20_binarization_std']:.3f} nats" in " ".join(
        out.split()
    )
    variance = (
        np.stack([single["1", draw][1] for draw in range(4)]).sum(0) / 4**2
    )  # of a mean of independent draws
    assert found["test/log_px/K=20_mc_stderr"] == pytest.approx(variance.sum() ** 0.5 / 24)
    assert found["test/active_units"] == first["test/active_units"]
    pooled = np.concatenate([ess for _, _, ess in (single["1", draw] for draw in range(4))])
    assert found["test/ess/K=20"] == pytest.approx(pooled.mean())
    spread = found["test/ess/K=20/q95"] - found["test/ess/K=20/q05"]  # of images, not of means over draws
    assert spread == pytest.approx(
        np.mean([np.subtract(*np.quantile(single["1", draw][2], [0.95, 0.05])) for draw in range(4)])
    )
    assert len(compilations) == 1  # for all binarizations
    # done once, it is not done again
    before = (run / "metrics.json").read_bytes()
    assert command("evaluate", f"run={run}", "num_samples=20", "k=[1,20]", "binarizations=4")[0] == 0
    assert (run / "metrics.json").read_bytes() == before
    # nor is it replaced by less
    code, _, err = command("evaluate", f"run={run}", "num_samples=20", "k=[5]")
    assert code == 0
    assert "it keeps an evaluation with more binarizations" in err
    assert (run / "metrics.json").read_bytes() == before


@pytest.mark.parametrize("binarization", ["static", "threshold"])
def test_pixels_that_are_fixed_are_not_drawn_anew(trained, command, binarization):
    run = trained(f"data.binarization={binarization}")
    before = (run / "metrics.json").read_bytes()
    code, _, err = command("evaluate", f"run={run}", "num_samples=10", "binarizations=2")
    assert code == 1
    line = only_line(err)
    assert f"are fixed (data.binarization={binarization}, likelihood Bernoulli); leave it out" in line
    assert (run / "metrics.json").read_bytes() == before
