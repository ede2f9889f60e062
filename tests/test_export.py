"""``ladder-vae export``: a bundle that opens with nothing of this package, or one line that says why not."""

import importlib.util
import inspect
import json
import re
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml
from contracts import LEARNED, SHAPE, small
from test_errors import only_line

from ladder_vae import export
from ladder_vae.exporting import bundle, card, graphs, hub
from ladder_vae.exporting.graphs import Generate, Infer, write_graph
from ladder_vae.maths import LogisticMixture
from ladder_vae.models import ConvolutionalVAE, Diffusion, LadderVAE
from ladder_vae.runs.checkpoints import load_run
from ladder_vae.runs.record import write_status

REASON = "needs pip install 'ladder-vae[export]'"
needs_extra = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in graphs.NEEDED), reason=REASON
)
RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}


@pytest.fixture
def made(trained, command, shelf):
    """The bundle of a tiny run, ``bundle``, and that run."""
    run = trained("logger=none")
    kept = shelf / "bundle"
    if not kept.exists():
        code, out, err = command("export", f"run={run}", f"directory={kept}", "license=mit")
        assert code == 0, err
        assert out == f"{kept}\n"
        assert "warning" not in err
    shutil.copytree(kept, "bundle")
    return run


@pytest.fixture
def installed(monkeypatch):
    """As if the extra were there, and a bundle of one file."""

    def write(run, directory, **settings):
        directory.mkdir()
        (directory / "README.md").write_text("a card")

    monkeypatch.setattr(export, "find_spec", lambda name: object())
    monkeypatch.setattr(bundle, "write", write)


class Api:
    """What is used of ``huggingface_hub.HfApi``."""

    calls: list = []  # noqa: RUF012
    failure: Exception | None = None

    def create_repo(self, repo_id, **settings):
        Api.calls.append(("create_repo", repo_id, settings))
        return f"https://hub.example/{repo_id}"

    def upload_folder(self, **settings):
        files = sorted(path.name for path in Path(settings["folder_path"]).iterdir())
        Api.calls.append(("upload_folder", files, settings))
        if Api.failure:
            raise Api.failure


@pytest.fixture
def on_the_hub(monkeypatch, installed):
    """In place of ``huggingface_hub``, without a network: a token, and notes of what is called."""

    class HFValidationError(ValueError):
        pass

    def validate_repo_id(repository):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository):
            raise HFValidationError(f"Repo id must be in the form 'name/model': '{repository}'")

    stub, utils = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.utils")
    stub.__spec__, stub.HfApi, stub.get_token = ModuleSpec("huggingface_hub", None), Api, lambda: "a token"
    utils.HFValidationError, utils.validate_repo_id = HFValidationError, validate_repo_id
    monkeypatch.setitem(sys.modules, "huggingface_hub", stub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", utils)
    monkeypatch.setattr(Api, "calls", [])
    return SimpleNamespace(module=stub, api=Api)


@needs_extra
def test_the_bundle_is_all_there(made):
    files = {path.name for path in Path("bundle").iterdir()}
    assert {"infer.onnx", "generate.onnx", "weights.safetensors", "config.yaml", "metrics.json"} <= files
    assert {"README.md", "explorer.html", "figures"} <= files
    assert json.loads(Path("bundle/metrics.json").read_text()) == json.loads(
        (made / "metrics.json").read_text()
    )
    figures = {path.relative_to(made) for path in (made / "figures").rglob("*.png")}
    assert {path.relative_to("bundle") for path in Path("bundle/figures").rglob("*.png")} == figures != set()
    ours, theirs = (load_run(path).model.state_dict() for path in (made, "bundle"))  # it is a run, too
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())


@needs_extra
def test_the_lines_of_the_card_run_with_nothing_of_ours(made):
    text = Path("bundle/README.md").read_text()
    (lines,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len([line for line in lines.splitlines() if line]) <= 10
    Path("bundle/lines.py").write_text(
        "import sys\nsys.modules['ladder_vae'] = sys.modules['torch'] = None\n" + lines
    )
    done = subprocess.run([sys.executable, "lines.py"], cwd="bundle", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "images (16, 1, 12, 16)" in done.stdout
    assert "'z_2': (16, 3)" in done.stdout


@needs_extra
@pytest.mark.parametrize(
    "cls",
    [pytest.param(cls, marks=() if cls is LadderVAE else pytest.mark.slow) for cls in LEARNED],
)
def test_graphs_compute_what_the_model_does(cls, tmp_path):
    import onnx

    model = small(cls).eval().requires_grad_(False)
    for kind in (Generate, Infer):
        assert write_graph(kind(model, SHAPE), tmp_path / "graph.onnx") < 1e-5
        written = onnx.load(tmp_path / "graph.onnx").graph
        assert not RANDOM & {node.op_type for node in written.node}
        for value in (*written.input, *written.output):
            assert value.type.tensor_type.shape.dim[0].dim_param == "batch", value.name


@needs_extra
@pytest.mark.slow
def test_graphs_of_color(tmp_path):
    model = small(ConvolutionalVAE, shape=(3, 8, 8), likelihood=LogisticMixture(3)).eval()
    for kind in (Generate, Infer):
        assert write_graph(kind(model, (3, 8, 8)), tmp_path / "graph.onnx") < 1e-4


@needs_extra
def test_a_size_of_the_batch_that_a_graph_took_for_a_number_is_found(tmp_path):
    class OfTwo(Generate):
        def forward(self, *code):
            *z, mean = super().forward(*code)
            return *z, mean * len(mean)

    class Shorter(Generate):
        def forward(self, *code):
            *z, mean = super().forward(*code)
            return *z, mean[: max(2, len(mean) - 2)]

    model = small(LadderVAE).eval().requires_grad_(False)
    with pytest.raises(ValueError, match=r"graph.onnx and the model differ by .* in mean of 1 images"):
        write_graph(OfTwo(model, SHAPE), tmp_path / "graph.onnx")
    with pytest.raises(ValueError, match="gives mean of shape"):
        write_graph(Shorter(model, SHAPE), tmp_path / "graph.onnx")


@needs_extra
def test_a_graph_that_differs_leaves_nothing(trained, command, monkeypatch):
    run = trained("logger=none")
    monkeypatch.setattr(graphs, "TOLERANCE", -1)
    code, out, err = command("export", f"run={run}", "directory=new/bundle")
    assert (code, out) == (1, "")
    (line,) = [line for line in err.splitlines() if not line.startswith("run: ")]
    assert re.match(
        r"error: run cannot be exported: generate.onnx and the model differ by .* in z_1 of 1", line
    )
    assert not list(Path("new").iterdir())


@needs_extra
def test_an_operation_that_onnx_lacks(tmp_path):
    class Odd(Generate):
        def forward(self, *code):
            return *code, torch.special.bessel_j0(code[0])

    with pytest.raises(ValueError, match=r"graph.onnx cannot be written: .*bessel_j0"):
        write_graph(Odd(small(LadderVAE).eval(), SHAPE), tmp_path / "graph.onnx")


def test_without_the_extra_one_line_names_it(trained, command, monkeypatch):
    run = trained("logger=none")
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    code, _, err = command("export", f"run={run}", "directory=bundle", "push=me/digits")
    assert code == 1
    said = "export needs packages that are not installed (onnx, onnxruntime, huggingface_hub); "
    assert f"{said}pip install 'ladder-vae[export]'" in only_line(err)
    assert not Path("bundle").exists()


BAD = {
    "run=run": "directory=<dir> is missing",
    "directory=bundle": "run=<dir> is missing",
    "run=nowhere directory=bundle": "nowhere is not a directory",
    "run=run directory=run": "directory=run is there already; choose another directory",
    "run=run directory=bundle depth=3": "there is no setting depth",
}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("settings", BAD)
def test_bad_settings(trained, command, settings):
    trained("logger=none")
    code, _, err = command("export", *(f"+{a}" if a.startswith("depth") else a for a in settings.split()))
    assert code == 1
    assert BAD[settings] in only_line(err)
    assert not Path("bundle").exists()


@pytest.mark.usefixtures("installed")
def test_what_cannot_be_exported(trained, command, monkeypatch):
    run = trained("logger=none")
    monkeypatch.setattr(graphs, "MOST_LEVELS", 1)
    code, _, err = command("export", f"run={run}", "directory=bundle")
    assert (code, only_line(err)) == (
        1,
        "error: run cannot be exported: it has 2 levels; a graph has at most 1",
    )
    write_status(run, "interrupted")
    code, _, err = command("export", f"run={run}", "directory=bundle")
    assert "has not finished; finish it (python -m ladder_vae.train resume=run)" in only_line(err)
    with pytest.raises(ValueError, match="a Diffusion is one net that is called step by step"):
        graphs.check_exportable(small(Diffusion))


def test_a_bundle_is_uploaded_to_a_private_repository(trained, command, on_the_hub):
    code, out, err = command("export", f"run={trained('logger=none')}", "directory=bundle", "push=me/digits")
    assert code == 0, err
    assert out.splitlines() == ["https://hub.example/me/digits", "bundle"]
    (create, name, how), (upload, files, what) = on_the_hub.api.calls
    assert (create, name, how) == ("create_repo", "me/digits", {"private": True, "exist_ok": True})
    assert (upload, files, what["repo_id"]) == ("upload_folder", ["README.md"], "me/digits")


def test_a_hub_that_refuses(trained, command, on_the_hub, monkeypatch):
    monkeypatch.setattr(Api, "failure", OSError("403 Forbidden:\nno rights"))
    code, out, err = command("export", f"run={trained('logger=none')}", "directory=bundle", "push=me/digits")
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert last == "error: bundle is written, but was not uploaded to me/digits: 403 Forbidden: no rights"


@pytest.mark.parametrize(
    ("name", "token", "said"),
    [
        ("me/digits", None, "push=me/digits needs a token of the hub; run `hf auth login`, or set HF_TOKEN"),
        ("me/digits/3", "a token", "push=me/digits/3 names no repository: Repo id must be"),
    ],
)
def test_what_cannot_be_uploaded_is_refused_first(command, trained, on_the_hub, name, token, said):
    on_the_hub.module.get_token = lambda: token
    code, _, err = command("export", f"run={trained('logger=none')}", "directory=bundle", f"push={name}")
    assert code == 1
    assert said in only_line(err)
    assert not Path("bundle").exists()
    assert on_the_hub.api.calls == []


def test_the_hubs_own_library_takes_what_the_stub_takes():
    library = pytest.importorskip("huggingface_hub", reason=REASON)
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    inspect.signature(library.HfApi.create_repo).bind(None, "me/digits", private=True, exist_ok=True)
    inspect.signature(library.HfApi.upload_folder).bind(
        None, repo_id="me/digits", folder_path=Path(), commit_message="Upload"
    )
    assert callable(library.get_token)
    with pytest.raises(HFValidationError):
        validate_repo_id("me/digits/3")
    assert library.__name__ == hub.PACKAGE


def test_the_card_begins_with_what_the_hub_reads():
    run = load_run("three_levels")
    text = card.text(run, {"explorer.html"}, "cc-by-4.0", 2e-6)
    _, front, body = text.split("---\n", 2)
    read = yaml.safe_load(front)
    assert (read["library_name"], read["license"]) == ("onnx", "cc-by-4.0")
    assert "variational-autoencoder" in read["tags"]
    assert "elbo" in read["metrics"]
    ((result,),) = (each["results"] for each in read["model-index"])
    (elbo,) = [each["value"] for each in result["metrics"] if each["type"] == "elbo"]
    assert elbo == run.metrics["test/elbo"]
    assert "| ELBO (nats) | -91.44 |" in body
    assert "| 2 | (B, 32) |" in body
    assert "explorer.html" in body
    assert "figures/" not in body
