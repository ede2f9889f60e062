"""Names and types of our own settings, by which Hydra refuses wrong ones before any job starts.

The settings of a class (a model, a data set, an optimizer) are checked against its signature; see
:mod:`ladder_vae.settings.signatures`. The values of all settings are in ``conf/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from ladder_vae.settings.paths import claimed
from ladder_vae.system.errors import UserError


@dataclass
class TrainerConfig:
    """``trainer``: arguments of ``lightning.Trainer``, and how to run the training step."""

    max_epochs: int = MISSING
    accelerator: str = MISSING
    devices: int = MISSING
    strategy: str = "auto"
    precision: str = MISSING
    compile: Any = False  # true, false or auto; runs from before this setting count as false
    cuda_graph: Any = False  # true, false or auto, as above
    gradient_clip_val: float | None = None
    gradient_skip_factor: float | None = None
    deterministic: bool = False
    limit_train_batches: int | None = None
    limit_val_batches: int | None = None
    limit_test_batches: int | None = None
    check_val_every_n_epoch: int = 1
    profiler: str | None = None


@dataclass
class Launcher:
    """``hydra.launcher``: see :class:`hydra_plugins.ladder_vae_launcher.ParallelLauncher`."""

    _target_: str = "hydra_plugins.ladder_vae_launcher.ParallelLauncher"
    jobs: Any = "auto"


@dataclass
class ByDepth:
    """Tables in which an experiment looks up settings by ``model.num_layers``.

    Args:
        rule: Name of the rule behind the tables. It tells apart runs that used different tables.
        tables: Values by section, key and number of levels. A setting refers to them by
            ``${at:${by_depth.tables.model.width},${model.num_layers}}``.
        values: The values that a run looked up, by setting. Its ``config.yaml`` has them in place of tables.
    """

    rule: str = MISSING
    tables: dict[str, dict[str, dict[int, Any]]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


@dataclass
class Config:
    """The configuration of a run. A group of type ``Any`` names a class, and its signature is the schema."""

    name: str = MISSING
    seed: int = MISSING
    run_dir: str = MISSING
    resume: str | None = None
    trust: bool | None = None
    init_from: str | None = None
    by_depth: ByDepth | None = None
    model: Any = MISSING
    data: Any = MISSING
    likelihood: Any = MISSING
    objective: Any = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optimizer: Any = MISSING
    scheduler: Any = None
    logger: Any = None
    callbacks: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataPlace:
    """Where the data of a run lie now, if not where it found them.

    Args:
        path: File or directory of data that ``data.path`` names.
        directory: Directory of data sets that are downloaded.
    """

    path: str | None = None
    directory: str | None = None


@dataclass
class OfRuns:
    """What every command that looks at runs is told."""

    run: str | None = None
    data: DataPlace = field(default_factory=lambda: DataPlace())
    seed: int = MISSING
    trust: bool = MISSING


@dataclass
class EvaluateConfig(OfRuns):
    """The configuration of ``ladder_vae.evaluate``."""

    num_samples: int = MISSING
    k: list[int] | None = None
    steps: int | None = None
    transition: str | None = None
    images: int | None = None
    split: str = MISSING
    checkpoint: str = MISSING
    binarizations: int = MISSING
    device: str = MISSING
    devices: int = MISSING
    compile: Any = MISSING  # true, false or auto
    chunk_size: Any = MISSING  # a number or auto


@dataclass
class AnalyzeConfig(OfRuns):
    """The configuration of ``ladder_vae.analyze``."""

    levels: list[Any] | None = None  # names, as z2
    show: list[int] | None = None
    images: int | None = None
    draws: int = MISSING
    probe_images: int | None = None
    embedded: int | None = None
    checkpoint: str = MISSING
    device: str = MISSING
    classifier_dir: str = MISSING


@dataclass
class LimitConfig(OfRuns):
    """The configuration of ``ladder_vae.limit``."""

    steps: list[int] = MISSING
    draws: int = MISSING
    images: int | None = None
    split: str = MISSING
    beside: list[str] | None = None
    checkpoint: str = MISSING
    device: str = MISSING


@dataclass
class ExploreConfig(OfRuns):
    """The configuration of ``ladder_vae.explore``."""

    checkpoint: str = MISSING
    serve: bool = MISSING
    port: int = MISSING
    device: str = MISSING


@dataclass
class ExportConfig(OfRuns):
    """The configuration of ``ladder_vae.export``."""

    directory: str | None = None
    push: str | None = None
    license: str = MISSING


def known_keys(chosen: Mapping[str, str] | None = None) -> set[str]:
    """Names of all settings of this package, from which an error message suggests the one that was meant.

    Args:
        chosen: Choices by group, as ``{"model": "nvae"}``; settings of its other choices are left out.
    """
    chosen = chosen or {}
    commands = (EvaluateConfig, AnalyzeConfig, LimitConfig, ExploreConfig, ExportConfig)
    keys = {f.name for node in (Config, *commands) for f in fields(node)}
    keys |= {f"trainer.{f.name}" for f in fields(TrainerConfig)}
    conf = resources.files("ladder_vae.conf")
    objective = yaml.safe_load((conf / "config.yaml").read_text(encoding="utf-8"))["objective"]
    keys |= {f"objective.{key}" for key in objective}
    for group in ("model", "likelihood", "data", "base", "optimizer", "scheduler", "logger", "callbacks"):
        files = {file.name.removesuffix(".yaml"): file for file in (conf / group).iterdir()}
        choice = chosen.get(group)
        for name, file in {choice: files[choice]}.items() if choice in files else files.items():
            section = name if group == "base" else group
            for key, value in (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).items():
                keys.add(f"{section}.{key}")
                keys |= {f"{section}.{key}.{inner}" for inner in value} if isinstance(value, dict) else set()
    return {key for key in keys if not key.endswith(("_", ".defaults"))}


def _at(table: Any, key: Any) -> Any:
    """The entry of a table; resolves ``${at:${by_depth.tables.model.width},${model.num_layers}}``."""
    if key not in table:
        known = ", ".join(map(str, table))
        raise UserError(f"by_depth has no value for {key}, only for {known}; give a value of your own")
    return table[key]


def _sum(levels: Any, otherwise: int) -> Any:
    """The number of levels of all resolutions; resolves ``${sum:${.levels},16}``."""
    if levels is None:
        return otherwise
    try:
        return sum(int(count) for _, count in levels)
    except (TypeError, ValueError):
        return otherwise  # the model says what is wrong with them


def register() -> None:
    """Register schemas and resolvers with Hydra. It does no harm to repeat this."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="analyze_schema", node=AnalyzeConfig)
    store.store(name="limit_schema", node=LimitConfig)
    store.store(name="explore_schema", node=ExploreConfig)
    store.store(name="export_schema", node=ExportConfig)
    store.store(group="hydra/launcher", name="ladder_vae", node=Launcher)
    OmegaConf.register_new_resolver("at", _at, replace=True)
    OmegaConf.register_new_resolver("sum", _sum, replace=True)
    OmegaConf.register_new_resolver("own", claimed, replace=True)
    OmegaConf.register_new_resolver(
        "first", lambda *options: next(o for o in options if o is not None), replace=True
    )
