"""Gradients are computed and cleared, and the optimizer never steps."""

import pytest

from trimtab.findings import Fix
from trimtab.lint import BackwardWithoutStep, lint_source

BAD = {
    "script": (
        "script",
        [
            (
                "        optimizer.step()\n",
                "",
            ),
            (
                "        scheduler.step()\n",
                "",
            ),
            (
                "    scheduler = StepLR(optimizer, step_size=1, gamma=0.7)\n",
                "",
            ),
            (
                "        torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)\n",
                "",
            ),
        ],
    ),
    "binary": (
        "binary",
        [
            (
                "    optimizer.step()\n",
                "",
            ),
        ],
    ),
    "only the schedule moves": (
        "distributed",
        [
            (
                "        optimizer.step()\n",
                "",
            ),
        ],
    ),
    "function": (
        "steps",
        [
            (
                "    optimizer.step()\n    scheduler.step()\n",
                "",
            ),
            (
                "    scheduler = CosineAnnealingLR(optimizer, T_max=config.max_steps)\n",
                "    scheduler = None\n",
            ),
        ],
    ),
    "after": (
        "distributed",
        [
            (
                "        optimizer.step()\n",
                "",
            ),
            (
                "        scheduler.step()\n",
                "",
            ),
            (
                "    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, "
                "milestones=[30, 60, 80], gamma=0.1)\n",
                "",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "saliency": """\
import torch

for x, y in loader:
    model.zero_grad()
    loss_fn(model(x), y).backward()
    maps.append(x.grad)
""",
    "stepped elsewhere": (
        "script",
        [
            (
                "        optimizer.step()\n",
                "        advance(optimizer)\n",
            ),
        ],
    ),
    "by hand": (
        "binary",
        [
            (
                "    optimizer.step()\n",
                "    with torch.no_grad():\n"
                "        for p in model_0.parameters():\n"
                "            p -= 0.1 * p.grad\n",
            ),
        ],
    ),
    "in a helper": (
        "script",
        [
            (
                "        optimizer.step()\n",
                "        move(optimizer)\n",
            ),
            (
                "def test(model",
                "def move(optimizer):\n    optimizer.step()\n\n\ndef test(model",
            ),
        ],
    ),
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT735"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(BackwardWithoutStep.example, "loop.py")

    assert found == BackwardWithoutStep().finding(
        what="the loop calls backward() at every pass, and optimizer.step() never",
        cause="gradients are computed and thrown away, so no parameter ever changes",
        fix="call optimizer.step() after backward()",
        remedy=Fix(action="edit", args={"edits": [[8, 1, 8, 1, "    optimizer.step()\n"]]}),
        site="",
        file="loop.py",
        line=7,
        column=5,
    )
