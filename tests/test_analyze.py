"""``python -m ladder_vae.analyze`` as a user meets it."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import events, tiny
from test_errors import only_line

from ladder_vae import analyze as entry
from ladder_vae.analysis.classifier import VERSION
from ladder_vae.analysis.embedding import _in_two_dimensions
from ladder_vae.analysis.measure import share
from ladder_vae.explorer import page as explorer
from ladder_vae.runs.record import read_record
from ladder_vae.system.errors import UserError

QUICK = ["classifier_dir=judge", "draws=1"]
SKETCHED = pytest.mark.usefixtures("undrawn", "short_judge")  # every test but the first, which sees it all
THREE = ["model.num_layers=3", "model.latent_sizes=[4,3,2]", "model.hidden_sizes=[16,8,8]"]


@pytest.fixture
def analyze(command):
    def call(*args):
        return command("analyze", *QUICK, *args)

    return call


def test_the_whole_journey(trained, analyze, request):
    run = trained(*THREE)
    before = json.loads((run / "metrics.json").read_text())
    code, out, err = analyze(f"run={run}")
    assert code == 0, err
    assert out.splitlines()[-1] == f"{run}/analysis.html"
    pictures = {p.stem for p in (run / "figures/levels").iterdir()}
    kinds = ("resample", "swap", "traverse", "temperature", "embedding")
    of_levels = {f"{kind}_z{n}" for kind in kinds for n in (1, 2, 3)}
    assert pictures == of_levels | {"glance", "numbers", "fewer_levels", "interpolate"}
    page, text = (run / "analysis.html").read_text(), (run / "analysis.md").read_text()
    for picture in pictures:
        assert f"(figures/levels/{picture}.png)" in text
    assert page.count("data:image/png;base64,") == len(pictures)
    assert "24 images of the test split" in text
    assert (run / "explorer.html").exists()
    assert page.count("<iframe") == 1
    assert "[explorer.html](explorer.html)" in text

    metrics = json.loads((run / "metrics.json").read_text())
    assert {k: v for k, v in metrics.items() if "/levels/" not in k} == before
    found = {k.removeprefix("test/levels/"): v for k, v in metrics.items() if "/levels/" in k}
    for n in (1, 2, 3):
        for kind in (
            "rate",
            "probe_mean",
            "probe_sample",
            "probe_innovation",
            "pixel_change",
            "class_change",
        ):
            assert f"{kind}/z{n}" in found
            assert f"{kind}/z{n}_stderr" in found
    assert {"class_kept", "judge_accuracy", "probe_pixels", "pixel_change/all", "images"} <= found.keys()

    seen = events(run)
    assert {f"levels/{picture}" for picture in pictures} <= set(seen.Tags()["images"])
    assert not any("levels/" in name for name in seen.Tags()["scalars"])  # charts of one dot
    assert "one that is running shows them after a restart" in err
    projector = (run / "projector_config.pbtxt").read_text()
    assert [f"{n}:" in projector for n in ("z1", "z2", "z3")] == [True] * 3
    (tensors,) = run.glob("*/z1/tensors.tsv")
    assert np.loadtxt(tensors).shape == (24, 4)

    # again: the same figures, no second judge, no second embedding
    assert "training the classifier" in err
    request.getfixturevalue("undrawn")
    _, _, err = analyze(f"run={run}")
    assert "training the classifier" not in err
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert (run / "projector_config.pbtxt").read_text() == projector


@SKETCHED
def test_a_folder_of_runs_and_its_report(trained, analyze, command):
    for seed in (1, 2):
        trained(f"seed={seed}", "logger=none", run_dir=f"sweep/{seed}")
    code, out, err = analyze("run=sweep", "levels=[z1]")
    assert code == 0, err
    pages = [line for line in out.splitlines() if line.endswith(".html")]
    assert pages == ["sweep/1/analysis.html", "sweep/2/analysis.html"]
    assert out.splitlines()[-1] == pages[-1]
    assert not list(Path("sweep").rglob("*z2.png"))
    page = Path("sweep/1/analysis.md").read_text()
    assert "Levels that are kept have" in page
    assert "nothing is kept" not in page  # that row belongs to the top level
    assert not list(Path("sweep").rglob("projector_config.pbtxt"))  # trained without a logger
    code, out, err = command("report", "sweep")
    assert code == 0, err
    text = Path("sweep/report.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| LadderVAE | 2 | 2 | z2 |")]
    rates = [read_record(Path(f"sweep/{n}")).metrics["test/levels/rate/z2"] for n in (1, 2)]
    assert f"{np.mean(rates):.2f} ± {np.std(rates, ddof=1):.2f}" in row
    assert "![What each level holds" in text
    assert Path("sweep/figures/levels.png").exists()
    assert "test/levels/rate/z2" in Path("sweep/report.csv").read_text()


@SKETCHED
def test_part_of_the_images_has_names_of_its_own(trained, analyze):
    run = trained("logger=none")
    code, _, err = analyze(f"run={run}", "images=12", "show=[3,17]", "levels=[z2]")
    assert code == 0, err
    assert "fitted on up to 10,000 training images" in (run / "analysis.md").read_text()  # half of 20,000
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test_12/levels/images"] == 12
    assert not any(name.startswith("test/levels/") for name in metrics)


@pytest.mark.parametrize(
    ("settings", "images", "expected"),
    [
        ((None, None), 10_000, (20_000, 1_000)),
        ((None, None), 1_000, (2_000, 100)),
        ((5_000, 300), 1_000, (5_000, 300)),
    ],
)
def test_a_part_of_the_images_takes_a_part_of_the_time(settings, images, expected):
    data = SimpleNamespace(split=lambda name: range(10_000))
    subject = SimpleNamespace(indices=range(images), data=data)
    assert share(subject, SimpleNamespace(probe_images=settings[0], embedded=settings[1])) == expected


@SKETCHED
@pytest.mark.parametrize("terminal", [False, True])
def test_which_step_of_how_many(trained, analyze, monkeypatch, terminal):
    run = trained("logger=none")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    code, _, err = analyze(f"run={run}", "levels=[z1]", "show=[3]")
    assert code == 0, err
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err)
    if terminal:
        last = [line for line in re.split(r"[\r\n]+", shown) if line.startswith("run (1/1)")][-1]
        assert re.match(r"run \(1/1\) +8/8 ━+", last)
        return
    steps = [int(number) for number in re.findall(r"^run \(1/1\): (\d+)/8 \w", shown, re.MULTILINE)]
    assert steps == [*range(1, 9)]


@SKETCHED
def test_a_run_that_is_too_large_to_play_with(trained, analyze, monkeypatch):
    def refuse(subject):
        raise UserError("it is too large")

    monkeypatch.setattr(explorer, "write", refuse)
    run = trained("logger=none")
    assert analyze(f"run={run}", "levels=[z1]")[0] == 0
    assert "There is no page to play with: it is too large." in (run / "analysis.md").read_text()
    assert "<iframe" not in (run / "analysis.html").read_text()


@SKETCHED
def test_one_level(trained, analyze):
    run = trained("model.num_layers=1", "model.latent_sizes=[4]", "model.hidden_sizes=[16]", "logger=none")
    code, _, err = analyze(f"run={run}")
    assert code == 0, err
    assert "With a single level" in (run / "analysis.md").read_text()


@SKETCHED
@pytest.mark.parametrize("labels", ["none", "one"])
def test_questions_that_make_no_sense_are_said_in_the_page(command, analyze, workdir, npz, labels):
    arrays = dict(np.load(npz))
    y = {name: arrays.pop(name) for name in ("y_train", "y_test")}
    if labels == "one":
        arrays |= {name: np.zeros_like(values) for name, values in y.items()}
    arrays["x_test"], count = arrays["x_test"][:1], 1
    if labels == "one":
        arrays["y_test"] = arrays["y_test"][:count]
    np.savez("plain.npz", **arrays)
    settings = [s for s in tiny(npz) if not s.startswith("data.path")]
    code, _, err = command("train", *settings, "data.path=plain.npz", "logger=none", "run_dir=run")
    assert code == 0, err
    code, _, err = analyze("run=run")
    assert code == 0, err
    text = Path("run/analysis.md").read_text()
    assert "There is no judge" in text
    assert "There are no probes" in text
    assert "A single image is shown; there is none to interpolate with" in text
    assert "1 test images are too few for an embedding" in text
    assert not Path("judge").exists()
    assert not Path("run/figures/levels/interpolate.png").exists()


@SKETCHED
def test_an_unfinished_run_on_request(trained, analyze):
    run = trained("logger=none")
    (run / "status.json").write_text('{"status": "interrupted", "message": ""}')
    _, _, err = analyze(f"run={run}")
    assert "checkpoint=last" in only_line(err)
    before = (run / "metrics.json").read_bytes()
    code, _, err = analyze(f"run={run}", "checkpoint=last")
    assert code == 0, err
    assert "not in metrics.json and TensorBoard: they are of last.ckpt" in err
    assert (run / "metrics.json").read_bytes() == before
    assert (run / "analysis.html").exists()


BAD = {
    "levels=[z4]": "levels names z4, but run has the levels z1 to z2",
    "levels=[1]": "levels names 1; name levels as z1, z2, ..., in 'levels=[z1,z3]'",
    "levels=[top]": "levels names top; name levels",
    "levels=[]": "levels=[] names none",
    "levels=top": "levels=top: Invalid value assigned",
    "show=[24]": "show names test image 24, but run has images 0 to 23",
    "show=[-1]": "show names test image -1",
    "show=[]": "show=[] names none",
    "show=[0,1,2,3,4,5,6,7,8,9,10,11,12]": "show names 13 images; a picture has room for 12",
    "images=24": "images=24 must be from 1 to 23",
    "draws=0": "draws=0 must be at least 1",
    "probe_images=0": "probe_images=0 must be at least 1",
    "embedded=0": "embedded=0 must be at least 1",
    "seed=-1": "seed=-1 must be from 0 to",
    "checkpoint=first": "checkpoint=first is unknown",
    "device=tpu": "device=tpu is not here",
    "level=[1]": "did you mean levels?",
    "+nonsense=1": "there is no setting nonsense",
    "run=nowhere": "nowhere is not a directory",
    "run=run/figures": "holds no run",
    "run=": "run=<dir> is missing",
    "--multirun": "run= takes a folder of runs",
    "classifier_dir=run/config.yaml/x": "classifier_dir=run/config.yaml/x cannot be written",
}


@pytest.fixture
def run_copy(trained):
    return trained("logger=none")


@pytest.mark.parametrize("argument", BAD)
def test_bad_arguments(command, run_copy, argument):
    before = sorted(run_copy.rglob("*"))
    code, _, err = command("analyze", "run=run", "draws=1", "classifier_dir=judge", argument)
    assert code == 1
    assert BAD[argument] in only_line(err)
    assert sorted(run_copy.rglob("*")) == before


@SKETCHED
def test_fewer_draws_do_not_replace_more(run_copy, analyze):
    code, _, err = analyze(f"run={run_copy}", "levels=[z1]", "draws=3")
    assert code == 0, err
    before = (run_copy / "metrics.json").read_bytes()
    code, _, err = analyze(f"run={run_copy}", "levels=[z2]", "draws=2")
    assert code == 0, err
    assert "it keeps an analysis with more draws" in err
    assert (run_copy / "metrics.json").read_bytes() == before
    # the page and its pictures are of the last analysis alone
    drawn = {p.name for p in (run_copy / "figures/levels").iterdir()}
    assert "resample_z2.png" in drawn
    assert "resample_z1.png" not in drawn


@SKETCHED
def test_a_run_that_a_question_does_not_fit_is_left_out(trained, analyze):
    trained("logger=none", run_dir="sweep/two")
    one = ("model.num_layers=1", "model.latent_sizes=[4]", "model.hidden_sizes=[16]")
    trained("logger=none", *one, run_dir="sweep/one")
    code, out, err = analyze("run=sweep", "levels=[z2]")
    assert code == 0, err
    assert "warning: left out: levels names z2, but sweep/one has one level, z1" in err
    assert out.splitlines()[-1] == "sweep/two/analysis.html"


@SKETCHED
@pytest.mark.parametrize("shape", [(17, 11), pytest.param((9, 14), marks=pytest.mark.slow)])
def test_images_of_any_shape_reach_the_projector(command, analyze, workdir, npz, shape):
    rng, arrays = np.random.default_rng(0), dict(np.load(npz))
    arrays |= {
        f"x_{s}": rng.integers(0, 256, (n, *shape), dtype=np.uint8) for s, n in (("train", 40), ("test", 24))
    }
    np.savez("shape.npz", **arrays)
    settings = [s for s in tiny(npz) if not s.startswith("data.path")]
    code, _, err = command("train", *settings, "data.path=shape.npz", "run_dir=run")
    assert code == 0, err
    code, _, err = analyze("run=run", "levels=[z1]", "seed=99999999999")
    assert code == 0, err
    assert len(list(Path("run").glob("*/z*/sprite.png"))) == 2


@SKETCHED
def test_a_link_in_a_run_leads_nowhere(trained, analyze, workdir):
    """A run that somebody sent must not have anything deleted elsewhere."""
    (workdir / "mine/z1").mkdir(parents=True)
    (workdir / "mine/z1/tensors.tsv").write_text("precious")
    run = trained("seed=1")
    step = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["global_step"]
    (run / "00099").symlink_to(workdir / "mine")
    (run / f"{step:05d}").mkdir()  # where the projector's files go
    (run / f"{step:05d}/z1").symlink_to(workdir / "mine/z1")
    code, _, err = analyze(f"run={run}", "levels=[z1]")
    assert code == 1
    assert "is a link out of run" in only_line(err)
    assert (workdir / "mine/z1/tensors.tsv").read_text() == "precious"


@SKETCHED
@pytest.mark.parametrize("weights", ["decoder.1.bias", "rungs.0.prior_net", "evidence.1.bias"])
def test_a_diverged_model_is_named(run_copy, analyze, weights):
    best = run_copy / "checkpoints/best.ckpt"
    saved = torch.load(best, weights_only=True)
    state = saved["state_dict"]
    name = next(key for key in state if key.startswith("model.") and weights in key)
    state[name].fill_(float("nan"))
    best.unlink()
    torch.save(saved, best)
    code, _, err = analyze(f"run={run_copy}")
    assert code == 1
    assert "not finite" in only_line(err)
    assert not (run_copy / "analysis.html").exists()


@SKETCHED
def test_a_run_that_fails_does_not_take_the_others_along(trained, analyze):
    for name in ("a", "b"):
        trained("logger=none", run_dir=f"sweep/{name}")
    shutil.rmtree("sweep/a/figures")
    Path("sweep/a/figures").touch()
    code, out, err = analyze("run=sweep", "levels=[z1]")
    assert code == 1
    assert out.splitlines()[-1] == "sweep/b/analysis.html"
    assert "warning: sweep/a: " in err
    assert "1 of 2 runs could not be analyzed" in only_line(err)


@SKETCHED
def test_new_weights_while_it_worked_stay_out_of_the_record(run_copy, analyze, monkeypatch):
    before, record = (run_copy / "metrics.json").read_bytes(), entry.record

    def trained_meanwhile(*args):
        best = run_copy / "checkpoints/best.ckpt"
        saved = torch.load(best, weights_only=True)
        torch.save(saved | {"epoch": 99}, best)
        return record(*args)

    monkeypatch.setattr(entry, "record", trained_meanwhile)
    code, _, err = analyze(f"run={run_copy}", "levels=[z1]")
    assert code == 0, err
    assert "trained further meanwhile" in err
    assert (run_copy / "metrics.json").read_bytes() == before


@SKETCHED
def test_more_levels_than_a_page_holds(trained, analyze):
    run = trained("model.num_layers=9", "model.latent_sizes=null", "model.hidden_sizes=null", "logger=none")
    code, _, err = analyze(f"run={run}", "show=[0]", "embedded=5")
    assert code == 0, err
    drawn = list((run / "figures/levels").glob("resample_z*.png"))
    assert len(drawn) == 8
    assert "of 9 levels" in (run / "analysis.md").read_text()


@SKETCHED
def test_the_version_of_the_judge_is_in_its_name(analyze, run_copy):
    analyze(f"run={run_copy}", "levels=[z1]")
    (file,) = Path("judge").iterdir()
    assert file.name.startswith(f"classifier_{VERSION}_")


def test_a_level_that_never_moves_can_be_embedded():
    """Deep and collapsed, its posterior means may be the same to the last bit."""
    points = _in_two_dimensions(np.zeros((20, 4), np.float32), seed=0)
    assert points.shape == (20, 2)
    assert np.isfinite(points).all()
