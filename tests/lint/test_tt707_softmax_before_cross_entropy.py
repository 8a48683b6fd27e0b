"""The cross-entropy loss is given probabilities where it wants logits."""

import pytest

from trimtab.lint import SoftmaxBeforeCrossEntropy, lint_source

BAD = {
    "in forward": (
        "script",
        [
            (
                "        x = self.fc2(x)\n        return x",
                "        return F.softmax(self.fc2(x), dim=1)",
            ),
        ],
    ),
    "last layer": (
        "flat",
        [
            (
                "    nn.Linear(256, 10),\n)",
                "    nn.Linear(256, 10),\n    nn.Softmax(dim=1),\n)",
            ),
        ],
    ),
    "attribute": (
        "trainer",
        [
            (
                "        self.head = nn.Linear(dim, vocab)\n",
                "        self.head = nn.Linear(dim, vocab)\n"
                "        self.softmax = nn.Softmax(dim=-1)\n",
            ),
            (
                "return self.head(x)",
                "return self.softmax(self.head(x))",
            ),
        ],
    ),
    "in the loop": (
        "distributed",
        [
            (
                "        loss = criterion(outputs, labels)",
                "        probs = outputs.softmax(dim=1)\n        loss = criterion(probs, labels)",
            ),
        ],
    ),
    "in a function": (
        "steps",
        [
            (
                "        logits = model(x)\n        return F.cross_entropy(logits, y)",
                "        return F.cross_entropy(torch.softmax(model(x), 1), y)",
            ),
        ],
    ),
    "of a module that owns its loss": """\
import lightning as L
import torch
from torch import nn


class Classifier(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(dim=1))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)
""",
    "log_softmax": (
        "steps",
        [
            (
                "return F.cross_entropy(logits, y)",
                "return F.cross_entropy(F.log_softmax(logits, dim=1), y)",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "softmax for reading only": (
        "distributed",
        [
            (
                "        optimizer.zero_grad()\n",
                "        confidence = outputs.softmax(dim=1).max()\n"
                "        optimizer.zero_grad()\n",
            ),
        ],
    ),
    "probabilities in evaluation": (
        "script",
        [
            (
                "        x = self.fc2(x)\n        return x",
                "        x = self.fc2(x)\n"
                "        return x if self.training else F.softmax(x, dim=1)",
            ),
        ],
    ),
    "log_softmax before nll": (
        "script",
        [
            (
                "        x = self.fc2(x)\n        return x",
                "        return F.log_softmax(self.fc2(x), dim=1)",
            ),
            (
                "F.cross_entropy",
                "F.nll_loss",
            ),
        ],
    ),
    "softmax inside attention": (
        "trainer",
        [
            (
                "        return x + self.drop(self.mlp(self.norm(x)))",
                "        a = torch.softmax(x @ x.transpose(1, 2), dim=-1)\n"
                "        return x + self.drop(self.mlp(self.norm(a @ x)))",
            ),
        ],
    ),
    "a second head": (
        "script",
        [
            (
                "        x = self.fc2(x)\n        return x",
                "        logits = self.fc2(x)\n        return logits, F.softmax(logits, dim=1)",
            ),
            (
                "        output = model(data)\n        loss",
                "        output, _ = model(data)\n        loss",
            ),
            (
                "            output = model(data)\n            test_loss",
                "            output, _ = model(data)\n            test_loss",
            ),
        ],
    ),
    "log of a softmax": (
        "distributed",
        [
            (
                "nn.CrossEntropyLoss(label_smoothing=0.1)",
                "nn.NLLLoss()",
            ),
            (
                "        loss = criterion(outputs, labels)",
                "        loss = criterion(torch.log(outputs.softmax(dim=1)), labels)",
            ),
        ],
    ),
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT707"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(SoftmaxBeforeCrossEntropy.example, "loop.py")

    assert found == SoftmaxBeforeCrossEntropy().finding(
        what=(
            "the loss cross_entropy is given the output of a softmax (line 6), and applies "
            "one itself"
        ),
        cause=(
            "probabilities between 0 and 1 taken for logits make a nearly flat distribution: "
            "the loss cannot come near zero, gradients are small and learning is slow"
        ),
        fix="remove the softmax and give cross_entropy the logits",
        site="",
        file="loop.py",
        line=7,
        column=12,
    )
