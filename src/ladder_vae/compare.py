"""Runs side by side: which belong together, how they differ, and whether the seeds explain it."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladder_vae.errors import UserError
from ladder_vae.runs import CONFIG, PLAN, Record, class_name, flat, is_run, not_started, read_record

# metric, heading, format; each is also plotted against depth
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("test/elbo", "ELBO (nats)", ".2f"),
    ("test/distortion", "distortion (nats)", ".2f"),
    ("test/rate", "rate (nats)", ".2f"),
    ("test/mse", "MSE", ".5f"),
    ("test/ssim", "SSIM", ".4f"),
    ("model/parameters", "parameters", ",.0f"),
    ("train/images_per_second", "images/s", ",.0f"),
    ("train/seconds", "training (s)", ",.0f"),
)
QUALITY = 5  # the first columns say how good a model is; the rest, what it costs
# by level, of runs that were evaluated: metric, heading, format
LEVEL_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("test/active_units", "KL: z1, z2, ...", ".1f"),
    ("test/active_units_var", "variance: z1, z2, ...", ".1f"),
    ("test/variance_ratio", "σ²q / σ²p", ".2f"),
)
# Settings in which runs of one group may differ: the seed, and what changes no result.
NOT_A_SETTING = (
    "seed",
    "data.seed",
    "name",
    "logger",
    "callbacks.pictures",
    "callbacks.progress",
    "trainer.accelerator",
    "trainer.profiler",
)


@dataclass(frozen=True)
class Group:
    """Finished runs that differ in nothing but their seed.

    Args:
        settings: What distinguishes the group from the others, setting to value.
        runs: Its runs.
    """

    settings: dict[str, Any]
    runs: list[Record]

    @property
    def depth(self) -> int:
        """Number of latent levels."""
        return int(self.runs[0].config["model"].get("num_layers") or 0)

    @property
    def series(self) -> str:
        """What distinguishes it apart from its depth."""
        others = {k: v for k, v in self.settings.items() if k != "model.num_layers"}
        words = [class_name(str(others.pop("model._target_", self.runs[0].model_name)))]
        named = [f"{k.rpartition('.')[2]}={v}" for k, v in others.items() if v is not None]
        return " ".join([*words, *named])

    @property
    def label(self) -> str:
        """Name in tables and figures."""
        return f"{self.series}, L={self.depth}"

    def mean(self, metric: str) -> float:
        """Mean over seeds; NaN if no run has the metric."""
        values = self.values(metric)
        return statistics.fmean(values) if values else math.nan

    def std(self, metric: str) -> float:
        """Standard deviation over seeds (n - 1); NaN below two runs."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else math.nan

    def values(self, metric: str) -> list[float]:
        """The metric of each run that has it."""
        return [run.metrics[metric] for run in self.runs if metric in run.metrics]

    def by_level(self, metric: str) -> list[float]:
        """Mean over seeds of ``metric`` of each level, z_1 first."""
        return [self.mean(f"{metric}/z{level}") for level in range(1, self.depth + 1)]


def find_runs(directories: Sequence[Path]) -> list[Record]:
    """Records of all runs in or below the directories, each once, by path.

    Raises:
        UserError: If a directory does not exist or holds no run.
    """
    found: dict[Path, Record] = {}
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"{directory} is not a directory; name run directories, or a folder of them")
        paths = sorted(config.parent for config in directory.rglob(CONFIG) if is_run(config.parent))
        if not paths:
            raise UserError(f"{directory} holds no run (no {CONFIG} beside a status.json)")
        found |= {path.resolve(): read_record(path) for path in paths}
    return list(found.values())


def group_runs(records: Sequence[Record]) -> list[Group]:
    """Finished runs by the settings in which they differ, seeds aside; by series, then depth.

    Of runs that repeat settings and seed only the last counts: a repetition says nothing of the noise.
    """
    finished = [record for record in records if record.finished]
    settings = [
        {k: v for k, v in flat(record.config).items() if not k.startswith(NOT_A_SETTING)}
        for record in finished
    ]
    keys = sorted({key for s in settings for key in s})
    differing = [key for key in keys if len({repr(s.get(key)) for s in settings}) > 1]
    by_seed: dict[str, dict[tuple, Record]] = {}
    distinguishing: dict[str, dict[str, Any]] = {}
    for record, s in zip(finished, settings, strict=True):
        mine = {key: s.get(key) for key in differing}
        distinguishing[repr(mine)] = mine
        seeds = (record.config.get("seed"), record.config.get("data", {}).get("seed"))
        by_seed.setdefault(repr(mine), {})[seeds] = record
    groups = [Group(distinguishing[key], list(runs.values())) for key, runs in by_seed.items()]
    return sorted(groups, key=lambda g: (g.series, g.depth))


def left_out(
    directories: Sequence[Path], records: Sequence[Record], groups: Sequence[Group]
) -> list[tuple[Path, str]]:
    """What no average holds, and why: unfinished and failed runs, repetitions, jobs that never started."""
    counted = {run.path for group in groups for run in group.runs}
    reasons = [
        (
            r.path,
            "repeats settings and seed of a later run" if r.finished else f"{r.status} {r.message}".strip(),
        )
        for r in records
        if r.path not in counted
    ]
    sweeps = {plan.parent for directory in directories for plan in directory.rglob(PLAN)}
    return reasons + [(s, f"never started: {job}") for s in sorted(sweeps) for job in not_started(s)]


def seed_noise(groups: Sequence[Group], metric: str) -> float:
    """Standard deviation between seeds, pooled over groups; NaN if no group has two runs."""
    spreads = [(len(g.values(metric)) - 1, g.std(metric)) for g in groups if len(g.values(metric)) > 1]
    freedom = sum(n for n, _ in spreads)
    return math.sqrt(sum(n * std**2 for n, std in spreads) / freedom) if freedom else math.nan


Columns = Sequence[tuple[str, str, str]]
Cells = tuple[list[str], list[list[str]]]


def run_columns(groups: Sequence[Group]) -> Columns:
    """What training leaves of every run, with the rate of each level."""
    deepest = max((group.depth for group in groups), default=0)
    columns = list(COLUMNS)
    at = 1 + [metric for metric, *_ in columns].index("test/rate")
    columns[at:at] = [(f"test/rate/z{n}", f"z{n}", ".2f") for n in range(1, deepest + 1)]
    return columns


def evaluated(groups: Sequence[Group]) -> list[Group]:
    """The groups with those of their runs that were evaluated; without any, a group is left out."""
    kept = [Group(g.settings, [run for run in g.runs if _sample_sizes(run)]) for g in groups]
    return [group for group in kept if group.runs]


def sample_sizes(group: Group) -> list[int]:
    """Each K for which every run of an evaluated group has L_K, ascending."""
    return sorted(set.intersection(*(_sample_sizes(run) for run in group.runs)))


def _sample_sizes(run: Record) -> set[int]:
    matches = [re.fullmatch(r"test/log_px/K=(\d+)", name) for name in run.metrics]
    return {int(match[1]) for match in matches if match}


def comparable(groups: Sequence[Group]) -> int | None:
    """The largest K above 1 for which every evaluated run has L_K; None if there is none."""
    sizes = [_sample_sizes(run) for group in evaluated(groups) for run in group.runs]
    return max(set.intersection(*sizes) - {1}, default=None) if sizes else None


def bound_columns(groups: Sequence[Group]) -> Columns:
    """Importance-weighted bounds, of evaluated groups."""
    sizes = sorted({k for group in groups for k in sample_sizes(group)})
    columns = [COLUMNS[0], *((f"test/log_px/K={k}", f"L_{k} (nats)", ".2f") for k in sizes)]
    if k := comparable(groups):
        columns += [
            (f"test/log_px/K={k}_stderr", "error over images", ".2f"),
            (f"test/log_px/K={k}_mc_stderr", "error over draws", ".4f"),
            (f"test/gap/K={k}", f"L_{k} - ELBO (nats)", ".2f"),
            (f"test/ess/K={k}", f"effective of {k} draws", ".1f"),
        ]
    return columns


def table_rows(groups: Sequence[Group], columns: Columns) -> Cells:
    """Headings and cells: a row a group, mean ± standard deviation over seeds where there are several."""
    rows = []
    for group in groups:
        cells = [group.series, str(group.depth), str(len(group.runs))]
        for metric, _, form in columns:
            values = group.values(metric)
            cell = format(group.mean(metric), form) if values else "–"
            varies = len(set(values)) > 1
            cells.append(cell + (f" ± {format(group.std(metric), form)}" if varies else ""))
        rows.append(cells)
    return ["model", "levels", "runs", *(heading for _, heading, _ in columns)], rows


def level_rows(groups: Sequence[Group]) -> Cells:
    """Headings and cells: a row a group, means over seeds of what is known by level, z_1's first."""
    rows = []
    for group in groups:
        total = group.mean("test/active_units")
        cells = [
            group.series,
            str(group.depth),
            str(len(group.runs)),
            format(total, ".1f").removesuffix(".0"),
        ]
        for metric, _, form in LEVEL_COLUMNS:
            values = [format(value, form).removesuffix(".0") for value in group.by_level(metric)]
            cells.append(", ".join(values))
        rows.append(cells)
    headings = ["model", "levels", "runs", "active units (KL)", *(heading for _, heading, _ in LEVEL_COLUMNS)]
    return headings, rows


def tables(groups: Sequence[Group]) -> list[Cells]:
    """All that the runs have to show, a row a group."""
    shown = [table_rows(groups, run_columns(groups))]
    if kept := evaluated(groups):
        shown += [table_rows(kept, bound_columns(kept)), level_rows(kept)]
    return shown


def depth_columns(groups: Sequence[Group]) -> Columns:
    """What is held against depth: quality first, then cost."""
    columns = list(COLUMNS)
    if k := comparable(groups):
        columns[QUALITY:QUALITY] = [("test/active_units", "active units (KL)", ".1f")]
        columns[1:1] = [
            (f"test/log_px/K={k}", f"L_{k} (nats)", ".2f"),
            (f"test/gap/K={k}", f"L_{k} - ELBO (nats)", ".2f"),
        ]
    return [column for column in columns if any(group.values(column[0]) for group in groups)]


def difference_rows(groups: Sequence[Group]) -> Cells:
    """A row a metric: the noise between seeds, then the change from each depth to the next of its series."""
    steps = [(a, b) for a, b in itertools.pairwise(groups) if a.series == b.series and a.depth != b.depth]
    alone = len({group.series for group in groups}) == 1
    names = [f"{a.depth} → {b.depth} levels" + ("" if alone else f", {a.series}") for a, b in steps]
    rows = []
    costs = {metric for metric, *_ in COLUMNS[QUALITY:]}
    for metric, heading, form in depth_columns(groups):
        if metric in costs:
            continue
        noise = seed_noise(groups, metric)
        changes = [_change(b.mean(metric) - a.mean(metric), form) for a, b in steps]
        rows.append([heading, "unknown" if math.isnan(noise) else format(noise, form), *changes])
    return ["change of", "noise between seeds", *names], rows


def _change(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, "+" + form)


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
