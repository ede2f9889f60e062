"""Types of the configuration, so that Hydra refuses unknown keys and wrong types before any job starts.

Values live in ``conf/``; a file there names the type that it fills under ``/schema/...``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from ladder_vae.system.errors import UserError


@dataclass
class Target:
    """Anything that Hydra instantiates."""

    _target_: str = MISSING


@dataclass
class Factory(Target):
    """Anything that Hydra turns into a function, to be called later."""

    _partial_: bool = True


@dataclass
class HierarchyConfig(Target):
    """``model``: what every hierarchy has."""

    input_shape: list[int] | None = None  # (C, H, W), filled in from the data
    num_layers: int = MISSING
    latent_sizes: list[int] | None = None


@dataclass
class ResidualHierarchy(HierarchyConfig):
    """``model``: a residual stream."""

    width: int = MISSING
    blocks: int = MISSING
    norm: str = MISSING
    dropout: float = MISSING
    posterior: str = MISSING


@dataclass
class MLPHierarchy(HierarchyConfig):
    """``model``: a hierarchy whose widths follow from ``num_layers``."""

    hidden_sizes: list[int] | None = None


@dataclass
class NormedHierarchy(MLPHierarchy):
    """``model``: an MLP hierarchy with optional batch norm."""

    batch_norm: bool = MISSING


@dataclass
class Data(Target):
    """``data``: what every data set has."""

    batch_size: int = MISSING
    val_size: int = MISSING
    binarization: str = MISSING
    seed: int = MISSING
    eval_batch_size: int = MISSING
    warp: float = 0.0
    warp_epochs: int | None = None


@dataclass
class DownloadedData(Data):
    """``data``: a torchvision data set."""

    directory: str = MISSING


@dataclass
class FileData(Data):
    """``data``: a user's own file."""

    path: str = MISSING


@dataclass
class ObjectiveConfig:
    """``objective``: see :class:`ladder_vae.training.objective.Objective`."""

    beta_warmup_epochs: float = MISSING
    free_bits: float = MISSING
    monte_carlo_rates: bool = MISSING
    importance_samples: int = 1
    importance_gradient: str = "reparameterized"


@dataclass
class TrainerConfig:
    """``trainer``: arguments of ``lightning.Trainer``, and whether to compile the training step."""

    max_epochs: int = MISSING
    accelerator: str = MISSING
    devices: int = MISSING
    precision: str = MISSING
    compile: str = "false"  # of runs that are older than the setting
    gradient_clip_val: float | None = None
    deterministic: bool = False
    limit_train_batches: int | None = None
    limit_val_batches: int | None = None
    limit_test_batches: int | None = None
    check_val_every_n_epoch: int = 1
    profiler: str | None = None


@dataclass
class Adam(Factory):
    """``optimizer``: Adam and AdamW."""

    lr: float = MISSING
    betas: list[float] = MISSING
    eps: float = 1e-8
    weight_decay: float = 0.0
    fused: bool | None = None


@dataclass
class Cosine(Factory):
    """``scheduler``: cosine decay with linear warm-up."""

    warmup_steps: int = MISSING


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

    decay: float = MISSING


@dataclass
class PicturesConfig(Target):
    """``callbacks.pictures``."""

    every_n_epochs: int = MISSING
    count: int = MISSING


@dataclass
class Progress(Target):
    """``callbacks.progress``."""

    refresh_rate: int = MISSING


@dataclass
class Stopping(Target):
    """``callbacks.early_stopping``."""

    monitor: str = MISSING
    mode: str = MISSING
    patience: int = MISSING
    min_delta: float = 0.0


@dataclass
class Callbacks:
    """``callbacks``: each may be null."""

    averaging: Averaging | None = None
    pictures: PicturesConfig | None = None
    progress: Progress | None = None
    early_stopping: Stopping | None = None


@dataclass
class Launcher:
    """``hydra.launcher``: see :class:`hydra_plugins.ladder_vae_launcher.ParallelLauncher`."""

    _target_: str = "hydra_plugins.ladder_vae_launcher.ParallelLauncher"
    jobs: Any = "auto"


@dataclass
class ByDepth:
    """Settings that an experiment looks up by ``model.num_layers``.

    Args:
        rule: What they obey, to tell the runs of one such table from those of another.
        tables: Section, key, number of levels: ``${at:${by_depth.tables.model.width},${model.num_layers}}``.
        values: What a run looked up there, by setting; stands for the tables in its ``config.yaml``.
    """

    rule: str = MISSING
    tables: dict[str, dict[str, dict[int, Any]]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


@dataclass
class Config:
    """The whole configuration of a run."""

    name: str = MISSING
    seed: int = MISSING
    run_dir: str = MISSING
    resume: str | None = None
    init_from: str | None = None
    by_depth: ByDepth | None = None
    model: Any = MISSING
    data: Any = MISSING
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optimizer: Any = MISSING
    scheduler: Any = None
    logger: Any = None
    callbacks: Callbacks = field(default_factory=Callbacks)


@dataclass
class EvaluateConfig:
    """The configuration of ``ladder_vae.evaluate``."""

    run: str | None = None
    num_samples: int = MISSING
    k: list[int] | None = None
    images: int | None = None
    split: str = MISSING
    checkpoint: str = MISSING
    binarizations: int = MISSING
    seed: int = MISSING
    device: str = MISSING
    compile: str = MISSING
    chunk_size: int = MISSING


@dataclass
class AnalyzeConfig:
    """The configuration of ``ladder_vae.analyze``."""

    run: str | None = None
    levels: list[int] | None = None
    show: list[int] | None = None
    images: int | None = None
    draws: int = MISSING
    probe_images: int = MISSING
    embedded: int = MISSING
    checkpoint: str = MISSING
    seed: int = MISSING
    device: str = MISSING
    classifier_dir: str = MISSING


SCHEMAS: dict[str, dict[str, type]] = {
    "model": {"mlp": MLPHierarchy, "normed_mlp": NormedHierarchy, "residual": ResidualHierarchy},
    "data": {"packaged": Data, "downloaded": DownloadedData, "file": FileData},
    "optimizer": {"adam": Adam},
    "scheduler": {"cosine": Cosine, "constant": Factory},
    "logger": {"tensorboard": TensorBoard},
}


def known_keys() -> list[str]:
    """Names of all settings, to suggest one where a name was mistyped."""
    nested = {"objective": ObjectiveConfig, "trainer": TrainerConfig, "callbacks": Callbacks}
    nodes = [*nested.items(), *((group, node) for group, types in SCHEMAS.items() for node in types.values())]
    inner = {f"{group}.{f.name}" for group, node in nodes for f in fields(node)}
    return sorted(inner | {f.name for node in (Config, EvaluateConfig, AnalyzeConfig) for f in fields(node)})


def _at(table: Any, key: Any) -> Any:
    """The entry of a table: what ``${at:${by_depth.tables.model.width},${model.num_layers}}`` stands for."""
    if key not in table:
        raise UserError(f"by_depth has no value for {key}, only for {', '.join(map(str, table))}")
    return table[key]


def register() -> None:
    """Make the types known to Hydra. Harmless to repeat."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="analyze_schema", node=AnalyzeConfig)
    store.store(group="hydra/launcher", name="ladder_vae", node=Launcher)
    for group, nodes in SCHEMAS.items():
        for name, node in nodes.items():
            store.store(group=f"schema/{group}", name=name, node=node)
    OmegaConf.register_new_resolver("at", _at, replace=True)
    OmegaConf.register_new_resolver(
        "first", lambda *options: next(o for o in options if o is not None), replace=True
    )
