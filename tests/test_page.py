import base64
import os
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from ladder_vae.analysis import page
from ladder_vae.drawing import pages
from ladder_vae.drawing.pages import Picture, Section, Table, write_html, write_markdown

SECTIONS = [
    Section(
        "Level z1",
        ["a < b & c"],
        Table(["", "n"], [["z1", "3"]], "a note"),
        [Picture("p.png", "P", "seen", lambda path: path.write_bytes(b"png"))],
    ),
    Section("How it was made"),
]


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_needs_no_other_file(tmp_path):
    (tmp_path / "p.png").write_bytes(b"\x89PNG picture")
    write_html(tmp_path / "page.html", "T <1>", SECTIONS, tmp_path)
    text = (tmp_path / "page.html").read_text()
    tags = Tags(text)
    assert not tags.open  # all closed
    (image,) = [attrs for tag, attrs in tags.found if tag == "img"]
    kind, _, data = image["src"].partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == b"\x89PNG picture"
    assert image["alt"] == "P"
    targets = {attrs["href"] for tag, attrs in tags.found if tag == "a"}
    assert targets == {"#level-z1", "#how-it-was-made"}
    assert {f"#{attrs['id']}" for _, attrs in tags.found if "id" in attrs} >= targets
    assert not any(tag in ("link", "script") for tag, _ in tags.found)
    assert "http" not in text
    assert "a &lt; b &amp; c" in text
    assert "T &lt;1&gt;" in text


@pytest.mark.parametrize("embedded", [True, False])
def test_another_page_is_linked_and_embedded_if_it_is_small(tmp_path, monkeypatch, embedded):
    (tmp_path / "other.html").write_text('<p class="other">"playing"</p>')
    if not embedded:
        monkeypatch.setattr(pages, "EMBEDDED", 10)
    sections = [Section("Play", page=tmp_path / "other.html")]
    write_html(tmp_path / "page.html", "T", sections, tmp_path)
    tags = Tags((tmp_path / "page.html").read_text()).found
    assert {"href": "other.html"} in [attrs for tag, attrs in tags if tag == "a"]
    frames = [attrs["srcdoc"] for tag, attrs in tags if tag == "iframe"]
    assert frames == ['<p class="other">"playing"</p>'] * embedded
    write_markdown(tmp_path / "page.md", "T", sections, "figures")
    assert "[other.html](other.html)" in (tmp_path / "page.md").read_text()


def test_pictures_of_two_analyses_at_once(tmp_path, monkeypatch):
    """One writes a picture while the other removes those of other levels, which the first has removed."""
    directory = tmp_path / page.PICTURES
    directory.mkdir(parents=True)
    for name in (".part-0123456789ab-new.png", "other_level.png"):
        (directory / name).write_bytes(b"png")

    def written(*arguments):
        (directory / "gone.png").symlink_to("nowhere")
        monkeypatch.setattr(page.Path, "unlink", remove)

    def remove(path, missing_ok=False):
        os.unlink(path)
        if path.name == "gone.png" and not missing_ok:
            raise FileNotFoundError

    monkeypatch.setattr(page, "_sections", lambda *_: [])
    monkeypatch.setattr(page, "write_html", written)
    model = SimpleNamespace(num_layers=1)
    subject = SimpleNamespace(run=SimpleNamespace(path=tmp_path, model=model))
    settings = SimpleNamespace(levels=[0])
    page.write(subject, SimpleNamespace(readings=None), settings, lambda step: None, "it is too large")
    assert [path.name for path in directory.iterdir()] == [".part-0123456789ab-new.png"]


def test_markdown(tmp_path):
    write_markdown(tmp_path / "page.md", "T", SECTIONS, "figures/levels")
    text = (tmp_path / "page.md").read_text()
    assert text.startswith(
        "# T\n\n## Level z1\n\na &lt; b &amp; c\n\n|  | n |\n| --- | ---: |\n| z1 | 3 |\n\na note"
    )
    assert "![P](figures/levels/p.png)\n\n*P.* seen" in text
