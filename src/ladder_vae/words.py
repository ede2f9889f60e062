"""What the figures of an analysis say, in words; every sentence follows from a number that it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ladder_vae.bounds import ACTIVE_KL
from ladder_vae.page import Table

# Shares of what all levels do together, drawn anew at once.
DECIDES, HAS_A_SAY = 0.5, 0.2
STILL = 0.02

Figures = Mapping[str, float]


def numbers(figures: Figures, unit_rates: Sequence[Tensor], noun: str) -> Table:
    """All figures, the top level first, and what to hold them against."""
    with_classes, with_probes = "class_change/all" in figures, "probe_pixels" in figures
    headings = ["", "rate (nats)", "active units"]
    headings += ["probe on mean", "probe on innovation"] if with_probes else []
    headings += ["pixel change", *([f"changed {noun}"] if with_classes else [])]

    def row(label: str, names: Sequence[str], units: str = "") -> list[str]:
        rate, mean, innovation, pixel, changed = names
        cells = [_value(figures, rate, 2), units]
        cells += [_share(figures, mean), _share(figures, innovation)] if with_probes else []
        return [
            label,
            *cells,
            _value(figures, pixel, 4),
            *([_share(figures, changed)] if with_classes else []),
        ]

    rows = []
    for level in reversed(range(len(unit_rates))):
        z = f"z{level + 1}"
        names = [
            f"{kind}/{z}"
            for kind in ("rate", "probe_mean", "probe_innovation", "pixel_change", "class_change")
        ]
        rows.append(
            row(z, names, f"{int((unit_rates[level] > ACTIVE_KL).sum())} of {len(unit_rates[level])}")
        )
    rows.append(row("all levels", ["", "", "", "pixel_change/all", "class_change/all"]))
    rows.append(row("same posterior", ["", "", "", "pixel_change/posterior", "class_change/posterior"]))
    if with_probes:
        rows.append(row("the pixels", ["", "probe_pixels", "", "", ""]))
        rows.append(row(f"the commonest {noun}", ["", "probe_none", "", "", ""]))
    return Table(headings, rows, _reading(figures, noun))


def _reading(figures: Figures, noun: str) -> str:
    sentences = [f"Rate: nats per image that the level costs; a unit is active above {ACTIVE_KL} nats."]
    if "probe_pixels" in figures:
        sentences.append(
            f"Probe: share of test images whose {noun} a linear classifier names, from the level's "
            "posterior mean or from its innovation (z - μp) / σp in one posterior sample."
        )
    sentences.append(
        "Pixel change: what becomes of a reconstruction when the innovation of that level alone is drawn "
        "anew, as the mean absolute change of a pixel (0 to 1)."
    )
    if "class_change/all" in figures:
        sentences.append(
            f"Changed {noun}: how often a classifier, itself right on {_share(figures, 'judge_accuracy')} "
            f"of the test images, then names another {noun}."
        )
    sentences.append(
        "± is the standard error over images. Below the levels, what to hold them against: all levels "
        "drawn anew at once; another sample of the same posterior"
    )
    if "probe_pixels" in figures:
        sentences[-1] += f"; a probe on the image itself; naming always the commonest {noun}"
    return " ".join(sentences) + "."


def headline(figures: Figures, depth: int, noun: str) -> str:
    """One sentence: what each level does."""
    if depth == 1:
        return "With a single level, drawing it anew is drawing a new sample of the model."
    if "class_change/all" not in figures:
        return _by_pixels(figures, depth)
    deciding, partial, style, still = _roles(figures, depth)
    look = "stroke and style" if noun == "digit" else "looks"
    parts = [
        f"{_and(deciding)} decide{_s(deciding)} the {noun}"
        if deciding
        else f"no level decides the {noun} alone",
        f"{_and(partial)} {'has' if len(partial) == 1 else 'have'} a say in it" if partial else "",
        f"{_and(style)} change{_s(style)} {look}" if style else "",
        f"{_and(still)} change{_s(still)} nothing to speak of" if still else "",
    ]
    sentence = "; ".join(part for part in parts if part) + "."
    return sentence[0].upper() + sentence[1:] if not deciding else sentence


def describe(figures: Figures, unit_rates: Sequence[Tensor], noun: str, closed_form: bool) -> list[str]:
    """Which level holds what, and which hold nothing: paragraphs.

    Args:
        figures: See :func:`~ladder_vae.levels.level_metrics`.
        unit_rates: Rate of each unit of each level, nats, z_1's first.
        noun: What a class is called.
        closed_form: Whether every rate is a divergence.
    """
    depth = len(unit_rates)
    parts = []
    if "class_change/all" not in figures:
        parts.append(
            "The images have no classes, or all the same: probes, changed classes, colors are left out."
        )
    elif depth > 1:
        parts.append(_influence(figures, depth, noun))
    if depth > 1 and "probe_pixels" in figures:
        parts.append(_redundancy(figures, depth, noun))
    return [*parts, *_asleep(figures, unit_rates, closed_form)]


def _roles(figures: Figures, depth: int) -> tuple[list[str], list[str], list[str], list[str]]:
    """The levels that decide the class, that have a say in it, that change the rest, that change nothing."""
    ceiling = max(figures["class_change/all"], 1e-9)
    moving = [z for z in _names(depth) if not _is_still(figures, z)]
    shares = {z: figures[f"class_change/{z}"] / ceiling for z in moving}
    return (
        [z for z in moving if shares[z] >= DECIDES],
        [z for z in moving if HAS_A_SAY <= shares[z] < DECIDES],
        [z for z in moving if shares[z] < HAS_A_SAY],
        [z for z in _names(depth) if z not in moving],
    )


def _influence(figures: Figures, depth: int, noun: str) -> str:
    """What drawing a level anew does to class and pixels."""
    changed = _and([f"{_share(figures, f'class_change/{z}')} ({z})" for z in _names(depth)])
    moved = _and([f"{figures[f'pixel_change/{z}']:.3f} ({z})" for z in _names(depth)])
    return (
        f"Drawn anew, with all other innovations of a real image kept, a level changes the {noun} in "
        f"{changed} of the cases and moves a pixel by {moved}. All levels at once, which makes a new sample "
        f"of the model: {_share(figures, 'class_change/all')} and {figures['pixel_change/all']:.3f}. Another "
        f"sample of the same posterior: {_share(figures, 'class_change/posterior')} and "
        f"{figures['pixel_change/posterior']:.3f}, what the model leaves open when it knows the image. A "
        f"level is said to decide the {noun} from {100 * DECIDES:.0f} % of what all levels do, to have a say "
        f"in it from {100 * HAS_A_SAY:.0f} %."
    )


def _by_pixels(figures: Figures, depth: int) -> str:
    ordered = sorted(_names(depth), key=lambda z: -figures[f"pixel_change/{z}"])
    moved = _and([f"{z} {_value(figures, f'pixel_change/{z}', 3)}" for z in ordered])
    return (
        f"Drawn anew alone, the levels change a pixel by, most first, {moved}; all at once by "
        f"{_value(figures, 'pixel_change/all', 3)}, another sample of the same posterior by "
        f"{_value(figures, 'pixel_change/posterior', 3)}."
    )


def _redundancy(figures: Figures, depth: int, noun: str) -> str:
    """What a level contains against what it adds."""
    adds = max(_names(depth), key=lambda z: figures[f"probe_innovation/{z}"])
    contains = _and([f"{_share(figures, f'probe_mean/{z}')} ({z})" for z in _names(depth)])
    added = _and([f"{_share(figures, f'probe_innovation/{z}')} ({z})" for z in _names(depth)])
    top, least = figures[f"probe_mean/z{depth}"], figures["probe_mean/z1"]
    passing = (
        " z1 contains no less of it than the top: where the image sees z1 alone, all that the levels "
        "above say passes through z1."
        if least >= top
        else ""
    )
    return (
        f"To contain is not to add. From its posterior mean, a linear probe names the {noun} in {contains} "
        f"of the test images.{passing} What a level adds to those above is its innovation, and there the "
        f"probe finds {added}: most in {adds}. Naming always the commonest {noun} is right in "
        f"{_share(figures, 'probe_none')}."
    )


def _asleep(figures: Figures, unit_rates: Sequence[Tensor], closed_form: bool) -> list[str]:
    """Levels and units that say nothing of the image, and what usually helps."""
    depth, parts = len(unit_rates), []
    asleep = {f"z{level}": len(_sleepers(rates)) for level, rates in enumerate(unit_rates, start=1)}
    units = {f"z{level}": len(rates) for level, rates in enumerate(unit_rates, start=1)}
    dead = [z for z in _names(depth) if asleep[z] == units[z]]
    for z in dead:
        influence = (
            "and drawing it anew changes nothing, either"
            if _is_still(figures, z)
            else f"but drawing it anew moves a pixel by {figures[f'pixel_change/{z}']:.3f}: it adds "
            "variety to samples that the posterior does not choose"
        )
        parts.append(f"{z} is asleep: none of its units has a rate above {ACTIVE_KL} nats, {influence}.")
    if dead:
        top_down = " free bits (objective.free_bits=0.5)," if closed_form else ""
        parts.append(
            "What usually wakes a level: a longer warm-up of beta (objective.beta_warmup_epochs=20), "
            f"batch norm (model.batch_norm=true, where the model has it),{top_down} longer training. Or "
            "leave it out (model.num_layers): what it would say is said elsewhere."
        )
    counts = [f"{asleep[z]} of {units[z]} in {z}" for z in _names(depth) if 0 < asleep[z] < units[z]]
    if counts:
        parts.append(
            f"Single units asleep: {_and(counts)}, listed below. That is no defect: a level uses as many "
            "units as pay for themselves, and a smaller one (model.latent_sizes) would do."
        )
    if not closed_form and depth > 1:
        parts.append(
            "Inference is bottom-up: below the top, a rate is no divergence and may be negative. It says "
            "what a unit costs, not what it tells of the image."
        )
    return [" ".join(parts)] if parts else []


def sleeping_units(unit_rates: Sequence[Tensor]) -> Table:
    """Which units are asleep, by number."""
    rows = []
    for level in reversed(range(len(unit_rates))):
        asleep = _sleepers(unit_rates[level])
        rows.append([f"z{level + 1}", str(len(asleep)), ", ".join(map(str, asleep)) or "none"])
    return Table(["", "asleep", "units, counted from 0"], rows)


def _sleepers(rates: Tensor) -> list[int]:
    """Units whose rate is about zero; bottom-up, one far below zero is awake."""
    return (rates.abs() <= ACTIVE_KL).nonzero()[:, 0].tolist()


def _s(words: Sequence[str]) -> str:
    """The ending of a verb in the third person."""
    return "s" if len(words) == 1 else ""


def _is_still(figures: Figures, z: str) -> bool:
    return figures[f"pixel_change/{z}"] < STILL * figures["pixel_change/all"]


def _names(depth: int) -> list[str]:
    return [f"z{level}" for level in range(depth, 0, -1)]


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _value(figures: Figures, name: str, digits: int) -> str:
    if name not in figures:
        return ""
    error = figures.get(f"{name}_stderr")
    return f"{figures[name]:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _share(figures: Figures, name: str) -> str:
    if name not in figures:
        return ""
    error = figures.get(f"{name}_stderr")
    return f"{100 * figures[name]:.1f}" + ("" if error is None else f" ± {100 * error:.1f}") + " %"
