"""What stops a run or its output, and what is left: locks, signals, pipes, full disks."""

import errno
import importlib
import io
import json
import os
import platform
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from conftest import assert_same_weights, events, tiny

from ladder_vae.runs.record import in_use, read_record, write_status
from ladder_vae.settings import command_line
from ladder_vae.system.console import Lasting, lasting_output
from ladder_vae.system.errors import UserError
from ladder_vae.system.locks import RECORD, TRAINING, is_locked, locked
from ladder_vae.training import fit
from ladder_vae.training.epoch_checkpoints import EpochCheckpoints
from ladder_vae.training.lightning_module import HierarchicalVAE


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
    assert in_use(run) == ""
    assert read_record(run).status == "interrupted"
    assert command("train", "resume=run", "trainer.max_epochs=3")[0] == 0


def test_a_run_of_another_host_is_in_use_there(trained):
    run = trained()
    write_status(run, "running", host="elsewhere", process=1)
    said = f"in use by elsewhere; if nothing runs there any more, remove {run}/.lock"
    assert (read_record(run).status, read_record(run).message) == ("running", said)
    (run / ".lock").unlink()
    assert read_record(run).status == "interrupted"


def test_a_run_that_was_killed_in_its_first_epoch(train, command, npz, monkeypatch):
    """It begins again, by either way, and ends as the undisturbed one."""
    whole = train(run_dir="whole")
    for name in ("resumed", "anew"):
        with monkeypatch.context() as patched:
            patched.setattr(HierarchicalVAE, "training_step", lambda *_: os._exit(9))
            child = os.fork()
            if child == 0:
                command("train", *tiny(npz), f"run_dir={name}")
            os.waitpid(child, 0)
        assert read_record(Path(name)).status == "interrupted"
        again = ["resume=resumed"] if name == "resumed" else [*tiny(npz), "run_dir=anew"]
        code, _, err = command("train", *again)
        assert code == 0, err
        assert_same_weights(whole, Path(name))


def test_a_run_goes_on_with_its_threads(trained, command, monkeypatch):
    run = trained()
    write_status(run, "finished", threads=3)
    used = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    code, _, err = command("train", "resume=run", "trainer.max_epochs=3")
    assert code == 0, err
    assert used[-1] == 3
    assert "run was trained on 3 threads, more than this machine has, and goes on with them" in err


def test_curves_do_not_run_backwards(trained, command, npz, monkeypatch):
    """Steps of an epoch that was broken off are hidden once the run goes on."""
    step = HierarchicalVAE.training_step

    def stop(module, x, batch_idx):
        if module.global_step == 5:
            raise KeyboardInterrupt
        return step(module, x, batch_idx)

    monkeypatch.setattr("ladder_vae.training.lightning_module.STEPS_PER_READING", 1)
    with monkeypatch.context() as patched:
        patched.setattr(HierarchicalVAE, "training_step", stop)
        assert command("train", *tiny(npz), "run_dir=run")[0] == 130
    assert command("train", "resume=run")[0] == 0
    steps = [reading.step for reading in events(Path("run")).Scalars("train/elbo")]
    assert steps == sorted(steps)
    assert set(steps) == set(range(6))


def test_data_that_were_moved(trained, command, npz, workdir):
    (workdir / "here.npz").write_bytes(npz.read_bytes())
    run = trained(f"data.path={workdir / 'here.npz'}")
    (workdir / "here.npz").rename(workdir / "there.npz")
    code, _, err = command("evaluate", f"run={run}", "num_samples=10")
    assert code == 1
    assert "data.path=... names where they are" in err
    assert command("evaluate", f"run={run}", "num_samples=10", "data.path=there.npz")[0] == 0
    code, _, err = command("train", f"resume={run}", "trainer.max_epochs=3", "data.path=there.npz")
    assert code == 0, err
    code, _, err = command("evaluate", f"run={run}", "num_samples=10", "data.directory=there.npz")
    assert code == 1
    assert "data.directory is no setting of the data" in err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_run_that_is_asked_to_stop_can_go_on(npz, command, monkeypatch, name):
    """As a scheduler asks, in the middle of an epoch."""
    number, step = getattr(signal, name), HierarchicalVAE.training_step
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop(module, x, batch_idx):
        if module.global_step == 4:
            signal.raise_signal(number)
        return step(module, x, batch_idx)

    try:
        with monkeypatch.context() as patched:
            patched.setattr(HierarchicalVAE, "training_step", stop)
            code, _, err = command("train", *tiny(npz), "run_dir=run")
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 143
    assert "resume=run continues this run" in err
    assert read_record(Path("run")).status == "interrupted"
    assert not list(Path().glob("hpc_ckpt*"))
    assert command("train", "resume=run")[0] == 0


def test_sigterm_stops_as_ctrl_c_does(npz, command, monkeypatch):
    """While pictures are drawn, too, when Lightning has nothing to say any more."""
    monkeypatch.setattr(fit, "_draw", lambda *_: signal.raise_signal(signal.SIGTERM))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, _, _ = command("train", *tiny(npz), "run_dir=run")
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 143
    assert read_record(Path("run")).status == "finished"  # but for its pictures
    assert "test/elbo" in json.loads(Path("run/metrics.json").read_text())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_closed_terminal_stops_nothing(npz, command, monkeypatch):
    step = HierarchicalVAE.training_step

    def hang_up(*arguments):
        signal.raise_signal(signal.SIGHUP)
        return step(*arguments)

    monkeypatch.setattr(HierarchicalVAE, "training_step", hang_up)
    assert command("train", *tiny(npz), "run_dir=run")[0] == 0


class Broken(io.StringIO):
    """A stream that can no longer be written."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code

    def write(self, text: str) -> int:
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize(("code", "expected"), [(errno.EPIPE, 0), (errno.EIO, 0), (errno.ENOSPC, 1)])
def test_what_was_computed_does_not_depend_on_whether_it_is_shown(
    trained, command, monkeypatch, code, expected
):
    from ladder_vae import evaluate

    run = trained()
    monkeypatch.setattr(sys, "argv", ["evaluate", f"run={run}", "num_samples=20"])
    monkeypatch.setattr(sys, "stdout", Broken(code))
    with pytest.raises(SystemExit) as leaving:
        evaluate.main()
    assert leaving.value.code == expected
    assert json.loads((run / "metrics.json").read_text())["test/draws"] == 20


def test_characters_that_cannot_be_shown(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    with lasting_output():
        print("σ² ─ 3")
    assert stream.buffer.getvalue() == b"\\u03c3\\xb2 \\u2500 3\n"


def test_a_closed_pipe_leaves_no_complaint():
    """Of a real process, at its very end."""
    code = "from ladder_vae.settings import command_line; command_line.run(lambda: print('x' * 10**6))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0


def test_a_full_disk_keeps_the_last_epoch(npz, command, monkeypatch):
    """The message names the file, the remains are removed, and the run goes on later."""
    saved = EpochCheckpoints.on_train_epoch_end
    save = torch.save

    def full(checkpoint, path):
        Path(path).write_bytes(b"half of it")
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    def second(self, trainer, pl_module):
        monkeypatch.setattr(torch, "save", full if trainer.current_epoch == 1 else save)
        saved(self, trainer, pl_module)

    monkeypatch.setattr(EpochCheckpoints, "on_train_epoch_end", second)
    code, _, err = command("train", *tiny(npz), "run_dir=run")
    assert code == 1
    assert "run/checkpoints/last.ckpt cannot be written (PytorchStreamWriter" in err.splitlines()[-1]
    assert "make room, then resume= goes on after the last epoch that was kept" in err
    assert sorted(path.name for path in Path("run/checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert read_record(Path("run")).status == "failed"
    monkeypatch.undo()


def test_no_space_is_said_in_one_line():
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/metrics.json")
    assert (
        command_line.explain(error)
        == "runs/x/metrics.json: no space left on device; make room and start again"
    )


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


def test_a_job_holds_its_directory(npz, command, monkeypatch, workdir):
    """Whatever was looked at before: of two that start at once one gets it."""
    monkeypatch.setattr("ladder_vae.training.preflight.in_use", lambda path: "")
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


def test_sigterm_stops_what_is_deaf_to_ctrl_c(npz, command, monkeypatch):
    """As a command that a script has put into the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        monkeypatch.setattr(fit, "_draw", lambda *_: signal.raise_signal(signal.SIGTERM))
        assert command("train", *tiny(npz), "run_dir=run")[0] == 143
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_stream_that_failed_is_not_tried_again():
    out = Lasting(Broken(errno.EPIPE))
    assert (out.write("a"), out.write("b")) == (1, 1)
    assert out.failure.errno == errno.EPIPE


@pytest.mark.slow
def test_a_parallel_sweep_stops_by_sigterm(npz, workdir):
    """Every job stops, and one line says how to finish the sweep."""
    few = [*tiny(npz), "trainer.max_epochs=100000", "seed=1,2,3", "run_dir=my sweep", "hydra.launcher.jobs=2"]
    with Path("err").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "ladder_vae.train", "-m", *few], stdout=subprocess.DEVNULL, stderr=stderr
        )
    try:
        while len(list(Path("my sweep").glob("*/checkpoints/last.ckpt"))) < 2:
            assert process.poll() is None, Path("err").read_text()
            time.sleep(0.1)
        process.terminate()
        assert process.wait(timeout=120) == 143
    finally:
        process.kill()
    assert "python -m ladder_vae.train finish='my sweep' finishes this sweep" in Path("err").read_text()
    runs = [path for path in Path("my sweep").iterdir() if path.is_dir()]
    assert [read_record(run).status for run in runs] == ["interrupted", "interrupted"]
