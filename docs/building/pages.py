"""A hook of MkDocs: which files of the repository are pages of the site, and what it takes to show them.

Pages keep the paths that they have in the repository, so that their links lead to the same places here and
there. Added are a page for each module, from its docstrings, and the explorers of the models that come along.
"""

from __future__ import annotations

import html
import json
import logging
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

import ladder_vae

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
SHOWN = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "LICENSE",
    "CITATION.cff",
    "docs/*",
    "docs/building/*.css",
    "experiments/**/*",
    "benchmarks/*",
    "tests/*.py",
    "src/ladder_vae/assets/mnist/LICENSE.md",
)
EXPLORERS = ROOT / "runs/released"
REFERENCE = "reference"
NOTEBOOK = "docs/manipulate"
COLAB = "https://colab.research.google.com/github"
PLAY = """# Play with levels

Each of these pages holds a trained model and computes in your browser: draw a level anew, take it from
another image, move a single unit, or draw a digit and see what every level makes of it. They can be saved and
opened without a network.

{links}

[![The explorer](../docs/explorer.png)](three_levels.html)

`ladder-vae explore run=<run_dir>` writes such a page of a model of yours.
"""
log = logging.getLogger("mkdocs.hooks.pages")  # a warning of MkDocs, which --strict takes for an error


def modules() -> list[str]:
    """All modules of the package, ``ladder_vae`` first."""
    found = []
    for path in sorted((SOURCE / "ladder_vae").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[-1] != "__main__":
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return sorted(found)


def page_of(module: str) -> str:
    """Where the page of a module lies; a package is the first page of its folder."""
    name = "/".join([REFERENCE, *module.split(".")[1:]])
    return f"{name}/index.md" if SOURCE.joinpath(*module.split(".")).is_dir() else f"{name}.md"


def explorers() -> dict[str, Path]:
    """The pages on which one plays with levels, by the name of the model. `make explorers` writes them."""
    return {path.parent.name: path for path in sorted(EXPLORERS.glob("*/explorer.html"))}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add to the contents what is not a file of the repository. The notebook becomes a page in Markdown."""
    config.nav = json.loads(json.dumps(config.nav).replace(f"{NOTEBOOK}.ipynb", f"{NOTEBOOK}.md"))
    tree: dict[str, list] = {}
    doors: list[str] = []
    for module in modules():
        if "." not in module:
            continue
        room = module.split(".")[1]
        if (SOURCE / "ladder_vae" / room).is_dir():
            tree.setdefault(room, []).append(page_of(module))
        else:
            doors.append(page_of(module))
    rooms = [{room: pages} for room, pages in tree.items()]
    config.nav.append({"Reference": [f"{REFERENCE}/index.md", {"commands": doors}, *rooms]})
    if explorers():
        config.nav.insert(1, {"Play": "explorers/index.md"})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace what was found below ``docs`` by files of the whole repository, and add those that are made."""
    found = Files(
        [file for file in files if not file.abs_src_path or not Path(file.abs_src_path).is_relative_to(ROOT)]
    )
    for pattern in SHOWN:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts:
                name = path.relative_to(ROOT).as_posix()
                found.append(File.generated(config, name, abs_src_path=str(path)))
    for module in modules():
        content = f"---\ntitle: {module.rpartition('.')[2]}\n---\n\n::: {module}\n"
        if module == "ladder_vae":
            homes = ladder_vae._HOMES.items()
            content += (
                "\n" + "\n".join(f"- [`{name}`][ladder_vae.{home}.{name}]" for name, home in homes) + "\n"
            )
        found.append(File.generated(config, page_of(module), content=content))
    for name, path in explorers().items():
        found.append(File.generated(config, f"explorers/{name}.html", abs_src_path=str(path)))
    for name, content in executed(ROOT / f"{NOTEBOOK}.ipynb").items():
        found.append(File.generated(config, f"docs/{name}", content=content))
    if explorers():
        links = "\n".join(f"- [{name}]({name}.html)" for name in explorers())
        found.append(File.generated(config, "explorers/index.md", content=PLAY.format(links=links)))
    return found


def executed(path: Path) -> dict[str, str | bytes]:
    """A page and its pictures, by name, of a notebook that is run. Raises CellExecutionError if it fails."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    place = {"output_files_dir": path.stem, "unique_key": "picture"}
    text, made = MarkdownExporter().from_notebook_node(notebook, resources=place)
    return {f"{path.stem}.md": text, **made["outputs"]}


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn what GitHub reads into what MkDocs reads: formulas, folded parts, links to modules."""
    uri = page.file.src_uri
    markdown = re.sub(r"\$`([^`]+)`\$", r"\\(\1\\)", markdown)
    markdown = re.sub(r"^```math\n(.*?)^```", r"\\[\n\1\\]", markdown, flags=re.MULTILINE | re.DOTALL)
    badges = r"^\[!\[.*img\.shields\.io.*\n"  # the site loads nothing from elsewhere
    markdown = re.sub(badges, "", markdown, flags=re.MULTILINE)
    markdown = markdown.replace("<details>", '<details markdown="1">')
    markdown = markdown.replace("manipulate.ipynb)", "manipulate.md)")
    if uri == f"{NOTEBOOK}.md":
        links = "[Download this notebook](manipulate.ipynb)"
        if config.repo_url:
            where = urlsplit(config.repo_url).path.strip("/")
            links += f" · [Open it in Colab]({COLAB}/{where}/blob/main/{NOTEBOOK}.ipynb)"
        markdown = markdown.replace("\n\n", f"\n\n{links}\n\n", 1)

    def to_reference(match: re.Match[str]) -> str:
        module = ".".join(match["path"].removesuffix("/__init__").split("/"))
        start = os.path.dirname(uri) or "."
        return f"]({os.path.relpath(page_of(module), start)}"

    return re.sub(r"\]\((?:\.\./)*src/(?P<path>ladder_vae[\w/]*)\.py", to_reference, markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Render formulas as MathML, which browsers draw without any script."""

    def inline(match: re.Match[str]) -> str:
        return convert(html.unescape(match[1]), display="inline")

    def block(match: re.Match[str]) -> str:
        return f'<div class="formula">{convert(html.unescape(match[1]), display="block")}</div>'

    content = re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', inline, content, flags=re.DOTALL)
    content = re.sub(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', block, content, flags=re.DOTALL)
    return content


class _Links(HTMLParser):
    """The targets of a page, and the places in it that a link can name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.places: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if value and key in ("href", "src"):
                self.targets.add(value)
            elif value and key in ("id", "name"):
                self.places.add(value)


def on_post_build(config: MkDocsConfig) -> None:
    """Warn of each link of the site that leads nowhere, those in HTML of our own included."""
    site = Path(config.site_dir)
    explored = {site / "explorers" / f"{name}.html" for name in explorers()}
    pages = {
        path: _Links(path.read_text(encoding="utf-8"))
        for path in site.rglob("*.html")
        if path not in explored and path.name != "404.html"
    }
    for path, links in pages.items():
        for target in sorted(links.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = there / "index.html" if there.is_dir() else there
            if not there.exists():
                log.warning("%s links to %s, which does not exist", path.relative_to(site), target)
            elif there in pages and unquote(parts.fragment) not in pages[there].places:
                log.warning("%s links to %s, which has no such place", path.relative_to(site), target)
