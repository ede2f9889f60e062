"""The passes of an evaluation: noise, posterior draws and weights, added up where the model computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ladder_vae.maths.keyed_normals import fold, keyed_normals
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.system.errors import one_line, warn
from ladder_vae.system.recording import REHEARSALS, Recorder

MOST_DRAWS = {"cuda": 50_000}  # of a pass, where it has to fill the device
FEW_DRAWS = 1000  # of a pass elsewhere
NUMBERS = 40_000_000  # that the decoder gives for all draws of a pass, or noise has, at most: 160 MB

Weigher = Callable[..., tuple[Tensor, Tensor]]


def draws_per_pass(model: Hierarchy, image_shape: Sequence[int], device: torch.device) -> int:
    """How many draws of all images together a device computes at once: ``chunk_size=auto``.

    Args:
        image_shape: ``(C, H, W)``.
    """
    decoded = model.likelihood.channels(image_shape[0]) * math.prod(image_shape[1:])
    # A draw without weights looks at one level, with at most two noises.
    events = model.event_shapes if model.has_weights else model.event_shapes[:2]
    drawn = sum(math.prod(event) for event in events)
    return max(1, min(MOST_DRAWS.get(device.type, FEW_DRAWS), NUMBERS // max(decoded, drawn)))


def weigher(model: Hierarchy) -> Weigher:
    """The model's part of a pass as one function, which may be compiled.

    It maps ``x``, ``model.encode(x)`` (or None, to compute it there) and the noise of each level to
    log p(x | z), ``(K, B)``, and the Monte Carlo rates, ``(L, K, B)``, nats.
    """

    def weigh(x: Tensor, features: Any, *noise: Tensor) -> tuple[Tensor, Tensor]:
        inference = model.infer(x, noise=noise, features=features)
        return inference.log_px, inference.rates(monte_carlo=True)

    return weigh


def place_of_keys(device: torch.device) -> torch.device:
    """Where keys of noise lie for a model on a device: nobody has tried the int64 of MPS."""
    return torch.device("cpu") if device.type == "mps" else device


class Group:
    """B images, how many draws were made of each, and what these add up to.

    The tensors stay where they are from one group of images to the next, so that a recording finds them.

    Args:
        model: The model.
        x: Images of the group's shape, ``(B, C, H, W)``, on the model's device.
        num_samples: Number N of draws that are weighted.
    """

    def __init__(self, model: Hierarchy, x: Tensor, num_samples: int) -> None:
        self.events = model.event_shapes
        self.x = torch.empty_like(x)
        whole = place_of_keys(x.device)
        sums = torch.float32 if x.device.type == "mps" else torch.float64  # which MPS does not have
        self.keys = torch.zeros(len(x), dtype=torch.int64, device=whole)  # of the images
        self.drawn = torch.zeros((), dtype=torch.int64, device=whole)
        self.log_weights = torch.zeros(num_samples, len(x), dtype=sums, device=x.device)
        self.distortion = torch.zeros(len(x), dtype=sums, device=x.device)
        self.rates = torch.zeros(model.num_layers, len(x), dtype=sums, device=x.device)
        self.passes: dict[int, _Pass] = {}  # by the number of draws per image

    def begin(self, x: Tensor, keys: Tensor) -> None:
        """Take other images, and the keys of their noise, ``(B,)``; nothing was drawn yet."""
        self.x.copy_(x)
        self.keys.copy_(keys)
        for sums in (self.drawn, self.distortion, self.rates):
            sums.zero_()

    def noise(self, count: int) -> list[Tensor]:
        """The noise of the next ``count`` draws of each image: each level's, ``(count, B, *event)``."""
        keys = fold(self.keys, self._next(count)[:, None])
        return [noise.to(self.x) for noise in keyed_normals(keys, self.events)]

    def add(self, log_px: Tensor, rates: Tensor, kept: int | None = None) -> None:
        """Add up these draws, whose noise was the next.

        Args:
            log_px: log p(x | z), ``(K, B)``.
            rates: Monte Carlo rates, ``(L, K, B)``.
            kept: How many of them are weighted; None means all.
        """
        at = self._next(len(log_px))
        log_px, rates = log_px[:kept].to(self.rates.dtype), rates[:, :kept].to(self.rates.dtype)
        self.log_weights.index_copy_(0, at[:kept].to(self.x.device), log_px - rates.sum(0))
        self.distortion -= log_px.sum(0)
        self.rates += rates.sum(1)
        self.drawn += len(at)

    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights ``(N, B)``, and sums of distortions ``(B,)`` and rates ``(B, L)``, in float64."""
        found = self.log_weights, self.distortion, self.rates.T
        if self.x.device.type == "mps":
            found = found[0].cpu(), found[1].cpu(), found[2].cpu()
        return found[0].double(), found[1].double(), found[2].double()

    def _next(self, count: int) -> Tensor:
        return self.drawn + torch.arange(count, device=self.drawn.device)


class Passes:
    """Makes the draws of one group of images after another.

    Where a recorder is given, passes of each shape are recorded after some rehearsals, and then replayed: a
    GPU would wait for Python otherwise. If that is not possible, passes go on plainly after one warning.

    Args:
        model: In eval mode.
        weigh: ``weigher(model)``, which may be compiled; None means the plain one.
        recorder: Records on the model's device; None records nothing.
    """

    def __init__(
        self, model: Hierarchy, weigh: Weigher | None = None, recorder: Recorder | None = None
    ) -> None:
        self.model = model
        self.weigh = weigh or weigher(model)
        self.recorder = recorder
        self._groups: dict[Any, Group] = {}

    def group(self, x: Tensor, keys: Tensor, num_samples: int) -> Group:
        """The images as a group, of which nothing is drawn yet. An earlier group of this shape ends.

        Args:
            x: Images, ``(B, C, H, W)``, on the model's device.
            keys: Keys of their noise, int64, ``(B,)``.
            num_samples: Number of draws that will be weighted.
        """
        kind = x.shape, x.dtype, num_samples
        if kind not in self._groups:
            self._groups[kind] = Group(self.model, x, num_samples)
        self._groups[kind].begin(x, keys)
        return self._groups[kind]

    def __call__(self, group: Group, features: Any, count: int) -> None:
        """Make the next ``count`` draws of each image of the group.

        Args:
            features: What the model encodes of the images.
        """
        if self.recorder is None:
            self._pass(group, features, count)
            return
        work = group.passes.setdefault(count, _Pass())
        # What a recording reads must lie where it was recorded, so that it encodes the images itself.
        if work.replay is None and work.rehearsals >= REHEARSALS:
            try:
                work.replay = self.recorder.record(lambda: self._pass(group, None, count))
            except RuntimeError as error:
                self._give_up(one_line(error)[:200])
        if work.replay is not None:
            work.replay()
        elif self.recorder is None:
            self._pass(group, features, count)
        else:
            doubt = self.recorder.rehearse(lambda: self._pass(group, None, count))
            work.rehearsals += 1
            if doubt and work.rehearsals == REHEARSALS:  # in the first one, a compiler may have worked
                self._give_up(doubt)

    def _pass(self, group: Group, features: Any, count: int) -> None:
        group.add(*self.weigh(group.x, features, *group.noise(count)))

    def _give_up(self, reason: str) -> None:
        self.recorder = None
        warn(f"going on without CUDA graphs, more slowly: the evaluation cannot be recorded ({reason})")


class _Pass:
    """A pass of one shape: how often it was rehearsed, and the recording."""

    def __init__(self) -> None:
        self.rehearsals = 0
        self.replay: Callable[[], None] | None = None
