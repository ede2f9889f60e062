"""Check settings against the signature of the class or function that a configuration names."""

from __future__ import annotations

import collections.abc
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Any, Optional, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ladder_vae.settings.command_line import mistyped, no_such_setting
from ladder_vae.system.errors import UserError

PLAIN = (bool, int, float, str)
SEQUENCES = (list, tuple, collections.abc.Sequence, collections.abc.Iterable)


def parameters(function: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """The type of each keyword that a function or class takes, and whether it takes any other keyword, too.

    If a constructor has ``**settings``, the keywords of its base class's constructor count as its own.
    """
    places = [function]
    if inspect.isclass(function):
        constructors = [vars(cls).get("__init__") for cls in function.__mro__[:-1]]
        places = [constructor for constructor in constructors if constructor is not None]
    found: dict[str, Any] = {}
    for place in places:
        try:
            hints = get_type_hints(place)
        except Exception:  # a hint uses a name that only a type checker imports
            hints = {}
        passes_on = False
        for name, parameter in inspect.signature(place).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                passes_on = True
            elif parameter.kind is not parameter.VAR_POSITIONAL and name != "self":
                found.setdefault(name, hints.get(name, Any))
        if not passes_on:
            return found, False
    return found, bool(places)


def as_setting(hint: Any) -> Any:
    """The OmegaConf type for a type hint; Any if there is none."""
    if hint in PLAIN:
        return hint
    if hint is Path:
        return str
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = {as_setting(argument) for argument in arguments if argument is not type(None)} - {Any}
        if kinds == {int, float}:
            # 1 and 1.0 may mean different things, as in a limit of batches
            kind: Any = Union[int, float]  # noqa: UP007  a value
        else:
            kind = kinds.pop() if len(kinds) == 1 else Any
        return Optional[kind] if type(None) in arguments else kind  # noqa: UP045  kind is a value
    if origin in SEQUENCES:
        kinds = {as_setting(argument) for argument in arguments if argument is not Ellipsis}
        return list[kinds.pop()] if len(kinds) == 1 else list[Any]  # type: ignore[misc]
    return Any


def _length(hint: Any) -> int | None:
    """How many values a tuple of fixed length has; None for other hints."""
    arguments = get_args(hint)
    return len(arguments) if get_origin(hint) is tuple and Ellipsis not in arguments else None


def checked(section: str, values: Mapping[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    """Convert each value to the type that the function takes.

    Args:
        section: Name of the group of settings, for error messages.
        values: Maps settings to values. Hydra's own keys (``_target_``, ``_partial_``) stay as they are.
        function: The function or class that takes the values.

    Raises:
        UserError: If the function has no such setting, or a value has the wrong type.
    """
    known, open_ended = parameters(function)
    own = {key: value for key, value in values.items() if not key.startswith("_")}
    for key in own:
        if key not in known and not open_ended:
            raise UserError(no_such_setting(f"{section}.{key}", [f"{section}.{name}" for name in known]))
    for key, value in own.items():
        hint = as_setting(known.get(key, Any))
        schema = OmegaConf.structured(make_dataclass("Schema", [(key, hint, field(default=MISSING))]))
        try:
            typed = OmegaConf.to_container(OmegaConf.merge(schema, {key: value}))
        except OmegaConfBaseException as error:
            if value is None:
                kind = getattr(hint, "__name__", str(hint))
                raise UserError(f"{section}.{key}=null is no value here; give it a {kind}") from None
            raise UserError(
                mistyped(f"{section}.{key}={str(value).replace(', ', ',')}", str(error))
            ) from None
        assert isinstance(typed, dict)
        count = _length(known.get(key))
        if count is not None and isinstance(typed[key], list) and len(typed[key]) != count:
            raise UserError(f"{section}.{key}={value} must have {count} values")
        own[key] = typed[key]
    return dict(values) | own
