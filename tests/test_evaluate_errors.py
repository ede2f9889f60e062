"""What ``python -m ladder_vae.evaluate`` refuses: one ``error:`` line, and nothing overwritten."""

import json

import numpy as np
import pytest
import torch
import yaml
from test_errors import only_line

from ladder_vae.runs.record import write_status

pytestmark = pytest.mark.usefixtures("undrawn")


def files(run):
    """Everything below a run directory, to see whether it changed."""
    return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


BAD = {
    "num_samples=0": "num_samples=0 must be at least 1",
    "num_samples=-5": "num_samples=-5 must be at least 1",
    "num_samples=many": "could not be converted to Integer; it takes a whole number",
    "num_samples=10 k=[1,0]": "every K must be at least 1",
    "num_samples=10 k=[3]": "choose num_samples=12, or another k",
    "num_samples=10 k=[20]": "choose num_samples=20",
    "num_samples=10 k=[]": "names no bound",
    "num_samples=10 k=5": "it takes a list, as in 'key=[1,2]'",
    "checkpoint=first": "choose best, last",
    "chunk_size=0": "chunk_size=0 must be at least 1",
    "chunk_size=many": "chunk_size=many must be at least 1 and below 1e+12, or auto",
    "binarizations=0": "binarizations=0 must be at least 1",
    "binarizations=some": "could not be converted to Integer; it takes a whole number",
    "compile=maybe": "compile=maybe is unknown; choose auto, true, false",
    "device=cuad": "device=cuad is not here; choose auto or cpu",
    "devices=0": "devices=0 must be at least 1",
    "devices=two": "could not be converted to Integer; it takes a whole number",
    "devices=100000": "here; set devices=",
    "devices=2 device=cpu:0": "device=cpu:0 is a single one; devices=2 takes device=cpu",
    "seed=-1": "seed=-1 must be from 0 to",
    "num_sample=10": "did you mean num_samples?",
    "data=mnist": "there is no setting data; ",
    "model.num_layers=3": "there is no setting model.num_layers; ",
    "--num_samples=3": "unrecognized arguments: --num_samples=3; --help explains the usage",
    "run=nowhere": "nowhere is not a directory; name a run directory, a folder of them, or a model of the",
    "run=.": ". holds no run (no config.yaml beside a status.json)",
    "images=many": "could not be converted to Integer; it takes a whole number",
    "run=null": "run=<dir> is missing",
    "run=": "run=<dir> is missing",
    "device=meta": "device=meta is not here",
    "+num_sampels=10": "there is no setting num_sampels",
    "--multirun": "run= takes a folder of runs",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_arguments(command, workdir, npz, arguments):
    code, _, err = command(
        "evaluate", *([] if "run=" in arguments else [f"run={npz.parent}"]), *arguments.split()
    )
    assert code == 1
    assert BAD[arguments] in only_line(err)
    setting = arguments.split("=")[0]
    assert f"did you mean {setting}?" not in err
    assert not list(workdir.iterdir())


@pytest.fixture
def untouched(trained, command):
    """A run, and a call that must refuse it and change nothing."""
    run = trained()

    def refuse(*arguments):
        before = files(run)
        code, _, err = command("evaluate", f"run={run}", "num_samples=10", *arguments)
        assert code == 1
        assert files(run) == before
        return only_line(err)

    return run, refuse


def test_an_unfinished_run(untouched, command):
    run, refuse = untouched
    write_status(run, "interrupted")
    assert "has not finished (interrupted); finish it" in refuse()
    metrics = (run / "metrics.json").read_bytes()
    code, out, err = command("evaluate", f"run={run}", "num_samples=10", "checkpoint=last")
    assert code == 0
    assert "warning: run has not finished (interrupted); these are no final numbers" in err
    assert "L_K" in out
    assert (run / "metrics.json").read_bytes() == metrics
    (directory,) = (run / "evaluation").iterdir()
    assert f"the results are in {directory}, not in metrics.json" in err
    assert "test/log_px/K=10" in json.loads((directory / "metrics.json").read_text())
    (run / "checkpoints/last.ckpt").unlink()
    assert "last.ckpt does not exist" in refuse("checkpoint=last")


def test_weights_of_a_finished_run_that_are_gone(untouched):
    run, refuse = untouched
    (run / "checkpoints/best.ckpt").unlink()
    assert "best.ckpt does not exist; restore it from a copy" in refuse()


def test_a_folder_with_an_unfinished_run(trained, command):
    run = trained(run_dir="sweep/a")
    write_status(trained(run_dir="sweep/b"), "failed", "the loss is not finite")
    code, _, err = command("evaluate", f"run={run.parent}", "num_samples=10")
    assert code == 0
    assert "warning: left out: sweep/b has not finished (failed the loss is not finite); finish it" in err
    assert "test/log_px/K=10" in (run / "metrics.json").read_text()
    assert "log_px" not in (run.parent / "b/metrics.json").read_text()
    write_status(run, "interrupted")
    code, _, err = command("evaluate", f"run={run.parent}", "num_samples=10")
    assert code == 1
    assert "holds no run that can be used" in err.splitlines()[-1]


def test_a_damaged_checkpoint_and_one_that_carries_code(untouched):
    run, refuse = untouched
    best = run / "checkpoints/best.ckpt"
    content = best.read_bytes()
    best.write_bytes(content[: len(content) // 2])
    assert "is damaged" in refuse()

    class Code:
        def __reduce__(self):
            return (print, ("running",))

    best.unlink()  # last.ckpt may be the same file
    torch.save({"state_dict": Code()}, best)
    assert "carries code" in refuse()


def test_other_data_than_trained_on(trained, command, npz, tmp_path):
    own = tmp_path / "own.npz"
    own.write_bytes(npz.read_bytes())
    run = trained(f"data.path={own}", run_dir="run")
    before = files(run)
    arrays = dict(np.load(npz))
    arrays["x_test"] = arrays["x_test"][::-1]
    np.savez(own, **arrays)
    code, _, err = command("evaluate", f"run={run}", "num_samples=10")
    assert code == 1
    assert "run was trained on other images than Npz holds now" in only_line(err)
    code, _, err = command("train", f"resume={run}", "trainer.max_epochs=3")
    assert code == 1
    assert "run was trained on other images" in only_line(err)
    own.unlink()
    code, _, err = command("evaluate", f"run={run}", "num_samples=10")
    assert code == 1
    assert "own.npz does not exist" in only_line(err)
    assert files(run) == before


@pytest.mark.parametrize(
    "target", ["os.system", "ladder_vae.data.Path", "ladder_vae.data.data_sets.ImageData", ""]
)
def test_a_strangers_config_runs_no_code(untouched, target):
    run, refuse = untouched
    config = yaml.safe_load((run / "config.yaml").read_text())
    for data in ({"_target_": target}, {**config["data"], "_target_": target}, [1], None):
        (run / "config.yaml").write_text(yaml.safe_dump({**config, "data": data}))
        said = "names data._target_=" if isinstance(data, dict) else "names no data"
        assert said in refuse()


def test_another_data_set_than_trained_on(untouched):
    run, refuse = untouched
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["_target_"] = "ladder_vae.data.MNIST"
    del config["data"]["path"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert "was trained on other images than MNIST holds now" in refuse()


def test_a_run_directory_that_cannot_be_written(untouched):
    run, refuse = untouched
    (run / "evaluation").touch()
    assert "cannot be written" in refuse()


@pytest.mark.parametrize("images", [0, -3, 24, 10_000])
def test_images_that_are_not_there(untouched, images):
    _, refuse = untouched
    assert f"images={images} must be from 1 to 23" in refuse(f"images={images}")


def test_a_file_where_the_run_should_be(command, workdir):
    (workdir / "file").touch()
    _, _, err = command("evaluate", "run=file")
    assert "file is not a directory" in only_line(err)


def test_help(command):
    code, out, _ = command("evaluate", "--help")
    assert code == 0
    assert "num_samples" in out
