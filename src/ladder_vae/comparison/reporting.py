"""Write and print a comparison of runs."""

from __future__ import annotations

import csv
import io
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import rich.table
from rich.console import Console
from rich.markup import escape

from ladder_vae.comparison.groups import Group, analyzed, evaluated, evaluated_split, group_runs, left_out
from ladder_vae.comparison.notes import (
    READING,
    READING_BOUNDS,
    READING_LEVELS,
    READING_PAIRS,
    READING_UNITS,
    began_elsewhere,
    not_in_names,
    not_the_elbo,
    of_few_levels,
    shared_settings,
)
from ladder_vae.comparison.tables import (
    bound_table,
    difference_rows,
    level_rows,
    noise_line,
    paired_rows,
    run_tables,
    unit_table,
)
from ladder_vae.comparison.verdict import verdict
from ladder_vae.drawing.pages import Picture, Section, Table, save_pictures, write_html, write_markdown
from ladder_vae.runs.finding import find_runs
from ladder_vae.runs.metrics import OF_RUNS, images_of, level_keys
from ladder_vae.runs.record import Record, warn_of_changes
from ladder_vae.system.errors import UserError, printable
from ladder_vae.system.files import refuse_link_out, write_text

TITLE = "Comparison of runs"
VERDICT = "Verdict"
REASON = 60  # characters of why a run is left out, in the verdict


def write_csv(path: Path, records: Sequence[Record]) -> None:
    """``report.csv``: every run, finished or not, with its settings in short and its metrics."""
    known = [metric.name for metric in OF_RUNS]
    found = {key for record in records for key in record.metrics}
    keys = [k for k in known if k in found] + sorted(found - set(known), key=level_keys)
    rows: list[list[Any]] = [["run", "status", "model", "num_layers", "seed", *keys]]
    for record in records:
        head = [
            os.path.relpath(record.path, path.parent),
            record.status,
            record.model_name,
            record.config["model"].get("num_layers"),
            record.config.get("seed"),
        ]
        rows.append([*head, *(record.metrics.get(key, "") for key in keys)])
    text = io.StringIO(newline="")
    csv.writer(text).writerows([_no_formula(cell) for cell in row] for row in rows)
    write_text(path, text.getvalue())


def _no_formula(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula, whatever a run is called."""
    if not isinstance(cell, str):
        return cell
    return ("'" if cell.startswith(("=", "+", "-", "@")) else "") + printable(cell)


class Drawn(NamedTuple):
    """The pictures of a report.

    Args:
        panels: Go with the verdict.
        images: Reconstructions and samples.
        figures: All others.
    """

    panels: Sequence[Picture]
    images: Sequence[Picture]
    figures: Sequence[Picture]


def sections(
    groups: Sequence[Group],
    missing: Sequence[tuple[Path, str]],
    drawn: Drawn,
    folder: Path,
) -> list[Section]:
    """The report, in reading order: verdict, images, what was compared, how it differs, what is missing.

    Args:
        missing: Runs that are in no group, and why.
        drawn: Its pictures.
        folder: Paths of these are shown relative to it.
    """
    absent = [[os.path.relpath(where, folder), why] for where, why in missing]
    left = [f"{name} ({textwrap.shorten(why, REASON, placeholder='...')})" for name, why in absent]
    said = [*verdict(groups, left), *not_the_elbo(groups), *not_in_names(groups)]
    found = [Section(VERDICT, said, pictures=drawn.panels)]
    if drawn.images:
        found.append(Section("Images", pictures=drawn.images))
    if groups:
        (runs, *deep) = run_tables(groups)
        note = " ".join([shared_settings(groups), READING, *of_few_levels(groups), *began_elsewhere(groups)])
        found.append(Section("Runs", table=Table(*runs, note=note)))
        found += [Section("Rates of all levels", table=Table(*cells)) for cells in deep]
        split = evaluated_split(groups)
        if kept := evaluated(groups, split):
            note = f"Bounds and units are of {images_of(split)}. {READING_BOUNDS}"
            found.append(Section("Bounds on log p(x)", table=Table(*bound_table(kept, split), note=note)))
        units = unit_table(kept or groups, split)
        if len(units[0]) > 3:
            found.append(Section("Active units", table=Table(*units, note=READING_UNITS)))
        split, kept = analyzed(groups)
        if kept:
            found.append(
                Section("What each level holds", table=Table(*level_rows(kept, split), note=READING_LEVELS))
            )
        headings, rows = difference_rows(groups)
        if len(headings) > 2:
            found.append(Section("From depth to depth", table=Table(headings, rows, note=noise_line(groups))))
        headings, rows = paired_rows(groups)
        if rows:
            found.append(Section("Image by image", table=Table(headings, rows, note=READING_PAIRS)))
    if missing:
        found.append(
            Section("Not finished, and in no number or figure here", table=Table(["run", "why"], absent))
        )
    if drawn.figures:
        found.append(Section("Figures", pictures=drawn.figures))
    return found


def report(directories: Sequence[Path], output: Path) -> list[Group]:
    """Compare the runs below ``directories``: write ``report.html``, ``.md``, ``.csv``, ``figures/``; print.

    The last line printed is the path of ``report.html``.

    Returns:
        The groups that were compared; empty if no run has finished.

    Raises:
        UserError: If there is no run, or ``output`` cannot be written.
    """
    records = find_runs(directories)
    for record in records:
        if record.finished:
            warn_of_changes(record.path)
    groups = group_runs(records)
    from ladder_vae.comparison import figures  # matplotlib takes longer to import than all else

    missing = left_out(directories, records, groups)
    drawn = Drawn(*(of(groups) if groups else [] for of in (figures.panels, figures.images, figures.figures)))
    page = sections(groups, missing, drawn, output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        refuse_link_out(output / "figures", output)
        write_csv(output / "report.csv", records)
        page, _ = save_pictures(output / "figures", page)
        write_markdown(output / "report.md", TITLE, page, "figures")
        write_html(output / "report.html", TITLE, page, output / "figures")
    except OSError as error:
        raise UserError(
            f"{error.filename or output} cannot be written ({error.strerror}); choose another --output"
        ) from None
    _print(page)
    print(printable(str(output / "report.html")))
    return groups


def _print(page: Sequence[Section]) -> None:
    """The tables of the page, with those notes that say how to read differences, and last the verdict."""
    console = Console(width=None if sys.stdout.isatty() else 200)  # a file has room for every column
    for table in (section.table for section in page if section.table):
        if table.headings[0] == "run":
            for where, why in table.rows:
                console.print(printable(f"not finished: {where}: {why}"), style="yellow", markup=False)
        elif table.headings[0] == "model" and len(table.rows) < len(table.headings):
            _print_table(console, _turned(table))
        else:
            _print_table(console, table)
        if table.headings[0] not in ("run", "model"):
            console.print(printable(table.note), markup=False)
    for paragraph in page[0].paragraphs:  # of the verdict, below all tables, where a reader ends
        console.print(printable(paragraph), style="bold", markup=False, highlight=False)


def _turned(table: Table) -> Table:
    """The table with a column per group, so that it fits a terminal."""
    rows = [[heading, *(row[i] for row in table.rows)] for i, heading in enumerate(table.headings) if i > 1]
    return Table(["", *(f"{row[0]}\nL={row[1]}" for row in table.rows)], rows)


def _print_table(console: Console, table: Table) -> None:
    shown = rich.table.Table(*(escape(printable(heading, "\n")) for heading in table.headings))
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in table.rows:
        shown.add_row(*(escape(printable(cell)) for cell in row))
    console.print(shown)
