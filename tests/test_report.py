import csv
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from ladder_vae.comparison.groups import group_runs, seed_noise
from ladder_vae.comparison.notes import shared_settings
from ladder_vae.runs.finding import find_runs, newest
from ladder_vae.runs.plan import PlannedJob, write_plan
from ladder_vae.runs.record import (
    Record,
    write_config,
    write_metrics,
    write_status,
)

UNDRAWN = pytest.mark.usefixtures("undrawn")  # for all but the one that looks at the pictures

MODEL = {"_target_": "ladder_vae.models.LadderVAE", "num_layers": 2}


def fake_run(path, depth, seed, elbo, *, status="finished", **settings):
    path.mkdir(parents=True)
    model = MODEL | {"num_layers": depth}
    write_config(path, {"name": "x", "seed": seed, "model": model, "data": {"seed": seed}, **settings})
    write_status(path, status, "the loss is not finite" if status == "failed" else "")
    metrics = {
        "test/elbo": elbo,
        "test/rate": 2.0,
        "test/distortion": -elbo - 2,
        "test/mse": 0.1,
        "test/ssim": 0.5,
    }
    metrics |= {f"test/rate/z{level}": 2.0 / depth for level in range(1, depth + 1)}
    metrics |= {"model/parameters": 10.0 * depth, "train/images_per_second": 5.0, "train/seconds": 3.0}
    write_metrics(path, metrics)
    rng = np.random.default_rng(seed)
    images = {
        "originals": np.zeros((4, 5, 6), np.uint8),
        "samples": rng.integers(0, 256, (8, 5, 6), np.uint8),
    }
    np.savez(path / "images.npz", reconstructions=images["originals"], **images)


@pytest.fixture
def sweep(tmp_path):
    for depth, seed, elbo in [(1, 1, -100.0), (1, 2, -102.0), (12, 1, -95.0), (12, 2, -95.5), (12, 3, -96.0)]:
        fake_run(tmp_path / f"L{depth}_{seed}", depth, seed, elbo)
    fake_run(tmp_path / "L3_1", 3, 1, 1e9, status="failed")
    fake_run(tmp_path / "L3_2", 3, 2, 1e9, status="running")
    return tmp_path


def test_seeds_are_averaged_and_unfinished_runs_are_not(sweep):
    groups = group_runs(find_runs([sweep]))
    assert [(g.depth, len(g.runs)) for g in groups] == [(1, 2), (12, 3)]
    assert groups[0].mean("test/elbo") == -101
    assert groups[0].std("test/elbo") == pytest.approx(math.sqrt(2))
    assert groups[1].std("test/elbo") == pytest.approx(0.5)
    # pooled: (1 * 2 + 2 * 0.25) / 3
    assert seed_noise(groups, "test/elbo") == pytest.approx(math.sqrt(2.5 / 3))


def test_runs_that_differ_in_more_than_the_seed_stay_apart(sweep):
    fake_run(sweep / "other", 1, 3, -90.0, optimizer={"lr": 0.5})
    groups = group_runs(find_runs([sweep]))
    assert [(g.series, g.depth, len(g.runs)) for g in groups] == [
        ("LadderVAE", 1, 2),
        ("LadderVAE", 12, 3),
        ("LadderVAE lr=0.5", 1, 1),
    ]


def test_report_files(sweep, command):
    code, out, err = command("report", str(sweep))
    assert code == 0, err
    assert out.splitlines()[-1] == str(sweep / "report.html")
    text = (sweep / "report.md").read_text()
    assert "-101.00 ± 1.41" in text
    assert "| change of | noise between seeds | 1 → 12 levels |" in text
    assert "| ELBO (nats) | 0.91 | +5.50 |" in text
    assert "| L3_1 | failed the loss is not finite" in text
    assert "| L3_2 | interrupted its process ended without a word" in text
    assert "| rate (nats) of z1, z2, ... |" in text  # twelve columns would be too many
    assert "2.00: 0.17, 0.17, 0.17" in text
    assert "| z12 |" not in text
    assert "1000000000" not in text
    with (sweep / "report.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0][:5] == ["run", "status", "model", "num_layers", "seed"]
    assert len(rows) == 8
    levels = [name for name in rows[0] if name.startswith("test/rate/")]
    assert levels == [f"test/rate/z{n}" for n in range(1, 13)]
    failed = next(row for row in rows if row[0] == "L3_1")
    assert failed[1] == "failed"
    assert set(failed[5:]) == {""}
    for name in ("against_depth", "rates", "reconstructions", "samples"):
        assert f"figures/{name}.png" in text
        assert (sweep / "figures" / f"{name}.png").stat().st_size > 1000


@UNDRAWN
def test_several_directories_and_output(sweep, command, workdir):
    code, out, _ = command("report", str(sweep / "L1_1"), str(sweep / "L12_1"), "--output", "there")
    assert code == 0
    assert out.splitlines()[-1] == "there/report.html"
    text = (workdir / "there/report.md").read_text()
    assert "One seed each" in text
    assert "| ELBO (nats) | unknown | +5.00 |" in text


def test_nothing_finished_is_an_error_that_says_so(tmp_path, command):
    fake_run(tmp_path / "a", 1, 1, -100.0, status="interrupted")
    code, _, err = command("report", str(tmp_path))
    assert code == 1
    assert "error: no run has finished" in err
    assert "interrupted" in (tmp_path / "report.md").read_text()


@UNDRAWN
def test_an_unreadable_record_is_listed_and_not_averaged(sweep, command):
    (sweep / "L1_1" / "metrics.json").write_text("{")
    command("report", str(sweep))
    assert "| L1_1 | failed unreadable record" in (sweep / "report.md").read_text()
    assert json.loads((sweep / "L1_2" / "metrics.json").read_text())["test/elbo"] == -102


@UNDRAWN
def test_a_repeated_seed_says_nothing_of_the_noise(sweep, command):
    fake_run(sweep / "L1_2_again", 1, 2, -102.0)
    (group, _) = group_runs(find_runs([sweep]))
    assert sorted(group.values("test/elbo")) == [-102, -100]
    command("report", str(sweep))
    assert "| L1_2 | repeats settings and seed of a later run" in (sweep / "report.md").read_text()


@UNDRAWN
def test_jobs_that_never_started_are_listed(tmp_path, command):
    write_plan(tmp_path, [PlannedJob(f"{n}_L", [f"model.num_layers={n + 1}"]) for n in range(2)])
    fake_run(tmp_path / "0_L", 1, 1, -100.0)
    command("report", str(tmp_path))
    text = (tmp_path / "report.md").read_text()
    assert "never started: model.num_layers=2" in text
    assert "never started: model.num_layers=1" not in text


def test_a_sweep_that_was_killed_before_its_first_run(tmp_path, command):
    write_plan(tmp_path, [PlannedJob("0_L", ["model.num_layers=1"])])
    code, _, err = command("report", str(tmp_path))
    assert code == 1
    assert "no run has finished" in err
    assert "never started: model.num_layers=1" in (tmp_path / "report.md").read_text()


@UNDRAWN
def test_a_single_run_keeps_its_own_figures(tmp_path, command, workdir):
    fake_run(tmp_path / "run", 1, 1, -100.0)
    code, out, _ = command("report", str(tmp_path / "run"))
    assert code == 0
    assert out.splitlines()[-1].startswith("runs/reports/")
    assert not (tmp_path / "run/figures").exists()


def record(path, target, seed=1, status="finished", **model) -> Record:
    settings = {"_target_": f"ladder_vae.models.{target}", "num_layers": 3, **model}
    return Record(Path(path), {"model": settings, "seed": seed}, status, "", {"test/elbo": -1.0})


def test_a_setting_that_only_some_models_have_goes_without_saying():
    ladder, textbook = (record("a", "LadderVAE", batch_norm=True), record("b", "TextbookVAE"))
    assert [g.series for g in group_runs([ladder, textbook])] == ["LadderVAE", "TextbookVAE"]
    plain = record("c", "LadderVAE", batch_norm=False)  # where it tells two runs apart, it is said
    assert [g.series for g in group_runs([ladder, textbook, plain])] == [
        "LadderVAE batch_norm=False",
        "LadderVAE batch_norm=True",
        "TextbookVAE",
    ]


@UNDRAWN
def test_many_settings_make_no_long_name_and_are_told_below(tmp_path, command):
    """A name has as few of them as tell the series apart."""
    long = {f"one_of_very_many_settings_{i}": "a" for i in range(6)}
    for i, (lr, changed) in enumerate([(0.1, "a"), (0.2, "b"), (0.3, "b")]):
        settings = long | {"one_of_very_many_settings_3": changed, "one_of_very_many_settings_4": changed}
        fake_run(tmp_path / str(i), 2, 1, -90.0 - i, optimizer={"lr": lr, **settings}, init_from="runs/first")
    code, out, _ = command("report", str(tmp_path))
    assert code == 0
    assert {group.series for group in group_runs(find_runs([tmp_path]))} == {
        "LadderVAE lr=0.1 one_of_very_many_settings_3=a one_of_very_many_settings_4=a",
        "LadderVAE lr=0.2 one_of_very_many_settings_3=b one_of_very_many_settings_4=b",
        "LadderVAE lr=0.3 one_of_very_many_settings_3=b one_of_very_many_settings_4=b",
    }
    assert "differ in more than their names say" not in out
    for i, changed in enumerate("abb"):
        config = find_runs([tmp_path / str(i)])[0].config
        settings = config["optimizer"] | {"one_of_very_many_settings_5": changed}
        write_config(tmp_path / str(i), config | {"optimizer": settings})
    code, out, _ = command("report", str(tmp_path))
    assert code == 0
    groups = group_runs(find_runs([tmp_path]))
    assert {group.series for group in groups} == {f"LadderVAE lr={lr}" for lr in (0.1, 0.2, 0.3)}
    said = " ".join(out.split())
    assert (
        "differ in more than their names say, in the order of the tables: "
        "optimizer.one_of_very_many_settings_3 a, b, b; optimizer.one_of_very_many_settings_4 a, b, b; "
        "optimizer.one_of_very_many_settings_5 a, b, b." in said
    )
    page = " ".join((tmp_path / "report.md").read_text().split())
    assert (
        "went on from the weights of runs/first, and epochs and seconds are of its own part alone, of "
        "LadderVAE lr=0.1, L=2, LadderVAE lr=0.2, L=2, LadderVAE lr=0.3, L=2." in page
    )


@UNDRAWN
def test_names_that_would_be_cut_to_the_same_tell_series_apart_otherwise(tmp_path, command):
    start = "runs/" + "a" * 80
    for i, name in enumerate("bcd"):
        fake_run(tmp_path / name, 2, 1, -90.0 - i, init_from=start + name, trainer={"a": "x" * 50, "rate": i})
        config = find_runs([tmp_path / name])[0].config
        write_config(tmp_path / name, config | {"trainer": {"a": name * 50, "b": name * 50, "rate": i}})
    code, out, _ = command("report", str(tmp_path))
    assert code == 0
    assert {group.series for group in group_runs(find_runs([tmp_path]))} == {
        f"LadderVAE a={name * 50}" for name in "bcd"
    }
    assert f"...{'a' * 59}b" in "".join(out.split())


def test_what_follows_from_depth_by_a_rule_makes_no_series_of_its_own():
    def record(rule, depth, more=0):
        epochs = {"equal_time": 10 * depth, "equal_parameters": 20}
        config = {
            "model": {
                "_target_": "ladder_vae.models.ResidualVAE",
                "num_layers": depth,
                "width": 100 // depth,
            },
            "trainer": {"max_epochs": epochs[rule] + more},
            "by_depth": {
                "rule": rule,
                "values": {"trainer.max_epochs": epochs[rule], "model.width": 100 // depth},
            },
            "seed": 1,
        }
        return Record(Path(f"{rule}{depth}"), config, "finished", "", {"test/elbo": -90.0})

    rules, depths = ("equal_parameters", "equal_time"), (1, 2, 5)
    groups = group_runs([record(rule, depth) for rule in rules for depth in depths])
    expected = [(f"ResidualVAE rule={rule}", depth) for rule in rules for depth in depths]
    assert [(group.series, group.depth) for group in groups] == expected
    assert " From row to row: epochs 20, 20, 20, 10, 20, 50." in shared_settings(groups)
    # Who was told another number of epochs does not follow the rule.
    groups = group_runs([record("equal_time", 5), record("equal_time", 5, more=7)])
    assert [len(group.runs) for group in groups] == [1, 1]


def test_the_newest_run_of_a_depth(trained, workdir):
    assert newest("runs", 2) == ""
    foreign = workdir / "runs/x/foreign"
    foreign.mkdir(parents=True)
    (foreign / "config.yaml").write_text("model: 1")
    assert newest("runs", 2) == ""
    older, newer = (trained("logger=none", run_dir=f"runs/x/{name}") for name in ("b", "a"))
    os.utime(older / "status.json", (1, 1))
    assert newest("runs", 2) == str(newer)
    assert newest("runs", 3) == ""
    trained("logger=none", run_dir="runs/released/a_copy_of_the_package")
    assert newest("runs", 2) == str(newer)
    (newer / "status.json").write_text('{"status": "failed", "message": ""}')
    assert newest("runs", 2) == str(older)


@pytest.mark.parametrize("key", ["compile", "cuda_graph", "accelerator"])
def test_runs_that_were_computed_in_other_ways_are_one_group(workdir, key):
    """A run from before the setting, too."""
    for seed, trainer in enumerate(({}, {key: False}, {key: True})):
        fake_run(workdir / f"runs/{seed}", 2, seed, -100.0)
        settings = {"seed": seed, "model": MODEL, "trainer": {"max_epochs": 3} | trainer}
        write_config(workdir / f"runs/{seed}", settings)
    (group,) = group_runs(find_runs([Path("runs")]))
    assert len(group.runs) == 3


def test_a_run_from_before_a_setting_goes_with_those_that_leave_it_off(workdir):
    off = {"balance_rates": False, "spectral": 0.0}
    for seed, objective in enumerate(({}, off, off | {"spectral": 0.1})):
        fake_run(workdir / f"runs/{seed}", 2, seed, -100.0)
        settings = {"seed": seed, "model": MODEL, "objective": {"free_bits": 0.0} | objective}
        write_config(workdir / f"runs/{seed}", settings)
    groups = group_runs(find_runs([Path("runs")]))
    assert sorted(len(group.runs) for group in groups) == [1, 2]
    assert {group.settings["objective.spectral"] for group in groups} == {None, 0.1}


def test_equal_data_under_two_paths_are_one_group(workdir):
    def run(name, path, data, seed):
        fake_run(workdir / "runs" / name, 1, seed, -100.0, **{})
        settings = {"seed": seed, "model": MODEL | {"num_layers": 1}, "data": {"path": path, "seed": seed}}
        write_config(workdir / "runs" / name, settings)
        write_status(workdir / "runs" / name, "finished", data_fingerprint=data)

    run("a", "/here/x.npz", "f" * 64, 1)
    run("b", "/there/x.npz", "f" * 64, 2)
    (group,) = group_runs(find_runs([Path("runs")]))
    assert len(group.runs) == 2
    run("c", "/here/x.npz", "0" * 64, 3)  # written anew: other images
    groups = group_runs(find_runs([Path("runs")]))
    assert sorted(len(group.runs) for group in groups) == [1, 2]
    assert any("00000000" in group.series for group in groups)


def test_one_file_binarized_in_two_ways_is_one_place(workdir):
    for seed, kind in enumerate(["dynamic", "static"]):
        fake_run(workdir / "runs" / kind, 1, seed, -100.0)
        data = {"path": "/here/x.npz", "binarization": kind}
        write_config(
            workdir / "runs" / kind, {"seed": seed, "model": MODEL | {"num_layers": 1}, "data": data}
        )
        write_status(workdir / "runs" / kind, "finished", data_fingerprint=f"{seed}" * 64)
    groups = group_runs(find_runs([Path("runs")]))
    assert [group.series for group in groups] == [
        "LadderVAE binarization=dynamic",
        "LadderVAE binarization=static",
    ]


@UNDRAWN
def test_a_table_has_no_rows_or_columns_of_dashes(workdir, command):
    for depth in (1, 2, 3, 5):
        fake_run(workdir / f"runs/L{depth}", depth, 1, -100.0 + depth)
    path = workdir / "runs/L2"
    known = json.loads((path / "metrics.json").read_text())
    evaluated = {"log_px/K=1": -98.0, "log_px/K=10": -97.0, "gap/K=10": 1.0, "draws": 10, "elbo": -98.0}
    write_metrics(path, known | {f"test/{name}": value for name, value in evaluated.items()})
    assert command("report", "runs")[0] == 0
    rows = [line.strip("| ").split(" | ") for line in Path("runs/report.md").read_text().splitlines()]
    dashed = [row for row in rows if len(row) > 2 and set(row[2:]) <= {"–"}]
    assert not dashed
