"""The data module, which serves a data set to Lightning."""

from __future__ import annotations

import lightning as L

from ladder_vae.data.batches import Batches
from ladder_vae.data.data_sets import ImageData


class ImageDataModule(L.LightningDataModule):
    """Serves a data set to Lightning. Code without Lightning can use :attr:`data` directly.

    Args:
        data: The data set.
    """

    def __init__(self, data: ImageData) -> None:
        super().__init__()
        self.data = data

    def setup(self, stage: str | None = None) -> None:
        self.data.setup()

    def train_dataloader(self) -> Batches:
        if self.trainer is None:
            return self.data.training_batches()
        device = self.trainer.strategy.root_device
        trainer = self.trainer
        return self.data.training_batches(
            lambda: trainer.current_epoch, device if device.type == "cuda" else "cpu"
        )

    def val_dataloader(self) -> Batches:
        return self.data.batches("val")

    def test_dataloader(self) -> Batches:
        return self.data.batches("test")
