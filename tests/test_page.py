import base64
from html.parser import HTMLParser

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


def test_markdown(tmp_path):
    write_markdown(tmp_path / "page.md", "T", SECTIONS, "figures/levels")
    text = (tmp_path / "page.md").read_text()
    assert text.startswith(
        "# T\n\n## Level z1\n\na &lt; b &amp; c\n\n|  | n |\n| --- | ---: |\n| z1 | 3 |\n\na note"
    )
    assert "![P](figures/levels/p.png)\n\n*P.* seen" in text
