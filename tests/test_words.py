"""Made-up figures, of which the right sentence is known."""

import pytest
import torch

from ladder_vae.analysis.level_tables import numbers, sleeping_units
from ladder_vae.analysis.sentences import describe, headline


def figures(changes, pixels=None, probes=True, **more):
    """Of as many levels as ``changes`` has, z_1 first."""
    depth = len(changes)
    pixels = pixels or [0.05] * depth
    found = {"images": 100, "draws": 4, "judge_accuracy": 0.99, "judge_accuracy_stderr": 0.001}
    found |= {"class_change/all": 0.9, "class_change/posterior": 0.02}
    found |= {"pixel_change/all": 0.16, "pixel_change/posterior": 0.03, "class_kept": 0.97}
    for level, (change, pixel) in enumerate(zip(changes, pixels, strict=True), start=1):
        found |= {f"class_change/z{level}": change, f"pixel_change/z{level}": pixel, f"rate/z{level}": 2.0}
        found |= {f"ink_change/z{level}": pixel, f"slant_change/z{level}": 10 - level}
        if probes:
            found |= {f"probe_mean/z{level}": 0.9, f"probe_innovation/z{level}": change}
            found |= {f"probe_sample/z{level}": 0.8}
    if probes:
        found |= {"probe_pixels": 0.89, "probe_none": 0.11}
    return found | more


def units(*awake, of=4):
    """Rates of ``of`` units a level, of which so many are awake."""
    return [torch.tensor([1.0] * n + [0.001] * (of - n)) for n in awake]


@pytest.mark.parametrize(
    ("changes", "pixels", "expected"),
    [
        (
            [0.1, 0.3, 0.8],
            None,
            "z3 decides the digit; z2 has a say in it; z1 changes details that mostly leave it as it is.",
        ),
        (
            [0.8, 0.1, 0.0],
            [0.1, 0.05, 0.001],
            "z1 decides the digit; z2 changes details that mostly leave it as it is; "
            "z3 changes nothing to speak of.",
        ),
        ([0.5, 0.5], None, "z2 and z1 decide the digit."),
        ([0.25, 0.3, 0.4], None, "No level decides the digit alone; z3, z2 and z1 have a say in it."),
        ([0.0, 0.0], [0.0, 0.0], "No level decides the digit alone; z2 and z1 change nothing to speak of."),
    ],
)
def test_headline(changes, pixels, expected):
    assert headline(figures(changes, pixels), len(changes), "digit") == expected


def test_what_holds_for_a_class_that_is_no_digit():
    text = headline(figures([0.1, 0.8]), 2, "class")
    assert text == "z2 decides the class; z1 changes details that mostly leave it as it is."


def test_without_classes_only_pixels_are_spoken_of():
    found = {k: v for k, v in figures([0.1, 0.8], [0.02, 0.1], probes=False).items() if "class" not in k}
    text = headline(found, 2, "class")
    assert "z2 0.100 and z1 0.020" in text
    assert "decide" not in text
    no_judge, pixels, no_probes = describe(found, units(4, 4), "class", True)
    assert "no judge" in no_judge
    assert "0.100 (z2) and 0.020 (z1)" in pixels
    assert "no probes" in no_probes
    assert "changed class" not in numbers(found, units(4, 4), "class").headings


@pytest.mark.parametrize(
    "poor",
    [
        {"class_kept": 0.3},  # it does not recognize reconstructions, or
        {"class_change/all": 0.1},  # takes all that the model draws for one class
    ],
)
def test_a_judge_that_cannot_tell_is_not_asked(poor):
    found = figures([0.05, 0.09]) | poor
    assert "decide" not in headline(found, 2, "digit")
    texts = describe(found, units(4, 4), "digit", True)
    assert "the judge cannot tell" in texts[0]
    assert not any("a say in it" in text for text in texts)


def test_a_decoder_that_ignores_its_latents():
    found = figures([0.0, 0.0], [0.0, 0.0]) | {"pixel_change/all": 0.0, "class_change/all": 0.0}
    assert "decide" not in headline(found, 2, "digit")
    text = describe(found, units(0, 0), "digit", True)[-1]
    assert text.count("drawing it anew changes nothing, either") == 2
    assert "num_layers" not in text  # nothing else is awake


def test_what_the_posterior_leaves_open_counts_for_no_level():
    found = figures([0.25, 0.7]) | {"class_change/posterior": 0.2}
    assert headline(found, 2, "digit").startswith("z2 decides the digit; z1 changes details")


def test_one_level_has_nothing_to_be_held_against():
    assert "single level" in headline(figures([0.9]), 1, "digit")
    assert describe(figures([0.9]), units(4), "digit", True) == []


def test_style_names_the_level_that_moves_it_most():
    text = describe(figures([0.1, 0.8], [0.02, 0.1]), units(4, 4), "digit", True)[1]
    assert "ink changes by 10 % (z2) and 2 % (z1)" in text
    assert "Ink moves most with z2, slant with z1." in text


def test_dead_levels_are_named_with_remedies():
    found = figures([0.8, 0.1, 0.0], [0.1, 0.05, 0.0])
    text = describe(found, units(4, 3, 0), "digit", True)[-1]
    assert "z3 is asleep" in text
    assert "drawing it anew changes nothing, either" in text
    assert "objective.beta_warmup_epochs" in text
    assert "objective.free_bits" in text
    assert "1 of 4 in z2" in text
    bottom_up = describe(found, units(4, 3, 0), "digit", False)[-1]
    assert "free_bits" not in bottom_up  # it refuses them
    assert "no divergence" in bottom_up


def test_a_rate_of_zero_is_not_no_influence():
    text = describe(figures([0.1, 0.8]), units(4, 0), "digit", True)[-1]
    assert "z2 is asleep" in text
    assert "but drawing it anew changes a pixel by 0.050" in text


def test_all_awake_needs_no_word():
    texts = describe(figures([0.1, 0.8]), units(4, 4), "digit", True)
    assert not any("asleep" in text for text in texts)


def test_a_unit_far_below_zero_is_awake():
    """Possible bottom-up, below the top."""
    rates = [torch.tensor([-0.5, 0.001]), torch.tensor([1.0, 2.0])]
    assert "1 of 2 in z1" in describe(figures([0.1, 0.8]), rates, "digit", False)[-1]
    assert sleeping_units(rates).rows == [["z2", "0", "none"], ["z1", "1", "1"]]


def test_of_many_levels_some_are_named():
    changes = [0.01] * 60 + [0.8, 0.02, 0.03, 0.04]
    texts = [
        headline(figures(changes), 64, "digit"),
        *describe(figures(changes), units(*[4] * 64), "digit", True),
    ]
    assert texts[0].startswith(
        "z61 decides the digit; z64, z63, z62, z60, z59, z58, z57, z56 and 55 more change"
    )
    assert "80.0 % (z61)" in texts[1]
    assert "(the 8 highest of 64 levels) of the cases" in texts[1]
    assert max(text.count("(z") for text in texts) <= 24
    asleep = describe(figures(changes), units(*[0] * 64), "digit", True)[-1]
    assert "z64, z63, z62, z61, z60, z59, z58, z57 and 56 more are asleep" in asleep


def test_contains_and_adds():
    found = figures([0.1, 0.8]) | {"probe_sample/z1": 0.95, "probe_sample/z2": 0.84}
    text = describe(found, units(4, 4), "digit", True)[2]
    assert "95.0 % (z1) of the test images. z1 contains no less of it than the top" in text
    assert "most in z2" in text
    found |= {"probe_sample/z1": 0.5}
    assert "contains no less" not in describe(found, units(4, 4), "digit", True)[2]


def test_numbers_hold_all_figures_with_their_errors():
    found = figures([0.1, 0.8]) | {"class_change/z2_stderr": 0.004, "rate/z2_stderr": 0.01}
    table = numbers(found, units(3, 4), "digit")
    top = dict(zip(table.headings, table.rows[0], strict=True))
    assert top[""] == "z2"
    assert top["rate (nats)"] == "2.00 ± 0.01"
    assert top["units awake"] == "4 of 4"
    assert top["changed digit"] == "80.0 ± 0.4 %"
    assert {row[0] for row in table.rows} >= {"z1", "all levels", "same posterior", "the pixels"}
    assert "99.0 ± 0.1 %" in table.note  # of the judge
    assert all(len(row) == len(table.headings) for row in table.rows)
