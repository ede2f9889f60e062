"""The bound of a diffusion from a few levels of each image: for training, and for thousands of levels.

Each draw has a time, and with it one level, whose rate times the number of steps estimates the sum over
levels. Times are spread evenly (Kingma et al. 2021, arXiv 2107.00630, appendix I.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ladder_vae.maths.diffusion import added_precision, by_image, mixture_rate, noised, step_rate
from ladder_vae.maths.gaussian import standard_normal
from ladder_vae.maths.keyed_normals import fold, keyed_normals
from ladder_vae.models.inference import Estimate, Terms

if TYPE_CHECKING:
    from ladder_vae.models.diffusion import Diffusion


def _draws_below(model: Diffusion) -> bool:
    """Whether a rate is measured on a draw of the level below the time, as it has no closed form."""
    return model.transition == "mixture" and not model.continuous


def draw_noise(
    model: Diffusion,
    num_samples: int,
    batch: int,
    *,
    like: Tensor,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """The random numbers of :func:`terms`.

    Returns:
        Standard-normal noise, ``(K, B, C, H, W)``; times in [0, 1), ``(K, B)``, spread evenly over the draws
        with one random shift; and for mixtures noise of the level below the time, ``(K, B, C, H, W)``.
    """
    source = generator.device if generator else like.device
    lead, count = (num_samples, batch), num_samples * batch

    def normal() -> Tensor:
        return torch.randn((*lead, *model.image), generator=generator, device=source, dtype=like.dtype)

    drawn = [normal()]
    shift = torch.rand((), generator=generator, device=source, dtype=like.dtype)
    times = (torch.arange(count, device=source, dtype=like.dtype) / count + shift) % 1
    drawn += [times.view(lead), *([normal()] if _draws_below(model) else [])]
    return [each.to(like.device) for each in drawn]


def terms(model: Diffusion, x: Tensor, noise: Sequence[Tensor]) -> Terms:
    """Distortion ``(K, B)`` and rates ``(L, K, B)``, whose means over draws are those of the bound.

    Of the rates of a draw all are 0 but one, which is multiplied by the number of steps, and the top level's,
    which is known. In the limit of infinitely many steps a draw estimates the integral over all times.

    Args:
        x: Images as the likelihood prepares them, ``(B, C, H, W)``.
        noise: From :func:`draw_noise`.
    """
    found = sampled(model, x, noise)
    rates = found.rate.new_zeros(model.steps, *found.rate.shape).scatter(
        0, found.level[None], found.rate[None]
    )
    return Terms(found.distortion, torch.cat([rates, found.top.expand_as(found.rate)[None]]))


class Sampled(NamedTuple):
    """What draws that look at one level each say of images, nats.

    Args:
        distortion: -log p(x | z), ``(K, B)``.
        level: Index of the level that a draw looks at, ``(K, B)``.
        rate: Its rate times the number of steps, ``(K, B)``.
        top: The rate of the top level, ``(B,)``.
    """

    distortion: Tensor
    level: Tensor
    rate: Tensor
    top: Tensor


def sampled(model: Diffusion, x: Tensor, noise: Sequence[Tensor]) -> Sampled:
    """:func:`terms`, without an entry for each level that a draw does not look at."""
    e, t, *e_below = noise
    image, schedule, steps = model.scaled(x), model.schedule, model.steps
    level = (t * steps).long().clamp(0, steps - 1)  # (K, B)
    if model.continuous:
        gamma, slope = schedule.at(t, shape_fixed=True)
        z = noised(image, gamma).rsample(e)
        rate = step_rate(image, model.denoise(z, gamma)[0], slope * torch.exp(-gamma))
        spread = schedule.spread(t, rate.square())
        rate = rate + (spread - spread.detach())  # adds 0, and the gradient that lowers the variance
    else:
        gammas = model.gammas()
        gamma, below = gammas[level + 1], gammas[level]
        z = noised(image, gamma).rsample(e)
        if _draws_below(model):
            rate = steps * mirrored(image * model.denoise(z, gamma)[1], gamma, below, e_below[0])
        else:
            rate = steps * step_rate(image, model.denoise(z, gamma)[0], added_precision(gamma, below))
    distortion, top = ends(model, x, e)
    return Sampled(distortion, level, rate, top)


def ends(model: Diffusion, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """What no step has a part in: the distortion, ``(K, B)``, and the rate of the top level, ``(B,)``.

    Args:
        x: Images as the likelihood prepares them, ``(B, C, H, W)``.
        e: Noise of z_1, ``(K, B, C, H, W)``.
    """
    image, schedule = model.scaled(x), model.schedule
    z_1 = noised(image, schedule.lowest).rsample(e)
    top = noised(image, schedule.highest()).kl(standard_normal(model.image, like=z_1))
    return -model.likelihood.log_prob(model.decoder(z_1), x), top


def mirrored(own_logit: Tensor, gamma: Tensor, below: Tensor, e: Tensor) -> Tensor:
    """The rate of a step to a mixture, on a draw of the level below and its mirror image, nats, ``(*lead)``.

    The part of the rate that is linear in the noise cancels: of many steps that leaves little variance.

    Args:
        own_logit: Logit of the value that each pixel has, ``(*lead, C, H, W)``.
        gamma: Of the level above, ``(*lead)`` or a scalar.
        below: Of the level below, likewise.
        e: Noise, ``(*lead, C, H, W)``.
    """
    added = by_image(added_precision(gamma, below))
    both = mixture_rate(own_logit, added, e) + mixture_rate(own_logit, added, -e)
    return 0.5 * both.flatten(-3).sum(-1)


@torch.inference_mode()
def estimate(model: Diffusion, x: Tensor, keys: Tensor, num_samples: int, per_pass: int) -> Estimate:
    """Means over draws whose times are spread evenly, from a start of its own for each image.

    With T steps and a multiple of T draws, each level has equally many draws: the sum goes through all. Of
    all levels nothing is kept but the result: what a pass needs does not depend on their number.

    Args:
        x: Images as the likelihood prepares them, ``(B, C, H, W)``.
        keys: Keys of the images' noise, int64, ``(B,)``.
        num_samples: Draws of each image.
        per_pass: Draws of each image that are computed at once.
    """
    events = [model.image] * (2 if _draws_below(model) else 1)
    start = torch.special.ndtr(keyed_normals(fold(keys, torch.tensor(-1)), [(1,)])[0][:, 0])  # uniform
    distortion = torch.zeros(len(x), dtype=torch.float64)
    rates = torch.zeros(model.num_layers, len(x), dtype=torch.float64)
    reconstruction = x
    for first in range(0, num_samples, per_pass):
        draws = torch.arange(first, min(first + per_pass, num_samples), device=keys.device)[:, None]
        noise = [each.to(x) for each in keyed_normals(fold(keys, draws), events)]
        times = ((draws / num_samples + start) % 1).to(x)
        found = sampled(model, x, [noise[0], times, *noise[1:]])
        distortion += found.distortion.cpu().double().sum(0)
        rates.scatter_add_(0, found.level.cpu(), found.rate.cpu().double())  # there always in the same order
        rates[-1] += len(draws) * found.top.cpu().double()
        if first == 0:
            z_1 = noised(model.scaled(x), model.schedule.lowest).rsample(noise[0][0])
            reconstruction = model.likelihood.mean(model.decoder(z_1))
    return Estimate(distortion / num_samples, rates / num_samples, reconstruction)
