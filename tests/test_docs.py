"""What the documents say of the code, and the notebook."""

import json
import re
from pathlib import Path

import matplotlib
import pytest

from ladder_vae.settings.schema import known_keys

ROOT = Path(__file__).parents[1]
PAGES = sorted(p for p in ROOT.rglob("*.md") if not {".venv", "runs"} & set(p.relative_to(ROOT).parts))
THEORY = re.sub(r"\$`[^`]+`\$", "", (ROOT / "docs/theory.md").read_text())  # without formulas


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for target in targets:
        if not target.startswith(("http", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_tests_that_the_theory_names_exist():
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", THEORY)
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


def test_the_code_that_the_theory_names_exists():
    source = "\n".join(p.read_text() for p in (ROOT / "src/ladder_vae").rglob("*.py"))
    for line in THEORY.splitlines():
        for owner, _, member in (name.partition(".") for name in re.findall(r"`([A-Z]\w+(?:\.\w+)?)`", line)):
            assert re.search(rf"^class {owner}\b", source, re.MULTILINE), owner
            assert not member or re.search(rf"\b{member}\b", source), member
    functions = set(re.findall(r"`([a-z_]+)` in \[", THEORY))
    assert {"product", "importance_bound"} <= functions
    for name in functions:
        assert f"def {name}(" in source, name
    settings = re.findall(r"`((?:objective|model)\.\w+)`", THEORY)
    assert settings
    known = known_keys()
    assert [setting for setting in settings if setting not in known] == []


def test_sections_of_the_theory_are_where_its_contents_say():
    headings = re.findall(r"^## (.+)$", THEORY, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", THEORY)) <= anchors
    assert len(headings) == len(re.findall(r"^\d+\. \[", THEORY, re.MULTILINE))


@pytest.mark.usefixtures("undrawn", "workdir")
def test_what_the_page_on_python_shows_runs():
    text = (ROOT / "docs/python.md").read_text()
    snippets = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(snippets) > 5
    names: dict = {}
    for snippet in snippets:
        exec(compile(snippet, "python.md", "exec"), names)
    shapes = {"anew": 8, "mixed": 4, "path": 20, "cold": 4, "held": 8}
    assert {name: len(names[name]) for name in shapes} == shapes


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_the_notebook_runs(trained, workdir, monkeypatch):
    matplotlib.use("Agg")
    three = ["model.num_layers=3", "model.latent_sizes=[4,3,2]", "model.hidden_sizes=[16,8,8]"]
    trained(*three, "logger=none", run_dir="runs/example/run")
    (workdir / "docs").mkdir()
    monkeypatch.chdir(workdir / "docs")
    notebook = json.loads((ROOT / "docs/manipulate.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5
    names: dict = {}
    for cell in cells:
        exec(compile(cell, "manipulate.ipynb", "exec"), names)
    from matplotlib import pyplot

    assert len(pyplot.get_fignums()) > 8  # it drew them, and they can be drawn
    pyplot.close("all")
