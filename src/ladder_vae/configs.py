"""Types of the configuration, so that Hydra refuses unknown keys and wrong types before any job starts.

Values live in ``conf/``; a file there names the type that it fills under ``/schema/...``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf


@dataclass
class Target:
    """Anything that Hydra instantiates."""

    _target_: str = MISSING


@dataclass
class Factory(Target):
    """Anything that Hydra turns into a function, to be called later."""

    _partial_: bool = True


@dataclass
class MLPHierarchy(Target):
    """``model``: a hierarchy whose widths follow from ``num_layers``."""

    input_shape: list[int] | None = None  # (C, H, W), filled in from the data
    num_layers: int = 5
    latent_sizes: list[int] | None = None
    hidden_sizes: list[int] | None = None


@dataclass
class NormedHierarchy(MLPHierarchy):
    """``model``: an MLP hierarchy with optional batch norm."""

    batch_norm: bool = True


@dataclass
class Data(Target):
    """``data``: what every data set has."""

    batch_size: int = 512
    val_size: int = 10_000
    binarization: str = "dynamic"
    seed: int = 0
    eval_batch_size: int = 1_000


@dataclass
class DownloadedData(Data):
    """``data``: a torchvision data set."""

    directory: str = "~/.cache/ladder_vae"


@dataclass
class FileData(Data):
    """``data``: a user's own file."""

    path: str = MISSING


@dataclass
class ObjectiveConfig:
    """``objective``: see :class:`ladder_vae.objective.Objective`."""

    beta_warmup_epochs: float = 10.0
    free_bits: float = 0.0
    monte_carlo_rates: bool = False


@dataclass
class TrainerConfig:
    """``trainer``: arguments of ``lightning.Trainer``."""

    max_epochs: int = 40
    accelerator: str = "auto"
    devices: int = 1
    precision: str = "32-true"
    gradient_clip_val: float | None = None
    deterministic: bool = False
    limit_train_batches: int | None = None
    limit_val_batches: int | None = None
    limit_test_batches: int | None = None
    check_val_every_n_epoch: int = 1
    profiler: str | None = None
    enable_progress_bar: bool = True


@dataclass
class Adam(Factory):
    """``optimizer``: Adam and AdamW."""

    lr: float = 2e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 0.0
    fused: bool | None = None


@dataclass
class Cosine(Factory):
    """``scheduler``: cosine decay with linear warm-up."""

    warmup_steps: int = 0


@dataclass
class TensorBoard(Target):
    """``logger``: TensorBoard event files in the run directory."""

    save_dir: str = "${run_dir}"
    name: str = ""
    version: str = ""
    default_hp_metric: bool = False


@dataclass
class Averaging(Target):
    """``callbacks.averaging``."""

    decay: float = 0.999


@dataclass
class PicturesConfig(Target):
    """``callbacks.pictures``."""

    every_n_epochs: int = 5
    count: int = 16


@dataclass
class Progress(Target):
    """``callbacks.progress``."""

    refresh_rate: int = 20


@dataclass
class Stopping(Target):
    """``callbacks.early_stopping``."""

    monitor: str = "val/elbo"
    mode: str = "max"
    patience: int = 20
    min_delta: float = 0.0


@dataclass
class Callbacks:
    """``callbacks``: each may be null."""

    averaging: Averaging | None = None
    pictures: PicturesConfig | None = None
    progress: Progress | None = None
    early_stopping: Stopping | None = None


@dataclass
class Config:
    """The whole configuration of a run."""

    name: str = "train"
    seed: int = 1
    run_dir: str = MISSING
    resume: str | None = None
    model: Any = MISSING
    data: Any = MISSING
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optimizer: Any = MISSING
    scheduler: Any = None
    logger: Any = None
    callbacks: Callbacks = field(default_factory=Callbacks)


SCHEMAS = {
    "model": {"mlp": MLPHierarchy, "normed_mlp": NormedHierarchy},
    "data": {"packaged": Data, "downloaded": DownloadedData, "file": FileData},
    "optimizer": {"adam": Adam},
    "scheduler": {"cosine": Cosine, "constant": Factory},
    "logger": {"tensorboard": TensorBoard},
}


def register() -> None:
    """Make the types known to Hydra. Harmless to repeat."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for group, nodes in SCHEMAS.items():
        for name, node in nodes.items():
            store.store(group=f"schema/{group}", name=name, node=node)
    OmegaConf.register_new_resolver(
        "first", lambda *options: next(o for o in options if o is not None), replace=True
    )


register()
