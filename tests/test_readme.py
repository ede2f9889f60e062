"""Every command of README, exercises and pages on use runs as written, trainings with debug settings."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from ladder_vae.runs.plan import PlannedJob, write_plan

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ON_USE = ("exercises", "runs", "settings", "evaluation", "analysis", "speed")
PAGES = [README, *((ROOT / f"docs/{page}.md").read_text(encoding="utf-8") for page in ON_USE)]
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
    lines = [re.sub("^ladder-vae ", "python -m ladder_vae.", line) for line in lines]
    return list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


@pytest.fixture
def run_dir(trained):
    return trained("data.val_size=8", "logger=none", run_dir="runs/example/run")


def test_there_are_commands():
    assert len(commands()) > 20


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200


def test_the_contents_of_the_readme_are_its_headings():
    headings = re.findall(r"^## (.+)$", README, re.MULTILINE)
    anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert re.findall(r"^\d+\. \[(.+)\]\(#(.+)\)$", README, re.MULTILINE) == list(
        zip(headings, anchors, strict=True)
    )


def test_words_are_explained_before_the_first_number():
    words, numbers = README.index("## Words"), README.index("ELBO (nats)")
    for word in ("latent level", "nat", "ELBO", "distortion", "rate"):
        assert words < README.index(f"**{word}**") < numbers


def test_all_pages_expect_the_same_of_each_depth():
    """The ELBOs that stand in README, exercises and the report of the sweep."""
    rows = re.compile(r"^\| ([1235]) \| (-\d\d\.\d\d ± \d\.\d\d) \|", re.MULTILINE)
    sweep = (ROOT / "experiments/depth_sweep/README.md").read_text(encoding="utf-8").partition("**How far")[0]
    expected = rows.findall(README)
    assert [levels for levels, _ in expected] == ["1", "2", "3", "5"]
    assert rows.findall(PAGES[1]) == rows.findall(sweep) == expected


def test_badges_tell_the_truth():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (first, last) = re.findall(r"badge/python-([\d.]+)_to_([\d.]+)-", README)[0]
    assert f'requires-python = ">={first},<3.{int(last.partition(".")[2]) + 1}"' in project
    texts = re.findall(r"badge/license-(.+?)-blue", README) + re.findall(
        r'^license = "(.+)"', project, re.MULTILINE
    )
    badge, said = (re.findall(r"[A-Z]{2,}|\d", text.upper()) for text in texts)
    assert badge == said


def marked(lines: list[str]) -> list:
    """The lines, those slow that take long and do what another one does."""
    long = (
        "make sweep-depth seed",
        "make sweep-depth resume",
        "make analyze",
        "make explorers",
        "python -m ladder_vae.explore",
        "python -m ladder_vae.analyze run=three_levels",
        "python -m ladder_vae.train model=diffusion",
        "python -m ladder_vae.train experiment=diffusion_limit",
        "python -m ladder_vae.sweep",
        'make evaluate args="num_samples=1000',
        "python -m ladder_vae.train --multirun model=",
        "python -m ladder_vae.train model=residual",
        "python -m ladder_vae.train model=convolutional model.num_layers=16",
        "python -m ladder_vae.train model=convolutional 'model.levels",
        "python -m ladder_vae.train --multirun experiment=level_analysis",
        "python -m ladder_vae.train model=nvae",
    )
    return [pytest.param(line, marks=pytest.mark.slow if line.startswith(long) else ()) for line in lines]


@pytest.mark.usefixtures("undrawn", "short_judge")
@pytest.mark.parametrize("line", marked([c for c in commands() if c.startswith("python -m ladder_vae")]))
def test_python_commands(command, run_dir, npz, line):
    line = line.replace("<run_dir>", str(run_dir)).replace("images.npz", str(npz))
    line = re.sub(r"images=[12]000", "images=20", line)  # of 24
    line = line.replace("run=record num_samples=1000", "run=record num_samples=10")
    _, _, module, *args = shlex.split(line)
    name = module.partition(".")[2]
    args = ["run=runs" if arg.startswith("run=runs") else arg for arg in args]
    if name == "analyze":
        args += ["classifier_dir=judge", "levels=[z1]", "draws=1", "embedded=5"]
    if name == "train":
        if any(arg.startswith("resume=") for arg in args):
            args += ["trainer.max_epochs=3"]
        else:
            args += QUICK
            if "--multirun" in args and not any("seed=" in arg for arg in args):
                args += ["seed=1"]
    elif name == "sweep":
        args += [*QUICK, "model.num_layers=1,2", "hydra.launcher.jobs=1"]
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
    for name in ("Makefile", "pyproject.toml", "experiments"):
        (workdir / name).symlink_to(ROOT / name)
    return workdir


HERE = [f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.ready"]  # the environment that runs this test
MAKE = [line for line in commands() if line.startswith("make") and not line.startswith(NOT_RUN)]


def make(*args: str) -> subprocess.CompletedProcess:
    # a make of its own, whatever make runs the tests
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *args], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("line", marked(MAKE))
def test_make_commands(run_dir, trained, checkout, line):
    args = [re.sub(r"images=1000", "images=20", arg) for arg in shlex.split(line)] + HERE  # of 24
    if "evaluate" in line:
        older, newest = Path("runs/example/older"), Path("runs/example/sweep")
        for sweep in (older, newest):
            trained(run_dir=f"{sweep}/0_ladder")
            write_plan(sweep, [PlannedJob("0_ladder", ["model=ladder"])])
        os.utime(older / "jobs.json", (0, 0))
        done = make(*args[1:])
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"{newest}/report.html"
        (draws,) = re.findall(r"num_samples=(\d+)", line)
        assert f"L_{draws} (nats)" in (newest / "report.md").read_text()
        assert not (older / "0_ladder/evaluation").exists()
        return None
    if "analyze" in line:
        three = ["model.num_layers=3", "model.latent_sizes=null", "model.hidden_sizes=null"]
        run = trained(*three, "logger=none", run_dir="runs/example/three")
        done = make(*args[1:], "args=classifier_dir=judge levels=[z3] draws=1 embedded=5 images=10")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"{run}/analysis.html"
        return None
    if "resume" in line:
        sweep = Path("runs/example/sweep")
        trained(run_dir=f"{sweep}/0_ladder")
        write_plan(sweep, [PlannedJob("0_ladder", ["model=ladder"])])  # nothing is left to do
        done = make("sweep-depth", f"resume={sweep}", *HERE)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"{sweep}/report.html"
        return None
    if "tensorboard" in line:
        return check_tensorboard([*args, "port=0"])
    if "sweep" in line or "train" in line:
        given = next((a.partition("=")[2] for a in args if a.startswith("args=")), "")
        fewer = ["model.num_layers=1,2", "hydra.launcher.jobs=1"] if "sweep" in line else []
        args = [a for a in args if not a.startswith("args=")] + [f"args={given} {' '.join(QUICK + fewer)}"]
    done = make(*args[1:])
    assert done.returncode == 0, done.stderr
    if "sweep" in line:
        report = Path(done.stdout.splitlines()[-1])
        assert "Samples from every model's prior" in report.with_suffix(".md").read_text()


def script(path: str):
    """A script of experiments/ as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / "experiments" / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_analyze_trains_a_model_only_where_there_is_none(workdir, trained, monkeypatch):
    """With a stand-in for the commands, which writes down what it is asked, and trains something small."""
    newest, calls = script("level_analysis/newest.py"), []
    three = ["model.num_layers=3", "model.latent_sizes=null", "model.hidden_sizes=null", "logger=none"]

    def call(command, *arguments):
        calls.append([command, *arguments])
        if command == "train":
            trained(*three, "trainer.max_epochs=1", run_dir=arguments[-1].removeprefix("run_dir=") + "/0_run")
        return 0

    monkeypatch.setattr(newest, "call", call)
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["newest.py", "runs", "seed=3"])
        assert newest.main() == 0
    (training, first, second) = calls
    assert training[:5] == ["train", "--multirun", "experiment=level_analysis", "model=ladder", "seed=1"]
    sweep = training[5].removeprefix("run_dir=")
    assert sweep.startswith("runs/level_analysis/")
    assert first == second == ["analyze", f"run={sweep}/0_run", "seed=3"]


def test_record_goes_on_where_it_was_interrupted(workdir, monkeypatch):
    """With a stand-in for the commands, which is interrupted unless it resumes."""
    record, calls = script("deep_hierarchies/record.py"), []

    def run(command):
        name, *arguments = command[2:]
        calls.append(" ".join([name, *arguments]))
        given = dict(argument.split("=", 1) for argument in arguments)
        if run_dir := given.get("run_dir"):
            (Path(run_dir) / "checkpoints").mkdir(parents=True)
            (Path(run_dir) / "checkpoints/last.ckpt").touch()
        if resumed := given.get("resume"):
            (Path(resumed) / "metrics.json").touch()
        return SimpleNamespace(returncode=130 if run_dir else 0)

    monkeypatch.setattr(record.subprocess, "run", run)
    monkeypatch.setattr("sys.argv", ["record.py"])
    assert [record.main() for _ in range(3)] == [130, 130, 0]
    first, second = "runs/record/first", "runs/record/second"
    assert calls == [
        f"ladder_vae.train experiment=record run_dir={first}",
        f"ladder_vae.train resume={first}",
        f"ladder_vae.train experiment=[record,restart] run_dir={second} init_from={first}",
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


def test_sweep_depth_says_what_is_wrong_in_one_line(checkout):
    done = make("sweep-depth", "resume=x", "seed=1", *HERE)
    assert done.returncode != 0
    assert "error: resume= takes the settings of the sweep; leave out all others" in done.stderr
