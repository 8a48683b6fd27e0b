"""A loss module is given prediction and target when it is built, and is never called."""

import pytest

from trimtab.findings import Fix
from trimtab.lint import LossBuiltWithTensors, lint_source

BAD = {
    "script": (
        "script",
        [
            (
                "loss = F.cross_entropy(output, target)",
                "loss = nn.CrossEntropyLoss(output, target)",
            ),
        ],
    ),
    "binary": (
        "binary",
        [
            (
                "loss = loss_fn(y_logits, y_train)",
                "loss = nn.BCEWithLogitsLoss(y_logits, y_train)",
            ),
        ],
    ),
    "distributed": (
        "distributed",
        [
            (
                "loss = criterion(outputs, labels)",
                "loss = torch.nn.MSELoss(outputs, labels)",
            ),
        ],
    ),
    "steps": (
        "steps",
        [
            (
                "return F.cross_entropy(logits, y)",
                "return nn.CrossEntropyLoss(logits, y)",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "settings": (
        "distributed",
        [
            (
                "nn.CrossEntropyLoss(label_smoothing=0.1)",
                "nn.CrossEntropyLoss(class_weights)",
            ),
        ],
    ),
    "old settings": (
        "distributed",
        [
            (
                "nn.CrossEntropyLoss(label_smoothing=0.1)",
                "nn.MSELoss(True, False)",
            ),
        ],
    ),
    "built and called": (
        "distributed",
        [
            (
                "criterion(outputs, labels)",
                "nn.CrossEntropyLoss()(outputs, labels)",
            ),
        ],
    ),
    "a loss of one's own": (
        "distributed",
        [
            (
                "criterion(outputs, labels)",
                "FocalLoss(outputs, labels)",
            ),
            (
                "criterion = nn.CrossEntropyLoss(label_smoothing=0.1).to(rank)",
                "criterion = None",
            ),
        ],
    ),
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT730"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(LossBuiltWithTensors.example, "loop.py")

    assert found == LossBuiltWithTensors().finding(
        what="the loss MSELoss is built with model(x), y, and is not called",
        cause="the class takes settings, not tensors: what comes back is a module and no loss",
        fix="build it first and call it: MSELoss()(model(x), y)",
        remedy=Fix(action="edit", args={"edits": [[6, 22, 6, 22, "()"]]}),
        site="",
        file="loop.py",
        line=6,
        column=12,
    )
