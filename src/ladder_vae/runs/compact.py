"""A run directory without checkpoints, to pass on: every command takes it for a run, but none resumes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save

from ladder_vae.runs.checkpoints import RELEASED_FACTS
from ladder_vae.runs.checksums import write_checked
from ladder_vae.runs.record import WEIGHTS, write_config, write_metrics, write_status
from ladder_vae.runs.run import Run


def write_compact(directory: Path, run: Run, metrics: Mapping[str, float], dtype: torch.dtype) -> None:
    """Write weights, configuration, metrics and state of a finished run.

    Args:
        directory: A directory that is there.
        run: The run, with its best weights.
        metrics: What goes into ``metrics.json``.
        dtype: How weights are kept.
    """
    weights = {
        name: value.to(dtype if value.is_floating_point() else value.dtype).contiguous()
        for name, value in run.model.state_dict().items()
    }
    kept = {key: str(run.checkpoint[key]) for key in RELEASED_FACTS if key in run.checkpoint}
    write_checked(directory / WEIGHTS, save(weights, metadata=kept))
    # A path on the machine that trained the run means nothing elsewhere.
    write_config(directory, {**run.config, "init_from": None})
    write_metrics(directory, dict(metrics))
    write_status(directory, "finished")
