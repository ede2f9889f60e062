"""Where runs are written: Hydra's own settings, odd directories, two runs in one second, sweepers."""

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import tiny
from test_errors import only_line

from ladder_vae.settings.composition import compose_run
from ladder_vae.training import job as training_job
from ladder_vae.training import preflight
from ladder_vae.training.places import prepare_directory


@pytest.mark.parametrize(
    ("argument", "said"),
    {
        "hydra.run.dir=out": "hydra.run.dir=out would split the run; set run_dir=out instead",
        "hydra.job.chdir=true": "hydra.job.chdir=true would move all relative paths",
        "hydra.output_subdir=checkpoints": "hydra.output_subdir=checkpoints could write over the run",
        "hydra.output_subdir=.": "hydra.output_subdir=. could write over the run",
        "run_dir=": "run_dir= is empty; name a directory, or leave it out for one below runs/",
        "run_dir=/": "run_dir=/ is the root of the file system",
        "run_dir=/tmp/..": "is the root of the file system",
        "run_dir=file": "run_dir=file is a file; name a directory",
        "run_dir=round": "run_dir=round cannot be written",
        "run_dir=s3://bucket/run": "run_dir=s3://bucket/run is no directory of this machine",
        "run_dir=other": "other/config.yaml is there already and not of a run",
        "name=../../etc/x": "name=../../etc/x must be a folder below runs/; run_dir=... takes any directory",
        "name=/etc/x": "name=/etc/x must be a folder below runs/",
        "name=": "name= must be a folder below runs/",
        "run_dir=null": "run_dir",
        "run_dir=???": "run_dir",
    }.items(),
)
def test_no_place_for_a_run(command, npz, workdir, argument, said):
    Path("file").write_text("kept")
    Path("round").symlink_to("round")
    Path("other").mkdir()
    Path("other/config.yaml").write_text("kept: true")
    code, _, err = command("train", *tiny(npz), argument)
    assert code == 1
    assert said in only_line(err)
    assert sorted(path.name for path in workdir.rglob("*")) == ["config.yaml", "file", "other", "round"]


@pytest.mark.parametrize(
    ("argument", "said"),
    {
        "hydra.sweep.dir=out": "hydra.sweep.dir=out would split the run; set run_dir=out instead",
        "hydra.sweep.subdir=x": "hydra.sweep.subdir=x is the same for 2 jobs, of which one would be left",
        "hydra.sweep.subdir='${hydra:job.num}/../../y'": "lies outside the sweep; leave it out",
        "hydra.sweep.subdir=.": "lies outside the sweep; leave it out",
        "run_dir=/": "run_dir=/ is the root of the file system",
        "name=..": "name=.. must be a folder below runs/",
    }.items(),
)
def test_no_place_for_a_sweep(command, npz, workdir, argument, said):
    code, _, err = command("train", "-m", *tiny(npz), "seed=1,2", argument)
    assert code == 1
    assert said in only_line(err)
    assert not list(workdir.iterdir())


@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "checkpoints/best.ckpt", "metrics.json"])
def test_no_run_writes_over_what_is_left_of_one(command, npz, workdir, name):
    """Its configuration, say, is lost."""
    kept = workdir / "sweep/run" / name
    kept.parent.mkdir(parents=True)
    kept.write_text("precious")
    code, _, err = command("train", *tiny(npz), "run_dir=sweep/run")
    assert code == 1
    assert "is there already and not of a run; move it away" in only_line(err)
    code, _, err = command("train", "-m", *tiny(npz), "seed=1,2", "run_dir=sweep")
    assert code == 1
    assert "run_dir=sweep already holds runs" in only_line(err)
    assert [path for path in workdir.rglob("*") if path.is_file()] == [kept]


def test_a_place_that_is_a_link_to_itself(command, npz, workdir):
    Path("loop").symlink_to("loop")
    code, _, err = command("train", *tiny(npz), "run_dir=loop")
    assert code == 1
    assert "run_dir=loop cannot be written" in only_line(err)


def test_no_job_writes_over_a_run(trained, command, npz):
    """Even where the check before the run was taken out."""
    run = trained()
    before = (run / "config.yaml").read_bytes()
    code, _, err = command("train", *tiny(npz), f"run_dir={run}", "seed=2", "~hydra.callbacks.preflight")
    assert code == 1
    assert "already holds a run" in only_line(err)
    assert (run / "config.yaml").read_bytes() == before
    assert json.loads((run / "status.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("multirun", [[], ["-m", "hydra.launcher.jobs=1"]])
def test_two_in_one_second(command, npz, workdir, monkeypatch, multirun):
    class Clock:
        @staticmethod
        def now():
            return datetime(2026, 1, 2)

    monkeypatch.setattr("hydra.core.utils.datetime", Clock)
    for _ in range(2):
        code, out, err = command("train", *tiny(npz), "trainer.max_epochs=1", *multirun)
        assert code == 0, err
    assert sorted(path.name for path in Path("runs/train").iterdir()) == [
        "2026-01-02_00-00-00",
        "2026-01-02_00-00-00_2",
    ]
    assert "2026-01-02_00-00-00_2" in out.splitlines()[-1]
    assert len(list(Path("runs").rglob("metrics.json"))) == 2


def test_a_directory_that_was_named_is_taken_as_it_is(workdir):
    assert prepare_directory(Path("a/b")) == prepare_directory(Path("a/b")) == Path("a/b")


def test_flags_and_settings_in_any_order(command):
    for args in (["seed=3", "--cfg", "job", "name=x"], ["--cfg", "job", "seed=3", "name=x"]):
        code, out, err = command("train", *args)
        assert (code, err) == (0, "")
        assert (yaml.safe_load(out)["seed"], yaml.safe_load(out)["name"]) == (3, "x")


def test_a_multirun_flag_behind_a_setting(command, npz, workdir):
    code, _, err = command("train", *tiny(npz), "seed=1,x", "-m", "run_dir=sweep")
    assert code == 1
    assert "seed=x" in only_line(err)


def test_the_later_of_two_says_so(command):
    _, out, err = command("train", "model=ladder", "seed=1", "model=residual", "seed=1", "--cfg", "job")
    assert err == "warning: model=ladder does not count, because model=residual comes later\n"
    assert "ResidualVAE" in out


SWEEPER = '''
from hydra.plugins.sweeper import Sweeper


class Asking(Sweeper):
    """Chooses its second job by what the first returned."""

    def __init__(self, **settings):
        pass

    def setup(self, *, hydra_context, task_function, config):
        self.config = config
        from hydra.core.plugins import Plugins

        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        (first,) = self.launcher.launch([[*arguments, "seed=1"]], initial_job_idx=0)
        (second,) = self.launcher.launch([[*arguments, f"seed={2 + (first.return_value < 0)}"]], 1)
        assert first.return_value < 0 and second.return_value < 0
'''


@pytest.fixture
def sweeper(workdir, monkeypatch):
    """Settings that choose a sweeper that learns from what its jobs return."""
    monkeypatch.syspath_prepend(str(workdir))
    (workdir / "hydra_plugins").mkdir()
    (workdir / "hydra_plugins/asking.py").write_text(SWEEPER)
    from hydra.core.plugins import Plugins

    from hydra_plugins import asking

    monkeypatch.setitem(Plugins.instance().class_name_to_class, "hydra_plugins.asking.Asking", asking.Asking)
    return [
        "-m",
        "hydra.sweeper._target_=hydra_plugins.asking.Asking",
        "hydra/launcher=basic",
        "run_dir=sweep",
    ]


def test_a_sweeper_gets_the_bound_on_validation_images(command, npz, sweeper, monkeypatch):
    bounds = []
    kept = training_job.fit

    def fit(assembly, *args):
        metrics = kept(assembly, *args)
        bounds.append((assembly.checkpoints.best, metrics["test/elbo"]))
        return metrics

    monkeypatch.setattr(training_job, "fit", fit)
    code, _, err = command("train", *tiny(npz), "data.val_size=8", *sweeper)
    assert code == 0, err
    (val, test), _ = bounds
    assert val != test


def test_validation_images_of_a_file_are_enough_for_a_sweeper(npz, workdir):
    with np.load(npz) as file:
        np.savez("own.npz", **file, x_val=file["x_test"], y_val=file["y_test"])
    settings = [*tiny(npz), f"data.path={workdir / 'own.npz'}"]
    preflight._check_for_sweeper(compose_run(settings), workdir / "sweep")
    assert (workdir / "sweep").is_dir()


@pytest.mark.parametrize(
    "without", ["data.val_size=0", "trainer.limit_val_batches=0", "trainer.check_val_every_n_epoch=3"]
)
def test_a_sweeper_without_validation(command, npz, workdir, sweeper, without):
    code, _, err = command("train", *tiny(npz), "data.val_size=8", *sweeper, without)
    assert code == 1
    assert "chooses by the bound on validation images, and there is none" in only_line(err)
    assert not (workdir / "sweep").exists()
