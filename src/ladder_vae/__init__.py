"""Hierarchical variational autoencoders: train them, compare them, see what each level encodes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ladder_vae.system.environment import provide_directories

if TYPE_CHECKING:
    from ladder_vae.data.arrays import binarize
    from ladder_vae.runs.checkpoints import load_run
    from ladder_vae.runs.run import Run
    from ladder_vae.training.from_python import train_model

provide_directories()  # before PyTorch and matplotlib are imported

__version__ = "0.1.0"
__all__ = ["Run", "binarize", "load_run", "train_model"]
# Where they are. None has the name of a command's module, which would hide it once that is imported.
_HOMES = {
    "Run": "runs.run",
    "binarize": "data.arrays",
    "load_run": "runs.checkpoints",
    "train_model": "training.from_python",
}


def __getattr__(name: str) -> Any:
    """Import a name of ``__all__`` on its first use, so that a report starts without PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
