"""Paths as people have them: with ``~``, blanks, ``=``, ``#``, ``(1)``, accents, any script.

Hydra's grammar takes such values only in quotes. The functions here put them there, and show a path so that
it can be pasted into a shell and is read back as the same path.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from ladder_vae.system.errors import UserError

# Settings that are paths: ours by name, those of plug-ins by what their name ends in.
OURS = r"run|resume|init_from|name"
THEIRS = r"(?:[\w@/.]+[._])?(?:path|dir|directory|folder|file|root)"
OVERRIDE = re.compile(rf"(\+{{0,2}}(?P<key>{OURS}|{THEIRS})=)(?P<value>.*)", re.DOTALL)
NEVER_SWEPT = (
    "run",
    "run_dir",
    "resume",
    "classifier_dir",
    "directory",
)  # a comma in them is part of the name
OF_A_LIST = re.compile(r"""(?:^|,)("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^,]*)(?=,|$)""", re.DOTALL)
# Directories that are named after the second, and what this command has made for each.
CLAIMED: dict[str, str] = {}
# What is no path: nothing, null, missing, a list, and Hydra's functions of a sweep.
HYDRAS = re.compile(r"|null|\?\?\?|\[.*\]|(?:choice|glob|range|interval|shuffle|sort)\(.*\)", re.DOTALL)


def as_override(argument: str) -> str:
    """The argument as Hydra should see it: a path in quotes and with its ``~`` expanded.

    A comma separates the paths of a sweep, unless a file has the whole name.

    Example:
        >>> as_override("data.path=my runs (1)/lr=0.1.npz")
        "data.path='my runs (1)/lr=0.1.npz'"
        >>> as_override("init_from=a b,c,null")
        "init_from='a b','c',null"
        >>> as_override("model.num_layers=2,3")
        'model.num_layers=2,3'
    """
    if argument.startswith("--") and "=~" in argument:  # a flag, where shells leave the ~ as it is
        flag, _, value = argument.partition("=")
        return f"{flag}={expanded(flag, value)}"
    match = OVERRIDE.fullmatch(argument)
    if match is None or HYDRAS.fullmatch(match["value"]):
        return argument
    key, value = match["key"], match["value"]
    whole = key in NEVER_SWEPT or os.path.lexists(os.path.expanduser(value))
    values = [value] if whole else OF_A_LIST.findall(value)
    return match[1] + ",".join(_quoted(key, one) for one in values)


def _quoted(key: str, value: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString  # not for a report, which needs no Hydra

    if HYDRAS.fullmatch(value):
        return value
    return str(QuotedString(expanded(key, _unquoted(value)), Quote.single).with_quotes())


def _unquoted(value: str) -> str:
    """The text between Hydra's quotes, or the value itself if it has none."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    if len(value) < 2 or value[0] != value[-1] or value[0] not in "'\"":
        return value
    try:
        return str(OverridesParser.create().parse_override(f"key={value}").value())
    except OverrideParseException:  # a name that begins and ends with a quote
        return value


def expanded(key: str, path: str) -> str:
    """The path with ``~`` and ``~user`` replaced, if it can be one; nothing need be there.

    Args:
        key: The setting, for errors.
        path: Its value.

    Raises:
        UserError: If there is no home directory to put there, or no file system takes the path: it is too
            long, a circle of links, or holds a zero byte.
    """
    if not path:
        raise UserError(f"{key} is empty; name a file or directory")
    full = os.path.expanduser(path)
    if full.startswith("~"):
        user = full.partition("/")[0][1:]
        who = f"there is no user {user}" if user else "this user has no home directory"
        raise UserError(f"{key}={path}: {who}; write the path in full" + f", or ./{path}" * bool(user))
    try:
        os.lstat(full)
    except OSError as error:
        if isinstance(error, (FileNotFoundError, NotADirectoryError, PermissionError)):
            return full
        raise UserError(
            f"{key}={path[:60]}{'...' * (path[60:] > '')} is no usable path ({error.strerror}); choose one"
        ) from None
    except ValueError as error:  # it holds a zero byte
        raise UserError(f"{key}={path!r} is no usable path ({error}); choose another") from None
    return full


def claimed(path: str) -> str:
    """What was made for a directory that is named after the second, or else its name; the resolver ``own``.

    Hydra resolves ``run_dir`` before the directory is made and again after it, when it may have a number.
    """
    name = str(Path(path))
    return CLAIMED.setdefault(name, name)


def leaves(path: str) -> bool:
    """Whether the path, joined to a directory, may lie outside it."""
    return Path(path).is_absolute() or ".." in Path(path).parts


def argument(text: str) -> Path:
    """A path of a command line without Hydra; the ``type`` of such an argument."""
    return Path(expanded("path", text))


def shown(path: str | Path) -> str:
    """The path as it can be pasted into a shell, behind ``KEY=`` or alone; relative to where the user is.

    Example:
        >>> shown("my runs/lr=0.1"), shown("~"), shown("null")
        ("'my runs/lr=0.1'", "'./~'", './null')
    """
    path = Path(path)
    text = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    if text[0] in "~'\"-" or HYDRAS.fullmatch(text):  # these would be read as something else
        text = f"./{text}"
    return shlex.quote(text)
