"""Paths as people have them, on every command line and in every hint that is printed."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import tiny
from test_errors import only_line

from ladder_vae.settings.paths import as_override, shown

NAMES = [
    "my runs/lr=0.1",
    "run (1)",
    "Übung/模型",
    "a#b, c",
    'it\'s "quoted"',
    "back\\slash\\",
    "[2026] {x}",
    "$HOME & co; `ls` %d !",
    "-m",
    "null",
    "'x'",
    "~",
    "a:b@c|d*?",
    "two\nlines",
    "1e3",
    "true",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_printed_path_is_read_back(workdir, name):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (typed,) = shlex.split(f"resume={shown(name)}")
    read = OverridesParser.create().parse_override(as_override(typed)).value()
    assert Path(str(read)) == Path(name)


@pytest.mark.parametrize(
    ("typed", "seen"),
    {
        "run=~/x": "run='HOME/x'",
        "resume='~/x'": "resume='HOME/x'",
        'run_dir="~/r"': "run_dir='HOME/r'",
        "+callbacks.mine.out_dir=~": "+callbacks.mine.out_dir='HOME'",
        "data.path=a b,~/c": "data.path='a b','HOME/c'",
        "data.path='a,b',c": "data.path='a,b','c'",
        "run_dir=a,b": "run_dir='a,b'",
        "run_dir=": "run_dir=",
        "resume=null": "resume=null",
        "init_from=choice(a,b)": "init_from=choice(a,b)",
        "run_dir=${name}/x y": "run_dir='${name}/x y'",
        "--config-dir=~/mine": "--config-dir=HOME/mine",
        "model.latent_sizes=[4,3]": "model.latent_sizes=[4,3]",
        "~optimizer": "~optimizer",
        "seed=1,2": "seed=1,2",
    }.items(),
)
def test_what_hydra_sees(monkeypatch, workdir, typed, seen):
    monkeypatch.setenv("HOME", "HOME")
    assert as_override(typed) == seen
    assert as_override(as_override(typed)) == seen


def test_a_file_with_a_comma_is_one_file(workdir):
    Path("a,b.npz").touch()
    assert as_override("data.path=a,b.npz") == "data.path='a,b.npz'"


def test_many_files_are_longer_than_a_name(workdir):
    files = [f"images_{number:02}.npz" for number in range(30)]
    assert as_override(f"data.path={','.join(files)}") == "data.path=" + ",".join(f"'{f}'" for f in files)


def test_a_user_that_does_not_exist(command, workdir):
    code, _, err = command("report", "~nobody-here/runs")
    assert code == 1
    said = "there is no user nobody-here; write the path in full, or ./~nobody-here/runs"
    assert said in only_line(err)


def test_no_home_directory(monkeypatch, command):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    code, _, err = command("report", "~/runs")
    assert code == 1
    assert "this user has no home directory; write the path in full" in only_line(err)


@pytest.mark.parametrize(
    ("name", "args"),
    [("train", "run_dir"), ("train", "resume"), ("train", "data.path"), ("evaluate", "run"), ("report", "")],
)
def test_a_name_that_is_too_long(command, name, args):
    code, _, err = command(name, f"{args}=".lstrip("=") + "x" * 300)
    assert code == 1
    assert "xxx... is no usable path (File name too long); choose one" in only_line(err)


def test_every_command_takes_such_a_path(command, npz, workdir, monkeypatch):
    """One directory and one file with everything in their names, through all commands and their hints."""
    home = workdir / "Größe (1) = #2, 模型"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    shutil.copy(npz, home / "my data.npz")
    settings = [s for s in tiny(npz) if not s.startswith("data.path")]
    code, out, err = command("train", *settings, "data.path=~/my data.npz", 'run_dir="~/r=1, x"')
    assert code == 0, err
    run = home / "r=1, x"
    assert out.splitlines()[-1] == str(run.relative_to(workdir))
    code, _, err = command("train", "resume=~/r=1, x", "trainer.max_epochs=3")
    assert code == 0, err
    (run / "status.json").write_text(json.dumps({"status": "interrupted", "message": ""}))
    code, _, err = command("evaluate", "run=~/r=1, x")
    hint = only_line(err).partition("python -m ladder_vae.")[2].rpartition("), or take")[0]
    code, _, err = command(*shlex.split(hint), "trainer.max_epochs=4")
    assert code == 0, err
    code, _, err = command("evaluate", "run=~/r=1, x", "num_samples=2", "device=cpu")
    assert code == 0, err
    code, _, err = command("release", "~/r=1, x", "~/small (2)")
    assert code == 0, err
    code, _, err = command("report", "~/r=1, x", "--output=~/the report")
    assert code == 0, err
    assert (home / "the report/report.md").is_file()
