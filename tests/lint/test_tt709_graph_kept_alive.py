"""A running sum or list of losses keeps the graph of every step alive."""

import pytest

from trimtab.findings import Fix
from trimtab.lint import GraphKeptAlive, lint_source

BAD = {
    "sum": ("script", [("running += loss.item()", "running += loss")]),
    "list": ("binary", [("train_losses.append(loss.item())", "train_losses.append(loss)")]),
    "trainer": (
        "trainer",
        [
            (
                "            total_loss += loss.item()",
                "            total_loss = total_loss + loss * self.accum_steps",
            ),
        ],
    ),
    "flat": ("flat", [("losses.append(batch_loss.detach())", "losses.append(batch_loss)")]),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "detached": ("script", [("running += loss.item()", "running += loss.detach()")]),
    "a float": (
        "binary",
        [
            (
                "train_losses.append(loss.item())",
                "train_losses.append(float(loss))",
            ),
        ],
    ),
    "goes backward itself": """\
import torch

for batch in loader:
    total = 0.0
    losses = []
    optimizer.zero_grad()
    for x, y in batch:
        loss = loss_fn(model(x), y)
        losses.append(loss)
        total += loss
    total.backward()
    optimizer.step()
""",
    "reinforce": """\
import torch

for episode in range(100):
    policy_loss = []
    for log_prob, reward in run(policy):
        policy_loss.append(-log_prob * reward)
    optimizer.zero_grad()
    policy_loss = torch.cat(policy_loss).sum()
    policy_loss.backward()
    optimizer.step()
""",
    "made a number before": """\
import torch

total = 0.0
for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    loss = loss.item()
    total += loss
""",
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT709"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(GraphKeptAlive.example, "loop.py")

    assert found == GraphKeptAlive().finding(
        what="the loss is kept from step to step together with its graph",
        cause=(
            "nothing that the step computed can be freed while the graph is referenced, so "
            "memory grows with every batch"
        ),
        fix="keep loss.item(), or loss.detach() to leave it on the device",
        remedy=Fix(action="edit", args={"edits": [[9, 18, 9, 18, ".detach()"]]}),
        site="",
        file="loop.py",
        line=9,
        column=14,
    )
