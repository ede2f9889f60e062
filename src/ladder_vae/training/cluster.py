"""How many processes train together, for Lightning."""

from __future__ import annotations

from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only


class OneProcess(LightningEnvironment):
    """One process, whatever a scheduler or a launcher left in the environment.

    Lightning would read ``SLURM_NTASKS``, ``SLURM_PROCID``, ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE`` and
    others, and then wait for processes that nobody started, or write nothing because it is not the first.
    Several devices would need another environment here, and nothing else of Lightning's.
    """

    def __init__(self) -> None:
        super().__init__()
        rank_zero_only.rank = 0  # type: ignore[attr-defined]  # Lightning set it from the environment when it was imported

    @property
    def creates_processes_externally(self) -> bool:
        return False

    def local_rank(self) -> int:
        return 0

    def node_rank(self) -> int:
        return 0

    def teardown(self) -> None:
        """Leave the environment as it is."""
