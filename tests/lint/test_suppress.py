"""Comments that silence."""

import pytest

from trimtab.lint import lint_source

TEXT = """\
import torch

for x, y in loader:
    optimizer.zero_grad(){zero}
    loss = loss_fn(model(x), y)
    loss.backward()
    loss.backward(){second}
    optimizer.step{step}
"""


def codes(**comments):
    given = {"zero": "", "second": "", "step": ""} | comments
    return [f.code for f in lint_source(TEXT.format(**given))]


@pytest.mark.parametrize(
    ("comment", "left"),
    [
        ("", ["TT720", "TT731"]),
        ("  # trimtab: ignore", ["TT731"]),
        ("  # trimtab: ignore[TT720]", ["TT731"]),
        ("  # trimtab: ignore[tt701, double-backward]", ["TT731"]),
        ("  # noqa: E501  # trimtab:ignore[TT720]", ["TT731"]),
        ("  # trimtab: ignore[TT731]", ["TT720", "TT731"]),
        ("  # trimtab: ignore[]", ["TT720", "TT731"]),
    ],
)
def test_on_a_line(comment, left):
    assert codes(second=comment) == left


def test_for_the_whole_file():
    assert codes(zero="  # trimtab: ignore-file") == []
    assert codes(zero="  # trimtab: ignore-file[missing-call]") == ["TT720"]


def test_in_a_string_it_silences_nothing():
    assert codes(step="; '# trimtab: ignore-file'") == ["TT720", "TT731"]


def test_anywhere_on_a_statement_of_several_lines():
    text = (
        "import torch\n"
        "from torch import nn\n"
        "for x, y in loader:\n"
        "    loss = nn.MSELoss(\n"
        "        model(x),\n"
        "        y,  # trimtab: ignore[TT730]\n"
        "    )\n"
    )

    assert lint_source(text) == []
    assert [f.code for f in lint_source(text.replace("  # trimtab", "  # other"))] == ["TT730"]


def test_a_comment_in_a_loop_s_body_is_not_the_loop_s():
    text = (
        "import torch\n"
        "model.eval()\n"
        "for x, y in test_loader:\n"
        "    a = model(x)  # trimtab: ignore\n"
    )

    assert [f.code for f in lint_source(text)] == ["TT711"]
    assert lint_source(text.replace("loader:", "loader:  # trimtab: ignore")) == []
