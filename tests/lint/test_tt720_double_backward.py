"""backward() is called twice on one loss."""

import pytest

from trimtab.lint import DoubleBackward, lint_source

BAD = {
    "script": (
        "script",
        [
            (
                "        loss.backward()\n",
                "        loss.backward()\n        loss.backward()\n",
            ),
        ],
    ),
    "apart": (
        "binary",
        [
            (
                "    optimizer.step()\n",
                "    optimizer.step()\n    loss.backward()\n",
            ),
        ],
    ),
    "scaled": (
        "flat",
        [
            (
                "        amp_scaler.scale(batch_loss / ACCUM).backward()\n",
                "        batch_loss = batch_loss / ACCUM\n"
                "        amp_scaler.scale(batch_loss).backward()\n"
                "        amp_scaler.scale(batch_loss).backward()\n",
            ),
        ],
    ),
    "loop": (
        "steps",
        [
            (
                "    loss.backward()\n",
                "    for _ in range(3):\n        loss.backward()\n",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "retained": """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward(retain_graph=True)
    loss.backward()
    optimizer.step()
""",
    "two branches": (
        "script",
        [
            (
                "        loss.backward()\n",
                "        if args.clip:\n"
                "            loss.backward()\n"
                "        else:\n"
                "            loss.backward()\n",
            ),
        ],
    ),
    "computed anew": (
        "binary",
        [
            (
                "    train_losses.append",
                "    loss = loss_fn(model_0(X_train).squeeze(), y_train)\n"
                "    loss.backward()\n"
                "    optimizer.step()\n"
                "    train_losses.append",
            ),
        ],
    ),
    "sharpness-aware": """\
import torch

for x, y in loader:
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.first_step(zero_grad=True)
    loss_fn(model(x), y).backward()
    optimizer.second_step(zero_grad=True)
""",
    "two losses": """\
import torch

for real in loader:
    optimizerD.zero_grad()
    errD_real = loss_fn(netD(real), ones)
    errD_real.backward()
    errD_fake = loss_fn(netD(netG(noise).detach()), zeros)
    errD_fake.backward()
    optimizerD.step()
""",
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT720"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(DoubleBackward.example, "loop.py")

    assert found == DoubleBackward().finding(
        what="the loss goes backward a second time, after line 6",
        cause=(
            "the first call frees the graph, so the second one fails, or adds the same "
            "gradient once more"
        ),
        fix="call backward() once for each forward pass",
        site="",
        file="loop.py",
        line=7,
        column=5,
    )
