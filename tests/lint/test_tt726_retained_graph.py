"""backward() keeps its graph in every pass of the loop, and nothing uses it again."""

import pytest

from trimtab.lint import RetainedGraph, lint_source

BAD = {
    "script": ("script", [("loss.backward()", "loss.backward(retain_graph=True)")]),
    "trainer": (
        "trainer",
        [
            (
                "self.scaler.scale(loss).backward()",
                "self.scaler.scale(loss).backward(retain_graph=True)",
            ),
        ],
    ),
    "binary": ("binary", [("loss.backward()", "loss.backward(retain_graph=True)")]),
    "steps": ("steps", [("loss.backward()", "loss.backward(retain_graph=True)")]),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "used again": (
        "binary",
        [
            (
                "    loss.backward()\n",
                "    loss.backward(retain_graph=True)\n    penalty(y_logits).backward()\n",
            ),
        ],
    ),
    "said to be false": (
        "binary",
        [
            (
                "    loss.backward()\n",
                "    loss.backward(retain_graph=False)\n",
            ),
        ],
    ),
    "outside of loops": """\
import torch

loss = loss_fn(model(x), y)
loss.backward(retain_graph=True)
""",
    "as the settings say": (
        "binary",
        [
            (
                "    loss.backward()\n",
                "    loss.backward(retain_graph=keep)\n",
            ),
        ],
    ),
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT726"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(RetainedGraph.example, "loop.py")

    assert found == RetainedGraph().finding(
        what="each step ends with backward(retain_graph=True), and nothing goes back again",
        cause=(
            "the graph of each step stays in memory; if it is there to silence an error, a "
            "state that is carried on links all steps, and each one gets slower"
        ),
        fix=(
            "remove retain_graph=True, and detach() the hidden state or the sum that is "
            "carried from step to step"
        ),
        site="",
        file="loop.py",
        line=6,
        column=5,
    )
