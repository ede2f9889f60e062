"""Output that goes away or cannot be shown, and disks that are full."""

import errno
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny

from ladder_vae.runs.record import read_record
from ladder_vae.settings import command_line
from ladder_vae.system.console import Lasting, lasting_output
from ladder_vae.system.files import write_text
from ladder_vae.training.epoch_checkpoints import EpochCheckpoints


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


def test_a_closed_standard_output_is_none():
    """Of a real process, which begins without one, as under ``>&-``."""
    code = "from ladder_vae.settings import command_line; command_line.run(lambda: print('x'))"
    closed = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(code)} >&- 2>&-"
    assert subprocess.run(["sh", "-c", closed]).returncode == 0


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


def test_no_space_is_said_in_one_line(workdir, monkeypatch):
    """A write that fails knows no path, and the path of the part would tell a user nothing."""

    def full(self, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space") as raised:
        write_text(Path("metrics.json"), "{}")
    said = "metrics.json: no space left on device; make room and start again"
    assert command_line.explain(raised.value).startswith(said)
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError) as raised:
        write_text(Path("nowhere/metrics.json"), "{}")
    assert command_line.explain(raised.value).startswith("nowhere/metrics.json cannot be used (No such file")


def test_a_stream_that_failed_is_not_tried_again():
    out = Lasting(Broken(errno.EPIPE))
    assert (out.write("a"), out.write("b")) == (1, 1)
    assert out.failure.errno == errno.EPIPE
