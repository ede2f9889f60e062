"""The catalogue of metrics: what tables, charts, TensorBoard and sentences know of them, and their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ladder_vae.system.naming import CURVES, level_groups, z_name

LEVELS = "levels"  # what the analysis of levels enters into METRICS is named <split>/levels/...
SKIPPED = "train/skipped_steps"  # of runs that may skip steps (trainer.gradient_skip_factor)
SAMPLED_LEVELS = "test/sampled_levels"  # of each image: of models of which a draw looks at one level alone
IMAGES_OF = {"test": "test images", "val": "validation images", "train": "training images"}


@dataclass(frozen=True)
class Metric:
    """What is known of a metric wherever it is shown.

    Args:
        name: Name in ``metrics.json``. Metrics of units and levels leave out the prefix (split, ``levels``)
            and the suffix (``z1``).
        title: Its name in a table; ``{noun}`` stands for what a class is called.
        digits: Decimals.
        unit: Its unit; a share in ``%`` is a number from 0 to 1.
        better: ``up`` or ``down``, where one is better.
        cost: Whether it says what a model costs rather than how good it is.
        in_hparams: Whether TensorBoard's table of hyperparameters has a column of it; of levels, one each.
        drawn: Label in the chart of levels; ``{noun}`` as above.
        against: What a level is held against there (:data:`REFERENCES`).
        said: Beginning of a sentence about this change, which goes on with its values.
        what: Noun for the quantity in that sentence.
    """

    name: str
    title: str
    digits: int
    unit: str = ""
    better: str = ""
    cost: bool = False
    in_hparams: bool = False
    drawn: str = ""
    against: tuple[str, ...] = ()
    said: str = ""
    what: str = ""

    @property
    def heading(self) -> str:
        """Title and unit, of a column whose cells are bare numbers."""
        return self.title.format(noun="class") + (f" ({self.unit})" if self.unit else "")

    @property
    def suffix(self) -> str:
        """The unit as it follows a number in text; empty for units that stand in headings only."""
        return {"%": " %", "°": "°"}.get(self.unit, "")

    @property
    def form(self) -> str:
        """Format of a number, as in ``format(value, form)``."""
        return f",.{self.digits}f"

    @property
    def factor(self) -> float:
        """Factor from the stored number to the shown one: 100 for percent, else 1."""
        return 100 if self.unit == "%" else 1

    def text(self, value: float, *, fewer: int = 0) -> str:
        """Format the value in its unit, without the name of the unit, with ``fewer`` decimals less."""
        return format(self.factor * value, f",.{self.digits - fewer}f")


#: Metrics of finished runs, in the order of table columns. Each that runs have is also plotted against depth.
OF_RUNS = (
    Metric("test/elbo", "ELBO", 2, "nats", "up", in_hparams=True),
    Metric("test/bits_per_dim", "bits per dimension", 3, "", "down"),
    Metric("test/distortion", "distortion", 2, "nats", "down", in_hparams=True),
    Metric("test/rate", "rate", 2, "nats", in_hparams=True),
    Metric("test/mse", "MSE", 5, "", "down", in_hparams=True),
    Metric("test/ssim", "SSIM", 4, "", "up", in_hparams=True),
    Metric("train_eval/elbo", "ELBO, training images", 2, "nats", "up", in_hparams=True),
    Metric("train_eval/bits_per_dim", "bits per dimension, training images", 3, "", "down"),
    Metric("model/parameters", "parameters", 0, cost=True),
    Metric("train/images_per_second", "images/s", 0, cost=True, in_hparams=True),
    Metric("train/seconds", "training", 0, "s", cost=True, in_hparams=True),
    Metric(SKIPPED, "skipped steps", 0, cost=True),
)


def of_runs(name: str) -> Metric:
    """A metric of finished runs by its name; KeyError if there is none."""
    return {metric.name: metric for metric in OF_RUNS}[name]


#: Metrics of latent units: ``<split>/NAME`` of all levels together, ``<split>/NAME/z1`` of one.
OF_UNITS = (
    Metric("active_units", "active units (KL)", 1),
    Metric("active_units_var", "active units (variance)", 1),
    Metric("variance_ratio", "σ²q / σ²p", 2),
)
DRAWS, PROBES = ("all", "posterior"), ("probe_pixels", "probe_none")
#: Metrics of levels, present after ``analyze``: ``<split>/levels/NAME/z1``.
OF_LEVELS = (
    Metric("rate", "rate", 2, "nats", drawn="rate (nats)"),
    Metric(
        "probe_mean",
        "probe: mean",
        1,
        "%",
        drawn="{noun} read off the posterior mean (%)",
        against=PROBES,
    ),
    Metric("probe_sample", "probe: sample", 1, "%", drawn="{noun} read off a sample (%)", against=PROBES),
    Metric(
        "probe_innovation",
        "probe: innovation",
        1,
        "%",
        drawn="{noun} read off its innovation (%)",
        against=PROBES,
    ),
    Metric("pixel_change", "pixel change", 4, drawn="drawn anew: pixel change", against=DRAWS),
    Metric(
        "ink_change",
        "ink change",
        1,
        "%",
        drawn="drawn anew: ink change (%)",
        against=DRAWS,
        said="the amount of ink changes by",
        what="ink",
    ),
    Metric(
        "slant_change",
        "slant change",
        2,
        "°",
        drawn="drawn anew: slant change (degrees)",
        against=DRAWS,
        said="the slant by",
        what="slant",
    ),
    Metric("class_change", "changed {noun}", 1, "%", drawn="drawn anew: changed {noun}s (%)", against=DRAWS),
)
#: What a level is held against, by the name of the figure.
REFERENCES = {
    "all": "all levels",
    "posterior": "same posterior",
    "probe_pixels": "the pixels",
    "probe_none": "the commonest {noun}",
}


def hparams_columns(num_layers: int) -> list[str]:
    """Metrics in TensorBoard's table of hyperparameters; its columns have to fit runs of every depth."""
    of_runs = [metric.name for metric in OF_RUNS if metric.in_hparams]
    bounds = ["test/log_px/K=1000", "test/log_px/K=5000"]  # where the run was evaluated
    of_levels = [
        f"test/{LEVELS}/{metric.name}/{z_name(level)}"
        for metric in OF_LEVELS
        if metric.in_hparams
        for level in range(num_layers)
    ]
    return [*of_runs[:1], *bounds, *of_runs[1:], "train/epochs", *of_levels]


def curves(stage: str, num_layers: int) -> list[str]:
    """Names of the terms that training logs of ``train`` or ``val``."""
    rates = [f"rate/{name}" for name in level_groups(num_layers, CURVES)]
    return [f"{stage}/{name}" for name in ("elbo", "rate", "distortion", *rates)]


def level_keys(metric: str) -> list[str | int]:
    """Sort key that puts ``rate/z2`` before ``rate/z10``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", metric)]


def split_of(metric: str) -> str:
    """``test_2000`` of ``test_2000/elbo``; empty where a name begins with no split."""
    found = re.match(rf"((?:{'|'.join(IMAGES_OF)})(?:_\d{{1,9}})?)/", metric)
    return found[1] if found else ""


def images_of(split: str) -> str:
    """``test_2000`` in words: "2000 test images, evenly spaced"."""
    name, _, count = split.partition("_")
    kind = IMAGES_OF[name]
    return f"{count} {kind}, evenly spaced" if count else f"all {kind}"


def beta_stays_below_one(config: Mapping[str, Any], epochs: float) -> str:
    """What to say of a run whose warm-up of beta is longer than its training; empty if it is not."""
    warmup = (config.get("objective") or {}).get("beta_warmup_epochs")
    if not isinstance(warmup, (int, float)) or not warmup >= epochs > 0:
        return ""
    return (
        f"beta does not reach 1 in {epochs:g} epochs (objective.beta_warmup_epochs={warmup:g}): what is "
        "trained is not the ELBO"
    )
