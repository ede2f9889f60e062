"""An evaluation in numbers: means over images, their errors, and which latent units are active."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ladder_vae.models.evaluator import Settings
from ladder_vae.models.inference import Terms
from ladder_vae.models.statistics import ImageStatistics, UnitStatistics
from ladder_vae.system.naming import z_name

ACTIVE_KL = 0.01  # nats (Sønderby et al. 2016)
ACTIVE_VARIANCE = 0.01  # Burda et al. 2015
KHAT_LIMITS = (0.7, 1.0)  # above the first an error is not to be trusted, above the second no mean shows
ESS_QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95}


def summarize(
    statistics: ImageStatistics, settings: Settings, units: Sequence[int], split: str = "test"
) -> dict[str, float]:
    """Means over images, by the names of ``metrics.json``.

    Left out is what cannot be told: errors over a single image or draw, variance over a single image.

    Args:
        settings: What was drawn.
        units: Number of units of each level.
        split: First part of every name.
    """
    images = len(statistics.elbo)
    elbo = statistics.elbo
    metrics = Terms(statistics.distortion.mean(), statistics.rates.mean(0)).named(split)
    metrics |= {
        f"{split}/elbo_stderr": _stderr(elbo),
        f"{split}/rate_stderr": _stderr(statistics.rates.sum(1)),
        f"{split}/distortion_stderr": _stderr(statistics.distortion),
        f"{split}/mse": statistics.mse.mean(),
        f"{split}/ssim": statistics.ssim.mean(),
    }
    for i, k in enumerate(settings.sample_sizes):
        log_px = statistics.log_px[:, i]
        metrics[f"{split}/log_px/K={k}"] = log_px.mean()
        metrics[f"{split}/log_px/K={k}_stderr"] = _stderr(log_px)
        metrics[f"{split}/log_px/K={k}_mc_stderr"] = statistics.draw_var[:, i].sum().sqrt() / images
        metrics[f"{split}/ess/K={k}"] = statistics.ess[:, i].mean()
        if k > 1:
            at = torch.tensor(list(ESS_QUANTILES.values()), dtype=torch.float64)
            quantiles = statistics.ess[:, i].quantile(at)
            metrics |= {
                f"{split}/ess/K={k}/{name}": q for name, q in zip(ESS_QUANTILES, quantiles, strict=True)
            }
            metrics[f"{split}/gap/K={k}"] = (log_px - elbo).mean()
            metrics[f"{split}/gap/K={k}_stderr"] = _stderr(log_px - elbo)
    tail = f"{split}/khat/K={settings.num_samples}"
    metrics[f"{tail}/median"] = statistics.khat.quantile(0.5)
    if statistics.khat.isfinite().all():
        metrics |= {
            f"{tail}/above_{limit:g}": (statistics.khat > limit).double().mean() for limit in KHAT_LIMITS
        }
    if statistics.units is not None:
        metrics |= _of_units(statistics.units, units, split)
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def _of_units(statistics: UnitStatistics, units: Sequence[int], split: str) -> dict[str, Tensor]:
    """How many units are active, and how much narrower posteriors are than priors, by level."""
    metrics: dict[str, Tensor] = {}
    active = {"active_units": statistics.rate > ACTIVE_KL}
    if statistics.images > 1:
        active["active_units_var"] = statistics.variance() > ACTIVE_VARIANCE
    for name, which in active.items():
        metrics[f"{split}/{name}"] = which.sum()
        by_level = enumerate(which.split(list(units)))
        metrics |= {f"{split}/{name}/{z_name(level)}": a.sum() for level, a in by_level}
    ratios = statistics.log_ratio.split(list(units))
    metrics |= {f"{split}/variance_ratio/{z_name(level)}": r.mean().exp() for level, r in enumerate(ratios)}
    return metrics


def bits_per_dim(metrics: Mapping[str, float], bits_per_nat: float) -> dict[str, float]:
    """ELBO and bounds in bits per dimension, as ``test/bits_per_dim`` and ``test/bits_per_dim/K=1000``.

    Args:
        metrics: By the names of ``metrics.json``, nats.
        bits_per_nat: Bits per dimension in a nat per image.
    """
    found = ((re.fullmatch(r"(\w+)/(?:elbo|log_px(/K=\d+))", name), value) for name, value in metrics.items())
    return {f"{name[1]}/bits_per_dim{name[2] or ''}": -bits_per_nat * value for name, value in found if name}


def _stderr(values: Tensor) -> Tensor:
    """Standard error of the mean over images; NaN for a single one."""
    return values.std() / math.sqrt(len(values)) if len(values) > 1 else values.new_tensor(math.nan)
