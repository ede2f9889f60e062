"""One bad run among good ones: it is named, and the others are read."""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_report import MODEL, fake_run

from ladder_vae.runs.images import read_images
from ladder_vae.runs.record import write_config, write_metrics
from ladder_vae.system.errors import UserError
from ladder_vae.system.files import read_npz

pytestmark = pytest.mark.usefixtures("undrawn")

LAUGHS = "a: &a [1, 2]\n" + "\n".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


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
    "levels without end": (
        "config.yaml",
        f"model: {{num_layers: 0x{'F' * 5000}}}",
        "such a number has at most",
    ),
    "a seed without end": ("config.yaml", f"model: {{}}\nseed: 0x{'F' * 5000}", "such a number has at most"),
    "a number without end": ("config.yaml", f"model: {{}}\na: {'1:' * 5000}1", "such a number has at most"),
    "2**63": ("config.yaml", f"model: {{}}\na: {2**63}", "such a number has at most"),
    "other levels": (
        "config.yaml",
        config(model=MODEL | {"num_layers": 3}),
        "levels up to z2, but the model",
    ),
    "a large config": ("config.yaml", "model: {}\n" + "# \n" * 400_000, "such a file has at most"),
    "NaN": ("metrics.json", metrics(test__mse=float("nan")), "no finite number"),
    "infinity": ("metrics.json", metrics(test__mse=float("inf")), "no finite number"),
    "a huge number": ("metrics.json", metrics(test__mse=10**400), "no finite number"),
    "a number that overflows in sums": ("metrics.json", metrics(test__mse=1e299), "no finite number"),
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


@pytest.mark.parametrize(
    "name", ["(a+)+$/log_px/K=1", "(/log_px/K=1", "foo/log_px/K=10", "test/log_px/K=9999999999", "²/²"]
)
def test_names_of_metrics_are_no_patterns(folder, command, name):
    path = folder / "broken"
    write_metrics(path, json.loads((path / "metrics.json").read_text()) | {name: 1.0})
    assert command("report", folder, "--output", "out")[0] == 0


def test_a_path_of_data_that_no_file_system_takes(trained, command):
    run = trained()
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["path"] = "/" + "x" * 300
    write_config(run, config)
    code, _, err = command("evaluate", f"run={run}", "num_samples=10")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("error: run: ")
    assert "if the data were moved, data.path=... names where they are" in err
