"""How many processes train together: what is asked for, and what Lightning is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ladder_vae.models.layers import BatchNorm
from ladder_vae.system.devices import check_number
from ladder_vae.system.errors import UserError
from ladder_vae.system.ranks import rank

#: Lightning's names; the second is for models of which a step leaves out some weights.
STRATEGIES = ("ddp", "ddp_find_unused_parameters_true")
SHARDING = ("fsdp", "deepspeed", "model_parallel", "xla_fsdp")


class Processes(LightningEnvironment):
    """The processes that this one trains together with, whatever a scheduler or a launcher left behind.

    Lightning would read ``SLURM_NTASKS``, ``SLURM_PROCID``, ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE`` and
    others from the environment, and then wait for processes that nobody started, or write nothing because it
    is not the first. Here processes are those of :mod:`ladder_vae.system.ranks`, on one machine.
    """

    def __init__(self) -> None:
        super().__init__()
        rank_zero_only.rank = rank()  # type: ignore[attr-defined]  # Lightning set it from the environment when it was imported

    @property
    def creates_processes_externally(self) -> bool:
        return False

    def local_rank(self) -> int:
        return rank()

    def node_rank(self) -> int:
        return 0

    def teardown(self) -> None:
        """Leave the environment as it is."""


class SharedBatches(DDPStrategy):
    """Lightning's ``ddp`` without its launcher, which would start the command line once more per device.

    All ranks hold the same batch-norm statistics, so that none has to be sent its own.

    Args:
        name: One of :data:`STRATEGIES`, or ``auto`` for the first.
    """

    def __init__(self, name: str) -> None:
        unused = name == "ddp_find_unused_parameters_true"
        super().__init__(find_unused_parameters=unused, broadcast_buffers=False)

    def _configure_launcher(self) -> None:
        self._launcher = None


def check_devices(trainer: Mapping[str, Any], device: str, batch_size: int) -> None:
    """Raises UserError if ``trainer.devices`` cannot train together as ``trainer.strategy`` asks for.

    Args:
        trainer: The settings of the Trainer.
        device: Type of the device.
        batch_size: Images of a batch, of all processes together.
    """
    strategy, devices = trainer["strategy"], trainer["devices"]
    if strategy != "auto" and strategy not in STRATEGIES:
        known = f"choose auto, {', '.join(STRATEGIES)}"
        if str(strategy).startswith(SHARDING):
            raise UserError(
                f"trainer.strategy={strategy} divides the weights among devices, and here each device holds "
                f"all; {known}"
            )
        raise UserError(f"trainer.strategy={strategy} is unknown; {known}")
    if trainer.get("sync_batchnorm"):
        raise UserError(
            "trainer.sync_batchnorm=true would replace this package's batch norm, which takes the moments of "
            "the whole batch by itself; leave it out"
        )
    if trainer.get("num_nodes", 1) != 1:
        raise UserError(
            f"trainer.num_nodes={trainer['num_nodes']}: a run takes devices of one machine; leave it out"
        )
    if devices < 1:
        raise UserError(f"trainer.devices={devices} must be at least 1")
    check_number("trainer.devices", devices, device)
    if devices > batch_size:
        raise UserError(
            f"trainer.devices={devices} cannot share a batch of {batch_size}: data.batch_size counts the "
            "images of all devices together"
        )


def check_layers(model: nn.Module, devices: int) -> None:
    """Raises UserError if the model has batch norm that would not see the images of other devices."""
    if devices > 1:
        for layer in model.modules():
            if isinstance(layer, _BatchNorm) and not isinstance(layer, BatchNorm):
                raise UserError(
                    f"{type(model).__name__} has {type(layer).__name__}, which sees the images of one device "
                    f"only; trainer.devices={devices} needs ladder_vae.models.layers.BatchNorm in its place"
                )
