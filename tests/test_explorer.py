"""``python -m ladder_vae.explore`` and the programs of its page, without a browser."""

import re
from importlib import resources
from pathlib import Path

import pytest
import torch
from contracts import DENSE, small
from test_errors import only_line
from test_page import Tags

from ladder_vae.explorer import page, server
from ladder_vae.explorer.program import Constants, Program
from ladder_vae.explorer.steps import Untranslatable
from ladder_vae.explorer.translation import translate
from ladder_vae.explorer.walks import in_half_precision, programs
from ladder_vae.maths import Bernoulli
from ladder_vae.models import ConvolutionalVAE, LadderVAE


def operations(function, *inputs):
    """What the steps of a function are called, and its constants."""
    constants = Constants()
    written = translate(function, inputs, constants).written()
    return [step["op"] for step in written["steps"]], constants


def test_the_page_needs_no_other_file(trained, command):
    run = trained("logger=none")
    code, out, err = command("explore", f"run={run}")
    assert code == 0, err
    assert out.splitlines()[-1] == f"{run}/explorer.html"
    text = (run / "explorer.html").read_text()
    tags = Tags(text).found
    assert not [attrs for tag, attrs in tags if "src" in attrs or "href" in attrs or tag == "link"]
    code = "".join(
        script for script in re.findall(r"<script>(.*?)</script>", text, re.S)
    )  # from file:// a page has none of these
    assert not re.search(r"\bfetch\(|\bimport\b|XMLHttpRequest|new Worker|https?:", code)
    (run / "explorer.html").write_text("an earlier one")
    assert command("explore", f"run={run}")[0] == 0
    assert (run / "explorer.html").read_text() == text


def test_what_cannot_be_played_with_is_refused_before_anything_is_written(trained, command, monkeypatch):
    run = trained("logger=none")
    monkeypatch.setattr(page, "LARGEST", 1_000)
    monkeypatch.setattr(server, "find_spec", lambda name: None)  # nor is there a server
    code, _, err = command("explore", f"run={run}")
    assert code == 1
    assert "too large for a page" in only_line(err)
    assert not (run / "explorer.html").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [("run=nowhere", "nowhere"), ("checkpoint=first", "checkpoint=first"), ("draws=3", "no setting draws")],
)
def test_bad_settings(command, setting, said):
    code, _, err = command("explore", "run=three_levels", setting)
    assert code == 1
    assert said in only_line(err)


def test_a_run_that_uses_what_no_page_computes(trained, command, monkeypatch):
    run = trained("logger=none")
    monkeypatch.setattr(Bernoulli, "mean", lambda self, params: torch.fft.rfft(params).abs())
    code, _, err = command("explore", f"run={run}")
    assert code == 1
    assert "has no page to play with: a page cannot compute aten._fft_r2c" in only_line(err)


@pytest.mark.parametrize("cls", [LadderVAE, ConvolutionalVAE])
def test_the_page_knows_every_operation(cls):
    script = (resources.files(page.__package__) / "interpreter.js").read_text(encoding="utf-8")
    known = set(re.findall(r"^  (\w+)(?:\(|:)", script, re.M))
    model = in_half_precision(small(cls, norm="batch") if cls not in DENSE else small(cls))
    written = programs(model, (1, 6, 5))
    used = {step["op"] for name in ("generate", "infer") for step in written[name]["steps"]}
    assert "linear" in used <= known
    sizes = [length * (2 if half else 4) for _, length, half in written["constants"]]
    assert sum(sizes) < 3 * sum(value.numel() for value in model.state_dict().values())  # half, but for norms


def test_what_depends_on_no_input_is_computed_before():
    weight = torch.randn(3, 2)
    names, constants = operations(lambda x: (x @ (weight * 2).exp(),), torch.zeros(1, 3))
    assert names == ["linear"]
    assert [length for _, length, _ in constants.table] == [6]


def test_nothing_moves_where_nothing_has_to():
    names, _ = operations(lambda x: (x[None].flatten().view(2, 3).unsqueeze(-1),), torch.zeros(6))
    assert names == []
    names, _ = operations(lambda x: (x[:, 1:] + x[:, :2],), torch.zeros(2, 3))
    assert names == ["strided", "strided", "add"]


def test_steps_that_no_output_needs_are_left_out():
    names, constants = operations(lambda x: ((x + torch.ones(3), x.exp())[1],), torch.zeros(3))
    assert names == ["exp"]
    assert constants.table == []


def test_constants_are_kept_once_and_as_short_as_they_can_be():
    constants = Constants()
    half, full = torch.tensor([0.5, -2.0, 1.0]), torch.tensor([0.1])
    assert [constants.place(each) for each in (half, full, half.clone(), half[:1])] == [0, 1, 0, 2]
    assert constants.table == [(0, 3, True), (8, 1, False), (12, 1, True)]
    assert len(constants.content) == 16


def test_an_output_that_depends_on_nothing_is_a_copy():
    program = Program(Constants())
    program.output(torch.ones(2))
    assert program.written()["steps"] == [{"op": "copy", "out": 0, "in": [-1]}]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: (torch.randn_like(x),), "draws random numbers"),
        (lambda x: (torch.fft.rfft(x).abs(),), "a page cannot compute aten._fft_r2c"),
        (lambda x: (x @ x.T,), "neither is a weight"),
        (lambda x: (torch.nn.functional.pad(x, (1, 1), value=2.0),), "with 2"),
        (lambda x: (torch.nn.BatchNorm1d(3)(x),), "batch_norm|over a batch"),
        (lambda x: (x.int() + 1,), "torch.int32"),
        (lambda x: (x if x.sum() > 0 else -x,), "looks at numbers"),
    ],
)
def test_what_no_step_computes_is_refused(function, said):
    with pytest.raises(Untranslatable, match=said):
        operations(function, torch.ones(2, 3))


def test_rounded_weights_leave_the_model_alone():
    model = small(LadderVAE)
    with torch.no_grad():
        model.decoder[1].bias[:2] = torch.tensor([1e6, 1 / 3])
    rounded = in_half_precision(model)
    assert rounded.decoder[1].bias[0] == 1e6  # too large for half precision
    assert rounded.decoder[1].bias[1] == torch.tensor(1 / 3).half().float()
    assert model.decoder[1].bias[1] == torch.tensor(1 / 3)
    assert model.training
    assert not rounded.training


def test_the_scripts_are_shipped():
    files = {path.name for path in Path(str(resources.files(page.__package__))).iterdir()}
    assert {"page.html", "explorer.css", *page.SCRIPTS} <= files
