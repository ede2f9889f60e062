"""Checksums of files whose format has none: a flipped bit in a number is a number, too.

``checksums.json`` maps names of files of a run directory to the SHA-256 of what was written. While a file
is replaced there are two, of the old content and of the new. Checkpoints and ``.npz`` files are zip
archives, which have their own.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ladder_vae.runs.reading import read_json
from ladder_vae.system.errors import UserError
from ladder_vae.system.files import write_bytes, write_text

CHECKSUMS = "checksums.json"


def write_checked(path: Path, content: bytes) -> None:
    """Write a file of a run directory, and its checksum beside it.

    A process that is killed in between leaves the old file, whose checksum is still known.
    """
    known = _known(path.parent)
    old = [_digest(path.read_bytes())] if path.is_file() else []
    kept = [digest for digest in old if digest in known.get(path.name, old)]
    both = list(dict.fromkeys([*kept, _digest(content)]))
    write_text(path.parent / CHECKSUMS, json.dumps(known | {path.name: both}, indent=2) + "\n")
    write_bytes(path, content)


def is_changed(path: Path, content: bytes) -> bool:
    """Whether the content of a file is not what was written; False if no checksum is known."""
    known = _known(path.parent).get(path.name)
    return known is not None and _digest(content) not in known


def refuse_changed(path: Path, content: bytes) -> None:
    """Raises UserError if the content of a file is not what was written."""
    if is_changed(path, content):
        raise UserError(
            f"{path} is damaged: its checksum is not that of {path.with_name(CHECKSUMS)}; restore it from a "
            f"copy, or remove {CHECKSUMS} if you changed it yourself"
        )


def _known(directory: Path) -> dict[str, list[str]]:
    """The checksums by name of file; empty for runs of earlier versions, and where they cannot be read."""
    try:
        found = read_json(directory / CHECKSUMS)
    except UserError:
        return {}
    return {k: v for k, v in found.items() if isinstance(v, list)} if isinstance(found, dict) else {}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
