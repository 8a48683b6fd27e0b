"""Gradients of several micro-batches are added up, and the loss is not divided by their number."""

import pytest

from trimtab.findings import Fix
from trimtab.lint import UndividedAccumulation, lint_source

BAD = {
    "trainer": (
        "trainer",
        [
            (
                "                loss = loss / self.accum_steps\n",
                "",
            ),
        ],
    ),
    "flat": ("flat", [("batch_loss / ACCUM", "batch_loss")]),
    "counter": (
        "binary",
        [
            (
                "    optimizer.zero_grad()\n    loss.backward()\n    optimizer.step()\n",
                "    loss.backward()\n"
                "    if epoch % 8 == 7:\n"
                "        optimizer.step()\n"
                "        optimizer.zero_grad()\n",
            ),
        ],
    ),
    "inner loop": (
        "steps",
        [
            (
                "def train_step(model, optimizer, scheduler, x, y, clip):\n"
                "    optimizer.zero_grad()\n"
                "    loss = compute_loss(model, x, y)\n"
                "    loss.backward()\n",
                "def train_step(model, optimizer, scheduler, stream, accumulation_steps, clip):\n"
                "    optimizer.zero_grad()\n"
                "    for _ in range(accumulation_steps):\n"
                "        x, y = next(stream)\n"
                "        loss = compute_loss(model, x, y)\n"
                "        loss.backward()\n",
            ),
            (
                "        x, y = next(stream)\n"
                "        total += train_step(model, optimizer, scheduler, x, y, config.clip)",
                "        total += train_step(model, optimizer, scheduler, stream, 4, config.clip)",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "divided in place": (
        "trainer",
        [
            (
                "                loss = loss / self.accum_steps\n",
                "                loss /= self.accum_steps\n",
            ),
        ],
    ),
    "gradients divided": (
        "flat",
        [
            (
                "batch_loss / ACCUM",
                "batch_loss",
            ),
            (
                "            nn.utils.clip",
                "            for p in net.parameters():\n"
                "                p.grad /= ACCUM\n"
                "            nn.utils.clip",
            ),
        ],
    ),
    "computed with the number": (
        "flat",
        [
            (
                "amp_scaler.scale(batch_loss / ACCUM)",
                "amp_scaler.scale(batch_loss)",
            ),
            (
                "loss_func(out, yb)",
                "scaled_loss(out, yb, ACCUM)",
            ),
        ],
    ),
    "only logs are every k steps": (
        "binary",
        [
            (
                "    if epoch % 10 == 0:\n",
                "    if (epoch + 1) % 10 == 0:\n",
            ),
        ],
    ),
    "accelerate divides": """\
from accelerate import Accelerator

accelerator = Accelerator(gradient_accumulation_steps=4)
for i, (x, y) in enumerate(loader):
    loss = loss_fn(model(x), y)
    accelerator.backward(loss)
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
""",
    "by the number of tokens": """\
import torch

for i, (x, y) in enumerate(loader):
    loss = token_loss(model(x), y).sum() / num_tokens
    loss.backward()
    if (i + 1) % accumulation_steps == 0:
        optimizer.step()
        optimizer.zero_grad()
""",
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT706"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(UndividedAccumulation.example, "loop.py")

    assert found == UndividedAccumulation().finding(
        what="gradients of 4 micro-batches are added up, and no loss is divided",
        cause=(
            "the gradient is 4 times that of one batch, so the learning rate acts that many "
            "times larger, and a clip threshold that many times smaller"
        ),
        fix="divide the loss: (loss / 4).backward()",
        remedy=Fix(action="edit", args={"edits": [[5, 5, 5, 9, "(loss / 4)"]]}),
        site="",
        file="loop.py",
        line=5,
        column=5,
    )
