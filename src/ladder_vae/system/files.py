"""Write files so that an interruption never leaves half of one."""

from __future__ import annotations

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    part = path.with_name(path.name + ".part")  # if writing is interrupted, the old file is still there
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
