"""The distributed sampler is never told the epoch, so every epoch has the same order."""

import pytest

from trimtab.findings import Fix
from trimtab.lint import NoSetEpoch, lint_source

BAD = {
    "distributed": (
        "distributed",
        [
            (
                "        train_sampler.set_epoch(epoch)\n",
                "",
            ),
        ],
    ),
    "tuple": (
        "distributed",
        [
            (
                "        train_sampler.set_epoch(epoch)\n",
                "",
            ),
            (
                "    train_sampler = DistributedSampler(train_set)\n",
                "",
            ),
            (
                "sampler=train_sampler",
                "sampler=DistributedSampler(train_set)",
            ),
        ],
    ),
    "seed": (
        "distributed",
        [
            (
                "        train_sampler.set_epoch(epoch)\n",
                "",
            ),
            (
                "DistributedSampler(train_set)",
                "DistributedSampler(train_set, shuffle=True, seed=7)",
            ),
        ],
    ),
    "qualified": (
        "distributed",
        [
            (
                "        train_sampler.set_epoch(epoch)\n",
                "",
            ),
            (
                "DistributedSampler(train_set)",
                "torch.utils.data.distributed.DistributedSampler(train_set)",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "does not shuffle": (
        "distributed",
        [
            (
                "        train_sampler.set_epoch(epoch)\n",
                "",
            ),
            (
                "DistributedSampler(train_set)",
                "DistributedSampler(train_set, shuffle=False)",
            ),
        ],
    ),
    "of the loader": (
        "distributed",
        [
            (
                "train_sampler.set_epoch(epoch)",
                "train_loader.sampler.set_epoch(epoch)",
            ),
        ],
    ),
    "held-out data": (
        "distributed",
        [
            (
                "    val_loader = DataLoader(val_set, batch_size=64)\n",
                "    val_sampler = DistributedSampler(val_set)\n"
                "    val_loader = DataLoader(val_set, batch_size=64, sampler=val_sampler)\n",
            ),
        ],
    ),
    "one pass only": """\
import torch
from torch.utils.data import DataLoader, DistributedSampler

loader = DataLoader(dataset, sampler=DistributedSampler(dataset))
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    optimizer.step()
""",
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT714"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(NoSetEpoch.example, "loop.py")

    assert found == NoSetEpoch().finding(
        what="the DistributedSampler shuffles, and its set_epoch() is never called",
        cause=(
            "its random seed depends on the epoch that it is told, so every epoch goes over "
            "the data in the same order"
        ),
        fix="call sampler.set_epoch(epoch) at the start of each epoch",
        remedy=Fix(action="edit", args={"edits": [[7, 1, 7, 1, "    sampler.set_epoch(epoch)\n"]]}),
        site="",
        file="loop.py",
        line=4,
        column=11,
    )
