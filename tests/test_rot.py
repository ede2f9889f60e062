"""Bits flip and files are cut: one line says so, or nothing changes; no number is silently another."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ladder_vae import load_run
from ladder_vae.comparison.paired import read_image_bounds
from ladder_vae.runs.checkpoints import read_checkpoint
from ladder_vae.runs.checksums import CHECKSUMS
from ladder_vae.runs.images import read_images
from ladder_vae.runs.record import checked_record, checkpoint_path, warn_of_changes
from ladder_vae.runs.releases import RELEASES, released
from ladder_vae.system.errors import UserError

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def run(trained, command) -> Path:
    path = trained("data.val_size=8")
    code, _, err = command("evaluate", f"run={path}", "num_samples=10", "compile=false")
    assert code == 0, err
    return path


@pytest.fixture
def release(run, command) -> Path:
    assert command("release", run, "small")[0] == 0
    return Path("small")


def numbers(run: Path) -> list:
    """All that commands read of a run, as values that can be compared."""
    record = checked_record(run)
    warn_of_changes(run)
    found = [record.config, record.status, record.message, record.metrics, record.data]
    kept = [name for name in ("best", "last") if checkpoint_path(run, name).exists()]
    for name in kept:
        saved = read_checkpoint(checkpoint_path(run, name))
        weights = {key: value.tolist() for key, value in saved.pop("state_dict").items()}
        found += [weights, saved.get("global_step"), saved.get("data_fingerprint")]
    load_run(run)
    found.append({name: image.tolist() for name, image in read_images(run).items()})
    if "test/log_px/K=10" in record.metrics:
        bounds = read_image_bounds(record, "test", 10)
        found.append(
            None if bounds is None else (bounds.identity, bounds.elbo.tolist(), bounds.log_px.tolist())
        )
    return found


def damage(run: Path, rng: np.random.Generator) -> tuple[Path, bytes]:
    """Flip a bit of a file, or cut it; returns the file and what it held."""
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.stat().st_size)
    path = files[rng.integers(len(files))]
    content = path.read_bytes()
    at = int(rng.integers(len(content)))
    flipped = content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]
    path.write_bytes(content[:at] if rng.random() < 0.2 else flipped)
    return path, content


@pytest.mark.parametrize("times", [40, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["run", "release"])
def test_no_damage_changes_a_number_in_silence(kind, times, request, capsys):
    path = request.getfixturevalue(kind)
    before, rng, noticed = numbers(path), np.random.default_rng(times), 0
    capsys.readouterr()
    for _ in range(times):
        file, content = damage(path, rng)
        try:
            after = numbers(path)
            said = capsys.readouterr().err
        except UserError as error:
            after, said = None, str(error)
        assert said or after == before, file
        assert "\n" not in said.removesuffix("\n").replace("\nwarning:", ""), said
        noticed += bool(said)
        file.write_bytes(content)
    assert numbers(path) == before
    assert noticed > times / 10
    print(f"{kind}: {noticed} of {times} noticed, the others harmless")


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_flipped_bit_in_a_checkpoint_is_noticed(run, command, name):
    path = checkpoint_path(run, name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for arguments in (("evaluate", f"run={run}", f"checkpoint={name}"), ("release", run, "other")):
        if arguments[0] == "evaluate" or name == "best":
            code, _, err = command(*arguments)
            assert (code, err.count("\n")) == (1, 1)
            assert f"{path} is damaged" in err
    if name == "last":
        code, _, err = command("train", f"resume={run}", "trainer.max_epochs=3")
        assert (code, err.count("\n")) == (1, 1)
        assert f"{path} is damaged" in err


def test_a_checkpoint_without_checksums_still_opens(run):
    (run / CHECKSUMS).unlink()
    assert load_run(run).model.num_layers == 2


def test_cut_images_are_mentioned(run, command):
    images = run / "images.npz"
    images.write_bytes(images.read_bytes()[: images.stat().st_size // 2])
    (kept,) = run.glob("evaluation/*/images.npz")
    kept.write_bytes(kept.read_bytes()[: kept.stat().st_size // 2])
    code, _, err = command("report", run, "--output", "out")
    assert code == 0
    assert f"warning: {images} is damaged" in err
    assert f"warning: {kept} is damaged" in err
    before = json.loads((run / "metrics.json").read_text())
    code, _, err = command("evaluate", f"run={run}", "num_samples=10", "compile=false")
    assert code == 0
    assert f"warning: {kept} is damaged" in err
    assert "it is computed anew" in err
    after = json.loads((run / "metrics.json").read_text())
    assert after["test/log_px/K=10"] == pytest.approx(before["test/log_px/K=10"], abs=1e-5)


def test_a_changed_metric_is_left_out_of_the_report(run, command):
    shutil.copytree(run, "runs/good")
    shutil.copytree(run, "runs/bad")
    path = Path("runs/bad/metrics.json")
    path.write_text(path.read_text().replace('"test/elbo": -1', '"test/elbo": -2'))
    code, _, err = command("report", "runs", "--output", "out")
    assert code == 0, err
    assert "metrics.json is damaged: its checksum is not" in Path("out/report.md").read_text()
    Path("runs/bad", CHECKSUMS).unlink()  # whoever changed it knowingly says so
    assert checked_record(Path("runs/bad")).finished


def test_an_edited_configuration_is_used_and_said(run, command):
    config = run / "config.yaml"
    config.write_text(config.read_text() + "# mine\n")
    code, _, err = command("evaluate", f"run={run}", "num_samples=10", "compile=false")
    assert code == 0
    assert f"warning: {config} was edited, or is damaged" in err


def test_a_kill_between_checksum_and_file_harms_nothing(run, monkeypatch):
    from ladder_vae.runs import checksums
    from ladder_vae.runs.record import read_metrics, write_metrics

    before = read_metrics(run)
    with monkeypatch.context() as patched:
        patched.setattr(checksums, "write_bytes", lambda path, content: None)
        for value in (1.0, 2.0):  # two kills in a row
            write_metrics(run, before | {"test/elbo": value})
            assert read_metrics(run) == before
    write_metrics(run, before | {"test/elbo": 3.0})
    assert read_metrics(run)["test/elbo"] == 3.0


@pytest.mark.parametrize("name", released())
def test_the_models_of_the_package_have_checksums(name, tmp_path):
    known = json.loads((RELEASES / name / CHECKSUMS).read_text())
    assert set(known) - {"status.json"} == {"config.yaml", "metrics.json", "weights.safetensors"}
    shutil.copytree(RELEASES / name, tmp_path / "copy")
    assert checked_record(tmp_path / "copy").finished
    weights = tmp_path / "copy/weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.safetensors is damaged"):
        load_run(tmp_path / "copy")


def test_old_checkpoints_have_checksums_of_their_own(tmp_path):
    """PyTorch writes them into its zip archives, and does not read them."""
    path = tmp_path / "checkpoints/best.ckpt"
    path.parent.mkdir()
    torch.save({"state_dict": {"a": torch.ones(1000)}}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["state_dict"]["a"].sum() != 1000  # in silence
    with pytest.raises(UserError, match="is damaged"):
        read_checkpoint(path)
