"""What a comparison of runs shows, in words: of what was measured, and of nothing else."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from ladder_vae.comparison.groups import Group, seed_noise, shared_bits
from ladder_vae.runs.metrics import of_runs

ELBO, MSE, DISTORTION = (of_runs(f"test/{name}") for name in ("elbo", "mse", "distortion"))
EQUAL = 0.05  # relative difference up to which reconstructions are called equal within it
MAX_STEPS = 6  # from depth to depth, each in words
MAX_SERIES, MAX_NAMED = 4, 5  # in words, or by name
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ORDINALS = (
    *("", "a first", "a second", "a third", "a fourth", "a fifth", "a sixth", "a seventh", "an eighth"),
    *("a ninth", "a tenth"),
)
# Settings of data in which runs may differ that are tested on the same pixels.
OF_TRAINING = ("data.batch_size", "data.eval_batch_size", "data.val_size", "data.warp", "data.warp_epochs")


def verdict(groups: Sequence[Group], missing: Sequence[str] = ()) -> list[str]:
    """Paragraphs: what levels bring, how far seeds scatter, how reconstructions compare, what is missing.

    Args:
        groups: By series, then depth.
        missing: Runs that are in no group, each with the reason.
    """
    measured = [group for group in groups if group.values(ELBO.name)]
    unknown = [group.label for group in groups if group not in measured]
    said = _compared(measured) if measured else ["No run has a test ELBO: there is nothing to compare."]
    if not groups:
        said = ["No run has finished: there is nothing to compare."]
    elif measured and unknown:
        said.append(f"No ELBO was measured of {_named(unknown)}.")
    if missing:
        said.append(f"In no number here: {_named(missing)}.")
    return said


def _compared(groups: Sequence[Group]) -> list[str]:
    series = [list(members) for _, members in itertools.groupby(groups, lambda group: group.series)]
    deep = [members for members in series if len({group.depth for group in members}) > 1]
    said = [_best(groups)] if len(series) > 1 else []
    for members in deep[:MAX_SERIES]:
        sentences = " ".join(filter(None, (_steps(members), _scatter(members), _reconstructions(members))))
        said.append(sentences if len(series) == 1 else f"{members[0].series}: {sentences}")
    if len(deep) > MAX_SERIES:
        said.append(f"What levels bring in {len(deep) - MAX_SERIES} more series is in the tables.")
    if not deep and len(series) == 1:
        (group,) = groups
        reached = f"{group.label}: ELBO {_reached(group)}"
        said.append(f"{reached}. There is no other depth or model to compare with. {_scatter(groups)}")
    elif not deep:
        said.append(f"No model has several depths: what levels bring is unknown. {_scatter(groups)}")
    return said


def _best(groups: Sequence[Group]) -> str:
    """Which of several series has the highest ELBO, where they were tested on the same pixels."""
    if any(_of_pixels(key) for group in groups for key in group.settings):
        return (
            "These models were tested on other images, or other pixels of them: their ELBOs do not compare."
        )
    first = max(groups, key=lambda group: group.mean(ELBO.name))
    others = [group for group in groups if group.series != first.series]
    second = max(others, key=lambda group: group.mean(ELBO.name))
    lead = first.mean(ELBO.name) - second.mean(ELBO.name)
    chance = ", which seeds alone can make" if _by_chance(lead, first, second, groups) else ""
    return (
        f"The highest ELBO, {_reached(first)}, has {first.label}: {_nats(lead)}"
        f"{_aside(_bits(lead, [first, second]))} more than the best of the others, {second.label}{chance}."
    )


def _reached(group: Group) -> str:
    """The mean ELBO in its units: ``-90.12 nats``; of 256 values a pixel, in bits per dimension, too."""
    nats, per_nat = group.mean(ELBO.name), group.bits_per_nat
    return f"{ELBO.text(nats)} nats" + _aside(f"{-per_nat * nats:.3f} {BITS}" if per_nat else "")


def _of_pixels(key: str) -> bool:
    return (key.startswith("data.") and key not in OF_TRAINING) or key == "likelihood._target_"


def _steps(groups: Sequence[Group]) -> str:
    """What each depth of a series brings beyond the one before."""
    means = [group.mean(ELBO.name) for group in groups]
    pairs = [(a, b) for a, b in itertools.pairwise(groups) if a.depth != b.depth]
    if len(pairs) > MAX_STEPS:
        best = groups[means.index(max(means))]
        step = _step(groups[0], groups[-1], groups, "")
        return f"{step[0].upper()}{step[1:]} in all; the highest ELBO has L={best.depth}."
    parts, verb = [], ""
    for a, b in pairs:
        parts.append(_step(a, b, groups, verb))
        verb = _verb(b.mean(ELBO.name) - a.mean(ELBO.name))
    sentence = ", ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _step(a: Group, b: Group, groups: Sequence[Group], before: str) -> str:
    """``a second level brings 4.8 nats of ELBO``; of a later step, ``a third 0.9``.

    Args:
        before: The verb of the step before, which is not repeated; empty for the first.
    """
    more, change = b.depth - a.depth, b.mean(ELBO.name) - a.mean(ELBO.name)
    if more == 1 and b.depth < len(ORDINALS):
        who = ORDINALS[b.depth]
    else:
        who = f"{NUMBERS[more] if more < len(NUMBERS) else more} more"
    verb = _verb(change)
    told = verb if more > 1 else {"change": "changes"}.get(verb, f"{verb}s")
    words = [who] if before else [who, "level" if more == 1 else "levels"]
    if verb != before:
        words.append(f"{told} the ELBO by" if verb == "change" else told)
    words.append(_nats(change))
    if not before:
        words.append("nats" if verb == "change" else "nats of ELBO")
    bits = _bits(change, [a, b])
    chance = verb != "change" and _by_chance(change, a, b, groups)
    unit = f" {BITS}" if bits and not before else ""
    return " ".join(words) + _aside(bits + unit, "which seeds alone can make" if chance else "")


def _verb(change: float) -> str:
    return "change" if abs(change) < SMALLEST else "bring" if change > 0 else "cost"


SMALLEST = 0.005  # nats: a change below is none to speak of
BITS, SMALLEST_BITS = "bits per dimension", 0.0001  # the last digit of a difference


def _nats(value: float) -> str:
    """A difference without its sign, to one decimal, below 0.1 nats to two."""
    size = abs(value)
    if size < SMALLEST:
        return "less than 0.01"
    return f"{size:,.1f}" if size >= 0.095 else f"{size:.2f}"


def _bits(value: float, groups: Sequence[Group]) -> str:
    """A difference in bits per dimension, without sign and unit; empty where groups do not share them."""
    per_nat = shared_bits(groups)
    if per_nat is None:
        return ""
    size = abs(per_nat * value)
    return f"{size:.4f}" if size >= SMALLEST_BITS / 2 else f"less than {SMALLEST_BITS}"


def _aside(*words: str) -> str:
    """What there is of the words, in parentheses behind a space."""
    said = ", ".join(filter(None, words))
    return f" ({said})" if said else ""


def _by_chance(change: float, a: Group, b: Group, groups: Sequence[Group]) -> bool:
    """Whether a change is below two standard errors, where the noise between seeds is known."""
    runs = [len(group.values(ELBO.name)) for group in (a, b)]
    error = seed_noise(groups, ELBO.name) * math.sqrt(sum(1 / n for n in runs))
    return abs(change) < 2 * error


def _scatter(groups: Sequence[Group]) -> str:
    noise = seed_noise(groups, ELBO.name)
    if math.isnan(noise):
        return "One seed each: how far seeds scatter is unknown."
    several = sum(len(group.values(ELBO.name)) > 1 for group in groups)
    which = "" if several == len(groups) else f", of which {several} of {len(groups)} models have several,"
    bits = _bits(noise, groups)
    return f"Seeds{which} scatter by {_nats(noise)} nats{_aside(bits and f'{bits} {BITS}')}."


def _reconstructions(groups: Sequence[Group]) -> str:
    """How the reconstructions of a series compare; empty where fewer than two of its depths say."""
    for metric in (MSE, DISTORTION):
        known = {group.depth: group.mean(metric.name) for group in groups if group.values(metric.name)}
        if len(known) > 1:
            break
    else:
        return ""
    low, high = min(known.values()), max(known.values())
    far = "" if len(known) == len(groups) else f", of the {len(known)} depths that have one"
    if metric is DISTORTION:
        return f"Distortions differ by up to {_nats(high - low)} nats{far}; no MSE was measured."
    share = (high - low) / high if high else 0.0
    values = f"MSE {low:.4f} to {high:.4f}{far}"
    if share < EQUAL:
        return f"Reconstructions are equal within {100 * share:.1f} % ({values})."
    best = min(known, key=known.__getitem__)
    levels = f"{best} level{'s' if best > 1 else ''}"
    return f"The best reconstructions have {levels}: {values}, {100 * share:.0f} % apart."


def _named(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f", and {more} more" if more > 0 else "")
