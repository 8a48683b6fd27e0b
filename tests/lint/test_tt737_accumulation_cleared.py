"""The optimizer steps at every k-th micro-batch, and gradients are cleared at each one."""

import pytest

from trimtab.lint import AccumulationCleared, lint_source

BAD = {
    "trainer": (
        "trainer",
        [
            (
                "                self.optimizer.zero_grad(set_to_none=True)\n",
                "",
            ),
            (
                "            with autocast(",
                "            self.optimizer.zero_grad()\n            with autocast(",
            ),
        ],
    ),
    "flat": (
        "flat",
        [
            (
                "            opt.zero_grad()\n",
                "",
            ),
            (
                "        with autocast():",
                "        opt.zero_grad()\n        with autocast():",
            ),
        ],
    ),
    "model": (
        "binary",
        [
            (
                "    optimizer.zero_grad()\n    loss.backward()\n    optimizer.step()\n",
                "    model_0.zero_grad()\n"
                "    (loss / 4).backward()\n"
                "    if epoch % 4 == 3:\n"
                "        optimizer.step()\n",
            ),
        ],
    ),
    "named condition": (
        "distributed",
        [
            (
                "    for images, labels in loader:\n",
                "    for step, (images, labels) in enumerate(loader):\n",
            ),
            (
                "        loss = criterion(outputs, labels)\n",
                "        loss = criterion(outputs, labels) / 8\n"
                "        is_last = (step + 1) % 8 == 0\n",
            ),
            (
                "        optimizer.step()\n",
                "        if is_last:\n            optimizer.step()\n",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "clears after the step": (
        "trainer",
        [
            (
                "self.optimizer.zero_grad(set_to_none=True)",
                "self.optimizer.zero_grad()",
            ),
        ],
    ),
    "a critic that steps more often": """\
import torch

for i, real in enumerate(loader):
    optimizer_d.zero_grad()
    optimizer_g.zero_grad()
    d_loss(real).backward()
    optimizer_d.step()
    if i % 5 == 0:
        g_loss(real).backward()
        optimizer_g.step()
""",
    "logs every k steps": (
        "script",
        [
            (
                "        if batch_idx % args.log_interval == 0:\n",
                "        if (batch_idx + 1) % args.log_interval == 0:\n",
            ),
        ],
    ),
    "clears at the start of a window": """\
import torch

for i, (x, y) in enumerate(loader):
    if i % 4 == 0:
        optimizer.zero_grad()
    (loss_fn(model(x), y) / 4).backward()
    if i % 4 == 3:
        optimizer.step()
""",
    "one micro-batch": """\
import torch

for i, (x, y) in enumerate(loader):
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    if i % 1 == 0:
        optimizer.step()
""",
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT737"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(AccumulationCleared.example, "loop.py")

    assert found == AccumulationCleared().finding(
        what="gradients are cleared at every pass, and optimizer.step() comes once in 4",
        cause=(
            "what the other passes have computed is thrown away, so nothing accumulates and "
            "the batch is that of one pass"
        ),
        fix="call zero_grad() right after optimizer.step(), under the same condition",
        site="",
        file="loop.py",
        line=4,
        column=5,
    )
