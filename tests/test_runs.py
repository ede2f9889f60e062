from pathlib import Path

import pytest
import torch
import yaml
from conftest import tiny

from ladder_vae import load_run
from ladder_vae.runs.finding import find_runs
from ladder_vae.system.errors import UserError


def test_load_run_runs_no_code_of_strangers(trained):
    run = trained()
    config = yaml.safe_load((run / "config.yaml").read_text())
    for target in ("os.system", "ladder_vae.models.ladder.math.prod", "ladder_vae.runs.os.system", ""):
        config["model"]["_target_"] = target
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        with pytest.raises(
            UserError, match=r"which (is not of ladder_vae\.models|this version does not have)"
        ):
            load_run(run)


def test_load_run_refuses_checkpoints_that_carry_code(trained):
    run = trained()
    best = run / "checkpoints/best.ckpt"
    content = best.read_bytes()

    class Code:
        def __reduce__(self):
            return (print, ("running",))

    torch.save({"state_dict": Code()}, best)
    with pytest.raises(UserError, match="carries code"):
        load_run(run)
    best.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged"):
        load_run(run)


def test_a_run_notes_its_images(trained):
    run = trained()
    (record,) = find_runs([run])
    assert len(record.data) == 64


@pytest.mark.usefixtures("undrawn")
def test_beta_that_stays_below_one_gets_a_word(command, npz):
    code, _, err = command("train", *tiny(npz), "objective.beta_warmup_epochs=2", "run_dir=run")
    assert code == 0, err
    said = "beta does not reach 1 in 2 epochs (objective.beta_warmup_epochs=2)"
    assert f"warning: {said}" in err
    code, _, err = command("report", "run", "--output", "out")
    assert code == 0, err
    assert f"LadderVAE, L=2: {said}" in Path("out/report.md").read_text()


def test_sizes_that_the_weights_do_not_have_take_no_memory(trained):
    run = trained()
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["hidden_sizes"] = [10**7, 10**7]  # 400 TB
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="the weights do not fit the LadderVAE"):
        load_run(run)


def test_weights_that_repeat_a_value_are_refused(trained):
    """A few bytes of a file would fill a memory."""
    run = trained()
    best = run / "checkpoints/best.ckpt"
    checkpoint = torch.load(best, weights_only=True)
    name, weight = next((n, w) for n, w in checkpoint["state_dict"].items() if w.numel() > 1)
    checkpoint["state_dict"][name] = torch.zeros(1).expand(weight.shape)
    torch.save(checkpoint, best)
    with pytest.raises(UserError, match="some have fewer values than entries"):
        load_run(run)
