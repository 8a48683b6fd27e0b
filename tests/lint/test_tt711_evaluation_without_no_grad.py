"""The network is evaluated with gradients on."""

import pytest

from trimtab.lint import EvaluationWithoutNoGrad, lint_source

BAD = {
    "script": (
        "script",
        [
            (
                "    with torch.no_grad():\n        for data",
                "    if True:\n        for data",
            ),
        ],
    ),
    "trainer": (
        "trainer",
        [
            (
                "    @torch.no_grad()\n",
                "",
            ),
        ],
    ),
    "flat": (
        "flat",
        [
            (
                "    with torch.inference_mode():\n        for",
                "    if True:\n        for",
            ),
        ],
    ),
    "distributed": (
        "distributed",
        [
            (
                "@torch.no_grad()\n",
                "",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "decorated": (
        "script",
        [
            (
                "    with torch.no_grad():\n        for data",
                "    if True:\n        for data",
            ),
            (
                "def test(model",
                "@torch.inference_mode()\ndef test(model",
            ),
        ],
    ),
    "set_grad_enabled": (
        "script",
        [
            (
                "    with torch.no_grad():\n        for data",
                "    with torch.set_grad_enabled(False):\n        for data",
            ),
        ],
    ),
    "around the call": (
        "distributed",
        [
            (
                "@torch.no_grad()\n",
                "",
            ),
            (
                "            print(epoch, evaluate(model, val_loader, rank))",
                "            with torch.no_grad():\n"
                "                print(epoch, evaluate(model, val_loader, rank))",
            ),
        ],
    ),
    "adversarial examples": """\
import torch

model.eval()
for x, y in test_loader:
    x.requires_grad_(True)
    grad = torch.autograd.grad(loss_fn(model(x), y), x)[0]
    hits += (model(x + 0.1 * grad.sign()).argmax(1) == y).sum()
""",
    "test-time training": """\
import torch

for x, y in test_loader:
    optimizer.zero_grad()
    entropy(model(x)).backward()
    optimizer.step()
""",
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT711"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(EvaluationWithoutNoGrad.example, "loop.py")

    assert found == EvaluationWithoutNoGrad().finding(
        what="the network model is evaluated outside torch.no_grad()",
        cause=(
            "each batch keeps its activations for a backward() that never comes, which takes "
            "as much memory as training"
        ),
        fix="put the loop into `with torch.no_grad():`",
        site="",
        file="loop.py",
        line=4,
        column=1,
    )
