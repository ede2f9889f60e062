"""Say in sentences what the figures of an analysis mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from ladder_vae.analysis.level_tables import Figures, by_channel, kind_of_units, share, sleepers
from ladder_vae.models.summary import ACTIVE_KL
from ladder_vae.runs.metrics import OF_LEVELS, Metric
from ladder_vae.system.naming import z_name

# Thresholds on a level's change of class, scaled so that another posterior sample gives 0 and drawing all
# levels anew gives 1.
DECIDES, HAS_A_SAY = 0.5, 0.2
COUNTS = {1: "one", 2: "two", 3: "three", 4: "four"}
STILL = 0.02  # share of the pixel change of all levels; a level below it changes nothing to speak of
# The judge is heard only if it recognizes this share of the reconstructions, and if drawing all levels anew
# changes its answer more often than another posterior sample does, by this share.
RECOGNIZED, ROOM = 0.5, 0.2
MANY, SAID = 16, 8  # a list of more than the first is cut down to the second


def headline(figures: Figures, depth: int, noun: str) -> str:
    """One sentence that says what each level does."""
    if depth == 1:
        return "With a single level, drawing it anew is drawing a new sample of the model."
    if not _judge_can_tell(figures):
        return _by_pixels(figures, depth)
    deciding, partial, details, still = _roles(figures, depth)
    parts = [
        f"{_and(_few(deciding))} decide{_s(deciding)} the {noun}"
        if deciding
        else f"no level decides the {noun} alone",
        f"{_and(_few(partial))} {'has' if len(partial) == 1 else 'have'} a say in it" if partial else "",
        f"{_and(_few(details))} change{_s(details)} details that mostly leave it as it is" if details else "",
        f"{_and(_few(still))} change{_s(still)} nothing to speak of" if still else "",
    ]
    sentence = "; ".join(part for part in parts if part) + "."
    return sentence if deciding else sentence[0].upper() + sentence[1:]


def describe(figures: Figures, unit_rates: Sequence[Tensor], noun: str, closed_form: bool) -> list[str]:
    """Paragraphs that say which level holds what, and which levels hold nothing.

    Args:
        figures: Figures by name; see :func:`~ladder_vae.analysis.readings.level_metrics`.
        unit_rates: Rate of each unit, nats, ``(*event,)`` per level, z_1 first.
        noun: What a class is called.
        closed_form: Whether the rate of every level is a divergence, as in top-down models.
    """
    depth = len(unit_rates)
    parts = []
    if "class_change/all" not in figures:
        parts.append(
            "There is no judge and no changed class: that takes labels of at least two classes, of "
            "training and test images."
        )
    elif not _judge_can_tell(figures):
        parts.append(
            f"Nothing is said here of the {noun}, for the judge cannot tell: it is right on "
            f"{share(figures, 'judge_accuracy')} of the test images and on "
            f"{share(figures, 'class_kept')} of their reconstructions, and new samples change its answer "
            f"in {share(figures, 'class_change/all')}."
        )
    if depth > 1 and _judge_can_tell(figures):
        parts.append(_influence(figures, depth, noun))
    if depth > 1:
        parts.append(_style(figures, depth))
    if "probe_pixels" not in figures:
        parts.append("There are no probes: those take labels of at least two classes among their images.")
    elif depth > 1:
        parts.append(_redundancy(figures, depth, noun))
    return [*parts, *_asleep(figures, unit_rates, closed_form)]


def _judge_can_tell(figures: Figures) -> bool:
    """Whether the judge's answers can be relied on."""
    if "class_change/all" not in figures:
        return False
    room = figures["class_change/all"] - figures["class_change/posterior"]
    return figures.get("class_kept", 0.0) >= RECOGNIZED and room >= ROOM


def _roles(figures: Figures, depth: int) -> tuple[list[str], list[str], list[str], list[str]]:
    """Names of the levels that decide the class, have a say in it, change only details, or change nothing."""
    floor, ceiling = figures["class_change/posterior"], figures["class_change/all"]
    moving = [z for z in _names(depth) if not _is_still(figures, z)]
    shares = {z: (figures[f"class_change/{z}"] - floor) / (ceiling - floor) for z in moving}
    return (
        [z for z in moving if shares[z] >= DECIDES],
        [z for z in moving if HAS_A_SAY <= shares[z] < DECIDES],
        [z for z in moving if shares[z] < HAS_A_SAY],
        [z for z in _names(depth) if z not in moving],
    )


def _each(figures: Figures, metric: str, depth: int, write: Callable[[Figures, str], str]) -> str:
    names, limited = _names(depth), ""
    if depth > MANY:
        highest = sorted(names, key=lambda z: -figures[f"{metric}/{z}"])[:SAID]
        names, limited = [z for z in names if z in highest], f" (the {SAID} highest of {depth} levels)"
    return _and([f"{write(figures, f'{metric}/{z}')} ({z})" for z in names]) + limited


def _influence(figures: Figures, depth: int, noun: str) -> str:
    """Say how drawing a level anew changes the class."""
    return (
        f"Drawn anew, with all other innovations of a real image kept, a level changes the {noun} in "
        f"{_each(figures, 'class_change', depth, share)} of the cases. Drawing all levels anew makes a "
        f"new sample of the model and changes it in {share(figures, 'class_change/all')}; another sample "
        f"of the same posterior changes it in {share(figures, 'class_change/posterior')}, which is what "
        "the model leaves open although it has seen the image. Between these two, we say that a level "
        f"decides the {noun} from {100 * DECIDES:.0f} % of the way, and has a say in it from "
        f"{100 * HAS_A_SAY:.0f} %."
    )


def _style(figures: Figures, depth: int) -> str:
    """Say how drawing a level anew changes the looks of the image."""
    looks = [metric for metric in OF_LEVELS if metric.said and f"{metric.name}/z1" in figures]
    most = [max(_names(depth), key=lambda z: figures[f"{m.name}/{z}"]) for m in looks]
    if len(set(most)) == 1:
        which = f"{'Both' if len(looks) == 2 else 'All'} move most with {most[0]}."
    else:
        first, *others = (f"{m.what} {{}}with {z}" for m, z in zip(looks, most, strict=True))
        moves = ", ".join([first.format("moves most "), *(other.format("") for other in others)])
        which = f"{moves[0].upper()}{moves[1:]}."
    pixels = _each(figures, "pixel_change", depth, lambda f, name: f"{f[name]:.3f}")
    changes = [f"{m.said} {_each(figures, m.name, depth, partial(_roughly, m))}" for m in looks]
    return (
        f"A pixel changes by {pixels} in the mean, all levels at once: {figures['pixel_change/all']:.3f}. "
        f"Of stroke and style {COUNTS.get(len(looks), len(looks))} things are measured: "
        f"{', '.join(changes)}. {which} An image of another class has another weight and slant by itself, "
        "so that a level which changes the one changes the others, too."
    )


def _roughly(metric: Metric, figures: Figures, name: str) -> str:
    return metric.text(figures[name], fewer=1) + metric.suffix


def _by_pixels(figures: Figures, depth: int) -> str:
    ordered = sorted(_names(depth), key=lambda z: -figures[f"pixel_change/{z}"])
    moved = _and(_few([f"{z} {figures[f'pixel_change/{z}']:.3f}" for z in ordered]))
    return (
        f"Drawn anew alone, the levels change a pixel by, most first, {moved}; all at once by "
        f"{figures['pixel_change/all']:.3f}, another sample of the same posterior by "
        f"{figures['pixel_change/posterior']:.3f}."
    )


def _redundancy(figures: Figures, depth: int, noun: str) -> str:
    """Compare what a level contains with what it adds."""
    adds = max(_names(depth), key=lambda z: figures[f"probe_innovation/{z}"])
    passing = (
        " z1 contains no less of it than the top level: where an image is decoded from z1 alone, all that "
        "the levels above say has to pass through z1."
        if figures["probe_sample/z1"] >= figures[f"probe_sample/{z_name(depth - 1)}"]
        else ""
    )
    return (
        f"To contain is not to add. From one posterior sample of a level, a linear probe names the {noun} "
        f"in {_each(figures, 'probe_sample', depth, share)} of the test images.{passing} What the same "
        "sample adds to what the levels above expect is its innovation, from which the probe names "
        f"{_each(figures, 'probe_innovation', depth, share)}: most in {adds}. Naming always the commonest "
        f"{noun} is right in {share(figures, 'probe_none')}. A posterior mean is free of the sample's "
        f"noise; there it is {_each(figures, 'probe_mean', depth, share)}."
    )


def _asleep(figures: Figures, unit_rates: Sequence[Tensor], closed_form: bool) -> list[str]:
    """Name the levels and units that say nothing about the image, and what usually helps."""
    depth, parts = len(unit_rates), []
    asleep = {z_name(level): len(sleepers(rates)) for level, rates in enumerate(unit_rates)}
    units = {z_name(level): len(by_channel(rates)) for level, rates in enumerate(unit_rates)}
    kind = kind_of_units(unit_rates)
    spatial = kind == "channels"
    dead = [z for z in _names(depth) if asleep[z] == units[z]]
    for z in dead if len(dead) <= MANY else ():
        influence = (
            "and drawing it anew changes nothing, either"
            if _is_still(figures, z)
            else f"but drawing it anew changes a pixel by {figures[f'pixel_change/{z}']:.3f} in the mean: "
            "it adds variety to samples that inference does not choose"
        )
        parts.append(f"{z} is asleep: none of its {kind} has a rate above {ACTIVE_KL} nats, {influence}.")
    if len(dead) > MANY:
        parts.append(
            f"{_and(_few(dead))} are asleep: none of their {kind} has a rate above {ACTIVE_KL} nats."
        )
    if dead:
        top_down = " free bits (objective.free_bits=0.5)," if closed_form else ""
        norm = "" if spatial else " batch norm where the model has it and it is off (model.batch_norm=true),"
        parts.append(
            "What usually wakes a level: a longer warm-up of beta (objective.beta_warmup_epochs),"
            f"{norm}{top_down} longer training."
        )
    if dead and dead[0] == z_name(depth - 1) and len(dead) < depth and _is_still(figures, dead[0]):
        fewer = "a level less in model.levels" if spatial else f"model.num_layers={depth - 1}"
        parts.append(f"Or leave {dead[0]} out ({fewer}): hardly anything would be lost.")
    counts = [f"{asleep[z]} of {units[z]} in {z}" for z in _names(depth) if 0 < asleep[z] < units[z]]
    if counts:
        setting = "model.latent_channels" if spatial else "model.latent_sizes"
        parts.append(
            f"Single {kind} asleep (a rate within {ACTIVE_KL} nats of zero): {_and(_few(counts))}, listed "
            f"below. That is no defect: a level uses as many {kind} as pay for themselves, and a smaller one "
            f"({setting}) would do."
        )
    if not closed_form and depth > 1:
        parts.append(
            "Inference is bottom-up: below the top, a rate is no divergence and may be negative. It says "
            "what a unit costs, not what it tells of the image."
        )
    return [" ".join(parts)] if parts else []


def _s(words: Sequence[str]) -> str:
    """The ending of a verb in the third person."""
    return "s" if len(words) == 1 else ""


def _is_still(figures: Figures, z: str) -> bool:
    return figures[f"pixel_change/{z}"] <= STILL * figures["pixel_change/all"]


def _names(depth: int) -> list[str]:
    return [z_name(level) for level in reversed(range(depth))]


def _few(words: Sequence[str]) -> list[str]:
    """All words, or, of many, the first and how many more there are."""
    return list(words) if len(words) <= MANY else [*words[:SAID], f"{len(words) - SAID} more"]


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
