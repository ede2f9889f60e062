"""Hydra finds launchers in the package ``hydra_plugins`` only; see :mod:`ladder_vae.launcher`."""

from ladder_vae.launcher import Parallel


class ParallelLauncher(Parallel):
    """Several jobs of a sweep at once."""
