"""The binary cross-entropy with logits is given probabilities."""

import pytest

from trimtab.findings import Fix
from trimtab.lint import SigmoidBeforeBceWithLogits, lint_source

BAD = {
    "in forward": ("binary", [("return self.layer_3(x)", "return torch.sigmoid(self.layer_3(x))")]),
    "module": (
        "binary",
        [
            (
                "self.relu = nn.ReLU()",
                "self.relu = nn.ReLU()\n        self.sigmoid = nn.Sigmoid()",
            ),
            (
                "return self.layer_3(x)",
                "x = self.layer_3(x)\n        x = self.sigmoid(x)\n        return x",
            ),
        ],
    ),
    "in the loop": (
        "binary",
        [
            (
                "loss = loss_fn(y_logits, y_train)",
                "y_prob = torch.sigmoid(y_logits)\n    loss = loss_fn(y_prob, y_train)",
            ),
        ],
    ),
    "functional": (
        "script",
        [
            (
                "loss = F.cross_entropy(output, target)",
                "loss = F.binary_cross_entropy_with_logits(output.sigmoid(), target)",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "sigmoid for reading only": (
        "binary",
        [
            (
                "    train_losses.append",
                "    accuracy = ((torch.sigmoid(y_logits) > 0.5) == y_train).float().mean()\n"
                "    train_losses.append",
            ),
        ],
    ),
    "BCELoss wants it": (
        "binary",
        [
            ("nn.BCEWithLogitsLoss()", "nn.BCELoss()"),
            ("return self.layer_3(x)", "return torch.sigmoid(self.layer_3(x))"),
        ],
    ),
    "a gate inside": (
        "binary",
        [
            (
                "        x = self.dropout(self.relu(self.layer_2(x)))",
                "        x = x * torch.sigmoid(self.layer_2(x))",
            ),
        ],
    ),
    "another output": """\
import torch
from torch import nn

criterion = nn.BCEWithLogitsLoss()
for x, y in loader:
    optimizer.zero_grad()
    logits = model(x)
    probabilities = torch.sigmoid(logits)
    loss = criterion(logits, y)
    loss.backward()
    optimizer.step()
""",
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT708"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(SigmoidBeforeBceWithLogits.example, "loop.py")

    assert found == SigmoidBeforeBceWithLogits().finding(
        what=(
            "the loss BCEWithLogitsLoss is given the output of a sigmoid (line 7), and "
            "applies one itself"
        ),
        cause=(
            "after two sigmoids every prediction lies between 0.5 and 0.73, so no example can"
            " be called negative and learning stalls"
        ),
        fix="remove the sigmoid and give BCEWithLogitsLoss the logits",
        remedy=Fix(action="edit", args={"edits": [[7, 22, 7, 45, "model(x)"]]}),
        site="",
        file="loop.py",
        line=7,
        column=12,
    )
