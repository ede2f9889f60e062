"""Two at once: who holds a run, and that nothing is lost between reading and writing."""

import errno
import importlib
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import tiny
from filelock import FileLock

from ladder_vae.runs import record
from ladder_vae.runs.plan import PlannedJob, write_plan
from ladder_vae.runs.record import in_use, read_record, write_status
from ladder_vae.system.errors import UserError
from ladder_vae.system.locks import RECORD, TRAINING, is_locked, locked


def another_process(directory: Path, code: str) -> subprocess.Popen:
    """Holds the lock of the directory, then runs code; it has said that it holds it."""
    program = f"""
        from pathlib import Path
        from ladder_vae.system.locks import TRAINING, locked
        with locked(Path({str(directory)!r}), TRAINING):
            print("held", flush=True)
            {code}
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path):
    process = another_process(tmp_path, "input()")
    try:
        assert is_locked(tmp_path, TRAINING)
        said = "is in use by another process; wait until it ends, or stop it"
        with pytest.raises(UserError, match=said), locked(tmp_path, TRAINING, patience=0):
            pass
    finally:
        process.kill()
        process.wait()
    assert not is_locked(tmp_path, TRAINING)
    with locked(tmp_path, TRAINING):
        pass


def test_a_lock_that_is_a_link_changes_no_other_file(tmp_path):
    (tmp_path / "theirs").write_text("kept")
    (tmp_path / ".lock").symlink_to(tmp_path / "theirs")
    with pytest.raises(UserError, match="is no file of ours"), locked(tmp_path, TRAINING):
        pass
    assert (tmp_path / "theirs").read_text() == "kept"


def test_a_lock_that_cannot_be_looked_at_is_told(trained, command, workdir):
    """Nobody waits for it: its file is a link, or belongs to another user."""
    run = trained(run_dir="sweep/run")
    write_plan(workdir / "sweep", [PlannedJob("run", [])])
    write_status(run, "running")
    (run / ".lock").unlink()
    (workdir / "theirs").touch()
    (run / ".lock").symlink_to(workdir / "theirs")
    said = "in use, unless nothing runs there any more: sweep/run/.lock is no file of ours; remove it"
    assert read_record(run).status == "running"
    assert command("train", "finish=sweep")[::2] == (1, f"error: sweep/run is {said}\n")


def test_a_lock_of_another_user(tmp_path, monkeypatch):
    def denied(*arguments, **settings):
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / ".lock").touch()
    monkeypatch.setattr(FileLock, "acquire", denied)
    with pytest.raises(UserError, match=r"cannot be locked .*Permission denied"):
        is_locked(tmp_path, TRAINING)


def test_a_run_that_is_trained_is_left_alone(trained, command, npz):
    run = trained()
    write_status(run, "running", host=platform.node(), process=1)
    process = another_process(run.absolute(), "input()")
    try:
        assert read_record(run).status == "running"
        for arguments in (["resume=run", "trainer.max_epochs=9"], [*tiny(npz), "run_dir=run"]):
            code, _, err = command("train", *arguments)
            assert code == 1
            assert err.count("\n") == 1
            assert "in use by process 1" in err or "already holds a run" in err
    finally:
        process.kill()
        process.wait()
    assert in_use(run) is None
    assert read_record(run).status == "interrupted"
    assert command("train", "resume=run", "trainer.max_epochs=3")[0] == 0


def test_a_run_of_another_host_is_in_use_there(trained):
    run = trained()
    write_status(run, "running", host="elsewhere", process=1)
    said = f"in use by elsewhere; if nothing runs there any more, remove {run}/.lock"
    assert (read_record(run).status, read_record(run).message) == ("running", said)
    (run / ".lock").unlink()
    assert read_record(run).status == "interrupted"


@pytest.mark.parametrize("room", ["evaluation.results", "analysis.findings"])
def test_two_at_once_lose_no_result(room, trained, command, monkeypatch):
    """Nobody else enters results between the reading and the writing of them."""
    run, held = trained(), []
    module = importlib.import_module(f"ladder_vae.{room}")
    for name in ("read_record", "write_metrics"):
        function = getattr(module, name)

        def watched(path, *arguments, function=function, name=name):
            if Path(path) == run:
                held.append((name, is_locked(run, RECORD)))
            return function(path, *arguments)

        monkeypatch.setattr(module, name, watched)
    few = ["draws=1", "embedded=5", "images=10", "classifier_dir=judge"]
    name, settings = ("evaluate", ["num_samples=20"]) if "eval" in room else ("analyze", few)
    code, _, err = command(name, f"run={run}", *settings)
    assert code == 0, err
    assert set(held) == {("read_record", True), ("write_metrics", True)}
    assert not is_locked(run, RECORD)


def test_training_begins_while_no_evaluation_enters_its_results(workdir, monkeypatch):
    """Of two that add to checksums.json at once one entry would be lost, and metrics.json unreadable."""
    held, write = [], record.write_checked

    def watched(path, content):
        held.append(is_locked(path.parent, RECORD))
        write(path, content)

    monkeypatch.setattr(record, "write_checked", watched)
    with record.recording(workdir, threads=1):
        assert held == [True]


def test_a_job_holds_its_directory(npz, command, monkeypatch, workdir):
    """Whatever was looked at before: of two that start at once one gets it."""
    monkeypatch.setattr("ladder_vae.training.preflight.in_use", lambda path: None)
    (workdir / "run").mkdir()
    process = another_process(workdir / "run", "input()")
    try:
        code, _, err = command("train", *tiny(npz), "run_dir=run")
    finally:
        process.kill()
        process.wait()
    assert code == 1
    assert "run is in use by another process" in err.splitlines()[-1]
    assert not (workdir / "run/status.json").exists()
