"""Notebooks."""

import json

import pytest

from trimtab.errors import ConfigError
from trimtab.lint import lint_paths
from trimtab.lint._notebook import read_notebook


def notebook(*cells):
    made = [{"cell_type": kind, "source": source} for kind, source in cells]
    return json.dumps({"cells": made, "nbformat": 4})


def test_cells_become_one_program():
    text = notebook(
        ("markdown", "# Title"),
        ("code", ["%matplotlib inline\n", "import torch\n"]),
        ("code", "for i in x:\n    !ls\n    torch?\n"),
        ("code", "%%bash\nrm x\n"),
    )

    found = read_notebook(text, "a.ipynb")

    assert found.starts == ((2, 1), (3, 3), (4, 6))
    assert found.text == ("pass  #\nimport torch\nfor i in x:\n    pass  #\n    pass  #\npass\n#\n")


def test_findings_are_told_by_cell(tmp_path):
    path = tmp_path / "a.ipynb"
    path.write_text(
        notebook(
            ("code", "import torch\n"),
            ("markdown", "text"),
            ("code", "for x, y in loader:\n    optimizer.step\n"),
        )
    )

    (found,) = lint_paths([path])

    assert (found.code, found.line, found.site) == ("TT731", 2, "cell 3")
    assert found.remedy is None


@pytest.mark.parametrize("text", ["", "[]", '{"cells": 1}'])
def test_what_is_no_notebook_is_named(text):
    with pytest.raises(ConfigError, match="is no Jupyter notebook"):
        read_notebook(text, "a.ipynb")
