"""Deterministic building blocks. Each net maps ``(*, in)`` to ``(*, out)``, with any leading axes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ladder_vae.maths.elementary import softplus
from ladder_vae.maths.gaussian import Gaussian, bounded_log_var, full_precision
from ladder_vae.system.ranks import stacked, world_size

# A floor under softplus variances: in float32, exp underflows below about -88, and log(0) would follow.
MIN_VARIANCE = 1e-6


class BatchNorm(nn.BatchNorm1d):
    """Batch normalization over all leading axes at once: ``(*, features)``.

    Where processes share the images of a batch, the moments are those of the whole batch. (Lightning's
    ``sync_batchnorm`` would put a class in place of this one that takes the leading axes for features, and
    refuses tensors on the CPU.)
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, input: Tensor) -> Tensor:
        rows = input.flatten(0, -2)
        shared = self.training and world_size() > 1
        return (self._shared(rows) if shared else super().forward(rows)).view_as(input)

    def _shared(self, rows: Tensor) -> Tensor:
        """Normalize rows ``(n, features)`` by the moments of all processes' rows. Some may have none."""
        x = full_precision(rows)
        count = x.new_tensor([len(x)])
        mean = x.sum(0) / count.clamp(min=1)
        squares = ((x - mean) ** 2).sum(0)
        # of each process, (processes, .), merged as in Chan, Golub and LeVeque 1983
        counts, means, parts = stacked(torch.cat([count, mean, squares])).tensor_split([1, 1 + len(mean)], 1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        var = (parts + counts * (means - mean) ** 2).sum(0) / total
        with torch.no_grad():
            unbiased = var * total / (total - 1).clamp(min=1)
            self.num_batches_tracked.add_(1)
            # without a momentum, as in torch's own, statistics are the mean over all batches
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean), share)
            self.running_var.lerp_(unbiased.to(self.running_var), share)
        return ((x - mean) * torch.rsqrt(var + self.eps) * self.weight + self.bias).to(rows.dtype)


class MLP(nn.Sequential):
    """Two dense layers of ``hidden`` units, each with batch norm and leaky ReLU of slope 0.1.

    This is the deterministic block of the Ladder VAE (Sønderby et al. 2016, arXiv 1602.02282).
    A layer followed by batch norm has no bias, because batch norm adds one.
    """

    def __init__(self, in_features: int, hidden: int, *, batch_norm: bool = True) -> None:
        layers: list[nn.Module] = []
        for width in (in_features, hidden):
            layers.append(nn.Linear(width, hidden, bias=not batch_norm))
            if batch_norm:
                layers.append(BatchNorm(hidden))
            layers.append(nn.LeakyReLU(0.1))
        super().__init__(*layers)


#: Normalizations by name. Each is called with the number of features and makes a module.
NORMS: dict[str, type[nn.Module]] = {"batch": BatchNorm, "layer": nn.LayerNorm, "none": nn.Identity}


class ResidualBlock(nn.Module):
    """h + Linear(dropout(SiLU(norm(Linear(h))))), ``(*, width)`` to the same."""

    def __init__(self, width: int, norm: type[nn.Module], dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, width), norm(width), nn.SiLU(), nn.Dropout(dropout))
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        # The sum stays in float32 even under autocast, because many levels add to it.
        return full_precision(h) + self.out(self.body(h))


@torch.no_grad()
def scale(layer: nn.Linear, factor: float) -> None:
    """Multiply the initial weights and biases of a layer by ``factor``."""
    layer.weight.mul_(factor)
    layer.bias.mul_(factor)


class GaussianHead(nn.Linear):
    """Maps features ``(*, in)`` to a diagonal Gaussian with parameters ``(*, latents)``.

    The first half of the outputs are means; the second half are spreads, which :meth:`log_var` turns into
    log-variances. These are bounded (:func:`~ladder_vae.maths.gaussian.bounded_log_var`) in every subclass.
    """

    def __init__(self, in_features: int, latents: int) -> None:
        super().__init__(in_features, 2 * latents)

    def forward(self, input: Tensor) -> Gaussian:  # type: ignore[override]
        mean, spread = full_precision(super().forward(input)).chunk(2, dim=-1)
        return Gaussian(mean, bounded_log_var(self.log_var(spread)))

    def log_var(self, spread: Tensor) -> Tensor:
        """The log-variance that a spread ``(*, latents)`` stands for. Here it is the spread itself."""
        return spread


class SoftplusHead(GaussianHead):
    """A Gaussian head whose *variance* is the softplus of a linear map."""

    def log_var(self, spread: Tensor) -> Tensor:
        return torch.log(softplus(spread) + MIN_VARIANCE)


class ImageDecoder(nn.Sequential):
    """A body from ``(*, in)`` to ``(*, width)``, followed by one linear layer to ``(*, channels, H, W)``."""

    def __init__(self, body: nn.Module, width: int, params: tuple[int, int, int]) -> None:
        super().__init__(body, nn.Linear(width, math.prod(params)), nn.Unflatten(-1, params))
