import json
import re

import pytest
import torch
from conftest import events
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from ladder_vae.data import Npz
from ladder_vae.runs.metrics import curves, level_keys
from ladder_vae.settings.composition import compose_run, without_hydra
from ladder_vae.system.naming import level_groups
from ladder_vae.training.settle import plain
from ladder_vae.training.tensorboard import NAMED, Dashboards, _columns


def test_tensorboard_shows_what_the_dashboards_promise(train):
    run = train("data.val_size=8")
    seen = events(run)
    tags = seen.Tags()
    parts = ("elbo", "rate", "distortion", "rate/z1", "rate/z2")
    for stage in ("train", "val", "test"):
        assert {f"{stage}/{part}" for part in parts} <= set(tags["scalars"])
    assert {"train/beta", "train/loss", "train/lr"} <= set(tags["scalars"])
    assert {"val/reconstructions", "val/samples"} <= set(tags["images"])
    metrics = json.loads((run / "metrics.json").read_text())
    for name, value in metrics.items():
        if name != "model/parameters":
            assert seen.Scalars(name)[-1].value == pytest.approx(value, rel=1e-6)
    assert min(tags["scalars"]) == "elbo/train"  # TensorBoard sorts them, and opens on the first
    assert not {"epoch", "model/parameters"} & set(tags["scalars"])
    for stage in ("train", "val"):
        first, named = seen.Scalars(f"elbo/{stage}"), seen.Scalars(f"{stage}/elbo")
        assert [(e.step, e.value) for e in first] == [(e.step, e.value) for e in named]
    layout = layout_pb2.Layout()
    layout.ParseFromString(seen.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    patterns = [tag for c in layout.category for chart in c.chart for tag in chart.multiline.tag]
    matched = [t for t in tags["scalars"] if any(re.search(p, t) for p in patterns if "rate/z" in p)]
    assert sorted(matched) == ["train/rate/z1", "train/rate/z2", "val/rate/z1", "val/rate/z2"]


def test_a_deep_model_draws_rates_of_groups_of_levels(train):
    sizes = f"model.latent_sizes={[2] * 18}", f"model.hidden_sizes={[8] * 18}"
    run = train("model.num_layers=18", *sizes, "data.val_size=8", "trainer.max_epochs=1")
    seen = events(run)
    for stage in ("train", "val"):
        names = [name for name in seen.Tags()["scalars"] if name.startswith(f"{stage}/rate/")]
        assert sorted(names, key=level_keys) == [name for name in curves(stage, 18) if "/rate/" in name]
        assert len(names) == 16
        assert {f"{stage}/rate/z1", f"{stage}/rate/z8-z9", f"{stage}/rate/z17-z18"} <= set(names)
        total = sum(seen.Scalars(name)[-1].value for name in names)
        assert total == pytest.approx(seen.Scalars(f"{stage}/rate")[-1].value, rel=1e-5)
    metrics = json.loads((run / "metrics.json").read_text())
    assert len([name for name in metrics if name.startswith("test/rate/z")]) == 18  # each level its own


@pytest.mark.parametrize("depth", range(1, 40))
def test_groups_of_levels_hold_each_level_once(depth):
    groups = level_groups(depth, 16)
    assert len(groups) == min(depth, 16)
    held = [range(depth)[part] for part in groups.values()]
    assert [level for part in held for level in part] == list(range(depth))
    assert max(map(len, held)) - min(map(len, held)) <= 1


def test_hparams_have_the_same_columns_for_every_depth(train):
    sizes = "model.latent_sizes=null", "model.hidden_sizes=null"
    columns = []
    for depth in (1, 3):
        run = train(f"model.num_layers={depth}", *sizes, run_dir=f"L{depth}")
        content = events(run).PluginTagToContent("hparams")["_hparams_/experiment"]
        experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
        columns.append([info.name.tag for info in experiment.metric_infos])
        trained = {name for name in columns[-1] if "log_px" not in name}  # those come with an evaluation
        assert trained <= set(events(run).Tags()["scalars"])  # each column gets a value
    assert columns[0] == columns[1]
    assert "test/elbo" in columns[0]


def test_hparams_have_columns_for_the_settings_of_every_model(train):
    run = train()
    content = events(run).PluginTagToContent("hparams")
    shown = plugin_data_pb2.HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment
    names = {info.name for info in shown.hparam_infos}
    assert {"setting model.blocks", "setting model.width", "setting model.hidden_sizes"} <= names
    assert {"setting data.directory", "setting optimizer.weight_decay", "levels", "seed"} <= names
    begun = plugin_data_pb2.HParamsPluginData.FromString(content["_hparams_/session_start_info"])
    own = set(begun.session_start_info.hparams)
    assert "setting model.hidden_sizes" in own
    assert "setting model.blocks" not in own  # what a run does not have stays empty
    assert own <= names
    assert not any("_target_" in name or "_partial_" in name for name in names)
    info = begun.session_start_info.hparams
    assert info["setting optimizer"].string_value == "Adam"
    assert info["setting likelihood"].string_value == "Bernoulli"
    assert info["weights"].number_value == json.loads((run / "metrics.json").read_text())["model/parameters"]


def test_hparams_columns_hold_the_settings_of_any_choice():
    """The run that TensorBoard finds first names the columns, and the others may have chosen otherwise."""
    for choices in (
        ["model=convolutional", "data=folder", "data.path=x", "optimizer=adamax", "scheduler=constant"],
        ["model=residual", "callbacks=early_stopping", "by_depth=equal_time", "init_from=x", "data=npz"],
        ["model=nvae", "likelihood=logistic_mixture", "data=photographs", "logger=none"],
    ):
        config = plain(without_hydra(compose_run([*choices, "++data.path=x"])))
        config["model"]["input_shape"] = [1, 28, 28]
        missing = set(Dashboards(config).hparams()) - set(NAMED) - set(_columns())
        assert missing == set(), choices


@pytest.mark.parametrize("val_size", [0, 8])
def test_pictures_are_of_binarized_images(npz, val_size):
    """A draw of gray pixels, not every pixel that is not black."""
    data = Npz(path=str(npz), val_size=val_size)
    name, x = data.examples(5)
    assert name == ("val" if val_size else "train")
    assert x.shape == (5, 1, 12, 16)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert 0.4 < x.mean() < 0.6  # intensities are uniform; all but 1 of 256 are above zero
    assert torch.equal(x, Npz(path=str(npz), val_size=val_size, seed=9).examples(5)[1])
