"""Runs and sweeps that somebody sent: what they say is shown and not obeyed, and nothing of them runs."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from test_report import MODEL, fake_run

from ladder_vae.runs.record import write_config, write_status
from ladder_vae.system.errors import printable
from ladder_vae.training import finishing
from ladder_vae.training.trust import foreign, foreign_job

pytestmark = pytest.mark.usefixtures("undrawn")

EVIL = "<img src=x onerror=alert(1)>[a](javascript:b)\x1b]0;title\x07\x1b[31m|"


def test_names_and_messages_are_escaped_where_they_land(folder, command, workdir):
    fake_run(folder / "failed", 2, 3, -1.0, status="failed")
    write_status(folder / "failed", "failed", f"{EVIL}\n# heading\u202e")
    fake_run(folder / "=cmd()", 2, 4, -1.0, optimizer={"note": EVIL, "price": "$\\frac{"})
    fake_run(folder / "@x", 2, 5, -1.0, status="interrupted")
    (folder / "broken/metrics.json").write_text(json.dumps({EVIL: "\x1b[2J"}))
    code, out, err = command("report", folder)
    assert code == 0, err
    text = (folder / "report.md").read_text()
    page = (folder / "report.html").read_text()
    for shown in (out, err, text, page, (folder / "report.csv").read_text()):
        assert "\x1b" not in shown
        assert "\x07" not in shown
        assert "\u202e" not in shown
    assert "<img" not in text
    assert "<img src=x" not in page
    assert not any(line.startswith("# heading") for line in text.splitlines())
    assert "[a]\\(javascript" in text
    assert "[a](javascript" not in text
    with (folder / "report.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert "'=cmd()" in cells
    assert "'@x" in cells
    assert "-1.0" in cells  # a number stays one


def test_an_error_line_obeys_no_escape_sequence(command, workdir):
    name = "a\x1b[31mb"
    (workdir / name).mkdir()
    _, _, err = command("report", name)
    assert err.startswith("error: a\\x1b[31mb holds no run")
    assert printable("年 é  ok\u2028") == "年 é  ok\\u2028"


def test_a_stranger_has_nothing_downloaded(trained, command, workdir):
    run = trained("data.val_size=8")
    text = yaml.safe_load((run / "config.yaml").read_text())
    text["data"] = {"_target_": "ladder_vae.data.FashionMNIST", "directory": str(workdir / "anywhere")}
    write_config(run, text)
    said = f"FashionMNIST is not in {workdir / 'anywhere'}, which the run names; trust=true downloads it"
    for arguments in (["evaluate", f"run={run}", "num_samples=10"],
                      ["train", f"resume={run}", "trainer.max_epochs=3"]):  # fmt: skip
        code, _, err = command(*arguments)
        assert (code, err.count("\n")) == (1, 1)
        assert said in err
    assert not (workdir / "anywhere").exists()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("optimizer", {"_target_": "os.system", "command": "touch ran"}),
        ("scheduler", {"_target_": "ladder_vae.training.job.os.system", "command": "touch ran"}),
        ("model", {**MODEL, "latent_sizes": {"_target_": "os.system", "command": "touch ran"}}),
        ("callbacks", {"mine": {"inner": [{"_target_": "os.system", "command": "touch ran"}]}}),
        ("logger", {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "name": "../../out"}),
        ("logger", {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "sub_dir": "../../out"}),
        ("callbacks", {"x": "${oc.decode:'{_target_: os.system, command: touch ran}'}"}),
        ("callbacks", {"x": "\\${oc.decode:'{_target_: os.system, command: touch ran}'}"}),
        ("trainer", {"max_epochs": 2, "model_registry": "somewhere/else"}),
    ],
)
def test_resuming_a_strangers_run_needs_trust(trained, command, workdir, place, value):
    run = trained()
    write_config(run, yaml.safe_load((run / "config.yaml").read_text()) | {place: value})
    code, _, err = command("train", f"resume={run}", "trainer.max_epochs=3")
    assert (code, err.count("\n")) == (1, 1)
    assert f"{run}/config.yaml names {place}." in err
    assert "trust=true resumes it" in err
    assert not (workdir / "ran").exists()


def test_code_hides_in_no_list_of_a_file():
    assert (
        foreign({"callbacks": {"x": [("a", {"_target_": "os.system"})]}}) == "callbacks.x._target_=os.system"
    )


@pytest.mark.parametrize(
    ("override", "said"),
    {
        "optimizer._target_=os.system": "optimizer._target_=os.system",
        "++callbacks.x={_target_:os.system,command:x}": "callbacks.x._target_=os.system",
        "++callbacks.x='${oc.decode:\"{_tar${oc.env:NOPE,get_}: os.system}\"}'": "++callbacks.x='${oc",
        "+optimizer.a=$\\{oc.decode:x\\}": "+optimizer.a=$\\{oc.decode:x\\}",
        "+optimizer.a=[{b:$\\{oc.decode:x\\}}]": "+optimizer.a=",
        "experiment=../../runs/evil": "experiment=../../runs/evil",
        "experiment=[debug,'../../runs/evil']": "experiment=[debug,'../../runs/evil']",
        "--config-dir=mine": "--config-dir=mine",
        "+hydra.job.env_set.A=1": "+hydra.job.env_set.A=1",
        "+model@hydra.callbacks.x=ladder": "settings of Hydra",
        "hydra.searchpath=[mine]": "hydra.searchpath=[mine]",
        "logger.name=out": "logger.name=out",
        "+trainer.model_registry=x": "trainer.model_registry=x",
        "resume=elsewhere": "run_dir=elsewhere",
        "trust=true": None,
        "model.num_layers=3": None,
    }.items(),
)
def test_a_strangers_sweep_needs_trust(command, workdir, monkeypatch, override, said):
    monkeypatch.setattr(finishing, "_start", lambda *given: pytest.fail(str(given)))
    (workdir / "jobs.json").write_text(json.dumps([{"name": "0", "overrides": [override]}]))
    if said is None:
        assert foreign_job(Path("0"), finishing._arguments(Path("0"), [override], trust=False)) == ""
        return
    code, _, err = command("train", "finish=.")
    assert (code, err.count("\n")) == (1, 1)
    assert f"jobs.json has {said}" in err
    assert "which may run or write anything; if you trust it, trust=true finishes the sweep" in err


@pytest.mark.parametrize("name", ["~/x", "'../x'", "${oc.env:HOME}", "[x]"])
def test_a_job_of_a_strangers_sweep_stays_in_it(command, workdir, monkeypatch, name):
    monkeypatch.setattr(finishing, "_start", lambda *given: pytest.fail(str(given)))
    (workdir / "jobs.json").write_text(json.dumps([{"name": name, "overrides": []}]))
    code, _, err = command("train", "finish=.")
    assert (code, err.count("\n")) == (1, 1)
    assert "jobs.json has " in err
    assert "run_dir=" in err
