"""The network is evaluated in training mode: dropout is on and batch statistics are used."""

import pytest

from trimtab.lint import EvaluationWithoutEval, lint_source

BAD = {
    "script": (
        "script",
        [
            (
                "def test(model, device, test_loader):\n    model.eval()\n",
                "def test(model, device, test_loader):\n",
            ),
        ],
    ),
    "trainer": (
        "trainer",
        [
            (
                "    def validate(self):\n        self.model.eval()\n",
                "    def validate(self):\n",
            ),
        ],
    ),
    "flat": (
        "flat",
        [
            (
                "    net.eval()\n",
                "",
            ),
        ],
    ),
    "single batch": (
        "binary",
        [
            (
                "    model_0.eval()\n",
                "",
            ),
        ],
    ),
    "distributed": (
        "distributed",
        [
            (
                "    model.eval()\n",
                "",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "no layers that differ": (
        "flat",
        [
            (
                "    net.eval()\n",
                "",
            ),
            (
                "    nn.BatchNorm1d(256),\n",
                "",
            ),
            (
                "    nn.Dropout(0.3),\n",
                "",
            ),
        ],
    ),
    "train(False)": (
        "script",
        [
            (
                "def test(model, device, test_loader):\n    model.eval()\n",
                "def test(model, device, test_loader):\n    model.train(False)\n",
            ),
        ],
    ),
    "the caller does it": (
        "distributed",
        [
            (
                "    model.eval()\n    correct",
                "    correct",
            ),
            (
                "        if rank == 0:\n",
                "        if rank == 0:\n            model.eval()\n",
            ),
        ],
    ),
    "nobody calls it here": """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())

    def forward(self, x):
        return self.net(x)

@torch.no_grad()
def validate(model, val_loader):
    return sum((model(x) == y).sum().item() for x, y in val_loader)

def freeze(model):
    model.eval()
""",
    "training on data called test": """\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 64), nn.Dropout(0.5), nn.Linear(64, 2))
for x, y in test_train_loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    optimizer.step()
""",
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT710"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(EvaluationWithoutEval.example, "loop.py")

    assert found == EvaluationWithoutEval().finding(
        what="the network model is evaluated in training mode, without model.eval()",
        cause=(
            "dropout still drops units, and BatchNorm normalises by the batch and learns from"
            " held-out data, so the scores are not those of the trained network"
        ),
        fix="call model.eval() before evaluation, and model.train() before training goes on",
        site="",
        file="loop.py",
        line=7,
        column=21,
    )
