"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a file at once, in UTF-8."""
    part = path.with_name(path.name + ".part")  # an interruption leaves the old file whole
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
