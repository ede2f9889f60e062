"""Runs side by side: which belong together, and how much seeds alone make them differ."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ladder_vae.runs.metrics import LEVELS, split_of
from ladder_vae.runs.plan import not_started
from ladder_vae.runs.record import PLAN, Record, class_name, flat
from ladder_vae.system.naming import z_name

# Settings in which runs of one group may differ: the seed, and what changes no result.
NOT_A_SETTING = (
    "seed",
    "data.seed",
    "name",
    "logger",
    "callbacks.pictures",
    "callbacks.progress",
    "trainer.accelerator",
    "trainer.compile",
    "trainer.cuda_graph",
    "trainer.devices",
    "trainer.profiler",
    "trainer.strategy",
)
# Settings that came later, with the value that runs from before them have without saying so.
LATER = {
    "callbacks.averaging.recalibrate_batches": 0,
    "objective.balance_rates": False,
    "objective.spectral": 0.0,
    "scheduler.final_factor": 0.0,
}
PLACES = ("path", "directory")  # settings of data that say where they lie
LONGEST = 60  # characters of a setting in a name
LONGEST_NAME = 100


@dataclass(frozen=True)
class Group:
    """Finished runs that differ in nothing but their seed.

    Args:
        settings: What distinguishes the group from the others, setting to value.
        runs: Its runs.
        named: Those of the settings that stand in its name; None: all.
    """

    settings: dict[str, Any]
    runs: list[Record]
    named: frozenset[str] | None = None

    @property
    def depth(self) -> int:
        """Number of latent levels."""
        return int(self.runs[0].config["model"].get("num_layers") or 0)

    @property
    def series(self) -> str:
        """What distinguishes it apart from its depth."""
        others = {k: v for k, v in self.settings.items() if k != "model.num_layers"}
        words = [class_name(str(others.pop("model._target_", self.runs[0].model_name)))]
        said = {k: v for k, v in others.items() if v is not None and (self.named is None or k in self.named)}
        named = [f"{k.rpartition('.')[2]}={v!s:.{LONGEST}}" for k, v in said.items()]
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

    @property
    def bits_per_nat(self) -> float | None:
        """Bits per dimension in a nat per image, by a bound that is recorded in both; None where none is."""
        for run in self.runs:
            for name, bits in run.metrics.items():
                if found := re.fullmatch(r"(\w+)/bits_per_dim(/K=\d{1,9})?", name):
                    of_bound = f"{found[1]}/log_px{found[2]}" if found[2] else f"{found[1]}/elbo"
                    if nats := run.metrics.get(of_bound):
                        return -bits / nats
        return None

    def by_level(self, metric: str) -> list[float]:
        """Mean over seeds of ``metric`` of each level, z_1 first."""
        return [self.mean(f"{metric}/{z_name(level)}") for level in range(self.depth)]


def group_runs(records: Sequence[Record]) -> list[Group]:
    """Group finished runs that have the same settings except for the seed, by series, then depth.

    If runs repeat both settings and seed, only the last counts: a repetition does not show the noise between
    seeds.
    """
    finished = [record for record in records if record.finished]
    places = _places(finished)
    settings = [_settings(record) | places.get(record.data, {}) for record in finished]
    keys = sorted({key for s in settings for key in s})
    differing = [key for key in keys if len({repr(s.get(key)) for s in settings}) > 1]
    differing = [key for key in differing if not _goes_without_saying(key, finished)]
    by_seed: dict[str, dict[tuple, Record]] = {}
    distinguishing: dict[str, dict[str, Any]] = {}
    for record, s in zip(finished, settings, strict=True):
        mine = {key: s.get(key) for key in differing}
        distinguishing[repr(mine)] = mine
        seeds = (record.config.get("seed"), (record.config.get("data") or {}).get("seed"))
        by_seed.setdefault(repr(mine), {})[seeds] = record
    groups = [Group(distinguishing[key], list(runs.values())) for key, runs in by_seed.items()]
    return sorted(_named(groups), key=lambda g: (g.series, g.depth))


def _named(groups: list[Group]) -> list[Group]:
    """The groups, where a name would be too long named by as few settings as tell the series apart."""
    if max((len(group.series) for group in groups), default=0) <= LONGEST_NAME:
        return groups
    others = {key for group in groups for key in group.settings} - {"model._target_", "model.num_layers"}
    left = sorted(others, key=lambda key: (not key.startswith(("model.", "objective.", "optimizer.")), key))
    told: list[str] = []

    def series(keys: Sequence[str]) -> int:
        return len({replace(group, named=frozenset(keys)).series for group in groups})

    while left and series(told) < series([*told, *left]):
        told.append(max(left, key=lambda key: series([*told, key])))  # of equals, the first
        left.remove(told[-1])
    return [replace(group, named=frozenset(told)) for group in groups]


def _settings(record: Record) -> dict[str, Any]:
    """The settings that set a run apart; of those that follow from its depth by a rule, the rule."""
    by_depth = (record.config.get("by_depth") or {}).get("values", {})
    ignored = (*NOT_A_SETTING, "by_depth.values")
    settings = {k: v for k, v in flat(record.config).items() if not k.startswith(ignored)}
    settings = {k: v for k, v in settings.items() if LATER.get(k) != v or k not in LATER}
    return {k: v for k, v in settings.items() if not (k in by_depth and by_depth[k] == v)}


def _places(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """By fingerprint of images, the one place by which they go: equal images may lie at several.

    Other images that the same settings find at the same place, as in a file that was written anew, get a name
    of their own. Where settings make other images of the same file, they tell the groups apart.
    """
    places: dict[str, dict[str, Any]] = {}
    taken = []
    for record in records:
        data = record.config.get("data") or {}
        if record.data and record.data not in places:
            place = {f"data.{key}": data[key] for key in PLACES if data.get(key) is not None}
            made = place, data.get("binarization"), data.get("val_size")
            if made in taken:
                place = {key: f"{where} ({record.data[:8]})" for key, where in place.items()}
            taken.append(made)
            places[record.data] = place
    return places


def _goes_without_saying(key: str, records: Sequence[Record]) -> bool:
    """Whether a model setting is the same in all models that have it, so that labels leave it out."""
    section, _, name = key.partition(".")
    values = [repr(r.config["model"][name]) for r in records if name in r.config["model"]]
    return section == "model" and len(values) < len(records) and len(set(values)) == 1


def left_out(
    directories: Sequence[Path], records: Sequence[Record], groups: Sequence[Group]
) -> list[tuple[Path, str]]:
    """Runs that are in no group, each with the reason: unfinished, failed, repeated, or never started."""
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
    jobs = [(sweep, job) for sweep in sorted(sweeps) for job in not_started(sweep)]
    return reasons + [(sweep / job.name, f"never started: {' '.join(job.overrides)}") for sweep, job in jobs]


def shared_bits(groups: Sequence[Group]) -> float | None:
    """Bits per dimension in a nat per image, where all groups have equally many; else None."""
    found = [group.bits_per_nat for group in groups]
    if not found or found[0] is None:
        return None
    return found[0] if all(math.isclose(bits or 0.0, found[0]) for bits in found) else None


def seed_noise(groups: Sequence[Group], metric: str) -> float:
    """Standard deviation between seeds, pooled over groups; NaN if no group has two runs."""
    spreads = [(len(g.values(metric)) - 1, g.std(metric)) for g in groups if len(g.values(metric)) > 1]
    freedom = sum(n for n, _ in spreads)
    return math.sqrt(sum(n * std**2 for n, std in spreads) / freedom) if freedom else math.nan


def evaluated(groups: Sequence[Group], split: str) -> list[Group]:
    """The groups with those of their runs that were evaluated on ``split``; without any, it is left out."""
    kept = [replace(g, runs=[run for run in g.runs if _sample_sizes(run, split)]) for g in groups]
    return [group for group in kept if group.runs]


def evaluated_split(groups: Sequence[Group]) -> str:
    """The split on which most runs were evaluated, of several that with the largest comparable K.

    It is ``test``, or ``test_2000`` for 2,000 of its images; or the same of ``val`` or, where there is
    nothing else, of ``train``.
    """
    names = {name for group in groups for run in group.runs for name in run.metrics}
    splits = {split for name in names if "/log_px/" in name and (split := split_of(name))} | {"test"}

    def worth(split: str) -> tuple[bool, int, int, bool]:
        runs = sum(len(group.runs) for group in evaluated(groups, split))
        new = runs > 0 and not split.startswith("train")
        return new, runs, comparable(groups, split) or 0, split == "test"

    return max(sorted(splits), key=worth)


def analyzed(groups: Sequence[Group]) -> tuple[str, list[Group]]:
    """The split on which most runs had their levels analyzed, and the groups with those runs."""

    def kept(split: str) -> list[Group]:
        name = f"{split}/{LEVELS}/pixel_change/z1"
        found = [replace(g, runs=[run for run in g.runs if name in run.metrics]) for g in groups]
        return [group for group in found if group.runs]

    names = {name for group in groups for run in group.runs for name in run.metrics}
    splits = {split for name in names if f"/{LEVELS}/" in name and (split := split_of(name))} | {"test"}
    split = max(sorted(splits), key=lambda s: (sum(len(g.runs) for g in kept(s)), s == "test"))
    return split, kept(split)


def sample_sizes(group: Group, split: str) -> list[int]:
    """Each K for which every run of an evaluated group has L_K, ascending."""
    return sorted(set.intersection(*(_sample_sizes(run, split) for run in group.runs)))


def _sample_sizes(run: Record, split: str) -> set[int]:
    matches = [re.fullmatch(rf"{split}/log_px/K=(\d{{1,9}})", name) for name in run.metrics]
    return {int(match[1]) for match in matches if match}


def comparable(groups: Sequence[Group], split: str) -> int | None:
    """The largest K above 1 for which every evaluated run has L_K; None if there is none."""
    sizes = [_sample_sizes(run, split) for group in evaluated(groups, split) for run in group.runs]
    return max(set.intersection(*sizes) - {1}, default=None) if sizes else None
