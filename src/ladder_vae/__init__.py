"""Hierarchical variational autoencoders: train them, compare them, see what each level encodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ladder_vae.system.environment import provide_directories

if TYPE_CHECKING:
    from ladder_vae.runs.checkpoints import Run, load_run

provide_directories()  # before PyTorch and matplotlib are imported

__version__ = "0.1.0"
__all__ = ["Run", "load_run"]


def __getattr__(name: str) -> Any:
    """Import a name of ``__all__`` on its first use, so that a report starts without PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ladder_vae.runs import checkpoints

    return getattr(checkpoints, name)
