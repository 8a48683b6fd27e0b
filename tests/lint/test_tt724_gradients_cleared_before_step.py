"""The gradients are set to zero after backward() and before the step that would use them."""

import pytest

from trimtab.findings import Fix
from trimtab.lint import GradientsClearedBeforeStep, lint_source

BAD = {
    "script": (
        "script",
        [
            (
                "        optimizer.zero_grad()\n",
                "",
            ),
            (
                "        optimizer.step()\n",
                "        optimizer.zero_grad()\n        optimizer.step()\n",
            ),
        ],
    ),
    "model": (
        "binary",
        [
            (
                "    optimizer.zero_grad()\n    loss.backward()\n",
                "    loss.backward()\n    model_0.zero_grad()\n",
            ),
        ],
    ),
    "trainer": (
        "trainer",
        [
            (
                "                self.optimizer.zero_grad(set_to_none=True)\n",
                "",
            ),
            (
                "                self.scaler.unscale_(self.optimizer)\n",
                "                self.optimizer.zero_grad()\n"
                "                self.scaler.unscale_(self.optimizer)\n",
            ),
        ],
    ),
    "function": (
        "steps",
        [
            (
                "    optimizer.zero_grad()\n",
                "",
            ),
            (
                "    loss.backward()\n",
                "    loss.backward()\n    optimizer.zero_grad()\n",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "another optimizer": """\
import torch

for real in loader:
    optimizer_d.zero_grad()
    d_loss(real).backward()
    optimizer_g.zero_grad()
    optimizer_d.step()
    g_loss(real).backward()
    optimizer_g.step()
""",
    "backward again": (
        "binary",
        [
            (
                "    loss.backward()\n",
                "    loss.backward()\n"
                "    record(model_0)\n"
                "    optimizer.zero_grad()\n"
                "    loss = loss_fn(model_0(X_train).squeeze(), y_train)\n"
                "    loss.backward()\n",
            ),
        ],
    ),
    "when it is not finite": (
        "script",
        [
            (
                "        optimizer.step()\n",
                "        if not torch.isfinite(loss):\n"
                "            optimizer.zero_grad()\n"
                "            continue\n"
                "        optimizer.step()\n",
            ),
        ],
    ),
    "before the window": (
        "flat",
        [
            (
                "        if (step + 1)",
                "        if step == 0:\n            print(epoch)\n        if (step + 1)",
            ),
        ],
    ),
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT724"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(GradientsClearedBeforeStep.example, "loop.py")

    assert found == GradientsClearedBeforeStep().finding(
        what=(
            "the gradients are cleared, by optimizer.zero_grad(), between backward() and "
            "optimizer.step()"
        ),
        cause=(
            "the gradients that backward() has just computed are thrown away, so the step "
            "changes nothing"
        ),
        fix="call zero_grad() before backward(), or after the step",
        remedy=Fix(
            action="edit",
            args={"edits": [[6, 1, 7, 1, ""], [5, 1, 5, 1, "    optimizer.zero_grad()\n"]]},
        ),
        site="",
        file="loop.py",
        line=6,
        column=5,
    )
