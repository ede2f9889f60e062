"""A model as two ONNX graphs without random nodes, each compared with the model before it counts.

They are written by PyTorch's exporter of traces (``dynamo=False``), which writes all models here, within
seconds, with torch 2.6 as with 2.14. The newer one (``dynamo=True``) fails on ladders with torch 2.6, and
takes ten times as long with 2.14.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ladder_vae.explorer.walks import observed
from ladder_vae.models.hierarchy import Hierarchy
from ladder_vae.system.errors import one_line

NEEDED = ("onnx", "onnxruntime")  # packages of the extra
OPSET = 17
MOST_LEVELS = 64  # a graph has five outputs a level
LARGEST = 2**31  # bytes of a file of ONNX
TOLERANCE = 1e-4  # of numbers up to 1 in size; larger ones may differ by as much of themselves
TRACED, CHECKED = 2, (1, 7)  # sizes of batches


class Graph(nn.Module):
    """What becomes a graph: a function of tensors ``(B, ...)`` with named inputs and outputs.

    Args:
        model: In eval mode, on the CPU.
        image_shape: C, H and W.
    """

    inputs: list[str]
    outputs: list[str]

    def __init__(self, model: Hierarchy, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.image_shape = tuple(image_shape)
        self.eval()

    def examples(self, batch: int) -> list[Tensor]:
        """Inputs, always the same: noise is standard normal, pixels are uniform on [0, 1]."""
        source = torch.Generator().manual_seed(batch)
        shapes = self.model.event_shapes
        return [torch.randn((batch, *event), generator=source) for event in shapes]


class Generate(Graph):
    """Innovations e_l of each level, ``(B, *event)``, to the latents z_l and the mean of p(x | z)."""

    def __init__(self, model: Hierarchy, image_shape: Sequence[int]) -> None:
        super().__init__(model, image_shape)
        self.inputs = _of_levels(model, "e")
        self.outputs = [*_of_levels(model, "z"), "mean"]

    def forward(self, *code: Tensor) -> tuple[Tensor, ...]:
        """``(B, *event)`` of each level, z_1 first, and ``(B, C, H, W)`` in [0, 1]."""
        generation = self.model.generate(1, noise=dict(enumerate(code)))  # their size is that of the code
        return *generation.z, generation.mean


class Infer(Graph):
    """Images and noise e_l of each level to z_l, q and p of each level and the mean of p(x | z).

    Images have intensities in [0, 1], ``(B, C, H, W)``, and are seen as in the explorer
    (:func:`~ladder_vae.explorer.walks.observed`). Noise of 0 gives the means of the posteriors.
    """

    def __init__(self, model: Hierarchy, image_shape: Sequence[int]) -> None:
        super().__init__(model, image_shape)
        parts = ("z", "q_mean", "q_std", "p_mean", "p_std")
        self.inputs = ["x", *_of_levels(model, "e")]
        self.outputs = [
            name for level in zip(*(_of_levels(model, p) for p in parts), strict=True) for name in level
        ]
        self.outputs.append("mean")

    def examples(self, batch: int) -> list[Tensor]:
        source = torch.Generator().manual_seed(batch)
        return [torch.rand((batch, *self.image_shape), generator=source), *super().examples(batch)]

    def forward(self, x: Tensor, *noise: Tensor) -> tuple[Tensor, ...]:
        """Five tensors ``(B, *event)`` of each level, z_1 first, and ``(B, C, H, W)`` in [0, 1]."""
        model = self.model
        found = model.infer(observed(model.likelihood, x), noise=[e[None] for e in noise])
        levels: list[Tensor] = []
        for level in (each.expanded() for each in found.levels):
            q, p = level.q, level.p
            levels += [each[0] for each in (level.z, q.mean, q.std, p.mean, p.std)]
        return *levels, model.likelihood.mean(found.params[0])


class _Plainer(TorchFunctionMode):
    """Asks for two operations in the only way in which the exporter writes them right.

    Axes of ``movedim`` are counted from the front, and ``unflatten`` is a reshape, whose sizes stay those of
    the batch.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.movedim:
            x, *axes = args
            args = (x, *(axis % x.dim() for axis in axes))
        if func is torch.Tensor.unflatten:
            x, axis, sizes = args
            return x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1 :] if axis != -1 else ())
        return func(*args, **(kwargs or {}))


def check_exportable(model: Hierarchy) -> None:
    """Raises ValueError if there are no such graphs of the model."""
    kind = type(model).__name__
    if model.estimates_rates:
        raise ValueError(f"a {kind} is one net that is called step by step, not a graph of levels")
    if model.num_layers > MOST_LEVELS:
        raise ValueError(f"it has {model.num_layers} levels; a graph has at most {MOST_LEVELS}")
    size = sum(value.nbytes for value in model.state_dict().values())
    if size > LARGEST:
        raise ValueError(f"its weights have {size / 1e9:.1f} GB; a graph holds at most {LARGEST / 1e9:.1f}")


@torch.no_grad()
def write_graph(graph: Graph, path: Path) -> float:
    """Write a graph and compare what ONNX Runtime computes by it with what the model computes.

    Args:
        graph: The function.
        path: The file to write, ``*.onnx``.

    Returns:
        The largest difference found, in parts of a number or absolutely where it is smaller than 1.

    Raises:
        ValueError: If the exporter cannot write it, or it computes something else.
    """
    names = [*graph.inputs, *graph.outputs]
    try:
        with warnings.catch_warnings(), _Plainer():
            warnings.simplefilter("ignore")  # that the exporter is the older one, and sizes that are fixed
            torch.onnx.export(
                graph,
                tuple(graph.examples(TRACED)),
                str(path),
                input_names=graph.inputs,
                output_names=graph.outputs,
                dynamic_axes={name: {0: "batch"} for name in names},
                opset_version=OPSET,
                dynamo=False,
            )
    except RuntimeError as error:
        raise ValueError(f"{path.name} cannot be written: {one_line(error)[:300]}") from None
    return max(_difference(graph, path, batch) for batch in CHECKED)


def _difference(graph: Graph, path: Path, batch: int) -> float:
    """The largest difference on some batch. Raises ValueError if it is too large."""
    import onnxruntime

    inputs = graph.examples(batch)
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4  # what is wrong is said once, by the error
    fed = {name: value.numpy() for name, value in zip(graph.inputs, inputs, strict=True)}
    try:
        session = onnxruntime.InferenceSession(str(path), quiet, providers=["CPUExecutionProvider"])
        found = session.run(graph.outputs, fed)
    except Exception as error:  # ONNX Runtime has exceptions of its own, which derive from nothing narrower
        raise ValueError(f"{path.name} does not run: {one_line(error)[:300]}") from None
    largest = 0.0
    for name, ours, value in zip(graph.outputs, graph(*inputs), found, strict=True):
        theirs = torch.from_numpy(value)
        if theirs.shape != ours.shape:
            raise ValueError(
                f"{path.name} gives {name} of shape {tuple(theirs.shape)}, the model {tuple(ours.shape)}"
            )
        difference = float(((theirs - ours).abs() / ours.abs().clamp(min=1)).max())
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{path.name} and the model differ by {difference:.1e} in {name} of {batch} images; "
                f"{TOLERANCE:.0e} is allowed"
            )
        largest = max(largest, difference)
    return largest


def _of_levels(model: Hierarchy, what: str) -> list[str]:
    """``e_1``, ``e_2``, ...; ``q_1_mean`` of ``q_mean``."""
    symbol, _, part = what.partition("_")
    return [f"{symbol}_{level + 1}" + (f"_{part}" if part else "") for level in range(model.num_layers)]
