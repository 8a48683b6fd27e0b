"""The binary cross-entropy is given logits where it wants probabilities."""

import pytest

from trimtab.lint import MissingSigmoid, lint_source

BAD = {
    "class": ("binary", [("nn.BCEWithLogitsLoss()", "nn.BCELoss()")]),
    "functional": (
        "binary",
        [
            (
                "loss = loss_fn(y_logits, y_train)",
                "loss = F.binary_cross_entropy(y_logits, y_train)",
            ),
            (
                "from torch import nn\n",
                "import torch.nn.functional as F\nfrom torch import nn\n",
            ),
        ],
    ),
    "sequential": ("flat", [("nn.CrossEntropyLoss()", "nn.BCELoss()")]),
    "forward": (
        "script",
        [
            (
                "F.cross_entropy(output, target)\n        loss",
                "F.binary_cross_entropy(output, target)\n        loss",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "sigmoid at the end": (
        "binary",
        [
            ("nn.BCEWithLogitsLoss()", "nn.BCELoss()"),
            ("return self.layer_3(x)", "return self.layer_3(x).sigmoid()"),
        ],
    ),
    "sigmoid in the loop": (
        "binary",
        [
            (
                "nn.BCEWithLogitsLoss()",
                "nn.BCELoss()",
            ),
            (
                "loss_fn(y_logits, y_train)",
                "loss_fn(torch.sigmoid(y_logits), y_train)",
            ),
            (
                "loss_fn(test_logits, y_test)",
                "loss_fn(torch.sigmoid(test_logits), y_test)",
            ),
        ],
    ),
    "unknown network": """\
import torch
from torch import nn
from models import build

model = build()
criterion = nn.BCELoss()
for x, y in loader:
    optimizer.zero_grad()
    criterion(model(x), y).backward()
    optimizer.step()
""",
    "clamped": (
        "binary",
        [
            ("nn.BCEWithLogitsLoss()", "nn.BCELoss()"),
            ("return self.layer_3(x)", "return self.layer_3(x).clamp(0, 1)"),
        ],
    ),
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT721"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(MissingSigmoid.example, "loop.py")

    assert found == MissingSigmoid().finding(
        what="the loss BCELoss is given logits, and wants probabilities in 0 to 1",
        cause=(
            "it takes the logarithm of the prediction: outside 0 to 1 that is an error or "
            "NaN, and inside it is the loss of something else"
        ),
        fix="use BCEWithLogitsLoss, or apply torch.sigmoid first",
        site="",
        file="loop.py",
        line=8,
        column=12,
    )
