"""What `trimtab check` does."""

import pytest

from trimtab.errors import ConfigError
from trimtab.findings import Selection
from trimtab.lint import check_command

FAULTY = "import torch\r\nfor x in loader:\r\n    optimizer.step\r\n"
FIXED = FAULTY.replace(".step", ".step()")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(FAULTY, newline="")
    return path


def read(path):
    return path.read_bytes().decode()


def test_finds(path):
    result = check_command([path.parent])

    assert [f.code for f in result.findings] == ["TT731"]
    assert (result.num_files, result.changed, result.diff) == (1, (), "")
    assert read(path) == FAULTY


def test_repairs(path):
    result = check_command([path], fix=True)

    assert result.findings == []
    assert result.changed == (str(path),)
    assert read(path) == FIXED


def test_shows_what_it_would_repair(path):
    result = check_command([path], fix=True, diff=True)

    assert read(path) == FAULTY
    lines = result.diff.splitlines()
    assert lines[0] == f"--- {path}"
    assert lines[-2:] == ["-    optimizer.step", "+    optimizer.step()"]


def test_repairs_only_what_is_selected(path):
    result = check_command([path], Selection(select=("TT701",)), fix=True)

    assert result.changed == ()
    assert read(path) == FAULTY


def test_what_cannot_be_read(path):
    bad = path.parent / "b.py"
    bad.write_text("import torch\nx = (\n")

    result = check_command([path.parent])

    assert len(result.findings) == 1
    assert len(result.unread) == 1
    assert "b.py, line 2, is not Python" in result.unread[0]
    with pytest.raises(ConfigError, match="is not Python"):
        check_command([bad])
