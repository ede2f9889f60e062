"""The environments with other versions: what they hold, and what cannot be made."""

import environments
import pytest
from environments import OLDEST, CannotTest, floors, main, requirements


def test_what_is_asked_for():
    assert requirements("2.11.0") == ["torch==2.11.0", "torchvision==0.26.*"]
    assert requirements("") == [f"{name}=={floors()[name]}" for name in OLDEST]
    assert floors()["lightning"] == "2.6.6"


@pytest.mark.parametrize("version", ["2", "1.13.1", "latest", "2.11.0; rm -rf /"])
def test_what_is_no_version(version):
    with pytest.raises(CannotTest, match=r"is not a version of torch 2; name one like 2\.11\.0"):
        requirements(version)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("ERROR: noise\nERROR: No matching distribution for torch==2.99.0\n", "No matching distribution"),
        ("Killed\n", "pip ended with code 1"),
    ],
)
def test_a_version_that_does_not_exist_is_one_line(tmp_path, monkeypatch, capsys, said, line):
    class Failed:
        returncode, stderr = 1, said

    monkeypatch.setattr(environments, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(environments.venv, "create", lambda path, **_: path.mkdir(parents=True))
    monkeypatch.setattr(environments.subprocess, "run", lambda *_, **__: Failed)
    monkeypatch.setattr("sys.argv", ["environments.py", "--torch", "2.99.0"])
    assert main() == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: torch==2.99.0 and torchvision==0.114.* cannot be installed here: " + line)
    assert error.endswith("; choose another version")
    assert not list((tmp_path / ".venvs").iterdir())  # nothing is left that would be taken for one


def test_no_version_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["environments.py", "--torch", ""])
    assert main() == 1
    assert capsys.readouterr().err == "error: no version was named; make test-torch TORCH=2.11.0\n"
