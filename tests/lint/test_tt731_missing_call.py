"""A method is named without being called, so nothing happens."""

import pytest

from trimtab.findings import Fix
from trimtab.lint import MissingCall, lint_source

BAD = {
    "step": (
        "script",
        [
            (
                "        optimizer.step()\n",
                "        optimizer.step\n",
            ),
        ],
    ),
    "zero_grad": (
        "binary",
        [
            (
                "    optimizer.zero_grad()\n",
                "    optimizer.zero_grad\n",
            ),
        ],
    ),
    "eval": (
        "distributed",
        [
            (
                "    model.eval()\n",
                "    model.eval\n",
            ),
        ],
    ),
    "parameters": ("flat", [("AdamW(net.parameters(),", "AdamW(net.parameters,")]),
    "schedule": ("trainer", [("self.scheduler.step()", "self.scheduler.step")]),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "passed on": (
        "binary",
        [
            (
                "train_losses = []",
                "train_losses = []\n"
                "hook = optimizer.step\n"
                "callbacks = [model_0.eval, model_0.train]\n",
            ),
        ],
    ),
    "a property": (
        "binary",
        [
            (
                "train_losses = []",
                "train_losses = []\nloss_fn.reduction\n",
            ),
        ],
    ),
    "a parameter of one's own": """\
import torch

class Camera:
    def __init__(self):
        self.parameters = [torch.zeros(3, requires_grad=True)]

camera = Camera()
optimizer = torch.optim.Adam(camera.parameters, lr=0.1)
""",
    "in brackets": (
        "binary",
        [
            (
                "    optimizer.step()\n",
                "    (optimizer.step)()\n",
            ),
        ],
    ),
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT731"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(MissingCall.example, "loop.py")

    assert found == MissingCall().finding(
        what="the method optimizer.step is named and not called",
        cause="without brackets nothing happens: the optimizer or schedule never moves",
        fix="write optimizer.step()",
        remedy=Fix(action="edit", args={"edits": [[7, 19, 7, 19, "()"]]}),
        site="",
        file="loop.py",
        line=7,
        column=5,
    )
