"""Groups of runs as tables: columns, rows, differences from depth to depth."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

from ladder_vae.comparison.groups import (
    Group,
    comparable,
    evaluated,
    evaluated_split,
    sample_sizes,
    seed_noise,
    shared_bits,
)
from ladder_vae.comparison.paired import paired_differences
from ladder_vae.runs.metrics import LEVELS, OF_LEVELS, OF_RUNS, OF_UNITS, images_of
from ladder_vae.system.naming import z_name

NONE = "–"  # in place of a number
LEVELS_IN_COLUMNS = 10  # beyond, a row names the rates of all levels in one cell

Columns = Sequence[tuple[str, str, str]]  # metric, heading, format
Cells = tuple[list[str], list[list[str]]]


def deepest(groups: Sequence[Group]) -> int:
    """The largest number of levels."""
    return max((group.depth for group in groups), default=0)


def run_columns(groups: Sequence[Group]) -> Columns:
    """Columns for the metrics of every run, and for the rate of each level if they are not too many."""
    columns = [(metric.name, metric.heading, metric.form) for metric in OF_RUNS]
    if deepest(groups) <= LEVELS_IN_COLUMNS:
        at = 1 + [metric for metric, *_ in columns].index("test/rate")
        columns[at:at] = [(f"test/rate/{z}", z, ".2f") for z in map(z_name, range(deepest(groups)))]
    return [column for column in columns if any(group.values(column[0]) for group in groups)]


def bound_columns(groups: Sequence[Group], split: str) -> Columns:
    """Importance-weighted bounds, of evaluated groups."""
    sizes = sorted({k for group in groups for k in sample_sizes(group, split)} - {1})  # L_1 is the ELBO
    bounds = [(f"{split}/log_px/K={k}", f"L_{k} (nats)", ".2f") for k in sizes]
    bits = [(f"{split}/bits_per_dim", "ELBO (bits per dimension)", ".3f")]
    bits += [(f"{split}/bits_per_dim/K={k}", f"L_{k} (bits per dimension)", ".3f") for k in sizes]
    columns = [(f"{split}/elbo", "ELBO (nats)", ".2f"), *bounds]
    columns += [column for column in bits if any(group.values(column[0]) for group in groups)]
    if k := comparable(groups, split):
        columns += [
            (f"{split}/log_px/K={k}_stderr", "error over images", ".2f"),
            (f"{split}/log_px/K={k}_mc_stderr", "error over draws", ".4f"),
            (f"{split}/gap/K={k}", f"L_{k} - ELBO (nats)", ".2f"),
            (f"{split}/ess/K={k}", f"effective of {k} draws", ".1f"),
        ]
    draws = [value for group in groups for value in group.values(f"{split}/draws")]
    tail = f"{split}/khat/K={statistics.mode(draws):.0f}" if draws else ""
    columns += [
        (f"{tail}/median", "Pareto k-hat, median", ".2f"),
        (f"{tail}/above_0.7", "images with k-hat above 0.7", ".0%"),
    ]
    return [column for column in columns if any(group.values(column[0]) for group in groups)]


def table_rows(groups: Sequence[Group], columns: Columns) -> Cells:
    """Headings and cells: a row a group, mean ± standard deviation over seeds where there are several."""
    rows = []
    for group in groups:
        cells = [group.series, str(group.depth), str(len(group.runs))]
        for metric, _, form in columns:
            values = group.values(metric)
            cell = format(group.mean(metric), form) if values else NONE
            varies = len(set(values)) > 1
            cells.append(cell + (f" ± {format(group.std(metric), form)}" if varies else ""))
        rows.append(cells)
    return ["model", "levels", "runs", *(heading for _, heading, _ in columns)], rows


def by_level_rows(groups: Sequence[Group], split: str, columns: Columns) -> Cells:
    """Headings and cells: a row a group, means over seeds, each total with its levels, z_1's first."""
    rows = []
    for group in groups:
        cells = [group.series, str(group.depth), str(len(group.runs))]
        for metric, _, form in columns:
            total, levels = group.values(f"{split}/{metric}"), group.by_level(f"{split}/{metric}")
            start = f"{_short(group.mean(f'{split}/{metric}'), form)}: " if total else ""
            cells.append(start + ", ".join(_short(value, form) for value in levels))
        rows.append(cells)
    return ["model", "levels", "runs", *(f"{heading} of z1, z2, ..." for _, heading, _ in columns)], rows


def level_rows(groups: Sequence[Group], split: str) -> Cells:
    """Headings and cells: a row a group and level, the top first; mean ± standard deviation over seeds."""
    columns = [m for m in OF_LEVELS if any(g.values(f"{split}/{LEVELS}/{m.name}/z1") for g in groups)]
    rows = []
    for group in groups:
        for z in map(z_name, reversed(range(group.depth))):
            cells = [group.series, str(group.depth), str(len(group.runs)), z]
            for metric in columns:
                name = f"{split}/{LEVELS}/{metric.name}/{z}"
                if not group.values(name):
                    cells.append(NONE)
                    continue
                varies = len(group.values(name)) > 1
                std = f" ± {metric.text(group.std(name))}" if varies else ""
                cells.append(metric.text(group.mean(name)) + std)
            rows.append(cells)
    return ["model", "levels", "runs", "level", *(metric.heading for metric in columns)], rows


def _short(value: float, form: str) -> str:
    return NONE if math.isnan(value) else format(value, form).removesuffix(".0")


def run_tables(groups: Sequence[Group]) -> list[Cells]:
    """What training leaves, a row a group; of many levels, a second table holds the rates."""
    shown = [table_rows(groups, run_columns(groups))]
    if deepest(groups) > LEVELS_IN_COLUMNS:
        shown.append(by_level_rows(groups, "test", [("rate", "rate (nats)", ".2f")]))
    return shown


def bound_table(groups: Sequence[Group], split: str) -> Cells:
    """Importance-weighted bounds of evaluated groups, a row a group."""
    return table_rows(groups, bound_columns(groups, split))


def unit_table(groups: Sequence[Group], split: str) -> Cells:
    """Active units, in all and by level, a row a group."""
    columns = [
        (metric.name, metric.heading, metric.form)
        for metric in OF_UNITS
        if any(group.values(f"{split}/{metric.name}/z1") for group in groups)
    ]
    return by_level_rows(groups, split, columns)


def depth_columns(groups: Sequence[Group]) -> Columns:
    """The metrics that are plotted against depth, quality first, then cost."""
    columns = [(metric.name, metric.heading, metric.form) for metric in OF_RUNS]
    split = evaluated_split(groups)
    if k := comparable(groups, split):
        of = "" if split == "test" else f", {images_of(split).removesuffix(', evenly spaced')}"
        quality = sum(not metric.cost for metric in OF_RUNS)
        columns[quality:quality] = [(f"{split}/{m.name}", m.heading + of, m.form) for m in OF_UNITS[:2]]
        columns[1:1] = [
            (f"{split}/log_px/K={k}", f"L_{k} (nats{of})", ".2f"),
            (f"{split}/bits_per_dim/K={k}", f"L_{k} (bits per dimension{of})", ".3f"),
            (f"{split}/gap/K={k}", f"L_{k} - ELBO (nats{of})", ".2f"),
        ]
    return [column for column in columns if any(group.values(column[0]) for group in groups)]


def difference_rows(groups: Sequence[Group]) -> Cells:
    """A row a metric: the noise between seeds, then the change from each depth to the next of its series."""
    steps = [(a, b) for a, b in itertools.pairwise(groups) if a.series == b.series and a.depth != b.depth]
    alone = len({group.series for group in groups}) == 1
    names = [f"{a.depth} → {b.depth} levels" + ("" if alone else f", {a.series}") for a, b in steps]
    rows = []
    costs = {metric.name for metric in OF_RUNS if metric.cost}
    for metric, heading, form in depth_columns(groups):
        if metric in costs:
            continue
        noise = seed_noise(groups, metric)
        changes = [_change(b.mean(metric) - a.mean(metric), form) for a, b in steps]
        if set(changes) != {NONE} or not math.isnan(noise):  # else no two runs have the metric
            rows.append([heading, "unknown" if math.isnan(noise) else format(noise, form), *changes])
    return ["change of", "noise between seeds", *names], rows


def paired_rows(groups: Sequence[Group]) -> Cells:
    """A row a pair of groups evaluated on the same images: the change from the first to the second."""
    split = evaluated_split(groups)
    k = comparable(groups, split)
    found = paired_differences(evaluated(groups, split), split, k) if k else []
    bounds = ["ELBO", f"L_{k}"]
    headings = [
        "on the same images",
        "images",
        *(f"change of {name} (nats)" for name in bounds),
        "± unpaired",
    ]
    rows = [
        [
            f"{d.first.label} → {d.second.label}",
            f"{d.images:,}",
            f"{d.elbo:+.2f} ± {d.elbo_error:.2f}",
            f"{d.log_px:+.2f} ± {d.log_px_error:.2f}",
            f"{d.unpaired_error:.2f}",
        ]
        for d in found
    ]
    per_nat = [shared_bits([d.first, d.second]) for d in found]
    if any(per_nat):
        headings[4:4] = [f"change of {name} (bits per dimension)" for name in bounds]
        for row, d, bits in zip(rows, found, per_nat, strict=True):
            changes = [(d.elbo, d.elbo_error), (d.log_px, d.log_px_error)]
            row[4:4] = [f"{-bits * c:+.4f} ± {bits * e:.4f}" if bits else NONE for c, e in changes]
        headings[-1] += " (nats)"
    return headings, rows


def _change(value: float, form: str) -> str:
    return NONE if math.isnan(value) else format(value, "+" + form)


def noise_line(groups: Sequence[Group]) -> str:
    """How to read the differences, in words."""
    if math.isnan(seed_noise(groups, "test/elbo")):
        return (
            "One seed each: the noise between seeds is unknown; trust no small difference (try seed=1,2,3)."
        )
    return (
        "The noise between seeds is the standard deviation of a single run, pooled over all rows; "
        "a difference of two means over n seeds has about sqrt(2 / n) of it as standard error."
    )
