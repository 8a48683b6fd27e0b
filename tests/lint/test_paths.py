"""Files and folders."""

import pytest

from trimtab.errors import ConfigError
from trimtab.findings import Selection
from trimtab.lint import lint_paths
from trimtab.lint._paths import python_files, read_text

FAULTY = "import torch\nfor x in loader:\n    optimizer.step\n"


@pytest.fixture
def tree(tmp_path):
    for name in (
        "a.py",
        "package/b.py",
        ".hidden/c.py",
        "build/d.py",
        "mine/pyvenv.cfg",
        "mine/e.py",
        "notes.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(FAULTY)
    return tmp_path


def test_folders_are_searched_for_source_of_ones_own(tree):
    found = lint_paths([tree])

    assert [f.file for f in found] == [str(tree / "a.py"), str(tree / "package" / "b.py")]
    assert {f.code for f in found} == {"TT731"}


def test_a_file_is_read_once(tree):
    assert len(list(python_files([tree, tree / "a.py", tree]))) == 2


def test_a_named_file_is_read_wherever_it_is(tree):
    assert len(lint_paths([tree / ".hidden" / "c.py"])) == 1


def test_selection(tree):
    assert lint_paths([tree], Selection(ignore=("TT731",))) == []
    assert len(lint_paths([tree], Selection(select=("missing-call",)))) == 2


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="There is no file or folder"):
        lint_paths([tmp_path / "none.py"])


def test_what_cannot_be_read_is_an_error_only_if_it_was_named(tmp_path):
    (tmp_path / "a.py").write_text("import torch\nx = (\n")
    (tmp_path / "b.py").write_bytes(b"import torch\n# \xff\n")

    assert lint_paths([tmp_path]) == []
    with pytest.raises(ConfigError, match="is not Python"):
        lint_paths([tmp_path / "a.py"])
    with pytest.raises(ConfigError, match="cannot be read as text"):
        lint_paths([tmp_path / "b.py"])


def test_the_encoding_that_a_file_declares(tmp_path):
    path = tmp_path / "a.py"
    path.write_bytes(b"# -*- coding: latin-1 -*-\r\n# \xe9\r\n")

    assert read_text(path) == "# -*- coding: latin-1 -*-\r\n# é\r\n"
