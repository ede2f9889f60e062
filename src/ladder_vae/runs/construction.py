"""Build what the configuration of a run names: its model, its likelihood, its data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from hydra.utils import instantiate

import ladder_vae.data
from ladder_vae.data.data_sets import ImageData
from ladder_vae.maths.likelihoods import Likelihood
from ladder_vae.runs.record import CONFIG
from ladder_vae.system.errors import UserError, one_line


def construct(
    path: Path, config: Mapping[str, Any], group: str, public: ModuleType, trust: bool, **given: Any
) -> Any:
    """What a group of a run's configuration names.

    Args:
        path: The run directory, for errors.
        group: ``model``, ``data`` or ``likelihood``.
        public: The package whose exported names may be built.
        trust: Whether others may be imported, too.
        given: What it takes beside its settings.

    Raises:
        UserError: If it may not, or cannot, be built.
    """
    if not isinstance(config.get(group), dict):
        raise UserError(f"{path / CONFIG} names no {group}")
    target = str(config[group].get("_target_", ""))
    name = target.removeprefix(f"{public.__name__}.")
    exported = name != target and name in public.__all__
    if not exported and target.startswith("ladder_vae."):
        raise UserError(
            f"{path / CONFIG} names {group}._target_={target}, which this version does not have; it has "
            f"{', '.join(public.__all__)}"
        )
    if not exported and not trust:
        raise UserError(
            f"{path / CONFIG} names {group}._target_={target!r}, which is not of {public.__name__} "
            f"({', '.join(public.__all__)}); if you trust it, trust=true opens the run"
        )
    try:
        if not exported:
            return instantiate(config[group], **given, _convert_="all")
        settings = {key: value for key, value in config[group].items() if key != "_target_"}
        return getattr(public, name)(**settings, **given)
    except UserError:
        raise
    except Exception as error:  # whatever a stranger's file, or a plug-in, makes of it
        cause = error.__cause__ or error
        raise UserError(f"{path}: its config.yaml does not make a {name} ({one_line(cause)[:200]})") from None


def open_data(
    path: Path,
    config: Mapping[str, Any],
    checkpoint: Mapping[str, Any],
    likelihood: Likelihood,
    trust: bool = False,
    place: Mapping[str, str | None] = MappingProxyType({}),
) -> ImageData:
    """The images that a run was trained on. They are downloaded only with ``trust``.

    Args:
        path: The run directory.
        config: Its configuration.
        checkpoint: Says which images they were.
        likelihood: The one of its model.
        trust: See :func:`construct`.
        place: Where they lie now; see :func:`moved_data`.

    Raises:
        UserError: If they cannot be had, or are not those that the run was trained on.
    """
    moved = moved_data(path, config, place)
    data: ImageData = construct(path, moved, "data", ladder_vae.data, trust, likelihood=likelihood)
    if not isinstance(data, ImageData):
        raise UserError(f"{path}: data._target_={config['data'].get('_target_')} does not make an ImageData")
    data.may_download = trust
    try:
        data.setup()
    except UserError as error:
        missing = not os.path.exists(str(moved["data"].get("path") or "."))
        hint = "; if the data were moved, data.path=... names where they are" if missing else ""
        raise UserError(f"{path}: {error}{hint}") from None
    data.check_trained_on(checkpoint, path)
    shape = list(data.image_shape)
    if config["model"].get("input_shape") != shape:
        raise UserError(
            f"{path} was trained on images of shape {config['model'].get('input_shape')}, "
            f"but {type(data).__name__} holds images of shape {shape}"
        )
    return data


def moved_data(path: Path, config: Mapping[str, Any], place: Mapping[str, str | None]) -> Mapping[str, Any]:
    """The configuration of a run whose data were moved.

    Args:
        place: ``path`` or ``directory`` of the data; None where they are where they were.

    Raises:
        UserError: If the data of the run have no such setting.
    """
    given = {key: str(Path(value).expanduser().absolute()) for key, value in place.items() if value}
    known = config.get("data")
    if not given or not isinstance(known, dict):
        return config
    for key in given:
        if key not in known:
            raise UserError(f"data.{key} is no setting of the data of {path} ({known.get('_target_')})")
    return {**config, "data": known | given}
