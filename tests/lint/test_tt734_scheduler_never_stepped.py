"""A learning-rate scheduler is built and never used."""

import pytest

from trimtab.lint import SchedulerNeverStepped, lint_source

BAD = {
    "script": (
        "script",
        [
            (
                "        scheduler.step()\n",
                "",
            ),
        ],
    ),
    "trainer": (
        "trainer",
        [
            (
                "                self.scheduler.step()\n",
                "",
            ),
        ],
    ),
    "flat": (
        "flat",
        [
            (
                "            sched.step()\n",
                "",
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
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "returned": (
        "script",
        [
            (
                "        scheduler.step()\n",
                "",
            ),
            (
                "        test(model, device, test_loader)\n",
                "        test(model, device, test_loader)\n    return scheduler\n",
            ),
        ],
    ),
    "passed on": (
        "script",
        [
            (
                "        scheduler.step()\n",
                "        after_epoch(scheduler)\n",
            ),
        ],
    ),
    "in a dict": (
        "script",
        [
            (
                "        scheduler.step()\n",
                "",
            ),
            (
                "    for epoch in range(1",
                '    parts = {"schedule": scheduler}\n    for epoch in range(1',
            ),
        ],
    ),
    "in a chain": (
        "script",
        [
            (
                "        scheduler.step()\n",
                "        chain.step()\n",
            ),
            (
                "    for epoch in range(1",
                "    chain = torch.optim.lr_scheduler.ChainedScheduler([scheduler])\n"
                "    for epoch in range(1",
            ),
        ],
    ),
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT734"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(SchedulerNeverStepped.example, "loop.py")

    assert found == SchedulerNeverStepped().finding(
        what="the schedule StepLR is built, and is never stepped",
        cause="the learning rate stays at the schedule's first value for the whole run",
        fix="call scheduler.step() after each epoch, or each step if it counts steps",
        site="",
        file="loop.py",
        line=3,
        column=1,
    )
