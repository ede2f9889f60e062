"""A page of text, tables and pictures: as Markdown, and as HTML that needs no other file."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

import jinja2

from ladder_vae.system.errors import one_line, printable, warn
from ladder_vae.system.files import write_text

EMBEDDED = 8_000_000  # bytes of a page that another one holds, at most


@dataclass(frozen=True)
class Picture:
    """A picture, which is described before it is drawn.

    Args:
        file: Its name in the folder of pictures.
        title: A few words.
        caption: What was done.
        draw: Writes it to a path.
    """

    file: str
    title: str
    caption: str
    draw: Callable[[Path], None]


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Args:
        headings: Of the columns; the first column names the row.
        rows: As many cells each.
        note: What they mean.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """As a Markdown table, numbers to the right."""
        ruler = ["---", *["---:"] * (len(self.headings) - 1)]
        head, *rows = (map(_cell, row) for row in (self.headings, *self.rows))
        return "\n".join("| " + " | ".join(row) + " |" for row in (head, ruler, *rows))


def _cell(text: str) -> str:
    """Text as a Markdown cell shows it: what ends a cell does not."""
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """Text of a run that somebody sent as a line of Markdown: no HTML, link, picture or escape sequence."""
    line = printable(" ".join(text.split())).replace("\\", "\\\\")
    return html.escape(re.sub(r"\](?=[(\[])", r"]\\", line), quote=False)


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, in this order.

    Args:
        title: The heading.
        paragraphs: Plain text.
        table: Or none.
        pictures: With their captions.
        page: Another page, in the directory of this one. It is linked, and a small one is embedded, too.
    """

    title: str
    paragraphs: Sequence[str] = ()
    table: Table | None = None
    pictures: Sequence[Picture] = field(default_factory=list)
    page: Path | None = None

    @property
    def anchor(self) -> str:
        """Name of the place on the page."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


def save_pictures(directory: Path, sections: Sequence[Section]) -> tuple[list[Section], list[Path]]:
    """Draw the pictures of sections into a folder. One that fails leaves a warning, and the page without it.

    Returns:
        The sections with the pictures that were drawn, and the files of these in order.

    Raises:
        OSError: If the folder cannot be written.
    """
    drawn, files, failed = [], [], []
    for section in sections:
        pictures = []
        for picture in section.pictures:
            file = directory / picture.file
            try:
                picture.draw(file)
            except OSError:
                raise
            except Exception as error:
                file.unlink(missing_ok=True)  # an earlier one would be taken for this one
                failed.append(f"{file} ({type(error).__name__}: {one_line(error)})")
            else:
                pictures.append(picture)
                files.append(file)
        drawn.append(replace(section, pictures=pictures))
    if failed:
        warn(f"{len(failed)} pictures could not be drawn, and the page is without: {', '.join(failed)}")
    return drawn, files


def write_markdown(path: Path, title: str, sections: Sequence[Section], pictures: str) -> None:
    """Write a Markdown page.

    Args:
        pictures: Folder of the pictures, relative to the page.
    """
    parts = [f"# {_plain(title)}"]
    for section in sections:
        parts += [f"## {_plain(section.title)}", *map(_plain, section.paragraphs)]
        if section.page:
            parts.append(f"[{section.page.name}]({section.page.name})")
        if section.table:
            parts += [part for part in (section.table.markdown(), _plain(section.table.note)) if part]
        for picture in section.pictures:
            named = _plain(picture.title)
            parts += [f"![{named}]({pictures}/{picture.file})", f"*{named}.* {_plain(picture.caption)}"]
    write_text(path, "\n\n".join(parts) + "\n")


def write_html(path: Path, title: str, sections: Sequence[Section], pictures: Path) -> None:
    """Write an HTML page that holds its pictures itself.

    Args:
        pictures: Folder of the pictures.
    """
    template = (resources.files(__package__) / "page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["embedded"] = lambda file: _embedded(pictures / file)
    environment.filters["content"] = lambda page: (
        page.read_text(encoding="utf-8") if page.stat().st_size <= EMBEDDED else ""
    )
    write_text(
        path, printable(environment.from_string(template).render(title=title, sections=sections), "\n")
    )


def _embedded(picture: Path) -> str:
    """The address of a picture that is within the page, PNG or GIF."""
    kind = picture.suffix.removeprefix(".")
    return f"data:image/{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"
