"""The optimizer steps before any gradient is computed."""

import pytest

from trimtab.lint import StepWithoutBackward, lint_source

BAD = {
    "missing": (
        "script",
        [
            (
                "        loss.backward()\n",
                "",
            ),
        ],
    ),
    "missing flat": (
        "binary",
        [
            (
                "    loss.backward()\n",
                "",
            ),
        ],
    ),
    "late": (
        "binary",
        [
            (
                "    loss.backward()\n    optimizer.step()\n",
                "    optimizer.step()\n    loss.backward()\n",
            ),
        ],
    ),
    "late in a function": (
        "distributed",
        [
            (
                "        loss.backward()\n        optimizer.step()\n",
                "        optimizer.step()\n        loss.backward()\n",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "backward elsewhere": (
        "script",
        [
            (
                "        loss.backward()\n",
                "        go_back(loss)\n",
            ),
        ],
    ),
    "accelerator": (
        "script",
        [
            (
                "        loss.backward()\n",
                "        accelerator.backward(loss)\n",
            ),
        ],
    ),
    "gradients by hand": (
        "binary",
        [
            (
                "    loss.backward()\n",
                "    for p, g in zip(model_0.parameters(), torch.autograd.grad(loss, "
                "model_0.parameters())):\n"
                "        p.grad = g\n",
            ),
        ],
    ),
    "one step late": """\
import torch

for x, y in loader:
    optimizer.step()
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
""",
    "evolution": """\
import torch

for generation in range(100):
    scores = evaluate(population)
    optimizer.step()
""",
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT723"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(StepWithoutBackward.example, "loop.py")

    assert found == StepWithoutBackward().finding(
        what="the loop computes a loss and calls optimizer.step(), and never backward()",
        cause="without backward() there are no gradients, so the step changes nothing",
        fix="call loss.backward() before optimizer.step()",
        site="",
        file="loop.py",
        line=6,
        column=5,
    )
