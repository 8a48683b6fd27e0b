"""The learning-rate scheduler steps before the optimizer does."""

import pytest

from trimtab.findings import Fix
from trimtab.lint import SchedulerBeforeOptimizer, lint_source

BAD = {
    "same line": (
        "trainer",
        [
            (
                "                self.scheduler.step()\n",
                "",
            ),
            (
                "                self.scaler.step(self.optimizer)\n",
                "                self.scheduler.step()\n"
                "                self.scaler.step(self.optimizer)\n",
            ),
        ],
    ),
    "epoch": (
        "script",
        [
            (
                "        scheduler.step()\n",
                "",
            ),
            (
                "        train(args, model, device, train_loader, optimizer, epoch)\n",
                "        scheduler.step()\n"
                "        train(args, model, device, train_loader, optimizer, epoch)\n",
            ),
        ],
    ),
    "function": (
        "steps",
        [
            (
                "    optimizer.step()\n    scheduler.step()\n",
                "    scheduler.step()\n    optimizer.step()\n",
            ),
        ],
    ),
    "distributed": (
        "distributed",
        [
            (
                "        scheduler.step()\n",
                "",
            ),
            (
                "        train_sampler.set_epoch(epoch)\n",
                "        train_sampler.set_epoch(epoch)\n        scheduler.step()\n",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "under a condition": (
        "script",
        [
            (
                "        scheduler.step()\n",
                "",
            ),
            (
                "        train(args, model, device, train_loader, optimizer, epoch)\n",
                "        if epoch > 1:\n"
                "            scheduler.step()\n"
                "        train(args, model, device, train_loader, optimizer, epoch)\n",
            ),
        ],
    ),
    "of the step before": (
        "steps",
        [
            (
                "    optimizer.step()\n    scheduler.step()\n",
                "    optimizer.step()\n",
            ),
            (
                "        x, y = next(stream)\n",
                "        x, y = next(stream)\n        if step:\n            scheduler.step()\n",
            ),
        ],
    ),
    "of another optimizer": """\
import torch

opt_d = torch.optim.Adam(netD.parameters(), 2e-4)
opt_g = torch.optim.Adam(netG.parameters(), 2e-4)
sched_d = torch.optim.lr_scheduler.ExponentialLR(opt_d, 0.9999)
for real in loader:
    opt_d.zero_grad()
    d_loss(netD, netG, real).backward()
    opt_d.step()
    sched_d.step()
    opt_g.zero_grad()
    g_loss(netD, netG, real).backward()
    opt_g.step()
""",
    "with the epoch as argument": """\
import timm.scheduler
import torch

lr_scheduler = timm.scheduler.CosineLRScheduler(optimizer, t_initial=100)
for epoch in range(100):
    lr_scheduler.step(epoch)
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
""",
    "environments step too": """\
import torch

for episode in range(1000):
    state, _ = env.reset()
    state, reward, done, truncated, _ = env.step(policy(state).argmax().item())
    optimizer.zero_grad()
    (-reward * policy(state).log_softmax(0)[0]).backward()
    optimizer.step()
""",
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT702"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(SchedulerBeforeOptimizer.example, "loop.py")

    assert found == SchedulerBeforeOptimizer().finding(
        what="the learning rate schedule moves before optimizer.step()",
        cause=(
            "the schedule's first learning rate is never used, and every later one comes one "
            "step early"
        ),
        fix="move scheduler.step() behind optimizer.step()",
        remedy=Fix(
            action="edit",
            args={"edits": [[6, 1, 7, 1, ""], [8, 1, 8, 1, "    scheduler.step()\n"]]},
        ),
        site="",
        file="loop.py",
        line=6,
        column=5,
    )
