"""The gradient scaler steps and is never updated."""

import pytest

from trimtab.findings import Fix
from trimtab.lint import ScalerNotUpdated, lint_source

BAD = {
    "trainer": (
        "trainer",
        [
            (
                "                self.scaler.update()\n",
                "",
            ),
        ],
    ),
    "flat": (
        "flat",
        [
            (
                "            amp_scaler.update()\n",
                "",
            ),
        ],
    ),
    "no accumulation": (
        "flat",
        [
            (
                "            amp_scaler.update()\n",
                "",
            ),
            (
                "        if (step + 1) % ACCUM == 0 or step + 1 == len(train_dl):\n",
                "        if True:\n",
            ),
            (
                " / ACCUM).b",
                ").b",
            ),
        ],
    ),
    "local": (
        "trainer",
        [
            (
                "                self.scaler.update()\n",
                "",
            ),
            (
                "self.scaler",
                "self.grad_scaler",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "in a helper": (
        "trainer",
        [
            (
                "                self.scaler.update()\n",
                "                self.after()\n",
            ),
            (
                "    def train_epoch(",
                "    def after(self):\n        self.scaler.update()\n\n    def train_epoch(",
            ),
        ],
    ),
    "elsewhere": (
        "flat",
        [
            (
                "            amp_scaler.update()\n",
                "            finish(amp_scaler)\n",
            ),
        ],
    ),
    "a scaler of data": """\
import torch
from sklearn.preprocessing import StandardScaler

scaler = StandardScaler()
x = torch.tensor(scaler.fit_transform(x))
for epoch in range(10):
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    optimizer.step()
""",
    "two optimizers": """\
import torch

for x in loader:
    opt_a.zero_grad()
    opt_b.zero_grad()
    scaler.scale(loss_fn(model(x))).backward()
    scaler.step(opt_a)
    scaler.step(opt_b)
    scaler.update()
""",
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT727"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(ScalerNotUpdated.example, "loop.py")

    assert found == ScalerNotUpdated().finding(
        what="the loop calls scaler.step(), and never scaler.update()",
        cause=(
            "the loss scale is never lowered after an overflow, and the next step of the "
            "optimizer fails since the scaler still thinks it has stepped"
        ),
        fix="call scaler.update() after scaler.step()",
        remedy=Fix(action="edit", args={"edits": [[9, 1, 9, 1, "    scaler.update()\n"]]}),
        site="",
        file="loop.py",
        line=8,
        column=5,
    )
