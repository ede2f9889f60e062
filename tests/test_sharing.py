"""Evaluations with ``devices=N``: processes of the CPU that compute parts, beside one that does all."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from test_errors import only_line

from ladder_vae.evaluation import parts, sharing
from ladder_vae.system import devices
from ladder_vae.system.machine import processors

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def several(monkeypatch):
    """Processes are forked, which is quicker than importing anew; the 24 images are four parts."""
    if sys.platform != "linux" or torch.cuda.is_available():
        pytest.skip("processes that compute cannot be forked here")
    monkeypatch.setattr(sharing, "fresh_processes", lambda *_: multiprocessing.get_context("fork"))
    monkeypatch.setattr(devices, "processors", lambda: 4)
    for module in (parts, sharing):
        monkeypatch.setattr(module, "PART", 6)


@pytest.fixture
def heard():
    """Signals do what they do to a command, whatever came before: a shell's background is deaf to Ctrl-C."""
    wanted = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def computed(monkeypatch, workdir):
    """Says which images each process has computed since the last call, by its number."""
    compute, book = parts.image_statistics, workdir / "computed"

    def noted(model, x, indices, *rest):
        with book.open("a") as file:
            file.write(json.dumps([os.getpid(), list(indices)]) + "\n")
        return compute(model, x, indices, *rest)

    monkeypatch.setattr(parts, "image_statistics", noted)

    def read():
        found = {}
        for line in book.read_text().splitlines():
            process, images = json.loads(line)
            found.setdefault(process, []).extend(images)
        book.unlink()
        return found

    return read


def instead(monkeypatch, image, act):
    """The pass with this image does something else."""
    compute = parts.image_statistics

    def image_statistics(model, x, indices, *rest):
        if image in indices:
            act()
        return compute(model, x, indices, *rest)

    monkeypatch.setattr(parts, "image_statistics", image_statistics)


def taken(run):
    """The figures of an evaluation and its numbers of each image, but for the time; then they are gone."""
    figures = json.loads((run / "metrics.json").read_text())
    images = {}
    for path in (run / "evaluation").rglob("images.npz"):
        with np.load(path) as kept:
            images |= {(path.parent.name, name): kept[name] for name in kept if name != "seconds"}
    assert not list(run.rglob("part-*"))
    shutil.rmtree(run / "evaluation")
    return {name: value for name, value in figures.items() if "seconds" not in name}, images


def assert_same(one, other):
    """To the last bit."""
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    for name, values in one[1].items():
        np.testing.assert_array_equal(values, other[1][name], err_msg=str(name))


def test_several_processes_find_what_one_does(several, trained, command, computed):
    run = trained()
    before = (run / "metrics.json").read_bytes()
    arguments = ("evaluate", f"run={run}", "num_samples=20", "binarizations=2", "chunk_size=80")
    code, _, err = command(*arguments)
    assert code == 0, err
    assert list(computed()) == [os.getpid()]
    alone = taken(run)
    (run / "metrics.json").write_bytes(before)
    code, out, err = command(*arguments, "devices=3")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == str(run)
    shares = computed()
    assert len(shares) == 3
    assert os.getpid() not in shares
    assert sorted(image for share in shares.values() for image in share) == sorted([*range(24), *range(24)])
    assert sorted(map(len, shares.values())) == [12, 18, 18]
    assert_same(taken(run), alone)


def test_a_run_that_is_trained_further_meanwhile(several, trained, command, monkeypatch):
    reopen = sharing.part_files
    parent = os.getpid()

    def part_files(subject, settings):
        found = reopen(subject, settings)
        return found if os.getpid() == parent else dict.fromkeys(found, Path("elsewhere"))

    monkeypatch.setattr(sharing, "part_files", part_files)
    run = trained()
    code, _, err = command("evaluate", f"run={run}", "num_samples=10", "devices=2")
    assert code == 1
    assert only_line(err).endswith(f"{run} has been trained further meanwhile; start again")


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_after_a_stop_nobody_is_left_and_others_go_on(
    several, heard, trained, command, computed, monkeypatch, number, expected
):
    run = trained()
    arguments = ("evaluate", f"run={run}", "num_samples=20", "chunk_size=80")

    def stop():  # in the second part of the second process, while the first is busy with its own
        while len(list(run.rglob("part-*.npz"))) < 2:
            time.sleep(0.01)
        os.kill(os.getppid(), number)
        time.sleep(60)

    began = time.monotonic()
    with monkeypatch.context() as patched:
        instead(patched, 18, stop)
        instead(patched, 12, lambda: time.sleep(60))
        code, _, err = command(*arguments, "devices=2")
    assert (code, time.monotonic() - began < 30) == (expected, True)
    assert "the same command continues" in err
    assert multiprocessing.active_children() == []
    computed()
    code, _, err = command(*arguments)  # one device
    assert code == 0, err
    assert computed() == {os.getpid(): list(range(12, 24))}


def stumble():
    raise ValueError("a stone")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (stumble, "RuntimeError: process 2 of 2: ValueError: a stone (set HYDRA_FULL_ERROR=1"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "process 2 of 2 ended with code -9, killed, perhaps"),
    ],
    ids=["raises", "is killed"],
)
def test_a_process_that_fails(several, trained, command, monkeypatch, how, said):
    run = trained()
    before = (run / "metrics.json").read_bytes()
    instead(monkeypatch, 6, how)
    instead(monkeypatch, 12, lambda: time.sleep(60))  # nobody waits for the others
    began = time.monotonic()
    code, _, err = command("evaluate", f"run={run}", "num_samples=10", "devices=2")
    assert (code, time.monotonic() - began < 30) == (1, True)
    assert only_line(err).startswith(f"error: {said}")
    assert multiprocessing.active_children() == []
    assert (run / "metrics.json").read_bytes() == before


def test_what_a_process_warns_of_is_said_once(several, trained, command, monkeypatch):
    monkeypatch.setattr(parts, "compiled_weigher", lambda model: print("warning: slow", file=sys.stderr))
    code, _, err = command("evaluate", f"run={trained()}", "num_samples=10", "devices=2", "compile=true")
    assert (code, err) == (0, "warning: slow\n")


def test_devices_without_work(several, trained, command, computed):
    run = trained()
    code, _, err = command("evaluate", f"run={run}", "num_samples=10", "images=7", "devices=4")
    assert (code, len(computed())) == (0, 2)
    assert err == "warning: devices=4: images are shared 6 at a time, so that 2 of them have work\n"
    code, _, err = command("evaluate", f"run={run}", "num_samples=10", "images=5", "devices=4")
    assert (code, list(computed())) == (0, [os.getpid()])
    assert "so that 1 of them have work" in err
    assert command("evaluate", f"run={run}", "num_samples=10", "images=5", "devices=4")[::2] == (0, "")


@pytest.mark.parametrize(
    ("name", "here", "said"),
    [
        ("cuda", 2, "devices=3: there are 2 cuda devices here; set devices=2 or less"),
        ("cuda:1", 4, "device=cuda:1 is a single one; devices=3 takes device=cuda"),
    ],
)
def test_gpus_that_are_not_there(monkeypatch, name, here, said):
    monkeypatch.setattr(devices, "choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    with pytest.raises(devices.UserError) as refused:
        devices.choose_devices(name, 3)
    assert str(refused.value) == said


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(devices, "choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert list(map(str, devices.choose_devices("cuda", 3))) == ["cuda:0", "cuda:1", "cuda:2"]


@pytest.mark.slow
def test_processes_that_start_anew(command):
    """As users start them, from the command line: 251 images are two parts."""
    if processors() < 2 or torch.cuda.is_available():
        pytest.skip("each process of a CPU needs a processor of its own")
    arguments = ("run=three_levels", "num_samples=10", "images=251")
    code, out, err = command("evaluate", *arguments)
    assert code == 0, err
    run = Path(out.splitlines()[-1])
    alone = taken(run)
    line = [sys.executable, "-m", "ladder_vae.evaluate", *arguments, "devices=2"]
    ran = subprocess.run(line, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "2"})
    assert ran.returncode == 0, ran.stderr
    assert "Warning" not in ran.stderr
    assert_same(taken(run), alone)


@pytest.mark.slow
def test_processes_that_compile(command):
    """Each compiles for itself, and finds the same but for rounding."""
    if processors() < 2 or torch.cuda.is_available():
        pytest.skip("each process of a CPU needs a processor of its own")
    arguments = ("run=three_levels", "num_samples=10", "images=251")
    code, out, err = command("evaluate", *arguments, "compile=false")
    assert code == 0, err
    run = Path(out.splitlines()[-1])
    alone, _ = taken(run)
    code, _, err = command("evaluate", *arguments, "compile=true", "devices=2")
    assert (code, err) == (0, "")
    assert taken(run)[0] == pytest.approx(alone, rel=1e-3, abs=1e-3)
