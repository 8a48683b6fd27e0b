"""The loss of a float16 forward pass goes backward without loss scaling."""

import pytest

from trimtab.lint import UnscaledBackward, lint_source

BAD = {
    "no scaler": ("steps", [("dtype=torch.bfloat16", "dtype=torch.float16")]),
    "cuda default": (
        "steps",
        [
            (
                'torch.autocast(device_type="cuda", dtype=torch.bfloat16)',
                "torch.cuda.amp.autocast()",
            ),
        ],
    ),
    "plain backward": ("trainer", [("self.scaler.scale(loss).backward()", "loss.backward()")]),
    "plain step": (
        "flat",
        [
            (
                "            amp_scaler.unscale_(opt)\n"
                "            nn.utils.clip_grad_norm_(net.parameters(), 1.0)\n"
                "            amp_scaler.step(opt)\n"
                "            amp_scaler.update()\n",
                "            opt.step()\n",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "bfloat16": (
        "trainer",
        [
            (
                "torch.float16",
                "torch.bfloat16",
            ),
            (
                "self.scaler.scale(loss).backward()",
                "loss.backward()",
            ),
            (
                "                self.scaler.unscale_(self.optimizer)\n",
                "",
            ),
            (
                "self.scaler.step(self.optimizer)",
                "self.optimizer.step()",
            ),
            (
                "                self.scaler.update()\n",
                "",
            ),
            (
                '        self.scaler = GradScaler("cuda")\n',
                "",
            ),
            (
                "import GradScaler, autocast",
                "import autocast",
            ),
        ],
    ),
    "a type that is not known": (
        "steps",
        [("dtype=torch.bfloat16", "dtype=getattr(torch, DTYPE)")],
    ),
    "on the CPU": ("steps", [('device_type="cuda", dtype=torch.bfloat16', '"cpu"')]),
    "wrapped in a cast": """\
from typing import cast
import torch

for x, y in loader:
    optimizer.zero_grad()
    with torch.autocast("cuda"):
        loss = loss_fn(model(x), y)
    cast(torch.Tensor, scaler.scale(loss)).backward()
    scaler.step(optimizer)
    scaler.update()
""",
    "scaled into a name": """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    with torch.cuda.amp.autocast():
        loss = loss_fn(model(x), y)
    scaled = scaler.scale(loss)
    scaled.backward()
    scaler.step(optimizer)
    scaler.update()
""",
    "turned off": """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    with torch.cuda.amp.autocast(enabled=False):
        loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
""",
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT705"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(UnscaledBackward.example, "loop.py")

    assert found == UnscaledBackward().finding(
        what="the forward pass runs in float16, and backward() has no loss scaling",
        cause=(
            "float16 holds no gradient below 6e-8: small gradients become zero and their "
            "layers stop learning"
        ),
        fix=(
            'use a torch.amp.GradScaler("cuda"): scaler.scale(loss).backward(), '
            "scaler.step(optimizer), scaler.update(); or autocast to torch.bfloat16"
        ),
        site="",
        file="loop.py",
        line=7,
        column=5,
    )
