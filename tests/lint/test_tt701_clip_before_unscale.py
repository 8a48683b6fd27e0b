"""Gradients are clipped while they are still multiplied by the loss scale."""

import pytest

from trimtab.findings import Fix
from trimtab.lint import ClipBeforeUnscale, lint_source

BAD = {
    "trainer": (
        "trainer",
        [
            (
                "                self.scaler.unscale_(self.optimizer)\n",
                "",
            ),
        ],
    ),
    "flat": (
        "flat",
        [
            (
                "            amp_scaler.unscale_(opt)\n",
                "",
            ),
        ],
    ),
    "after": (
        "trainer",
        [
            (
                "                self.scaler.unscale_(self.optimizer)\n"
                "                clip_grad_norm_(self.model.parameters(), 1.0)\n",
                "                clip_grad_norm_(self.model.parameters(), 1.0)\n"
                "                self.scaler.unscale_(self.optimizer)\n",
            ),
        ],
    ),
    "by value": (
        "flat",
        [
            (
                "            amp_scaler.unscale_(opt)\n"
                "            nn.utils.clip_grad_norm_(net.parameters(), 1.0)\n",
                "            torch.nn.utils.clip_grad_value_(net.parameters(), 0.5)\n",
            ),
        ],
    ),
    "in a helper": (
        "trainer",
        [
            (
                "                self.scaler.unscale_(self.optimizer)\n"
                "                clip_grad_norm_(self.model.parameters(), 1.0)\n",
                "                self.clip()\n",
            ),
            (
                "    def train_epoch(",
                "    def clip(self):\n"
                "        clip_grad_norm_(self.model.parameters(), 1.0)\n"
                "\n"
                "    def train_epoch(",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "accelerate clips": """\
from accelerate import Accelerator

accelerator = Accelerator(mixed_precision="fp16")
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for x, y in loader:
    loss = loss_fn(model(x), y)
    accelerator.backward(loss)
    if accelerator.sync_gradients:
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
""",
    "clips in the branch without a scaler": """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    with torch.autocast("cuda", enabled=use_amp):
        loss = loss_fn(model(x), y)
    if scaler is not None:
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
    else:
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
""",
    "the condition excludes the scaler": """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    if use_amp:
        scaler.scale(loss).backward()
    else:
        loss.backward()
    if not use_amp:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
""",
    "unscaled in a helper": """\
import torch

def unscale_and_clip(scaler, optimizer, parameters):
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)

for x, y in loader:
    optimizer.zero_grad()
    scaler.scale(loss_fn(model(x), y)).backward()
    unscale_and_clip(scaler, optimizer, model.parameters())
    scaler.step(optimizer)
    scaler.update()
""",
    "unscaled by hand": """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    scaler.scale(loss_fn(model(x), y)).backward()
    for p in model.parameters():
        p.grad /= scaler.get_scale()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
""",
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT701"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(ClipBeforeUnscale.example, "loop.py")

    assert found == ClipBeforeUnscale().finding(
        what="gradients are clipped before scaler.unscale_(optimizer)",
        cause=(
            "they are still multiplied by the loss scale, 65,536 at first, so the threshold "
            "acts as one that many times smaller and nearly every step is clipped to nothing"
        ),
        fix="call scaler.unscale_(optimizer) right before clipping, once a step",
        remedy=Fix(
            action="edit", args={"edits": [[8, 1, 8, 1, "    scaler.unscale_(optimizer)\n"]]}
        ),
        site="",
        file="loop.py",
        line=8,
        column=5,
    )
