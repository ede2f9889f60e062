"""What a hostile newcomer types: one ``error:`` line, nothing started, nothing lost."""

import json
import urllib.error

import pytest
import torch
from conftest import tiny

from ladder_vae.data import mnist
from ladder_vae.data.sources import MNIST_DIR, load_mnist

BAD = {
    "model.num_layer=3": "there is no setting model.num_layer; did you mean model.num_layers?",
    "model.num_layers=three": "could not be converted to Integer; it takes a whole number",
    "model.num_layers=0": "num_layers=0 is not between 1 and 64",
    "model.num_layers=65": "num_layers=65 is not between 1 and 64",
    "model.latent_sizes=[4,3,2]": "num_layers=2 needs 2 latent sizes, got 3",
    "model=laddder": "there is no model/laddder; choose bottom_up, convolutional, diffusion, ladder, nvae, "
    "residual, textbook",
    "objective.importance_samples=4": "set objective.beta_warmup_epochs=0",
    "objective.importance_samples=0": "importance_samples must be at least 1",
    "objective.importance_gradient=sharp": "there is no setting objective.importance_gradient",
    "init_from=nowhere": "nowhere is not a directory; name a run directory, a folder of them, or a model",
    "data=imagenet": "there is no data/imagenet; choose cifar10, fashion_mnist, folder, kmnist, mnist, npz",
    "+nonsense=3": "there is no setting nonsense; --cfg job lists all settings",
    "+model.nonsense=3": "there is no setting model.nonsense; --cfg job lists all",
    "+objective.nonsense=3": "there is no setting objective.nonsense; --cfg job lists all",
    "+trainer.nonsense=3": "there is no setting trainer.nonsense; --cfg job lists all settings",
    "model.latent_sizes=[1,2": "settings are written key=value",
    "data.path=nowhere.npz": "nowhere.npz does not exist",
    "data.val_size=40": "data.val_size=40 leaves too few of 40 training images; lower it",
    "data.binarization=random": "choose dynamic, static, threshold",
    "objective.free_bits=-1": "free_bits must be at least 0",
    "optimizer.lr=fast": "could not be converted to Float; it takes a number",
    "optimizer.lr=-1": "optimizer or scheduler: Invalid learning rate: -1.0",
    "optimizer._target_=torch.optim.Adaam": "does not exist; name what to import, as in torch.optim.Adam",
    "trainer.max_epochs=0": "trainer.max_epochs=0 must be at least 1",
    "trainer.accelerator=cuad": "trainer.accelerator=cuad is unknown; choose auto, gpu, cpu, cuda, mps",
    "trainer.precision=8": "trainer.precision=8 is unknown; choose auto, 32-true, bf16-mixed",
    "trainer.compile=maybe": "trainer.compile=maybe is unknown; choose auto, true, false",
    "trainer.limit_test_batches=0": "trainer.limit_test_batches=0 must be at least 1",
    "trainer.check_val_every_n_epoch=0": "trainer.check_val_every_n_epoch=0 must be at least 1",
    "trainer.gradient_clip_val=-1": "trainer.gradient_clip_val=-1.0 must be at least 0, or null",
    "scheduler.warmup_steps=-5": "warmup_steps=-5 must be at least 0",
    "trainer.gradient_skip_factor=1": "trainer.gradient_skip_factor=1.0 must be above 1, or null",
    "objective.spectral=-0.1": "objective: spectral must be at least 0, got -0.1",
    "scheduler.final_factor=2": "final_factor=2.0 must lie in [0, 1]",
    "trainer.profiler=fast": "choose simple, advanced",
    "callbacks.pictures.every_n_epochs=0": "every_n_epochs=0 and count=16 must be at least 1",
    "seed=-1": "seed=-1 must be from 0 to 9223372036854775807",
    "logger=null": "logger=none",
    "data._target_=ladder_vae.models.LadderVAE": "LadderVAE does not make a ImageData",
    "trainer.devices=0": "trainer.devices=0 must be at least 1",
    "trainer.devices=999": "here; set trainer.devices=",
    "trainer.strategy=dpp": "trainer.strategy=dpp is unknown; choose auto, ddp, ddp_find_",
    "trainer.strategy=fsdp": "trainer.strategy=fsdp divides the weights among devices",
    "trainer.strategy=deepspeed_stage_2": "trainer.strategy=deepspeed_stage_2 divides the weights",
    "+trainer.sync_batchnorm=true": "takes the moments of the whole batch by itself; leave it out",
    "+trainer.num_nodes=2": "trainer.num_nodes=2: a run takes devices of one machine",
    "trainer.max_epoch=3": "did you mean trainer.max_epochs?",
    "callbacks.averaging.decay=1.5": "callbacks.averaging.decay=1.5 must lie in [0, 1)",
    "callbacks.averaging.recalibrate_batches=-1": "recalibrate_batches=-1 must be at least 0",
    "callbacks=early_stopping": "set data.val_size=10000 or callbacks=default",
    "experiment=papper": "there is no experiment/papper; choose collapse, convolutional, ",
    "learning_rate=3": "there is no setting learning_rate; --cfg job lists all settings",
    "seed=1.5": "could not be converted to Integer; it takes a whole number",
    "model.num_layers": "settings are written key=value, lists 'key=[1,2]' in quotes",
    "--num_layers": "unrecognized arguments: --num_layers; --help explains the usage",
    "resume=nowhere": "nowhere is not a directory; name a run directory",
    "resume=/": "/ is not a run directory: it lacks config.yaml or status.json",
    "run_dir=/proc/here": "run_dir=/proc/here cannot be written",
    "data.path=???": "data.path is missing; give it a value: data.path=...",
    "model._target_=5": "model names nothing to make; set model._target_ to a Hierarchy",
    "callbacks.pictures=5": "callbacks.pictures names nothing to make",
    "~optimizer": "optimizer",
    "+likelihood.width=3": "there is no setting likelihood.width",
    "optimizer.betas=[0.9]": "optimizer.betas=[0.9] must have 2 values",
    "optimizer.betas=[]": "optimizer.betas=[] must have 2 values",
    f"seed={'1' * 400}": "seed=11111111111111111111... is not a usable number",
    "seed=nan": "seed=nan",
    f"data.batch_size={10**30}": "data.batch_size=1000000000000000000000000000000 is not a usable number",
    f"objective.free_bits={'1' * 400}": "objective.free_bits=11111111111111111111... is not a usable number",
    "objective.free_bits=nan": "objective.free_bits=nan is not a usable number; it must be finite",
    "optimizer.lr=inf": "optimizer.lr=inf is not a usable number",
    "model.latent_sizes=[4,inf]": "model.latent_sizes.1=inf is not a usable number",
    f"trainer.gradient_clip_val={'1' * 400}": "trainer.gradient_clip_val cannot be set to this (int too",
    f"trainer.limit_train_batches={'1' * 400}": "trainer.limit_train_batches=11111111111111111111...",
    "trainer.limit_val_batches=-1": "trainer.limit_val_batches=-1 must be at least 0",
    "optimizer._partial_=x": "optimizer._partial_=x must be true or false; leave it out",
    "optimizer._target_=''": "optimizer names nothing to make; set optimizer._target_",
    "by_depth={a:1}": "by_depth cannot be set to this",
    "logger.version=../../x": "logger.version=../../x must lie in the run directory",
    "optimizer.amsgrad=true": "+optimizer.amsgrad=... adds one that its class takes",
}


def only_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert lines[0] == err.splitlines()[-1]
    return lines[0]


@pytest.mark.parametrize(
    ("model", "setting", "others"),
    [("nvae", "width", "model.widths"), ("convolutional", "hidden_sizes", "model.latent_sizes")],
)
def test_no_setting_of_another_model_is_suggested(command, model, setting, others):
    code, _, err = command("train", f"model={model}", f"model.{setting}=3")
    assert code == 1
    line = only_line(err)
    assert f"there is no setting model.{setting}; " in line
    assert f"did you mean {others}?" not in line


@pytest.mark.parametrize("argument", BAD)
def test_bad_arguments(command, npz, workdir, argument):
    settings = [] if argument.startswith("resume") else tiny(npz)
    code, _, err = command("train", *settings, argument)
    assert code == 1
    line = only_line(err)
    assert BAD[argument] in line
    assert len(line) < 400
    assert not (workdir / "runs").exists()  # nothing was started


@pytest.mark.parametrize(
    ("argument", "said"),
    {
        "model.latent_sizes=[4,0]": "latent sizes must be at least 1, got [4, 0]",
        "model.latent_sizes=[4]": "num_layers=2 needs 2 latent sizes, got 1",
        "model.width=0": "width=0 must be at least 1",
        "model.width=[16,8]": "model.width=[16,8]",
        "model.blocks=-1": "blocks=-1 must be at least 1",
        "model.dropout=1": "dropout=1 must be at least 0 and below 1",
        "model.norm=group": "norm=group is unknown; choose batch, layer, none",
        "model.posterior=fixed": "posterior=fixed is unknown; choose free, weighted, relative",
        "model.width=1000000": "GiB to train and there are",
        "model.hidden_sizes=[16,8]": "there is no setting model.hidden_sizes",
    }.items(),
)
def test_bad_residual_models(command, npz, workdir, argument, said):
    code, _, err = command("train", *tiny(npz, "residual"), "model=residual", argument)
    assert code == 1
    assert said in only_line(err)
    assert not (workdir / "runs").exists()


@pytest.mark.parametrize(
    ("argument", "said"),
    {
        "data.val_size=0": "data.val_size=0; set data.val_size=10000",
        "trainer.limit_val_batches=0": "trainer.limit_val_batches=0; set trainer.limit_val_batches=null",
        "callbacks.early_stopping.monitor=foo": "monitor=foo is not measured; choose val/bound, val_elbo",
    }.items(),
)
def test_what_cannot_stop_a_run_early(command, npz, workdir, argument, said):
    code, _, err = command("train", *tiny(npz), "callbacks=early_stopping", "data.val_size=8", argument)
    assert code == 1
    assert said in only_line(err)
    assert not (workdir / "runs").exists()


def test_a_depth_that_the_table_leaves_out(command, workdir):
    code, _, err = command("train", "experiment=depth_residual", "model.num_layers=2,7")
    assert code == 1
    line = only_line(err)
    assert "model.num_layers=7" in line
    assert ": model.width: by_depth has no value for 7, only for 1, 2, 3, 5, 10, 20, 50; give" in line
    assert line.endswith("a value of your own")
    assert not (workdir / "runs").exists()


def test_bottom_up_refuses_free_bits(command, npz):
    _, _, err = command("train", *tiny(npz), "model=bottom_up", "objective.free_bits=1")
    assert "objective.free_bits=1.0 needs rates that cannot be negative" in only_line(err)


def test_a_run_directory_under_a_file(command, npz, workdir):
    (workdir / "file").touch()
    _, _, err = command("train", *tiny(npz), "run_dir=file/run")
    assert "run_dir=file/run" in only_line(err)


def test_a_directory_that_holds_a_run_is_not_written_over(trained, command, npz):
    run = trained()
    before = (run / "metrics.json").read_bytes()
    _, _, err = command("train", *tiny(npz), f"run_dir={run}")
    assert f"already holds a run; resume={run} continues it" in only_line(err)
    assert (run / "metrics.json").read_bytes() == before


def test_resume_keeps_the_configuration(trained, command):
    run = trained()
    before = (run / "config.yaml").read_bytes()
    _, _, err = command("train", f"resume={run}", "model.num_layers=3", "trainer.max_epochs=9")
    assert "leave out model.num_layers=3" in only_line(err)
    assert (run / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("missing", ["callbacks", "Totals", "epochs"])
def test_resume_of_a_checkpoint_that_counts_nothing(trained, command, missing):
    run = trained()
    last = run / "checkpoints/last.ckpt"
    saved = torch.load(last, weights_only=True)
    for holder in (saved, saved["callbacks"], saved["callbacks"]["Totals"]):
        holder.pop(missing, None)
    torch.save(saved, last)
    code, _, err = command("train", f"resume={run}", "trainer.max_epochs=9")
    assert code == 1
    assert "last.ckpt does not say how many epochs it has done; init_from=run begins" in only_line(err)


def test_resume_of_a_damaged_checkpoint(trained, command):
    run = trained()
    last = run / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    status = (run / "status.json").read_bytes()
    _, _, err = command("train", f"resume={run}", "trainer.max_epochs=9")
    assert "last.ckpt" in only_line(err)
    assert (run / "status.json").read_bytes() == status
    last.unlink()
    _, _, err = command("train", f"resume={run}", "trainer.max_epochs=9")
    assert "no checkpoints/last.ckpt" in only_line(err)


@pytest.mark.parametrize(
    "bad",
    [
        "model.num_layers=1,70",
        "model.num_layers=1,x",
        "seed=1 resume=there",
        "seed=1,2 hydra.launcher.jobs=0",
        "seed=1,2 hydra.launcher.jobs=many",
    ],
)
def test_a_multirun_is_refused_before_its_first_job(command, npz, workdir, bad):
    settings = [s for s in tiny(npz) if "sizes" not in s]
    code, _, err = command("train", "-m", *settings, *bad.split(), "run_dir=sweep")
    assert code == 1
    only_line(err)
    assert not list(workdir.rglob("config.yaml"))


def test_a_failed_job_does_not_take_the_others_along(command, npz, workdir):
    code, _, err = command(
        "train",
        "-m",
        *tiny(npz),
        "optimizer.lr=1e30,1e-3",
        "scheduler=constant",
        "run_dir=sweep",
        "hydra.launcher.jobs=1",
    )
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert "not finite" in line
    states = sorted(json.loads(p.read_text())["status"] for p in workdir.rglob("status.json"))
    assert states == ["failed", "finished"]
    code, out, err = command("report", "sweep")
    assert code == 0, err
    assert out.count("not finished: ") == 1
    text = (workdir / "sweep/report.md").read_text()
    assert "Not finished" in text
    assert "not finite" in text


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("nowhere", "is not a directory"),
        (".", "holds no run"),
        (". --depth", "unrecognized"),
        ("", "required"),
    ],
)
def test_report_names_what_is_wrong(command, workdir, argument, message):
    code, _, err = command("report", *argument.split())
    assert code == 1
    assert message in only_line(err)
    assert not list(workdir.iterdir())


@pytest.mark.parametrize("multirun", [False, True])
def test_damaged_mnist_is_refused_before_training(command, workdir, monkeypatch, multirun):
    load_mnist.cache_clear()
    for file in MNIST_DIR.glob("*.gz"):
        (workdir / file.name).write_bytes(file.read_bytes()[:5000])
    monkeypatch.setattr(mnist, "load_mnist", lambda: load_mnist(workdir))
    args = ["-m", "seed=1,2"] if multirun else []
    code, _, err = command("train", *args, "experiment=debug", "run_dir=run")
    assert code == 1
    assert "train-images-idx3-ubyte.gz is truncated" in only_line(err)
    assert not (workdir / "run").exists()


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist"])
def test_an_unreachable_download_is_refused_before_training(command, workdir, monkeypatch, name):
    import torchvision

    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", unreachable)
    code, _, err = command("train", f"data={name}", "data.directory=here", "run_dir=run")
    assert code == 1
    assert f"could not be downloaded to or read from {workdir}/here" in only_line(err)
    assert not (workdir / "run").exists()


def test_the_traceback_on_request(command, npz, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    for bad in ("model.num_layers=0", "model.nonsense=1"):
        _, _, err = command("train", *tiny(npz), bad)
        assert "Traceback" in err
        assert err.splitlines()[-1].startswith("error: ")
