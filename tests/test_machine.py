"""What a container leaves of the machine, and directories of users who have none."""

import getpass
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny

from ladder_vae.models import LadderVAE
from ladder_vae.settings.composition import compose_run, without_hydra
from ladder_vae.system import environment, machine
from ladder_vae.system.environment import COMPILED, DRAWING
from ladder_vae.system.errors import UserError
from ladder_vae.training.memory import _Live, check_memory, evaluation_memory
from ladder_vae.training.settle import settle


def made_up(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


CGROUP = "sys/fs/cgroup"
V1 = "5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n0::/docker/1\n"
LIMITS = {
    "v2 in a container": (
        {
            "proc/self/cgroup": "0::/\n",
            f"{CGROUP}/cpu.max": "200000 100000\n",
            f"{CGROUP}/memory.max": "1000\n",
        },
        (2, 1000),
    ),
    "v2 as a scheduler sets it, one level up": (
        {
            "proc/self/cgroup": "0::/slurm/job_7/step_0\n",
            f"{CGROUP}/slurm/job_7/step_0/memory.max": "max\n",
            f"{CGROUP}/slurm/job_7/step_0/cpu.max": "max 100000\n",
            f"{CGROUP}/slurm/job_7/memory.max": "2000\n",
            f"{CGROUP}/slurm/job_7/cpu.max": "350000 100000\n",
            f"{CGROUP}/slurm/memory.max": "9000\n",
        },
        (3, 2000),
    ),
    "v1 in a container, which sees its own cgroup at the top": (
        {
            "proc/self/cgroup": V1,
            f"{CGROUP}/cpu/cpu.cfs_quota_us": "150000\n",
            f"{CGROUP}/cpu/cpu.cfs_period_us": "100000\n",
            f"{CGROUP}/memory/memory.limit_in_bytes": "3000\n",
        },
        (1, 3000),
    ),
    "v1 on the host": (
        {
            "proc/self/cgroup": V1,
            f"{CGROUP}/cpu/docker/1/cpu.cfs_quota_us": "200000\n",
            f"{CGROUP}/cpu/docker/1/cpu.cfs_period_us": "100000\n",
            f"{CGROUP}/cpu/cpu.cfs_quota_us": "-1\n",
            f"{CGROUP}/cpu/cpu.cfs_period_us": "100000\n",
            f"{CGROUP}/memory/docker/1/memory.limit_in_bytes": "4000\n",
            f"{CGROUP}/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
        (2, 4000),
    ),
    "less than one processor": (
        {"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "50000 100000\n", f"{CGROUP}/memory.max": "5\n"},
        (1, 5),
    ),
    "a cgroup without a limit": (
        {
            "proc/self/cgroup": "0::/a\n",
            f"{CGROUP}/a/cpu.max": "max 100000\n",
            f"{CGROUP}/a/memory.max": "max\n",
        },
        (8, 10**6),
    ),
    "no cgroup": ({}, (8, 10**6)),
}


@pytest.fixture
def eight(monkeypatch):
    """A machine of eight processors and a million bytes."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1000, "SC_PHYS_PAGES": 1000}.__getitem__)


@pytest.mark.parametrize("case", LIMITS)
def test_limits_of_a_container(tmp_path, eight, case):
    files, expected = LIMITS[case]
    root = made_up(tmp_path, files)
    assert (machine.processors(root), machine.memory(root)) == expected


def test_processors_that_a_process_is_bound_to(tmp_path, eight, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3})
    assert machine.processors(tmp_path) == 1


def test_threads_jobs_and_the_memory_check_follow(monkeypatch, command, npz, workdir):

    from ladder_vae.system.devices import jobs_at_once

    before = torch.get_num_threads()
    monkeypatch.setattr(machine, "processors", lambda: 1)
    torch.set_num_threads(2)
    try:
        machine.limit_threads()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    for memory, jobs in ((2**40, 4), (3 * 2**30, 3), (2**20, 1)):
        monkeypatch.setattr(machine, "memory", lambda memory=memory: memory)
        assert jobs_at_once("auto", "cpu", 8) == jobs
    monkeypatch.setattr(machine, "memory", lambda: 60_000)
    code, _, err = command("train", *tiny(npz))
    assert code == 1
    assert "GiB to train and there are 0.0; lower model.num_layers or its sizes" in err


def test_a_batch_that_fits_is_named(command, npz, monkeypatch):
    """It does fit, and one image more does not."""
    here = 1_000_000  # too little for 1,000 images in bfloat16, too
    monkeypatch.setattr("ladder_vae.training.memory.total_memory", lambda device: here)

    def said(images):
        code, _, err = command(
            "train", *tiny(npz), f"data.batch_size={images}", "trainer.limit_train_batches=1"
        )
        return code, re.search(r"set data.batch_size=(\d+) or less", err)

    code, named = said(1000)
    assert code == 1
    assert said(int(named[1])) == (0, None)
    code, again = said(int(named[1]) + 1)
    assert (code, again[1]) == (1, named[1])


def test_an_evaluation_that_fits_is_named(command, npz, monkeypatch):
    """Where training fits and its validation does not; the size that is named is checked, too."""
    monkeypatch.setattr("ladder_vae.training.memory.total_memory", lambda device: 700_000)
    arguments = ("train", *tiny(npz), "data.batch_size=2", "trainer.limit_train_batches=1")
    code, _, err = command(*arguments)
    assert code == 1
    named = re.search(r"to be validated and tested and there are .*; set (data.eval_batch_size=\d+) or", err)
    assert command(*arguments, named[1])[0] == 0


def test_memory_without_gradients_is_that_of_what_exists_at_once():
    with torch.device("meta"):
        a = torch.empty(1000)
        with _Live() as live:
            b = a + 1  # of tensors made before nothing is known
            b.view(10, 100).mul_(2)
            assert (live.now, live.peak) == (4000, 4000)
            c = b.double()
            del b
            assert (live.now, live.peak) == (8000, 12000)
            del c
            torch.stack([a, a]).sum()
    assert (live.now, live.peak) == (0, 12000)
    with torch.device("meta"):
        model = LadderVAE((1, 12, 16), 2, latent_sizes=[4, 3], hidden_sizes=[16, 8])
    weights, pixels = (4 * sum(each.numel() for each in model.parameters()), 4 * 12 * 16)
    needed = {n: evaluation_memory(model, (n, 1, 12, 16), 1) - 4 * weights for n in (100, 200)}
    assert needed[200] == pytest.approx(2 * needed[100], rel=0.01)
    assert 2 * pixels <= needed[100] / 100 <= 8 * pixels  # images, parameters of p(x | z), and little more
    assert model.training


def test_images_that_lie_on_a_gpu_are_counted(npz, monkeypatch):
    settled = settle(without_hydra(compose_run(tiny(npz))))
    here = []
    monkeypatch.setattr("ladder_vae.training.memory.total_memory", lambda device: here[0])
    monkeypatch.setattr("ladder_vae.training.memory.training_memory", lambda *of: 1000)
    monkeypatch.setattr("ladder_vae.training.memory.evaluation_memory", lambda *of: 1000)
    for device, more in (("cpu", 0), ("cuda", 40 * 12 * 16)):
        monkeypatch.setattr("ladder_vae.training.memory.choose_device_type", lambda asked, d=device: d)
        here[:] = [1000 + more]
        check_memory(settled)
        here[:] = [999 + more]
        with pytest.raises(UserError, match="GiB to train"):
            check_memory(settled)


def run(code: str, **variables: str) -> str:
    """What a fresh Python prints, on both streams."""
    mine = {key: value for key, value in os.environ.items() if key not in (COMPILED, DRAWING)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**mine, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.stdout


def test_a_user_without_a_home_or_a_name(tmp_path):
    (tmp_path / "torchinductor_somebody").write_text("of somebody else")
    code = "import getpass\ndef nameless(): raise KeyError\ngetpass.getuser = nameless\n"
    code += "import ladder_vae, matplotlib.pyplot, torch._dynamo.package, os\n"
    code += "print(os.path.dirname(os.environ['MPLCONFIGDIR']), os.environ['TORCHINDUCTOR_CACHE_DIR'])"
    said = run(code, HOME="/proc", TMPDIR=str(tmp_path)).splitlines()
    assert len(said) == 1, said
    assert said[0].startswith(f"{tmp_path} {tmp_path}/torchinductor_")
    assert [path.name for path in tmp_path.iterdir()] == ["torchinductor_somebody"]  # nothing is left


def test_a_cache_that_cannot_be_written(tmp_path):
    code = "import ladder_vae, torch._dynamo.package; print('imported')"
    said = run(code, TORCHINDUCTOR_CACHE_DIR="/proc/nope", TMPDIR=str(tmp_path)).splitlines()
    assert said == [
        "warning: TORCHINDUCTOR_CACHE_DIR=/proc/nope cannot be written; compiled code is kept in a temporary "
        "directory instead",
        "imported",
    ]


def test_directories_that_can_be_written_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    environment.provide_directories()
    assert not {"MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR"} & os.environ.keys()


def test_the_compilers_cache_of_somebody_else(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    (tmp_path / f"torchinductor_{getpass.getuser()}").touch()
    with monkeypatch.context():
        environment.provide_directories()
        directory = os.environ.pop("TORCHINDUCTOR_CACHE_DIR")
    assert Path(directory).parent == tmp_path


def test_a_long_directory_of_temporary_files(tmp_path, monkeypatch):
    """Jobs of a sweep talk through a socket, whose path is limited."""
    from ladder_vae.system import processes

    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    made = []
    monkeypatch.setattr(
        processes, "get_temp_dir", lambda: made.append(processes.tempfile.gettempdir()) or made[-1]
    )
    assert processes._room_for_a_socket()
    assert made == ["/tmp"]
    assert processes.tempfile.gettempdir() == str(long)
    monkeypatch.setattr(processes.os, "access", lambda path, mode: False)
    assert not processes._room_for_a_socket()


COMMANDS = ("train", "evaluate", "analyze", "explore", "export", "report", "release")


def test_commands_need_nothing_that_only_posix_has():
    names = ("fcntl", "resource", "pwd", "grp", "termios")
    imports = "; ".join(f"import ladder_vae.{name}" for name in COMMANDS)
    code = f"import sys\nfor name in {names}: sys.modules[name] = None\n{imports}\n"
    code += "import hydra_plugins.ladder_vae_launcher; print('imported')"
    assert run(code).splitlines()[-1] == "imported"  # filelock says that its locks are soft
