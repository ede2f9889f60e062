"""Labels of an ``.npz`` file, as whole numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ladder_vae.system.errors import UserError


def as_labels(arrays: Mapping[str, np.ndarray], counts: Mapping[str, int], path: Path) -> dict[str, Tensor]:
    """Labels as whole numbers, ``(N,)``; text gets the same numbers in every split."""
    numbers, texts = {}, {}
    for key, array in arrays.items():
        where, count = f"data.path={path}: {key}", counts[key]
        if array.shape not in ((count,), (count, 1)):
            one_hot = "; of one-hot labels save argmax(1)" if array.ndim == 2 else ""
            raise UserError(
                f"{where} must hold {count} labels, one per image; its shape is {array.shape}{one_hot}"
            )
        array = array.reshape(count)
        if array.dtype.kind in "US":
            texts[key] = array if array.dtype.kind == "U" else np.char.decode(array, "utf-8", "replace")
        elif array.dtype.kind not in "biuf":
            raise UserError(f"{where} is {array.dtype}; labels are whole numbers, booleans, or text")
        elif array.dtype.kind == "f" and (odd := ~np.isfinite(array) | (array != np.rint(array))).any():
            first = int(odd.argmax())
            raise UserError(f"{where} holds {array[first]:g} for image {first}; labels are whole numbers")
        else:
            numbers[key] = array.astype(np.int64)
    try:
        numbers |= {key: text.astype(np.int64) for key, text in texts.items()}
    except ValueError:  # words
        if len(texts) < len(arrays):
            raise UserError(
                f"data.path={path}: {', '.join(texts)} holds words and {', '.join(numbers)} numbers; "
                "save the same kind of labels"
            ) from None
        names = np.unique(np.concatenate(list(texts.values())))
        numbers = {key: np.searchsorted(names, text) for key, text in texts.items()}
    return {key: torch.from_numpy(labels.astype(np.int64)) for key, labels in numbers.items()}
