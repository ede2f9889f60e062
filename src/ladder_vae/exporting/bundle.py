"""Write the bundle of a run, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from ladder_vae.explorer import page
from ladder_vae.exporting import card
from ladder_vae.exporting.graphs import Generate, Graph, Infer, check_exportable, write_graph
from ladder_vae.runs.checkpoints import load_run
from ladder_vae.runs.compact import write_compact
from ladder_vae.runs.construction import open_data
from ladder_vae.runs.opened import Subject
from ladder_vae.runs.record import checked_record, warn_of_changes
from ladder_vae.runs.run import Run
from ladder_vae.settings.paths import shown
from ladder_vae.system.errors import UserError, warn
from ladder_vae.system.files import refuse_links, write_text

FIGURES = "figures"
GRAPHS: dict[str, type[Graph]] = {"generate.onnx": Generate, "infer.onnx": Infer}


def open_finished(path: Path, *, trust: bool = False) -> Run:
    """A run that a bundle can be made of.

    Args:
        path: The run directory.
        trust: Whether to import what the run names beyond this package.

    Raises:
        UserError: If it cannot be opened, has not finished, or cannot be exported.
    """
    run = load_run(path, trust=trust)
    if not checked_record(run.path).finished:
        raise UserError(
            f"{path} has not finished; finish it (python -m ladder_vae.train resume={shown(path)}), "
            "then export it"
        )
    warn_of_changes(run.path)
    try:
        check_exportable(run.model)
    except ValueError as error:
        raise UserError(f"{path} cannot be exported: {error}") from None
    return run


def write(
    run: Run,
    directory: Path,
    *,
    license: str,
    data: Mapping[str, str | None],
    seed: int = 0,
    on_step: Callable[[str], None] = lambda what: None,
) -> None:
    """Write the graphs, each compared with the model, then weights, record, figures, page and card.

    Args:
        run: As :func:`open_finished` gives it.
        directory: The directory to write, which must not exist yet.
        license: Of the weights, as the hub names it.
        data: Where the data of the run lie now; see :func:`~ladder_vae.runs.construction.moved_data`.
        seed: Seed of the draws that the page averages rates over.
        on_step: Called with what is done next, in words.

    Raises:
        UserError: If a graph computes something else than the model.
        OSError: If the directory cannot be written.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".part-") as part:
        new = Path(part) / "bundle"
        new.mkdir()
        difference = 0.0
        for name, kind in GRAPHS.items():
            on_step(f"writing {name} and comparing it with the model")
            try:
                graph = kind(run.model, run.config["model"]["input_shape"])
                difference = max(difference, write_graph(graph, new / name))
            except ValueError as error:
                raise UserError(f"{run.path} cannot be exported: {error}") from None
        on_step("writing weights, record and card")
        write_compact(new, run, run.metrics, torch.float32)
        if (run.path / FIGURES).is_dir():
            refuse_links(run.path)
            shutil.copytree(run.path / FIGURES, new / FIGURES)
        _write_page(run, new / page.FILE, data, seed)
        write_text(
            new / "README.md", card.text(run, {path.name for path in new.iterdir()}, license, difference)
        )
        os.replace(new, directory)


def _write_page(run: Run, path: Path, data: Mapping[str, str | None], seed: int) -> None:
    """The page to play with; a warning says why there is none."""
    try:
        images = open_data(run.path, run.config, run.checkpoint, run.model.likelihood, run.trust, data)
        write_text(path, page.content(Subject(run, images, "best"), seed))
    except UserError as error:
        warn(f"the bundle has no {path.name}: {error}")
