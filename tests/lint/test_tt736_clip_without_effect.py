"""Gradients are clipped before they are computed, or after the step that used them."""

import pytest

from trimtab.findings import Fix
from trimtab.lint import ClipWithoutEffect, lint_source

BAD = {
    "script": (
        "script",
        [
            (
                "        torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)\n"
                "        optimizer.step()\n",
                "        optimizer.step()\n"
                "        torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)\n",
            ),
        ],
    ),
    "before": (
        "script",
        [
            (
                "        torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)\n",
                "",
            ),
            (
                "        loss.backward()\n",
                "        torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)\n"
                "        loss.backward()\n",
            ),
        ],
    ),
    "function": (
        "steps",
        [
            (
                "    nn.utils.clip_grad_norm_(model.parameters(), clip)\n"
                "    optimizer.step()\n"
                "    scheduler.step()\n",
                "    optimizer.step()\n"
                "    scheduler.step()\n"
                "    nn.utils.clip_grad_norm_(model.parameters(), clip)\n",
            ),
        ],
    ),
    "trainer": (
        "trainer",
        [
            (
                "                clip_grad_norm_(self.model.parameters(), 1.0)\n",
                "",
            ),
            (
                "                self.scaler.update()\n",
                "                self.scaler.update()\n"
                "                clip_grad_norm_(self.model.parameters(), 1.0)\n",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "a helper": (
        "script",
        [
            (
                "        torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)\n",
                "        clip(model)\n",
            ),
            (
                "def test(model",
                "def clip(model):\n"
                "    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
                "\n"
                "\n"
                "def test(model",
            ),
        ],
    ),
    "under a condition": (
        "script",
        [
            (
                "        torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)\n",
                "        if args.clip:\n"
                "            torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)\n",
            ),
        ],
    ),
    "weights": (
        "binary",
        [
            (
                "    optimizer.step()\n",
                "    optimizer.step()\n"
                "    with torch.no_grad():\n"
                "        for p in model_0.parameters():\n"
                "            p.clamp_(-0.01, 0.01)\n",
            ),
        ],
    ),
    "one step late": """\
import torch

for x, y in loader:
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
""",
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT736"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(ClipWithoutEffect.example, "loop.py")

    assert found == ClipWithoutEffect().finding(
        what="gradients are clipped after optimizer.step()",
        cause=(
            "the step has already used the gradients as they were, so clipping protects from "
            "nothing"
        ),
        fix="clip between backward() and the step",
        remedy=Fix(
            action="edit",
            args={
                "edits": [
                    [8, 1, 9, 1, ""],
                    [7, 1, 7, 1, "    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"],
                ]
            },
        ),
        site="",
        file="loop.py",
        line=8,
        column=5,
    )
