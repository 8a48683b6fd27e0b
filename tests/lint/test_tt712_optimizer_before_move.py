"""The optimizer is built before the model is moved to its device or sharded."""

import pytest

from trimtab.lint import OptimizerBeforeMove, lint_source

BAD = {
    "moved": (
        "script",
        [
            (
                "    model = Net().to(device)\n"
                "    optimizer = optim.Adadelta(model.parameters(), lr=1.0)\n",
                "    model = Net()\n"
                "    optimizer = optim.Adadelta(model.parameters(), lr=1.0)\n"
                "    model.to(device)\n",
            ),
        ],
    ),
    "cuda": (
        "binary",
        [
            (
                "optimizer = torch.optim.SGD(model_0.parameters(), lr=0.1)\n",
                "optimizer = torch.optim.SGD(model_0.parameters(), lr=0.1)\n"
                "model_0 = model_0.cuda()\n",
            ),
        ],
    ),
    "adagrad": (
        "flat",
        [
            (
                "net = net.to(device)\n",
                "",
            ),
            (
                "opt = torch.optim.AdamW(net.parameters(), lr=1e-3)\n",
                "opt = torch.optim.Adagrad(net.parameters(), lr=1e-3)\nnet = net.to(device)\n",
            ),
        ],
    ),
    "sharded": (
        "distributed",
        [
            (
                "from torch.nn.parallel import DistributedDataParallel as DDP\n",
                "from torch.distributed.fsdp import FullyShardedDataParallel as FSDP\n",
            ),
            (
                "    model = DDP(model, device_ids=[rank])\n",
                "",
            ),
            (
                "weight_decay=5e-4)\n",
                "weight_decay=5e-4)\n    model = FSDP(model)\n",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "moved first": (
        "script",
        [
            (
                "    model = Net().to(device)\n",
                "    model = Net()\n    model = model.to(device)\n",
            ),
        ],
    ),
    "of another type": (
        "binary",
        [
            (
                "train_losses = []",
                "model_0.to(torch.float64)\ntrain_losses = []",
            ),
        ],
    ),
    "built again": (
        "binary",
        [
            (
                "train_losses = []",
                "model_0.cuda()\n"
                "optimizer = torch.optim.SGD(model_0.parameters(), lr=0.1)\n"
                "train_losses = []",
            ),
        ],
    ),
    "another model moves": (
        "binary",
        [
            (
                "train_losses = []",
                "teacher.cuda()\ntrain_losses = []",
            ),
        ],
    ),
    "distributed after": """\
import torch
from torch.nn.parallel import DistributedDataParallel as DDP

optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model = DDP(model)
""",
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT712"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(OptimizerBeforeMove.example, "loop.py")

    assert found == OptimizerBeforeMove().finding(
        what="the optimizer is built in line 5, before FullyShardedDataParallel(model)",
        cause=(
            "sharding replaces the parameters, so the optimizer updates tensors that the "
            "model does not use any more: nothing is learnt"
        ),
        fix="build the optimizer after the model has been moved and wrapped",
        site="",
        file="loop.py",
        line=6,
        column=9,
    )
