"""Gradients are never set to zero between two steps of the optimizer."""

import pytest

from trimtab.findings import Fix
from trimtab.lint import MissingZeroGrad, lint_source

BAD = {
    "script": (
        "script",
        [
            (
                "        optimizer.zero_grad()\n",
                "",
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
        ],
    ),
    "function": (
        "steps",
        [
            (
                "    optimizer.zero_grad()\n",
                "",
            ),
        ],
    ),
    "once an epoch": (
        "binary",
        [
            (
                "    optimizer.zero_grad()\n",
                "",
            ),
            (
                "for epoch in range(100):",
                "optimizer.zero_grad()\nfor epoch in range(100):",
            ),
        ],
    ),
    "once for all batches": (
        "distributed",
        [
            (
                "        optimizer.zero_grad()\n",
                "",
            ),
            (
                "    ddp_model.train()\n",
                "    ddp_model.train()\n    optimizer.zero_grad()\n",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "the model clears": (
        "script",
        [
            (
                "        optimizer.zero_grad()\n",
                "        model.zero_grad()\n",
            ),
        ],
    ),
    "by hand": (
        "script",
        [
            (
                "        optimizer.zero_grad()\n",
                "        for p in model.parameters():\n            p.grad = None\n",
            ),
        ],
    ),
    "after the step": (
        "binary",
        [
            (
                "    optimizer.zero_grad()\n    loss.backward()\n    optimizer.step()\n",
                "    loss.backward()\n    optimizer.step()\n    optimizer.zero_grad()\n",
            ),
        ],
    ),
    "in a closure": """\
import torch

optimizer = torch.optim.LBFGS(model.parameters())
for x, y in loader:
    def closure():
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
""",
    "elsewhere, with the optimizer": """\
import torch
from training import clear

for x, y in loader:
    loss_fn(model(x), y).backward()
    optimizer.step()
    clear(optimizer)
""",
    "deepspeed": """\
import deepspeed
import torch

model_engine, _, loader, _ = deepspeed.initialize(args=args, model=net, training_data=data)
for x, y in loader:
    loss = loss_fn(model_engine(x), y)
    model_engine.backward(loss)
    model_engine.step()
""",
    "two optimizers": """\
import torch

for real in loader:
    netD.zero_grad()
    d_loss(netD, netG, real).backward()
    optimizerD.step()
    netG.zero_grad()
    g_loss(netD, netG, real).backward()
    optimizerG.step()
""",
    "many optimizers": """\
import torch

optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in models]
for x, y in loader:
    for opt in optimizers:
        opt.zero_grad(set_to_none=True)
    sum(loss_fn(m(x), y) for m in models).backward()
    for opt in optimizers:
        opt.step()
""",
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT704"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(MissingZeroGrad.example, "loop.py")

    assert found == MissingZeroGrad().finding(
        what=(
            "the loop calls optimizer.step() at every pass, and optimizer.zero_grad() is "
            "never called in it"
        ),
        cause=(
            "backward() adds to the gradients that are there, so each step follows the sum of"
            " all gradients so far, and the loss swings or diverges"
        ),
        fix="call optimizer.zero_grad() before backward()",
        remedy=Fix(action="edit", args={"edits": [[5, 1, 5, 1, "    optimizer.zero_grad()\n"]]}),
        site="",
        file="loop.py",
        line=6,
        column=5,
    )
