"""Functional dropout is used without the module's mode, so eval() does not turn it off."""

import pytest

from trimtab.findings import Fix
from trimtab.lint import DropoutAlwaysOn, lint_source

BAD = {
    "script": ("script", [(", training=self.training", "")]),
    "keyword": (
        "script",
        [
            (
                "F.dropout(x, 0.5, training=self.training)",
                "F.dropout(x, p=0.5)",
            ),
        ],
    ),
    "nn.functional": (
        "binary",
        [
            (
                "self.dropout(self.relu(self.layer_2(x)))",
                "nn.functional.dropout(self.relu(self.layer_2(x)))",
            ),
        ],
    ),
    "2d": ("script", [("F.dropout(x, 0.5, training=self.training)", "F.dropout2d(x)")]),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "the layer": ("script", [("F.dropout(x, 0.5, training=self.training)", "self.dropout(x)")]),
    "by place": (
        "script",
        [
            (
                "F.dropout(x, 0.5, training=self.training)",
                "F.dropout(x, 0.5, self.training)",
            ),
        ],
    ),
    "on by intent": (
        "script",
        [
            (
                "F.dropout(x, 0.5, training=self.training)",
                "F.dropout(x, 0.5, training=True)",
            ),
        ],
    ),
    "outside forward": (
        "binary",
        [
            (
                "    y_logits =",
                "    X_noisy = nn.functional.dropout(X_train, 0.1)\n    y_logits =",
            ),
        ],
    ),
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT732"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(DropoutAlwaysOn.example, "loop.py")

    assert found == DropoutAlwaysOn().finding(
        what="the call of dropout() lacks training=self.training",
        cause=(
            "functional dropout is on unless it is told otherwise, so eval() does not turn it"
            " off and evaluation is noisy"
        ),
        fix="pass training=self.training, or use the layer nn.Dropout",
        remedy=Fix(action="edit", args={"edits": [[6, 32, 6, 32, ", training=self.training"]]}),
        site="Net.forward",
        file="loop.py",
        line=6,
        column=16,
    )
