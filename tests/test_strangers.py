"""Run directories that somebody sent, or that are broken: nothing runs, lands elsewhere, or is lost."""

import csv
import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import tiny
from test_report import fake_run

from ladder_vae.comparison.groups import group_runs
from ladder_vae.runs.finding import find_runs
from ladder_vae.runs.images import read_images
from ladder_vae.runs.record import write_config, write_metrics, write_status
from ladder_vae.system.errors import UserError, printable
from ladder_vae.system.files import read_npz, replacing

pytestmark = pytest.mark.usefixtures("undrawn")

LAUGHS = "a: &a [1, 2]\n" + "\n".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
MODEL = {"_target_": "ladder_vae.models.LadderVAE", "num_layers": 2}


def config(**settings) -> str:
    return yaml.safe_dump({"name": "x", "seed": 1, "model": MODEL, **settings})


def metrics(**more) -> str:
    known = {"test/elbo": -90.0, "test/rate/z1": 1.0, "test/rate/z2": 1.0}
    return json.dumps({**known, **{key.replace("__", "/"): value for key, value in more.items()}})


BAD = {  # file, content, what is said of it
    "laughs": ("config.yaml", f"model: {{}}\n{LAUGHS}", "aliases"),
    "merged laughs": (
        "config.yaml",
        "a: &a {x: 1}\n" + "b: {<<: [" + "*a, " * 20 + "*a]}\nmodel: {}",
        "aliases",
    ),
    "deep": ("config.yaml", "model: " + "[" * 5000 + "]" * 5000, "levels deep"),
    "no date": ("config.yaml", "model: {}\nwhen: 2026-99-99", "cannot be read"),
    "no key": ("config.yaml", "model: {}\n[1, 2]: 3", "cannot be read"),
    "no bool": ("config.yaml", "model: {}\na: !!bool maybe", "cannot be read"),
    "code": ("config.yaml", "model: !!python/object/apply:os.system [id]", "cannot be read"),
    "a list as data": ("config.yaml", config(data=[1, 2]), "names no data: it has [1, 2] there"),
    "a word as model": ("config.yaml", "model: x", "has no model"),
    "a word as levels": ("config.yaml", config(model=MODEL | {"num_layers": "a"}), "model.num_layers='a'"),
    "no end of levels": ("config.yaml", config(model=MODEL | {"num_layers": 10**9}), "no number of levels"),
    "a list as seed": ("config.yaml", config(seed=[1]), "seed=[1]"),
    "other levels": (
        "config.yaml",
        config(model=MODEL | {"num_layers": 3}),
        "levels up to z2, but the model",
    ),
    "a large config": ("config.yaml", "model: {}\n" + "# \n" * 400_000, "such a file has at most"),
    "NaN": ("metrics.json", metrics(test__mse=float("nan")), "no finite number"),
    "infinity": ("metrics.json", metrics(test__mse=float("inf")), "no finite number"),
    "a huge number": ("metrics.json", metrics(test__mse=10**400), "no finite number"),
    "a word": ("metrics.json", metrics(test__mse="0.1"), "no finite number"),
    "a truth": ("metrics.json", metrics(test__mse=True), "no finite number"),
    "{}": ("metrics.json", metrics(test__mse={}), "no finite number"),
    "a list": ("metrics.json", "[1]", "holds no metrics by name"),
    "deep metrics": ("metrics.json", "[" * 100_000, "cannot be read"),
    "a long name": ("metrics.json", metrics(**{"test/log_px/K=" + "9" * 5000: 1.0}), "a name of 5,014 char"),
    "more levels": ("metrics.json", metrics(test__active_units__z9=1.0), "the model of the run has 2"),
    "a status in a list": ("status.json", '{"status": ["finished"]}', "holds no status"),
    "another status": ("status.json", '{"status": "great", "message": ""}', "holds no status"),
    "no status": ("status.json", "7", "holds no status"),
}


@pytest.fixture
def folder(workdir) -> Path:
    """A good run and one to be broken."""
    for name in ("good", "broken"):
        fake_run(workdir / "runs" / name, 2, 1, -100.0)
        (workdir / "runs" / name / "checksums.json").unlink()  # a stranger has none, or makes them fit
    return Path("runs")


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_run_is_left_out_and_named(kind, folder, command):
    name, content, said = BAD[kind]
    (folder / "broken" / name).write_text(content)
    code, _, err = command("report", folder, "--output", "out")
    assert (code, err) == (0, "")
    text = Path("out/report.md").read_text()
    assert "-100.00" in text
    (line,) = [line for line in text.splitlines() if "runs/broken |" in line]
    assert f"runs/broken/{name}" in line or kind == "other levels"  # which of two files is wrong
    assert said in line
    code, _, err = command("evaluate", f"run={folder / 'broken'}", "num_samples=10")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("error: ")
    assert "runs/broken/" in err
    assert said in err


@pytest.mark.parametrize("name", ["config.yaml", "status.json", "metrics.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_only_regular_files_are_read(folder, command, name, kind):
    path = folder / "broken" / name
    path.unlink()
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    code, _, _ = command("report", folder, "--output", "out")
    assert code == 0
    assert f"{path} is not a regular file" in Path("out/report.md").read_text()


def test_a_pipe_as_a_checkpoint_does_not_hang(trained, command):
    run = trained()
    for name in ("best", "last"):
        path = run / f"checkpoints/{name}.ckpt"
        path.unlink()
        os.mkfifo(path)
        code, _, err = command("evaluate", f"run={run}", "num_samples=10", f"checkpoint={name}")
        assert (code, err) == (1, f"error: {path} is not a regular file; put the file itself there\n")


def test_images_that_unpack_to_gigabytes(tmp_path, capsys):
    fake_run(tmp_path / "run", 1, 1, -100.0)
    with zipfile.ZipFile(tmp_path / "run/images.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        shape = {"descr": "|u1", "fortran_order": False, "shape": (1 << 29, 1, 1)}
        np.lib.format.write_array_header_1_0(header, shape)
        archive.writestr("originals.npy", header.getvalue() + bytes(1 << 29))
    assert read_images(tmp_path / "run") == {}
    assert "images.npz is damaged (it unpacks to 536,871" in capsys.readouterr().err
    np.savez(tmp_path / "run/images.npz", originals=np.zeros(3))
    assert read_images(tmp_path / "run") == {}
    assert "does not hold originals, reconstructions, samples as bytes" in capsys.readouterr().err


def test_a_header_may_not_promise_more_than_there_is(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 60,)}
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue())
    with pytest.raises(UserError, match="is damaged"):
        read_npz(tmp_path / "a.npz", 1 << 20)


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


EVIL = "<img src=x onerror=alert(1)>[a](javascript:b)\x1b]0;title\x07\x1b[31m|"


def test_names_and_messages_are_escaped_where_they_land(folder, command, workdir):
    fake_run(folder / "failed", 2, 3, -1.0, status="failed")
    write_status(folder / "failed", "failed", f"{EVIL}\n# heading\u202e")
    fake_run(folder / "=cmd()", 2, 4, -1.0, optimizer={"note": EVIL, "price": "$\\frac{"})
    fake_run(folder / "@x", 2, 5, -1.0, status="interrupted")
    (folder / "broken/metrics.json").write_text(json.dumps({EVIL: "\x1b[2J"}))
    code, out, err = command("report", folder)
    assert code == 0, err
    text = (folder / "report.md").read_text()
    page = (folder / "report.html").read_text()
    for shown in (out, err, text, page, (folder / "report.csv").read_text()):
        assert "\x1b" not in shown
        assert "\x07" not in shown
        assert "\u202e" not in shown
    assert "<img" not in text
    assert "<img src=x" not in page
    assert not any(line.startswith("# heading") for line in text.splitlines())
    assert "[a]\\(javascript" in text
    assert "[a](javascript" not in text
    with (folder / "report.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert "'=cmd()" in cells
    assert "'@x" in cells
    assert "-1.0" in cells  # a number stays one


def test_an_error_line_obeys_no_escape_sequence(command, workdir):
    name = "a\x1b[31mb"
    (workdir / name).mkdir()
    _, _, err = command("report", name)
    assert err.startswith("error: a\\x1b[31mb holds no run")
    assert printable("年 é  ok\u2028") == "年 é  ok\\u2028"


def test_a_stranger_has_nothing_downloaded(trained, command, workdir):
    run = trained("data.val_size=8")
    text = yaml.safe_load((run / "config.yaml").read_text())
    text["data"] = {"_target_": "ladder_vae.data.FashionMNIST", "directory": str(workdir / "anywhere")}
    write_config(run, text)
    said = f"FashionMNIST is not in {workdir / 'anywhere'}, which the run names; trust=true downloads it"
    for arguments in (["evaluate", f"run={run}", "num_samples=10"],
                      ["train", f"resume={run}", "trainer.max_epochs=3"]):  # fmt: skip
        code, _, err = command(*arguments)
        assert (code, err.count("\n")) == (1, 1)
        assert said in err
    assert not (workdir / "anywhere").exists()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("optimizer", {"_target_": "os.system", "command": "touch ran"}),
        ("scheduler", {"_target_": "ladder_vae.training.job.os.system", "command": "touch ran"}),
        ("model", {**MODEL, "latent_sizes": {"_target_": "os.system", "command": "touch ran"}}),
        ("callbacks", {"mine": {"inner": [{"_target_": "os.system", "command": "touch ran"}]}}),
        ("logger", {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "name": "../../out"}),
        ("logger", {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "sub_dir": "../../out"}),
    ],
)
def test_resuming_a_strangers_run_needs_trust(trained, command, workdir, place, value):
    run = trained()
    write_config(run, yaml.safe_load((run / "config.yaml").read_text()) | {place: value})
    code, _, err = command("train", f"resume={run}", "trainer.max_epochs=3")
    assert (code, err.count("\n")) == (1, 1)
    assert f"{run}/config.yaml names {place}." in err
    assert "trust=true resumes it" in err
    assert not (workdir / "ran").exists()


def test_a_strangers_sweep_needs_trust(command, workdir):
    for override in ("optimizer._target_=os.system", "--config-dir=mine", "+hydra.job.env_set.A=1"):
        (workdir / "jobs.json").write_text(json.dumps([{"name": "0", "overrides": [override]}]))
        code, _, err = command("train", "finish=.")
        assert (code, err.count("\n")) == (1, 1)
        assert f"jobs.json has {override}, which may import anything" in err


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


def test_a_run_notes_its_images(trained):
    run = trained()
    (record,) = find_runs([run])
    assert len(record.data) == 64


def test_beta_that_stays_below_one_gets_a_word(command, npz):
    code, _, err = command("train", *tiny(npz), "objective.beta_warmup_epochs=2", "run_dir=run")
    assert code == 0, err
    said = "beta does not reach 1 in 2 epochs (objective.beta_warmup_epochs=2)"
    assert f"warning: {said}" in err
    code, _, err = command("report", "run", "--output", "out")
    assert code == 0, err
    assert f"LadderVAE, L=2: {said}" in Path("out/report.md").read_text()


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


@pytest.mark.parametrize(
    "name", ["(a+)+$/log_px/K=1", "(/log_px/K=1", "foo/log_px/K=10", "test/log_px/K=9999999999", "²/²"]
)
def test_names_of_metrics_are_no_patterns(folder, command, name):
    path = folder / "broken"
    write_metrics(path, json.loads((path / "metrics.json").read_text()) | {name: 1.0})
    assert command("report", folder, "--output", "out")[0] == 0
