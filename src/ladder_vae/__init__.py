"""Hierarchical variational autoencoders: train them, compare them, see what each level encodes."""

from ladder_vae.runs import Run, load_run

__version__ = "0.1.0"
__all__ = ["Run", "load_run"]
