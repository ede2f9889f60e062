"""An extension of Griffe for what it does not read in our docstrings: Sphinx roles become links of MkDocs."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:mod|class|func|meth|attr|data):`(?P<short>~?)(?P<path>[\w.]+)`")


class Roles(griffe.Extension):
    """Rewrites ``:func:`~ladder_vae.maths.bounds.importance_bound``` to a link, and the like."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Once all of a package is known."""
        self._package = pkg
        self._visit(pkg)

    def _visit(self, found: griffe.Object) -> None:
        if found.docstring is not None:
            text = ROLE.sub(lambda match: self._link(match, found), found.docstring.value)
            text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
            if found.is_class and "NamedTuple" in map(str, found.bases):  # Griffe knows no constructor of it
                text = text.replace("Args:\n", "Attributes:\n")
            found.docstring.value = text
        for member in found.members.values():
            if not member.is_alias:
                self._visit(member)

    def _link(self, match: re.Match[str], near: griffe.Object) -> str:
        name = match["path"].lstrip(".")
        said = name.rpartition(".")[2] if match["short"] else name
        path = self._find(name, near)
        return f"[`{said}`][{path}]" if path else f"`{said}`"

    def _find(self, name: str, near: griffe.Object | None) -> str | None:
        """The path of a name that is seen from an object; None if a page does not have it."""
        if name.startswith(f"{self._package.name}."):
            return self._path(self._package, name.partition(".")[2])
        while near is not None:
            if path := self._path(near, name):
                return path
            near = near.parent
        return None

    def _path(self, start: griffe.Object, name: str) -> str | None:
        try:
            found = start[name]
            found = found.final_target if found.is_alias else found
        except (KeyError, griffe.AliasResolutionError, griffe.CyclicAliasError):
            return None
        shown = found.docstring is not None and not any(
            part.startswith("_") for part in found.path.split(".")
        )
        return found.path if shown else None
