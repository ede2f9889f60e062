"""The commands, and what ``--help`` says of each: its keys and their defaults, as ``conf/`` has them."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from types import MappingProxyType
from typing import NamedTuple

import yaml

#: Each is a module of this package with a function ``main``; another one is another line.
COMMANDS = {
    "train": "train and test one model; --multirun: one of each combination of values, as in seed=1,2",
    "sweep": "train models of several depths and compare them",
    "evaluate": "bounds on log p(x) and active units of a run, or of a folder of runs",
    "analyze": "see what each level of a run encodes",
    "explore": "write a page on which one plays with the levels of a run, or serve it",
    "limit": "measure a diffusion at every number of steps",
    "report": "compare runs",
    "export": "write a bundle of a run to pass on, which opens with nothing of this package",
    "release": "make a small directory of a run to pass on",
}
KEY = re.compile(r"(?P<indent> *)(?P<name>\w+):(?: +(?P<value>[^\s#].*?))?(?: +# *(?P<said>.*))?")
COLUMN = 34  # where explanations begin


class Key(NamedTuple):
    """A setting as a file of ``conf/`` has it.

    Args:
        name: Its name, with dots.
        value: Its default as written; empty for a group.
        said: What its comments say.
    """

    name: str
    value: str
    said: str


def usage() -> str:
    """What ``ladder-vae --help`` prints."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {what}" for name, what in COMMANDS.items())
    return f"usage: ladder-vae COMMAND ...\n\n{listed}\n\nladder-vae COMMAND --help explains the keys of one."


def help_of(command: str, config_name: str, overrides: Sequence[str] = ()) -> str:
    """What ``--help`` of a command with settings prints.

    Args:
        command: Its name.
        config_name: Its file of ``conf/``.
        overrides: What else was typed; the keys of the choices in it, as of ``model=nvae``, are explained.
    """
    typed = dict(override.split("=", 1) for override in overrides if "=" in override)
    lines = [f"usage: ladder-vae {command} KEY=VALUE ...", "", COMMANDS[command], ""]
    for key in command_keys(config_name, typed):
        lines += _explained(key)
    return "\n".join(lines)


def command_keys(config_name: str, typed: Mapping[str, str] = MappingProxyType({})) -> Iterator[Key]:
    """The settings of a command: those of its file, and of the choices of each group.

    Args:
        config_name: Its file of ``conf/``.
        typed: Choices by group, in place of the usual ones.
    """
    conf = resources.files("ladder_vae.conf")
    text = (conf / f"{config_name}.yaml").read_text(encoding="utf-8")
    yield from keys(text)
    comments = {key.name: key.said for key in keys(text, "defaults")}
    for entry in yaml.safe_load(text)["defaults"]:
        group, chosen = next(iter(entry.items())) if isinstance(entry, dict) else ("", "")
        if not group or " " in group:  # a schema, or Hydra's own
            continue
        names = sorted(file.name[:-5] for file in (conf / group).iterdir() if file.name.endswith(".yaml"))
        said = f"{comments.get(group, '')} ({', '.join(names)})".strip()
        chosen = typed.get(group, chosen or "null")
        yield Key(group, chosen, said)
        if chosen in names and group not in ("experiment", "by_depth"):
            found: dict[str, Key] = {}
            for key in (key for text in _with_bases(group, chosen) for key in keys(text)):
                said = key.said or (found[key.name].said if key.name in found else "")
                found[key.name] = Key(f"{group}.{key.name}", key.value, said)
            yield from found.values()


def _with_bases(group: str, name: str) -> Iterator[str]:
    """The text of a file of a group, after those of the files that it begins with."""
    conf = resources.files("ladder_vae.conf")
    text = (conf / group / f"{name}.yaml").read_text(encoding="utf-8")
    for entry in (yaml.safe_load(text) or {}).get("defaults", ()):
        if isinstance(entry, str) and entry != "_self_":
            path = entry.removesuffix("@_here_")
            yield from _with_bases(*path.lstrip("/").rsplit("/", 1) if path[0] == "/" else (group, path))
    yield text


def keys(text: str, section: str | None = None) -> Iterator[Key]:
    """The settings of a file of ``conf/``, without Hydra's own.

    Args:
        text: The content of the file.
        section: ``defaults`` gives the entries of that list in place of settings.
    """
    outer: list[str] = []
    above: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            above.append(line.lstrip(" #"))
            continue
        item = section is not None and line.startswith("  - ")
        match = KEY.fullmatch(line.replace("  - ", "    ", 1) if item else line)
        said, above = " ".join(above), []
        if match is None:
            continue
        depth = len(match["indent"]) // 2
        outer = [*outer[:depth], match["name"]]
        if (outer[0] == section and item) if section else outer[0] not in ("defaults", "hydra"):
            name = outer[-1] if section else ".".join(outer)
            if not outer[-1].startswith("_"):
                said = " ".join(filter(None, (said, match["said"])))
                yield Key(name, match["value"] or "", said)


def _explained(key: Key) -> list[str]:
    """A setting in lines no wider than the terminal."""
    width = max(60, min(120, shutil.get_terminal_size((110, 0)).columns))
    value = "..." if key.value.startswith("${own:") else key.value  # a name made of the time
    left = f"{'  ' * key.name.count('.')}{key.name}" + (f"={value}" if value else "")
    said = textwrap.wrap(key.said, width - COLUMN, break_on_hyphens=False)
    if len(left) >= COLUMN - 1 and said:
        return [left, *(" " * COLUMN + line for line in said)]
    first, *others = said or [""]
    return [f"{left:{COLUMN}}{first}".rstrip(), *(" " * COLUMN + line for line in others)]
