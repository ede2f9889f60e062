"""What has to be said beside the numbers of a report, each in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ladder_vae.comparison.groups import LONGEST, Group
from ladder_vae.runs.metrics import SAMPLED_LEVELS, beta_stays_below_one
from ladder_vae.runs.record import class_name, flat

READING = (
    "All on the test split; bounds, rates and distortions are in nats per image: a higher ELBO is better. "
    "z1 is the level next to the image. MSE and SSIM hold one reconstruction of each image (the decoder's "
    "mean for one posterior draw) against the image as the model sees it (binarized, where pixels are 0 or "
    "1). The ELBO of training images (train_eval/elbo) is measured as that of test images: by the same "
    "weights, in the same mode, of unwarped images. ± is the standard deviation over seeds."
)
READING_BOUNDS = (
    "L_K is the importance-weighted bound on log p(x) from K samples, tighter with K; the ELBO beside "
    "it is of the same draws. Pareto k-hat tells how heavy the tail of an image's weights is; above 0.7 a "
    "few draws carry the sum: the error over draws is then too small, and a larger K may raise the bound by "
    "far more."
)
READING_UNITS = (
    "A unit is active (KL) where its rate is above 0.01 nats; bottom-up, below the top, that rate is no "
    "divergence. It is active (variance) where its posterior mean, averaged over draws of the other levels, "
    "has a variance over images above 0.01; below the top, that counts units, too, which the level above "
    "predicts. σ²q / σ²p is 1 where the posterior is as wide as the prior."
)
READING_PAIRS = (
    "± is the error over images of the difference, taken image by image: what other test images would "
    "change. Unpaired stands what it would be had the two been evaluated on different images. Other seeds "
    "change a difference, too."
)
READING_LEVELS = (
    "Of each level: its rate; how often a linear probe names the class from its posterior mean, from one "
    "posterior sample z, and from that sample's innovation (z - μp) / σp, what it adds to what the levels "
    "above expect. Then what becomes of a reconstruction when the innovation of this level alone is drawn "
    "anew: the change of a pixel, of the amount of ink, of the slant, and how often a classifier names "
    "another class. ± is the standard deviation over seeds; `python -m ladder_vae.analyze` explains and "
    "draws all this for each run."
)
SHARED = {  # setting: its name in a sentence
    "data._target_": "data",
    "data.binarization": "binarization",
    "data.val_size": "validation images",
    "data.batch_size": "batch",
    "trainer.max_epochs": "epochs",
    "optimizer.lr": "learning rate",
    "objective.beta_warmup_epochs": "beta warm-up epochs",
    "objective.free_bits": "free bits",
}


def shared_settings(groups: Sequence[Group]) -> str:
    """A sentence on the settings that all groups share, and one on those that a rule gives them by depth."""
    configs = [flat(group.runs[0].config) for group in groups]
    shared, following = [], []
    for key, name in SHARED.items():
        if key not in configs[0] or key in groups[0].settings:
            continue
        values = [str(config[key]) for config in configs if key in config]
        if key == "data._target_":
            values = [class_name(value) for value in values]
        if len(set(values)) == 1:
            shared.append(f"{name} {values[0]}")
        else:  # a rule that says them by depth tells rows apart, not they
            following.append(f"{name} {', '.join(values)}")
    sentence = "Shared by all rows: " + ", ".join(shared) + "."
    if following:
        sentence += " From row to row: " + "; ".join(following) + "."
    if configs[0].get("data.binarization") == "static":
        sentence += " The static draw is this package's own, not the files of Larochelle and Murray (2011)."
    return sentence


def not_the_elbo(groups: Sequence[Group]) -> list[str]:
    """A sentence on each group whose training never came to beta = 1."""
    found = []
    for group in groups:
        run = group.runs[0]
        epochs = run.metrics.get("train/epochs") or flat(run.config).get("trainer.max_epochs")
        if said := beta_stays_below_one(run.config, epochs if isinstance(epochs, (int, float)) else 0):
            found.append(f"{group.label}: {said}.")
    return found


def began_elsewhere(groups: Sequence[Group]) -> list[str]:
    """A sentence on each run from whose weights groups went on."""
    began: dict[str, list[str]] = {}
    for group in groups:
        if start := group.runs[0].config.get("init_from"):
            began.setdefault(_short(start), []).append(group.label)
    return [
        f"Training went on from the weights of {start}, and epochs and seconds are of its own part alone, of "
        f"{', '.join(labels)}."
        for start, labels in began.items()
    ]


def of_few_levels(groups: Sequence[Group]) -> list[str]:
    """A sentence on groups whose ELBO was estimated from a few levels of each image."""
    looked = {group.label: found for group in groups if (found := group.values(SAMPLED_LEVELS))}
    if not looked:
        return []
    most = max(value for found in looked.values() for value in found)
    return [
        f"Of {', '.join(looked)} the ELBO is an estimate: each image was looked at on at most {most:.0f} "
        "levels, spread evenly over all of them. Its standard error over images (test/elbo_stderr) holds the "
        "error of not looking at the others."
    ]


def not_in_names(groups: Sequence[Group]) -> list[str]:
    """A sentence on settings that differ between groups but are too many for their names."""
    told = groups[0].named if groups else None
    if told is None:
        return []
    series = {group.series: group.settings for group in groups}.values()
    named = {"model._target_", "model.num_layers", *told}
    keys = sorted({key for settings in series for key in settings} - named)
    words = {key: [_short(settings.get(key)) for settings in series] for key in keys}
    said = [f"{key} {', '.join(values)}" for key, values in words.items() if len(set(values)) > 1]
    if not said:
        return []
    return [f"These differ in more than their names say, in the order of the tables: {'; '.join(said)}."]


def _short(value: Any) -> str:
    """A setting in a sentence; of a long one, as of a path, its end."""
    word = "-" if value is None else str(value)
    return word if len(word) <= LONGEST else f"...{word[-LONGEST:]}"
