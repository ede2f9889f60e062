"""The site's contents, without building it; `make site` builds it and follows every link."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import ladder_vae

ROOT = Path(__file__).parents[1]


class _Loader(yaml.SafeLoader):
    """Reads what MkDocs reads: tags for Python objects are passed over."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
SITE = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)


def pages(nav) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages(part)]


def test_the_contents_name_files_that_exist():
    named = pages(SITE["nav"])
    assert len(named) > 15
    assert [page for page in named if not (ROOT / page).is_file()] == []


def test_every_document_stands_in_the_contents():
    there = [
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs").glob("*.ipynb"),
        *ROOT.glob("experiments/*/README.md"),
    ]
    assert {str(path.relative_to(ROOT)) for path in there} - set(pages(SITE["nav"])) == set()


def test_files_that_build_the_site_exist():
    files = [*SITE["hooks"], *SITE["watch"], *(f for f in SITE["extra_css"])]
    (options,) = (
        p["mkdocstrings"]["handlers"]["python"]["options"] for p in SITE["plugins"] if "mkdocstrings" in p
    )
    assert [name for name in (*files, *options["extensions"]) if not (ROOT / name).exists()] == []


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert citation["version"] == ladder_vae.__version__
    assert f'version = "{citation["version"]}"' in project
    assert f"version = {{{citation['version']}}}" in readme
    assert citation["title"] in readme.replace("\\_", "_")


@pytest.mark.parametrize(
    "workflow", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.stem
)
def test_targets_that_a_workflow_makes_exist(workflow):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    text = workflow.read_text(encoding="utf-8")
    assert set(re.findall(r"run: make ([a-z-]+)", text)) <= set(targets)
    assert yaml.safe_load(text)["jobs"]


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    try:
        importlib.metadata.version("mkdocs-material")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the extra `site` is not installed")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'class="doc' in (tmp_path / "site/reference/models/hierarchy.html").read_text(encoding="utf-8")
