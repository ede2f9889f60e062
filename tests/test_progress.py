"""What a training shows while it runs."""

import re

import pytest
from conftest import tiny

from ladder_vae.system import countdown

pytestmark = pytest.mark.usefixtures("undrawn")


def test_in_a_file_an_epoch_is_a_line(command, npz):
    code, _, err = command("train", *tiny(npz), "run_dir=run", "logger=none")
    assert code == 0, err
    lines = [line for line in err.splitlines() if line.startswith("epoch")]
    assert re.fullmatch(r"epoch 1/2: elbo -\d+\.\d\d, \d+ s left", lines[0])
    assert re.fullmatch(r"epoch 2/2: elbo -\d+\.\d\d", lines[1])
    assert len(lines) == 2


def test_on_a_terminal_a_run_is_one_bar(command, npz, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    settings = ("data.val_size=8", "callbacks.progress.refresh_rate=1", "logger=none")
    code, _, err = command("train", *tiny(npz), *settings, "run_dir=run")
    assert code == 0, err
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err)
    last = [line for line in re.split(r"[\r\n]+", shown) if "epoch" in line][-1]
    assert re.match(r"epoch 2/2 ━+ elbo -\d+\.\d\d, val_elbo -\d+\.\d\d 0:00:00 left", last)


def test_jobs_one_after_the_other_are_counted(command, npz):
    code, out, err = command(
        "train", "-m", *tiny(npz), "seed=1,2", "trainer.max_epochs=1", "run_dir=sweep",
        "hydra.launcher.jobs=1", "logger=none",
    )  # fmt: skip
    assert code == 0, err
    counted = [line for line in err.splitlines() if "runs done" in line]
    assert re.fullmatch(r"1 of 2 runs done, about \d+ s left", counted[0])
    assert counted[1:] == ["2 of 2 runs done"]
    assert "averages over images" not in out
    assert out.count(": test ELBO -") == 2


def test_jobs_that_run_count_as_half_done(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(countdown.time, "perf_counter", lambda: now[0])
    count = countdown.Countdown(4)
    now[0] = 300.0
    count.count(running=1)  # 1.5 of 4 in 300 s
    assert capsys.readouterr().err == "1 of 4 runs done, about 8 min left\n"
