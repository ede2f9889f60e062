"""Compare any set of runs: ``python -m ladder_vae.report runs/depth_sweep/<time>``."""

from __future__ import annotations

import argparse
import csv
import math
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ladder_vae import cli, figures
from ladder_vae.errors import UserError
from ladder_vae.runs import CONFIG, Record, flat, is_run, level_keys, read_images, read_record

# metric, heading, format, and whether it is plotted against depth
COLUMNS: tuple[tuple[str, str, str, bool], ...] = (
    ("test/elbo", "ELBO (nats)", ".2f", True),
    ("test/distortion", "distortion (nats)", ".2f", True),
    ("test/rate", "rate (nats)", ".2f", True),
    ("test/mse", "MSE", ".4f", True),
    ("test/ssim", "SSIM", ".3f", True),
    ("model/parameters", "parameters", ",.0f", True),
    ("train/images_per_second", "images/s", ",.0f", True),
    ("train/seconds", "training (s)", ",.0f", True),
)
# Settings in which runs of one group may differ.
NOT_A_SETTING = ("seed", "data.seed", "name")


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
        return int(self.runs[0].config["model"]["num_layers"])

    @property
    def series(self) -> str:
        """What distinguishes it apart from its depth."""
        others = {k: v for k, v in self.settings.items() if k != "model.num_layers"}
        words = [str(others.pop("model._target_", self.runs[0].model_name)).rpartition(".")[2]]
        return " ".join([*words, *(f"{k.rpartition('.')[2]}={v}" for k, v in others.items())])

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

    def rates(self) -> list[float]:
        """Mean rate of each level, z_1 first."""
        return [self.mean(f"test/rate/z{level}") for level in range(1, self.depth + 1)]


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
    """Finished runs by the settings in which they differ, seeds aside; by series, then depth."""
    finished = [record for record in records if record.finished]
    settings = [
        {k: v for k, v in flat(record.config).items() if k not in NOT_A_SETTING} for record in finished
    ]
    keys = sorted({key for s in settings for key in s})
    differing = [key for key in keys if len({repr(s.get(key)) for s in settings}) > 1]
    groups: dict[str, Group] = {}
    for record, s in zip(finished, settings, strict=True):
        mine = {key: s.get(key) for key in differing}
        groups.setdefault(repr(mine), Group(mine, [])).runs.append(record)
    return sorted(groups.values(), key=lambda g: (g.series, g.depth))


def seed_noise(groups: Sequence[Group], metric: str) -> float:
    """Standard deviation between seeds, pooled over groups; NaN if no group has two runs."""
    spreads = [(len(g.values(metric)) - 1, g.std(metric)) for g in groups if len(g.values(metric)) > 1]
    freedom = sum(n for n, _ in spreads)
    return math.sqrt(sum(n * std**2 for n, std in spreads) / freedom) if freedom else math.nan


def table_rows(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: a row a group, mean ± standard deviation over seeds where there are several."""
    deepest = max((group.depth for group in groups), default=0)
    columns = [(metric, heading, form) for metric, heading, form, _ in COLUMNS]
    at = 1 + [metric for metric, *_ in columns].index("test/rate")
    columns[at:at] = [(f"test/rate/z{n}", f"z{n}", ".2f") for n in range(1, deepest + 1)]
    rows = []
    for group in groups:
        cells = [group.series, str(group.depth), str(len(group.runs))]
        for metric, _, form in columns:
            values = group.values(metric)
            cell = format(group.mean(metric), form) if values else "–"
            cells.append(cell + (f" ± {format(group.std(metric), form)}" if len(values) > 1 else ""))
        rows.append(cells)
    return ["model", "levels", "runs", *(heading for _, heading, _ in columns)], rows


def differences(groups: Sequence[Group]) -> list[str]:
    """ELBO of each group against the one before it in its series, beside the noise between seeds."""
    noise = seed_noise(groups, "test/elbo")
    lines = []
    for before, after in zip(groups, groups[1:], strict=False):
        if before.series != after.series:
            continue
        gain = after.mean("test/elbo") - before.mean("test/elbo")
        line = f"{after.series}: {before.depth} to {after.depth} levels changes the ELBO by {gain:+.2f} nats"
        if not math.isnan(noise):
            error = noise * math.sqrt(1 / len(before.runs) + 1 / len(after.runs))
            line += f" (standard error {error:.2f}, from the noise between seeds)"
        lines.append(line)
    return lines


def noise_line(groups: Sequence[Group]) -> str:
    """What is known of the noise between seeds, in words."""
    noise = seed_noise(groups, "test/elbo")
    if math.isnan(noise):
        return "One seed each: the noise between seeds is unknown, so small differences mean nothing (`seed=1,2,3`)."
    return f"Noise between seeds: the ELBO's standard deviation, pooled over rows, is {noise:.2f} nats."


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
    panels = {heading: series(metric) for metric, heading, _, plotted in COLUMNS if plotted and series(metric)}
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
    return f"{group.depth} level{'s' if group.depth > 1 else ''}" if alone else group.label.replace(", ", "\n")


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
        lines += [f"- `{os.path.relpath(r.path, path.parent)}`: {r.status} {r.message}".rstrip() for r in left_out]
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
            lambda v: "static (one seeded draw of ladder_vae, not Larochelle's files)" if v == "static" else str(v),
        ),
        ("data.val_size", "validation images", str),
        ("data.batch_size", "batch", str),
        ("trainer.max_epochs", "epochs", str),
        ("optimizer.lr", "learning rate", str),
        ("objective.beta_warmup_epochs", "beta warm-up epochs", str),
    ]
    values = flat(first)
    words = [f"{name} {show(values[key])}" for key, name, show in described if key in values and key not in differing]
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
        raise UserError(f"{error.filename or output} cannot be written ({error.strerror}); choose another --output") from None
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
        "--output", type=Path, help="where to write (default: the one directory named, else runs/reports/<time>)"
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
