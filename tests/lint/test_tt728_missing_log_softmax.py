"""The negative log-likelihood is given logits where it wants log-probabilities."""

import pytest

from trimtab.lint import MissingLogSoftmax, lint_source

BAD = {
    "class": (
        "script",
        [
            (
                "F.cross_entropy(output, target)\n        loss",
                "F.nll_loss(output, target)\n        loss",
            ),
        ],
    ),
    "sequential": ("flat", [("nn.CrossEntropyLoss()", "nn.NLLLoss()")]),
    "trainer": ("trainer", [("nn.CrossEntropyLoss()", "nn.NLLLoss()")]),
    "functional": ("steps", [("F.cross_entropy", "F.nll_loss")]),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "log_softmax": (
        "trainer",
        [
            ("nn.CrossEntropyLoss()", "nn.NLLLoss()"),
            ("return self.head(x)", "return self.head(x).log_softmax(-1)"),
        ],
    ),
    "last layer": (
        "flat",
        [
            (
                "nn.CrossEntropyLoss()",
                "nn.NLLLoss()",
            ),
            (
                "    nn.Linear(256, 10),\n)",
                "    nn.Linear(256, 10),\n    nn.LogSoftmax(dim=1),\n)",
            ),
        ],
    ),
    "in the loop": (
        "distributed",
        [
            (
                "nn.CrossEntropyLoss(label_smoothing=0.1)",
                "nn.NLLLoss()",
            ),
            (
                "criterion(outputs, labels)",
                "criterion(outputs.log_softmax(1), labels)",
            ),
        ],
    ),
    "cross-entropy": (
        "distributed",
        [
            (
                "nn.CrossEntropyLoss(label_smoothing=0.1)",
                'nn.CrossEntropyLoss(reduction="mean")',
            ),
        ],
    ),
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT728"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(MissingLogSoftmax.example, "loop.py")

    assert found == MissingLogSoftmax().finding(
        what="the loss NLLLoss is given logits, and wants log-probabilities",
        cause=(
            "without log_softmax the loss has no lower end: the logits grow for ever and the "
            "loss runs to minus infinity"
        ),
        fix="use CrossEntropyLoss, or apply log_softmax first",
        site="",
        file="loop.py",
        line=8,
        column=12,
    )
