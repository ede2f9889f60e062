"""Links in a run directory: nothing is written through one, and a linked run is found once."""

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import tiny
from test_report import fake_run

from ladder_vae.runs.finding import find_runs
from ladder_vae.system.files import replacing
from ladder_vae.training import finishing

pytestmark = pytest.mark.usefixtures("undrawn")


def test_what_is_written_replaces_a_link(tmp_path):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "a").symlink_to("mine")
    (tmp_path / "a.part").symlink_to("mine")
    with replacing(tmp_path / "a") as part:
        part.write_text("new")
    assert (tmp_path / "mine").read_text() == "precious"
    assert (tmp_path / "a").read_text() == "new"
    assert not (tmp_path / "a").is_symlink()
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as part:
        part.write_text(str(1 / 0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.part", "mine"]
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask


def linked(path: Path, to: Path) -> None:
    """Put a link in the place of a file, or where none is."""
    if path.exists():
        shutil.copy(path, to)
        path.unlink()
    else:
        to.write_text("precious")
    path.symlink_to(to.resolve())


FILES = ["metrics.json", "status.json", "config.yaml", "checksums.json", "images.npz"]


def test_no_file_is_written_through_a_link_of_a_run(trained, command, workdir):
    run, mine = trained(), workdir / "mine"
    mine.mkdir()
    names = [*FILES, *(f"{name}.part" for name in FILES), "checkpoints/best.ckpt", "checkpoints/last.ckpt"]
    for number, name in enumerate(name for name in names if not name.endswith(".part")):
        linked(run / name, mine / str(number))
    before = {path.name: path.read_bytes() for path in mine.iterdir()}
    code, _, err = command("evaluate", f"run={run}", "num_samples=10", "compile=false")
    assert code == 0, err
    code, _, err = command("train", f"resume={run}", "trainer.max_epochs=3")
    assert code == 0, err
    assert {path.name: path.read_bytes() for path in mine.iterdir()} == before
    assert not any((run / name).is_symlink() for name in names)


@pytest.mark.parametrize("name", ["figures", "evaluation", "checkpoints", "00006", "hparams.yaml", "x.part"])
def test_links_out_of_a_run_are_refused(trained, command, workdir, name):
    run, mine = trained(), workdir / "mine"
    if (run / name).exists():
        shutil.move(run / name, mine)
    elif not name.endswith((".yaml", ".part")):
        mine.mkdir()
    before = sorted(mine.rglob("*"))
    (run / name).symlink_to(mine)
    for arguments in (["evaluate", f"run={run}", "num_samples=10"], ["analyze", f"run={run}"],
                      ["train", f"resume={run}", "trainer.max_epochs=3"]):  # fmt: skip
        code, _, err = command(*arguments)
        assert (code, err.count("\n")) == (1, 1)
        assert f"{run / name} is a link out of {run}, to {mine}" in err
    assert sorted(mine.rglob("*")) == before


def test_a_report_writes_through_no_link(folder, command, workdir):
    mine = workdir / "mine"
    names = ["report.md", "report.csv", "report.html", "report.md.part", "report.csv.part"]
    for name in names:
        mine.write_text("precious")
        (folder / name).symlink_to(mine)
    assert command("report", folder)[0] == 0
    assert mine.read_text() == "precious"
    shutil.rmtree(folder / "figures")
    (workdir / "pictures").mkdir()
    (folder / "figures").symlink_to(workdir / "pictures")
    code, _, err = command("report", folder)
    assert (code, err.count("\n")) == (1, 1)
    assert "runs/figures is a link out of runs" in err
    assert not list((workdir / "pictures").iterdir())


def test_linked_runs_are_found_once(folder, workdir):
    fake_run(workdir / "elsewhere/deep/run", 2, 7, -90.0)
    fake_run(workdir / "alone", 2, 8, -90.0)
    (folder / "sweep").symlink_to(workdir / "elsewhere")
    (folder / "again").symlink_to(workdir / "elsewhere/deep/run")
    (folder / "alone").symlink_to(workdir / "alone")
    (folder / "round").symlink_to(workdir / "runs")
    (workdir / "elsewhere/up").symlink_to(workdir)
    found = [record.path for record in find_runs([folder])]
    assert [path.name for path in found] == ["again", "alone", "broken", "good"]


@pytest.mark.parametrize(("name", "link"), [("0", "0"), ("a/b", "a"), ("a/b", "a/b")])
@pytest.mark.parametrize("trust", [[], ["trust=true"]])
def test_a_sweep_is_not_finished_through_links(command, workdir, monkeypatch, name, link, trust):
    monkeypatch.setattr(finishing, "_start", lambda *given: pytest.fail(str(given)))
    (workdir / "sweep" / link).parent.mkdir(parents=True)
    (workdir / "sweep" / link).symlink_to(workdir / "mine")
    Path("sweep/jobs.json").write_text(json.dumps([{"name": name, "overrides": []}]))
    code, _, err = command("train", "finish=sweep", *trust)
    assert (code, err.count("\n")) == (1, 1)
    assert f"sweep/{name} is a link out of sweep, to {workdir / 'mine'}" in err
    assert not (workdir / "mine").exists()


@pytest.mark.parametrize("name", ["checkpoints", "figures", "x/figures"])
@pytest.mark.parametrize("sweeps", [[], ["-m"]])
def test_a_new_run_writes_through_no_link(command, npz, workdir, name, sweeps):
    (workdir / "mine").mkdir()
    (workdir / "out" / name).parent.mkdir(parents=True)
    (workdir / "out" / name).symlink_to(workdir / "mine")
    code, _, err = command("train", *tiny(npz), *sweeps, "run_dir=out")
    assert (code, err.count("\n")) == (1, 1)
    assert f"out/{name} is a link out of out, to {workdir / 'mine'}" in err
    assert not list((workdir / "mine").iterdir())
