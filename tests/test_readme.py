"""Every command of README and exercises runs as written; training commands with debug settings added."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import yaml

from ladder_vae.runs.record import write_plan

ROOT = Path(__file__).parents[1]
PAGES = [(ROOT / page).read_text() for page in ("README.md", "docs/exercises.md")]
QUICK = [
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=1",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "data.eval_batch_size=50",
]
NOT_RUN = (
    "git clone",
    "cd ",
    "source ",
    "make test",
    "make test-all",
    "make bench",
)  # set-up, and what runs this test


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", "\n".join(PAGES), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for _, text in found]


def commands() -> list[str]:
    text = "\n".join(blocks("bash")).replace("\\\n", " ")
    lines = [line.partition(" #")[0].strip() for line in text.splitlines()]
    return list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


@pytest.fixture
def run_dir(train):
    return train("data.val_size=8", "logger=none", run_dir="runs/example/run")


def test_there_are_commands():
    assert len(commands()) > 8


def marked(lines: list[str]) -> list:
    """The lines, those slow that take long and do what another one does."""
    long = (
        "make sweep-depth seed",
        'make evaluate args="num_samples=1000',
        "python -m ladder_vae.train --multirun model=",
    )
    return [pytest.param(line, marks=pytest.mark.slow if line.startswith(long) else ()) for line in lines]


@pytest.mark.parametrize("line", marked([c for c in commands() if c.startswith("python -m ladder_vae")]))
def test_python_commands(command, run_dir, npz, line):
    line = line.replace("<run_dir>", str(run_dir)).replace("images.npz", str(npz))
    line = re.sub(r"images=[12]000", "images=20", line)  # of 24
    _, _, module, *args = shlex.split(line)
    name = module.partition(".")[2]
    args = ["run=runs" if arg.startswith("run=runs") else arg for arg in args]
    if name == "analyze":
        args += ["classifier_dir=judge", "levels=[1]"]
    if name == "train":
        if any(arg.startswith("resume=") for arg in args):
            args += ["trainer.max_epochs=3"]
        else:
            args += QUICK
            if "--multirun" in args and not any("seed=" in arg for arg in args):
                args += ["seed=1"]
    elif name == "report":
        args = [str(run_dir.parent) if arg.startswith("runs") else arg for arg in args]
    code, out, err = command(name, *args)
    assert code == 0, err
    if "--cfg" in args:
        assert yaml.safe_load(out)["model"]["num_layers"] == 5
    else:
        assert out.splitlines()[-1]
        assert Path(out.splitlines()[-1]).exists()


@pytest.fixture
def checkout(workdir) -> Path:
    """An empty current directory that make takes for the checkout."""
    for name in ("Makefile", "pyproject.toml"):
        (workdir / name).symlink_to(ROOT / name)
    return workdir


HERE = [f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.ready"]  # the environment that runs this test
MAKE = [line for line in commands() if line.startswith("make") and not line.startswith(NOT_RUN)]


def make(*args: str) -> subprocess.CompletedProcess:
    # a make of its own, whatever make runs the tests
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *args], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("line", marked(MAKE))
def test_make_commands(run_dir, train, checkout, line):
    args = [re.sub(r"images=1000", "images=20", arg) for arg in shlex.split(line)] + HERE  # of 24
    if "evaluate" in line:
        older, newest = Path("runs/example/older"), Path("runs/example/sweep")
        for sweep in (older, newest):
            train(run_dir=f"{sweep}/0_ladder")
            write_plan(sweep, ["model=ladder"])
        os.utime(older / "jobs.json", (0, 0))
        done = make(*args[1:])
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"{newest}/report.md"
        (draws,) = re.findall(r"num_samples=(\d+)", line)
        assert f"L_{draws} (nats)" in (newest / "report.md").read_text()
        assert not (older / "0_ladder/evaluation").exists()
        return None
    if "analyze" in line:
        three = ["model.num_layers=3", "model.latent_sizes=null", "model.hidden_sizes=null"]
        run = train(*three, "logger=none", run_dir="runs/example/three")
        done = make(*args[1:], "args=classifier_dir=judge levels=[3]")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"{run}/analysis.html"
        return None
    if "tensorboard" in line:
        return check_tensorboard([*args, "port=0"])
    if "sweep" in line or "train" in line:
        given = next((a.partition("=")[2] for a in args if a.startswith("args=")), "")
        args = [a for a in args if not a.startswith("args=")] + [f"args={given} {' '.join(QUICK)}"]
    done = make(*args[1:])
    assert done.returncode == 0, done.stderr
    if "sweep" in line:
        report = Path(done.stdout.splitlines()[-1])
        assert "## Samples from every model's prior" in report.read_text()


def test_analyze_trains_a_model_only_where_there_is_none(checkout):
    """With a stand-in for Python that writes down what it is asked, and finds what it has "trained"."""
    python = checkout / "python"
    python.write_text(
        "#!/bin/bash\n"
        'case "$*" in\n'
        "  *newest*) cat found 2>/dev/null; true;;\n"
        '  *train*) echo "$@" >> calls; echo "$*" | grep -o "run_dir=.*" | sed "s,run_dir=,," > found;;\n'
        '  *) echo "$@" >> calls;;\n'
        "esac\n"
    )
    python.chmod(0o755)
    for _ in range(2):
        done = make("analyze", f"PY={python}", "args=seed=3", *HERE)
        assert done.returncode == 0, done.stderr
    train, first, second = (checkout / "calls").read_text().splitlines()
    settings = "--multirun experiment=level_analysis model=ladder seed=1 run_dir="
    assert train.startswith(f"-m ladder_vae.train {settings}runs/level_analysis/")
    run = train.partition("run_dir=")[2]
    assert first == second == f"-m ladder_vae.analyze run={run} seed=3"
    done = make("analyze", f"PY={python}", "run=elsewhere", *HERE)
    assert (checkout / "calls").read_text().splitlines()[3:] == ["-m ladder_vae.analyze run=elsewhere"]


def test_record_goes_on_where_it_was_interrupted(checkout):
    """With a stand-in for Python that writes down what it is asked, and is interrupted unless it resumes."""
    python = checkout / "python"
    python.write_text(
        "#!/bin/bash\n"
        'echo "${@:2}" >> calls\n'
        "run=${@: -1}; run=${run#*=}\n"
        'case "$*" in\n'
        "  *run_dir=*) mkdir -p $run/checkpoints; touch $run/checkpoints/last.ckpt; exit 130;;\n"
        "  *resume=*) touch $run/metrics.json;;\n"
        "esac\n"
    )
    python.chmod(0o755)
    codes = [make("record", f"PY={python}", *HERE).returncode for _ in range(3)]
    assert [code == 0 for code in codes] == [False, False, True]
    first, second = "runs/record/first", "runs/record/second"
    assert (checkout / "calls").read_text().splitlines() == [
        f"ladder_vae.train experiment=record run_dir={first}",
        f"ladder_vae.train resume={first}",
        f"ladder_vae.train experiment=[record,restart] run_dir={second}",
        f"ladder_vae.train resume={second}",
        f"ladder_vae.evaluate run={second} num_samples=5000",
    ]


def check_tensorboard(args: list[str]) -> None:
    with subprocess.Popen(
        args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as server:
        alarm = threading.Timer(120, os.killpg, (server.pid, 15))  # ends the output, should it hang
        alarm.start()
        seen = ""
        for line in server.stdout:
            seen += line
            if re.search(r"TensorBoard .* at http", line):
                break
        alarm.cancel()
        os.killpg(server.pid, 15)
    assert re.search(r"TensorBoard .* at http", seen), seen


@pytest.mark.parametrize("code", blocks("python"))
def test_python_snippets(run_dir, code):
    exec(code.replace("<run_dir>", str(run_dir)), {})


@pytest.mark.parametrize("python", ["", "no-such-python", "false"])
def test_make_says_which_python_it_needs(checkout, python):
    done = make("test", f"PYTHON={python}")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "3.10 to 3.13" in line
    assert not (checkout / ".venv").exists()


def test_evaluate_says_that_there_is_no_sweep(checkout):
    done = make("evaluate", *HERE)
    assert done.returncode != 0
    assert "error: there is no sweep below runs; make sweep-depth trains one" in done.stderr


def test_sweep_depth_refuses_a_run_dir(checkout):
    done = make("sweep-depth", "args=run_dir=x", *HERE)
    assert done.returncode != 0
    assert "error: sweep-depth chooses its run_dir" in done.stderr
