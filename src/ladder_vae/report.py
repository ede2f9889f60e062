"""Compare any set of runs: ``python -m ladder_vae.report runs/depth_sweep/<time>``."""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ladder_vae import cli, figures
from ladder_vae.compare import COLUMNS, Group, differences, find_runs, group_runs, noise_line, table_rows
from ladder_vae.errors import UserError
from ladder_vae.runs import Record, flat, level_keys, read_images


def write_csv(path: Path, records: Sequence[Record]) -> None:
    """A row a run, ``run,status,model,num_layers,seed``, then its metrics."""
    known = [metric for metric, *_ in COLUMNS]
    found = {key for record in records for key in record.metrics}
    keys = [k for k in known if k in found] + sorted(found - set(known), key=level_keys)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "status", "model", "num_layers", "seed", *keys])
        for record in records:
            head = [
                os.path.relpath(record.path, path.parent),
                record.status,
                record.model_name,
                record.config["model"].get("num_layers"),
                record.config.get("seed"),
            ]
            writer.writerow([*head, *(record.metrics.get(key, "") for key in keys)])


def write_figures(directory: Path, groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Draw what the runs allow. Returns file names with captions, in reading order."""

    def series(metric: str) -> list[figures.Series]:
        names = list(dict.fromkeys(group.series for group in groups))
        members = {name: [g for g in groups if g.series == name and g.values(metric)] for name in names}
        return [
            figures.Series(
                name,
                [g.depth for g in gs],
                [g.mean(metric) for g in gs],
                [0.0 if math.isnan(g.std(metric)) else g.std(metric) for g in gs],
            )
            for name, gs in members.items()
            if gs
        ]

    drawn = []
    panels = {
        heading: series(metric) for metric, heading, _, plotted in COLUMNS if plotted and series(metric)
    }
    figures.save_against_depth(directory / "against_depth.png", panels)
    drawn.append(("against_depth.png", "Each metric of the test split against depth; bars: std over seeds"))
    figures.save_rates(directory / "rates.png", {_short(g, groups): g.rates() for g in groups})
    drawn.append(("rates.png", "How the rate splits over the levels, z1 next to the image"))

    pictured = [(group, images) for group in groups if (images := read_images(group.runs[0].path))]
    if pictured:
        first = pictured[0][1]["originals"]
        # rows share their originals only where the runs saw the same test images
        same = [(g, i) for g, i in pictured if i["originals"].tobytes() == first.tobytes()]
        figures.save_strips(
            directory / "reconstructions.png",
            {"test image": first, **{_short(g, groups): i["reconstructions"] for g, i in same}},
            columns=len(first),
            title="Reconstructions: the decoder's mean for one posterior sample",
        )
        drawn.append(("reconstructions.png", "The same test images reconstructed by every model"))
        figures.save_strips(
            directory / "samples.png",
            {_short(g, groups): i["samples"] for g, i in pictured},
            columns=len(first),
            title="Samples: the decoder's mean for latents from the prior",
        )
        drawn.append(("samples.png", "Samples from every model's prior"))
    return drawn


def _short(group: Group, groups: Sequence[Group]) -> str:
    alone = len({g.series for g in groups}) == 1
    return (
        f"{group.depth} level{'s' if group.depth > 1 else ''}" if alone else group.label.replace(", ", "\n")
    )


def write_markdown(
    path: Path, records: Sequence[Record], groups: Sequence[Group], drawn: Sequence[tuple[str, str]]
) -> None:
    """``report.md``: what was compared, the table, what it means, what failed, the figures."""
    lines = ["# Comparison of runs", ""]
    if groups:
        lines += [*_shared_settings(groups), ""]
        headings, rows = table_rows(groups)
        lines += ["| " + " | ".join(headings) + " |", "| --- " * 1 + "| ---: " * (len(headings) - 1) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        lines += ["", "Test split; the ELBO is higher, distortion and rate are lower the better. "]
        lines[-1] += "z1 is the rate of the level next to the image. MSE and SSIM compare the decoder's mean "
        lines[-1] += "for one posterior sample with the binarized image."
        lines += ["", noise_line(groups), "", *(f"- {line}" for line in differences(groups))]
    else:
        lines += ["No run has finished."]
    left_out = [record for record in records if not record.finished]
    if left_out:
        lines += ["", "## Not finished, and in no figure above", ""]
        lines += [
            f"- `{os.path.relpath(r.path, path.parent)}`: {r.status} {r.message}".rstrip() for r in left_out
        ]
    for name, caption in drawn:
        lines += ["", f"## {caption}", "", f"![{caption}](figures/{name})"]
    path.write_text("\n".join(lines) + "\n")


def _shared_settings(groups: Sequence[Group]) -> list[str]:
    first = groups[0].runs[0].config
    differing = {key for group in groups for key in group.settings}
    described: list[tuple[str, str, Callable[[Any], str]]] = [
        ("data._target_", "data", lambda v: str(v).rpartition(".")[2]),
        (
            "data.binarization",
            "binarization",
            lambda v: (
                "static (one seeded draw of ladder_vae, not Larochelle's files)" if v == "static" else str(v)
            ),
        ),
        ("data.val_size", "validation images", str),
        ("data.batch_size", "batch", str),
        ("trainer.max_epochs", "epochs", str),
        ("optimizer.lr", "learning rate", str),
        ("objective.beta_warmup_epochs", "beta warm-up epochs", str),
    ]
    values = flat(first)
    words = [
        f"{name} {show(values[key])}"
        for key, name, show in described
        if key in values and key not in differing
    ]
    return ["Shared by all rows: " + ", ".join(words) + "."]


def report(directories: Sequence[Path], output: Path) -> list[Record]:
    """Compare the runs below ``directories``; write ``report.md``, ``report.csv``, ``figures/``; print.

    Returns:
        The records of all runs found.

    Raises:
        UserError: If there is nothing to compare, or ``output`` cannot be written.
    """
    records = find_runs(directories)
    groups = group_runs(records)
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_csv(output / "report.csv", records)
        drawn = write_figures(output / "figures", groups) if groups else []
        write_markdown(output / "report.md", records, groups, drawn)
    except OSError as error:
        raise UserError(
            f"{error.filename or output} cannot be written ({error.strerror}); choose another --output"
        ) from None
    _print(records, groups)
    return records


def _print(records: Sequence[Record], groups: Sequence[Group]) -> None:
    # wide enough for every column when the output goes to a file
    console = Console(width=None if sys.stdout.isatty() else 200)
    if groups:
        headings, rows = table_rows(groups)
        # turned: a column a group, so that it fits a terminal
        table = Table("", *(row[0] + f"\nL={row[1]}" for row in rows), title="test split, by depth")
        for i, heading in enumerate(headings[2:], start=2):
            table.add_row(heading, *(row[i] for row in rows))
        for column in table.columns[1:]:
            column.justify = "right"
        console.print(table)
        console.print(noise_line(groups))
        for line in differences(groups):
            console.print(f"- {line}")
    for record in records:
        if not record.finished:
            console.print(f"not finished: {record.path}: {record.status} {record.message}", style="yellow")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m ladder_vae.report", description=__doc__)
    parser.add_argument("directories", nargs="+", type=Path, help="run directories, or folders of them")
    parser.add_argument(
        "--output",
        type=Path,
        help="where to write (default: the one directory named, else runs/reports/<time>)",
    )

    def call() -> None:
        args = parser.parse_args()
        now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        alone = args.directories[0] if len(args.directories) == 1 else Path("runs/reports") / now
        output = args.output or alone
        records = report(args.directories, output)
        print(output / "report.md")
        if not any(record.finished for record in records):
            raise UserError(f"no run of {len(records)} has finished; there is nothing to compare")

    cli.run(call)


if __name__ == "__main__":
    main()
