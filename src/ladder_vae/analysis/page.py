"""The page of an analysis: sentences, tables and pictures, described, then drawn and written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ladder_vae.analysis import by_place, level_tables, manipulations, rate_maps, sentences
from ladder_vae.analysis.embedding import embedded
from ladder_vae.analysis.measure import Analysis, Settings, share
from ladder_vae.analysis.readings import Readings
from ladder_vae.analysis.resolutions import has_places, level_names, places, resolution_name
from ladder_vae.data.batches import spaced
from ladder_vae.drawing import charts
from ladder_vae.drawing.pages import Picture, Section, save_pictures, write_html, write_markdown
from ladder_vae.runs.metrics import OF_LEVELS, REFERENCES
from ladder_vae.runs.opened import Subject
from ladder_vae.system.naming import z_name

MAX_LEVELS = 8  # that are drawn, unless they are named
MAX_CHARTED = 24  # levels in the chart of all figures
SHOWN, MAX_SHOWN = 10, 12  # images a row
LEAST_POINTS = 10  # in a plane
PICTURES = Path("figures") / "levels"


def write(
    subject: Subject,
    analysis: Analysis,
    settings: Settings,
    on_step: Callable[[str], None],
    explorer: Path | str,
) -> list[Path]:
    """Draw, and write ``analysis.html`` and ``analysis.md`` into the run directory.

    Args:
        subject: The run and its images.
        analysis: What was measured.
        settings: How it was measured.
        on_step: Called with a message before each step.
        explorer: The page on which one plays with the levels, in the same directory, or why there is none.

    Returns:
        The files of the pictures.

    Raises:
        OSError: If the run directory cannot be written.
    """
    run, directory = subject.run, subject.run.path / PICTURES
    levels = _chosen_levels(analysis.readings, settings.levels)
    on_step("drawing pictures")
    described = _sections(subject, analysis, settings, levels, on_step)
    described.insert(1, _explorer(explorer))  # after the glance
    sections, drawn = save_pictures(directory, described)
    depth = run.model.num_layers
    each, kind = "each" if depth > 1 else "the", type(run.model).__name__
    title = f"What {each} level of a {depth}-level {kind} encodes"
    write_markdown(run.path / "analysis.md", title, sections, PICTURES.as_posix())
    write_html(run.path / "analysis.html", title, sections, directory)
    for earlier in set(directory.glob("[!.]*.png")) - set(drawn):  # of other levels, maybe
        earlier.unlink(missing_ok=True)  # by another analysis, perhaps
    return drawn


def _explorer(explorer: Path | str) -> Section:
    """The page on which one plays with the levels."""
    title = "Play with the levels"
    if isinstance(explorer, str):
        return Section(title, [f"There is no page to play with: {explorer}."])
    what = (
        "Draw a level anew, hold it, take it from another image, move its units, or draw an image yourself, "
        "and watch what all levels make of it. The page needs nothing but a browser."
    )
    return Section(title, [what], page=explorer)


def levels_drawn(subject: Subject, settings: Settings) -> int:
    """Number of levels that are drawn, and so embedded."""
    if settings.levels is not None:
        return len(set(settings.levels))
    return min(subject.run.model.num_layers, MAX_LEVELS)


def _chosen_levels(readings: Readings, named: Sequence[int] | None) -> list[int]:
    """Indices of the levels to draw, ascending."""
    if named is not None:
        return sorted(set(named))
    rates = readings.rates.mean(0)
    return sorted(rates.argsort(descending=True)[:MAX_LEVELS].tolist())


def _sections(
    subject: Subject,
    analysis: Analysis,
    settings: Settings,
    levels: Sequence[int],
    on_step: Callable[[str], None],
) -> list[Section]:
    model, data, readings = subject.run.model, subject.data, analysis.readings
    noun = data.noun
    shown = list(settings.show) if settings.show else data.gallery(SHOWN)
    x = data.observe("test", shown).to(next(model.parameters()).device)
    gallery = manipulations.open_gallery(model, x, settings.seed)

    units, depth = readings.unit_rates, model.num_layers
    spatial = any(map(has_places, model.event_shapes))
    numbers = level_tables.numbers(analysis.figures, units, noun)
    sections = [
        Section(
            "At a glance",
            [sentences.headline(analysis.figures, depth, noun)],
            None,
            [manipulations.glance(gallery, levels)],
        ),
        Section(
            "The figures",
            sentences.describe(analysis.figures, units, noun, model.closed_form_rates),
            replace(numbers, note=" ".join([numbers.note, *_pooling(readings)])),
            [_chart(analysis, noun)],
        ),
        *([rate_maps.where_the_rate_is(readings, gallery, levels)] if spatial else []),
        Section(
            "All levels",
            ["A single image is shown; there is none to interpolate with."] if len(shown) < 2 else [],
            pictures=[
                *([by_place.kept_levels(gallery)] if spatial else []),
                manipulations.fewer_levels(gallery, levels),
                *([] if len(shown) < 2 else [manipulations.interpolated(gallery, levels)]),
            ],
        ),
        *([by_place.what_a_place_does(gallery, readings.rates.mean(0))] if spatial else []),
    ]
    points = spaced(len(readings.rates), max(LEAST_POINTS, share(subject, settings)[1]))
    for level in reversed(levels):
        drawn = [
            manipulations.resampled(gallery, level),
            manipulations.swapped(gallery, level),
            manipulations.traversed(gallery, level, units[level]),
            manipulations.heated(gallery, level),
        ]
        paragraphs = []
        if len(points) >= LEAST_POINTS:
            drawn.append(embedded(level, readings, analysis.labels, points, settings.seed, on_step))
        else:
            paragraphs.append(f"{len(points)} test images are too few for an embedding.")
        sections.append(Section(f"Level {z_name(level)}", paragraphs, None, drawn))
    return [*sections, _method(subject, analysis, settings, levels)]


def _chart(analysis: Analysis, noun: str) -> Picture:
    """The table as bars."""
    figures, depth = analysis.figures, len(analysis.readings.means)
    levels = [depth - 1 - i for i in spaced(depth, MAX_CHARTED)]  # the top level first
    panels = {}
    for metric in OF_LEVELS:
        bars: dict[str, tuple[str, int | None]] = {
            f"{metric.name}/{z_name(level)}": (z_name(level), level) for level in levels
        }
        bars |= {
            place if place in figures else f"{metric.name}/{place}": (REFERENCES[place], None)
            for place in metric.against
        }
        found = [
            charts.Estimate(
                of.format(noun=noun),
                metric.factor * figures[name],
                metric.factor * figures.get(f"{name}_stderr", 0.0),
                reference=level is None,
                shade=level or 0,
            )
            for name, (of, level) in bars.items()
            if name in figures
        ]
        if found:
            panels[metric.drawn.format(noun=noun)] = found
    title = (
        f"{int(figures['images']):,} test images, {int(figures['draws'])} draws each; bars: standard error"
    )
    draw = partial(charts.save_estimates, panels=panels, title=title)
    caption = "The table as bars, the top level first. Gray is what to hold the levels against."
    if len(levels) < depth:
        caption += f" Of {depth} levels {len(levels)} are drawn, evenly spaced."
    return Picture("numbers.png", "The figures of each level", caption, draw)


def _pooling(readings: Readings) -> list[str]:
    """Which levels' features are means over places; nothing if none are."""
    grids: dict[str, list[int]] = {}
    for level, (rates, means) in enumerate(zip(readings.unit_rates, readings.means, strict=True)):
        if means.shape[1:] != rates.shape:
            grids.setdefault(resolution_name(places(means.shape[1:])), []).append(level)
    return [
        f"Probes and embeddings of {level_names(levels)} read no single units, of which there are many, but "
        f"the means of each channel over a grid of {grid} places."
        for grid, levels in grids.items()
    ]


def _method(subject: Subject, analysis: Analysis, settings: Settings, levels: Sequence[int]) -> Section:
    """How all this was made, and what was left out."""
    run, depth = subject.run, subject.run.model.num_layers
    paragraphs = [
        f"A {type(run.model).__name__} of {depth} level{'s' if depth > 1 else ''}, z1 next to the image, "
        f"{z_name(depth - 1)} at the top; {subject.checkpoint}.ckpt of {run.path}, data "
        f"{type(subject.data).__name__}.",
        "The innovation of a level is e = (z - μp) / σp, what it adds to what the levels above expect. "
        "Manipulations change the innovations of the levels named, keep those of the others, and "
        "recompute every latent from the top down: in a hierarchy where each level sees the next one "
        "only, a changed latent above z1 would move no pixel while the latents below it are held.",
        f"Numbers are of {int(analysis.figures['images']):,} images of the test split, levels drawn anew "
        f"{settings.draws} times each, seed {settings.seed}. Errors are standard errors over test images.",
    ]
    if "probe_pixels" in analysis.figures:
        paragraphs.append(
            f"Probes are logistic regressions fitted on up to {share(subject, settings)[0]:,} training "
            "images, features in their own units. How they and the judging classifier would come out from "
            "other training images is in no error."
        )
    if analysis.remarks:
        paragraphs.append(analysis.remarks)
    if len(levels) < depth:
        paragraphs.append(f"Drawn are {', '.join(map(z_name, levels))} of {depth} levels.")
    return Section("How it was made", paragraphs, level_tables.sleeping_units(analysis.readings.unit_rates))
