"""The loss is given the target first and the prediction second."""

import pytest

from trimtab.findings import Fix
from trimtab.lint import SwappedLossArguments, lint_source

BAD = {
    "script": (
        "script",
        [
            (
                "F.cross_entropy(output, target)\n        loss",
                "F.cross_entropy(target, output)\n        loss",
            ),
        ],
    ),
    "distributed": ("distributed", [("criterion(outputs, labels)", "criterion(labels, outputs)")]),
    "flat": ("flat", [("loss_func(out, yb)", "loss_func(yb, out)")]),
    "inline": (
        "distributed",
        [
            (
                "        outputs = ddp_model(images)\n        loss = criterion(outputs, labels)",
                "        loss = criterion(labels, ddp_model(images))",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "symmetric": (
        "distributed",
        [
            ("nn.CrossEntropyLoss(label_smoothing=0.1)", "nn.MSELoss()"),
            ("criterion(outputs, labels)", "criterion(labels, outputs)"),
        ],
    ),
    "both are outputs": (
        "distributed",
        [
            (
                "criterion(outputs, labels)",
                "criterion(outputs, ddp_model(labels))",
            ),
        ],
    ),
    "named arguments": (
        "distributed",
        [
            (
                "criterion(outputs, labels)",
                "criterion(target=labels, input=outputs)",
            ),
        ],
    ),
    "a loss of one's own": (
        "distributed",
        [
            (
                "criterion = nn.CrossEntropyLoss(label_smoothing=0.1).to(rank)",
                "criterion = MyLoss()",
            ),
            (
                "criterion(outputs, labels)",
                "criterion(labels, outputs)",
            ),
        ],
    ),
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT729"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(SwappedLossArguments.example, "loop.py")

    assert found == SwappedLossArguments().finding(
        what=(
            "the loss binary_cross_entropy_with_logits is given the target y before the prediction"
        ),
        cause="PyTorch's losses take the prediction first, so the target is taken for it",
        fix="swap them: (output, y)",
        remedy=Fix(action="edit", args={"edits": [[7, 47, 7, 48, "output"], [7, 50, 7, 56, "y"]]}),
        site="",
        file="loop.py",
        line=7,
        column=12,
    )
