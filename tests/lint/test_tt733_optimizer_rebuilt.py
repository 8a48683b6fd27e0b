"""The optimizer is built anew in every epoch or step, so it forgets what it has learnt."""

import pytest

from trimtab.lint import OptimizerRebuilt, lint_source

BAD = {
    "script": (
        "script",
        [
            (
                "    optimizer = optim.Adadelta(model.parameters(), lr=1.0)\n"
                "    scheduler = StepLR(optimizer, step_size=1, gamma=0.7)\n",
                "",
            ),
            (
                "        scheduler.step()\n",
                "",
            ),
            (
                "        train(args",
                "        optimizer = optim.Adadelta(model.parameters(), lr=1.0)\n"
                "        train(args",
            ),
        ],
    ),
    "binary": (
        "binary",
        [
            (
                "optimizer = torch.optim.SGD(model_0.parameters(), lr=0.1)\n",
                "",
            ),
            (
                "    optimizer.zero_grad()\n",
                "    optimizer = torch.optim.SGD(model_0.parameters(), lr=0.1, momentum=0.9)\n"
                "    optimizer.zero_grad()\n",
            ),
        ],
    ),
    "batch": (
        "distributed",
        [
            (
                "        optimizer.zero_grad()\n",
                "        optimizer = torch.optim.Adam(ddp_model.parameters())\n"
                "        optimizer.zero_grad()\n",
            ),
        ],
    ),
    "flat": (
        "flat",
        [
            (
                "    net.train()\n",
                "    net.train()\n    opt = torch.optim.AdamW(net.parameters(), lr=1e-3)\n",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "folds": """\
import torch

for fold in range(5):
    model = Net()
    optimizer = torch.optim.Adam(model.parameters())
    for epoch in range(10):
        for x, y in loader:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
""",
    "clients": """\
import torch

for round_number in range(100):
    for client in clients:
        model.load_state_dict(server.state_dict())
        optimizer = torch.optim.Adam(model.parameters())
        for x, y in client.loader:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
""",
    "no state": (
        "binary",
        [
            (
                "    optimizer.zero_grad()\n",
                "    optimizer = torch.optim.SGD(model_0.parameters(), lr=0.1 / (1 + epoch))\n"
                "    optimizer.zero_grad()\n",
            ),
        ],
    ),
    "when layers thaw": (
        "binary",
        [
            (
                "    optimizer.zero_grad()\n",
                "    if epoch == 50:\n"
                "        optimizer = torch.optim.Adam(model_0.parameters())\n"
                "    optimizer.zero_grad()\n",
            ),
        ],
    ),
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT733"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(OptimizerRebuilt.example, "loop.py")

    assert found == OptimizerRebuilt().finding(
        what="Adam is built anew at every pass of the loop in line 4",
        cause=(
            "its moments and step count start from zero each time, so it never knows more "
            "than one pass, and a learning rate schedule drives an optimizer that is gone"
        ),
        fix="build the optimizer once, before the loop",
        site="",
        file="loop.py",
        line=5,
        column=17,
    )
