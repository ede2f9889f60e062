"""The largest singular values of a model's weight matrices, by power iteration, as a penalty of the loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ladder_vae.training.step import StepValues

ITERATIONS = 4  # a step, and ten times as many before the first, as in NVAE


class SpectralNorms:
    """Estimates the sum of the largest singular values of the weights of all linear and convolution layers.

    A kernel counts as the matrix ``(out, in * kh * kw)``. Small singular values keep the outputs of the nets
    from changing fast with their inputs, so that rates stay bounded (Vahdat and Kautz 2020, arXiv 2007.03898,
    section 3.2, after Yoshida and Miyato 2017, arXiv 1705.10941). Power iteration goes on from the left
    singular vectors of the step before. Matrices of the same shape are multiplied together. (NVAE's code also
    penalizes the largest factor of each batch norm; this does not.)

    Args:
        model: It is on the device where it is trained.

    Raises:
        ValueError: If the model has no such layer.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers: dict[tuple[int, int], list[nn.Module]] = {}  # by the shape of their matrices
        for layer in model.modules():
            if isinstance(layer, (nn.Linear, _ConvNd)):
                rows, columns = _matrix(layer).shape
                self._layers.setdefault((rows, columns), []).append(layer)
        if not self._layers:
            raise ValueError(f"{type(model).__name__} has no linear or convolution layer to regularize")
        source, device = torch.Generator().manual_seed(0), next(model.parameters()).device
        self._left = {  # estimated left singular vectors u, (matrices, rows)
            shape: _normalized(torch.randn(len(layers), shape[0], generator=source).to(device))
            for shape, layers in self._layers.items()
        }
        with torch.no_grad():
            for _ in range(10):
                self()

    def __call__(self) -> Tensor:
        """Improve the estimates, and return the sum of u^T W v, ``()``, which takes u and v as fixed."""
        found = []
        for shape, layers in self._layers.items():
            left = self._left[shape]
            with torch.autocast(left.device.type, enabled=False):
                matrices = torch.stack([_matrix(layer) for layer in layers])  # (matrices, rows, columns)
                with torch.no_grad():
                    for _ in range(ITERATIONS):
                        right = _normalized(torch.einsum("mrc,mr->mc", matrices, left))
                        image = torch.einsum("mrc,mc->mr", matrices, right)
                        # A matrix of zeros, as some layers begin with, has no image to go on from.
                        left.copy_(torch.where(image.any(1, keepdim=True), _normalized(image), left))
                found.append((left * torch.einsum("mrc,mc->mr", matrices, right)).sum())
        return torch.stack(found).sum()

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run goes on from."""
        return {f"{rows}x{columns}": left for (rows, columns), left in self._left.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from the state of an earlier run."""
        for name, value in self.state_dict().items():
            value.copy_(state[name])


def penalized(
    values: Callable[..., StepValues], norms: SpectralNorms, strength: float
) -> Callable[..., StepValues]:
    """Add ``strength`` times the sum of the spectral norms to the loss of a training step.

    The terms of the ELBO stay as they are. The penalty is computed outside of ``values``, which may be
    compiled, so that the check of a compiled step (:mod:`ladder_vae.system.self_check`) leaves the vectors
    alone.
    """

    def with_penalty(*arguments: Tensor) -> StepValues:
        found = values(*arguments)
        return found._replace(loss=found.loss + strength * norms())

    return with_penalty


def _matrix(layer: nn.Module) -> Tensor:
    """The weight as a matrix, outputs by inputs."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    # A transposed convolution has its inputs first.
    return (weight.transpose(0, 1) if getattr(layer, "transposed", False) else weight).flatten(1)


def _normalized(vectors: Tensor) -> Tensor:
    """Vectors ``(matrices, n)`` of length one; those of length zero stay as they are."""
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / torch.where(length > 0, length, 1.0)
