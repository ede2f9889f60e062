"""The figures of a report: what is drawn of which groups of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from ladder_vae.comparison.groups import (
    Group,
    analyzed,
    evaluated,
    evaluated_split,
    sample_sizes,
    shared_bits,
)
from ladder_vae.comparison.tables import depth_columns
from ladder_vae.comparison.verdict import DISTORTION, ELBO, MSE
from ladder_vae.drawing import charts, depth_charts, image_grids
from ladder_vae.drawing.pages import Picture
from ladder_vae.runs.images import read_images
from ladder_vae.runs.metrics import LEVELS, OF_LEVELS, images_of, of_runs
from ladder_vae.runs.record import Record
from ladder_vae.system.naming import z_name

BITS = of_runs("test/bits_per_dim")
UNITS = {
    "active_units": "with a rate above 0.01 nats",
    "active_units_var": "whose posterior mean has a variance above 0.01",
}


def panels(groups: Sequence[Group]) -> list[Picture]:
    """What goes with the verdict, large: the ELBO, and the MSE of reconstructions or else the distortion."""
    found = []
    quality = [metric for metric in (MSE, DISTORTION) if any(g.values(metric.name) for g in groups)]
    for metric in (ELBO, *quality[:1]):
        if lines := _series(groups, metric.name):
            draw = partial(
                depth_charts.save_panel,
                series=lines,
                label=metric.heading if metric is ELBO else f"{metric.heading} of reconstructions",
                form=metric.form,
                better=metric.better,
                bits_per_nat=shared_bits(groups) if metric is ELBO else None,
            )
            name = metric.name.rpartition("/")[2]
            title = f"{metric.title} against depth"
            found.append(Picture(f"depth_{name}.png", title, _scale(lines), draw))
    return found


def figures(groups: Sequence[Group]) -> list[Picture]:
    """What the runs allow to be drawn, in reading order."""
    small = {heading: _series(groups, metric) for metric, heading, _ in depth_columns(groups)}
    title = "Each metric against depth; points are seeds, the line goes through their means"
    caption = "Each panel is stretched to what was measured, so that small differences look large here."
    draw = partial(depth_charts.save_against_depth, panels=small)
    found = [Picture("against_depth.png", title, caption, draw)]
    if rates := _by_level(groups, groups, "test/rate"):  # unknown of a release that was not evaluated
        draw = partial(
            charts.save_by_level,
            models=rates,
            label="rate (nats)",
            title="What each level adds to the rate; z1 is next to the image",
        )
        title = "How the rate splits over the levels, z1 next to the image"
        found.append(Picture("rates.png", title, "", draw))
    return [*found, *_of_evaluated(groups), *_of_analyzed(groups)]


def images(groups: Sequence[Group]) -> list[Picture]:
    """Reconstructions and samples of one run of each group, where runs keep their images."""
    found = []
    pictured = [(group, images) for group in groups if (images := read_images(group.runs[0].path))]
    if pictured:
        first = pictured[0][1]["originals"]
        # rows share their originals only where the runs saw the same test images
        same = [(g, i) for g, i in pictured if i["originals"].tobytes() == first.tobytes()]
        draw = partial(
            image_grids.save_strips,
            rows={"test image": first, **{_short(g, groups): i["reconstructions"] for g, i in same}},
            columns=len(first),
            title="Reconstructions: the decoder's mean for one posterior sample",
            notes={_short(g, groups): _quality(g.runs[0]) for g, _ in same},
        )
        title = "The same test images reconstructed by every model"
        caption = (
            "Beside a row are ELBO (nats) and MSE, over all test images, of the very model that drew it."
        )
        found.append(Picture("reconstructions.png", title, caption, draw))
        draw = partial(
            image_grids.save_strips,
            rows={_short(g, groups): i["samples"] for g, i in pictured},
            columns=len(first),
            title="Samples: the decoder's mean for latents from the prior",
        )
        found.append(Picture("samples.png", "Samples from every model's prior", "", draw))
    return found


def _scale(lines: Sequence[depth_charts.Series]) -> str:
    """What the axis of a large panel covers, so that nobody takes a small difference for a large one."""
    values = [value for line in lines for seeds in line.seeds for value in seeds]
    low, high = depth_charts.axis_limits(values)
    largest = max(map(abs, values)) or 1.0
    within, covered = 100 * (max(values) - min(values)) / largest, 100 * (high - low) / largest
    return (
        f"A point is a seed, the line goes through their means. Points differ by up to {within:.1f} % of the "
        f"value. The axis covers {covered:.0f} % of it and does not begin at 0."
    )


def _series(groups: Sequence[Group], metric: str) -> list[depth_charts.Series]:
    """The lines of a chart: those groups of each series that have the metric."""
    names = list(dict.fromkeys(group.series for group in groups))
    members = {name: [g for g in groups if g.series == name and g.values(metric)] for name in names}
    return [
        depth_charts.Series(name, [g.depth for g in gs], [g.values(metric) for g in gs])
        for name, gs in members.items()
        if gs
    ]


def _quality(run: Record) -> str:
    """ELBO, bits per dimension and MSE of a run, a line each; without those that it does not have."""
    known = [metric for metric in (ELBO, BITS, MSE) if metric.name in run.metrics]
    return "\n".join(f"{metric.title} {metric.text(run.metrics[metric.name])}" for metric in known)


def _of_evaluated(groups: Sequence[Group]) -> list[Picture]:
    """Bounds and active units of the groups that were evaluated, if any."""
    split = evaluated_split(groups)
    kept = evaluated(groups, split)
    if not kept:
        return []
    curves = []
    for group in kept:
        sizes = sample_sizes(group, split)
        names = [f"{split}/log_px/K={k}" for k in sizes]
        values = [group.mean(name) for name in names]
        spreads = [_spread(group, name) for name in names]
        curves.append(charts.BoundCurve(_short(group, groups), sizes, values, spreads))
    images = images_of(split)
    title = f"Importance-weighted bounds, {images}\nbars: standard deviation over seeds"
    draw = partial(charts.save_bounds, curves=curves, title=title, bits_per_nat=shared_bits(kept))
    found = [Picture("log_px.png", "The bound on log p(x) against the number of samples", "", draw)]
    for metric, what in UNITS.items():
        if units := _by_level(kept, groups, f"{split}/{metric}"):  # one image has no variance over images
            title = f"Units {what}\n{images}; z1 is next to the image"
            draw = partial(charts.save_by_level, models=units, label="active units", title=title)
            found.append(Picture(f"{metric}.png", f"Active units of each level: {what}", "", draw))
    return found


def _of_analyzed(groups: Sequence[Group]) -> list[Picture]:
    """The figures of each level, of the groups whose levels were analyzed, if any."""
    split, kept = analyzed(groups)
    panels: dict[str, list[charts.Estimate]] = {}
    for metric in OF_LEVELS:
        for group in kept:
            for level in reversed(range(group.depth)):
                name = f"{split}/{LEVELS}/{metric.name}/{z_name(level)}"
                if group.values(name):
                    value, spread = (metric.factor * v for v in (group.mean(name), _spread(group, name)))
                    label = f"{_short(group, groups)}: {z_name(level)}"
                    bar = charts.Estimate(label, value, spread, shade=level)
                    panels.setdefault(metric.heading, []).append(bar)
    if not panels:
        return []
    title = f"What each level holds, {images_of(split)}; bars: standard deviation over seeds"
    draw = partial(charts.save_estimates, panels=panels, title=title)
    title = "What each level holds: read off by a probe, and changed when it is drawn anew"
    return [Picture("levels.png", title, "", draw)]


def _by_level(kept: Sequence[Group], groups: Sequence[Group], metric: str) -> dict[str, list[float]]:
    """The metric of each level, of those groups that have it."""
    return {_short(g, groups): g.by_level(metric) for g in kept if g.values(f"{metric}/z1")}


def _short(group: Group, groups: Sequence[Group]) -> str:
    if len({g.series for g in groups}) > 1:
        return group.label
    return f"{group.depth} level{'s' if group.depth > 1 else ''}"


def _spread(group: Group, metric: str) -> float:
    """Standard deviation over seeds, as the length of an error bar."""
    return 0.0 if math.isnan(group.std(metric)) else group.std(metric)
