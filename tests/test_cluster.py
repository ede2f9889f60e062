"""Variables that a scheduler or a launcher left in the environment do not matter to one process."""

import json
import os
import shutil

import pytest
from conftest import scalars, tiny
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.plugins.environments import SLURMEnvironment

LEFT_OVER = {
    "srun": {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_JOB_NAME": "train"},
    "torchrun": {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "GROUP_RANK": "1",
        "TORCHELASTIC_RUN_ID": "x",
        "MASTER_ADDR": "elsewhere",
        "MASTER_PORT": "none",
        "NODE_RANK": "2",
    },
    "jsrun": {"LSB_JOBID": "1", "LSB_DJOB_RANKFILE": "/nowhere", "JSM_NAMESPACE_RANK": "1"},
}


@pytest.mark.parametrize("launcher", LEFT_OVER)
def test_one_process_takes_no_notice(train, monkeypatch, launcher):
    for name, value in LEFT_OVER[launcher].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 3)  # Lightning reads the rank when it is imported
    run = train("data.val_size=8")
    assert json.loads((run / "status.json").read_text())["status"] == "finished"
    assert len(scalars(run, "val/elbo")) == 2
    assert LEFT_OVER[launcher].items() <= os.environ.items()


def test_a_checkpoint_of_a_scheduler_is_not_loaded(trained, command, npz, monkeypatch, workdir):
    for name, value in LEFT_OVER["srun"].items():
        monkeypatch.setenv(name, value)
    assert SLURMEnvironment.detect()
    run = trained()
    shutil.copy(run / "checkpoints/last.ckpt", workdir / "hpc_ckpt_1.ckpt")
    code, _, err = command("train", *tiny(npz), "run_dir=fresh")
    assert code == 0, err
    assert json.loads((workdir / "fresh/metrics.json").read_text())["train/epochs"] == 2
    assert err.count("epoch ") == 2
