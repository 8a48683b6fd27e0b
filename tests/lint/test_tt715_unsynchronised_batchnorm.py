"""BatchNorm normalises by each process's own batch, so the replicas see different networks."""

import pytest

from trimtab.findings import Severity
from trimtab.lint import UnsynchronisedBatchNorm, lint_source

BAD = {
    "function": (
        "distributed",
        [
            (
                "    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)\n",
                "",
            ),
        ],
    ),
    "qualified": (
        "distributed",
        [
            (
                "    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)\n",
                "",
            ),
            (
                "model = DDP(model",
                "model = torch.nn.parallel.DistributedDataParallel(model",
            ),
        ],
    ),
    "large batch": (
        "distributed",
        [
            (
                "    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)\n",
                "",
            ),
            (
                "batch_size=8",
                "batch_size=256",
            ),
        ],
    ),
    "class": (
        "distributed",
        [
            (
                "    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)\n",
                "",
            ),
            (
                "    model = build_model().to(rank)\n",
                "    model = Net().to(rank)\n",
            ),
            (
                "def build_model():",
                "class Net(nn.Module):\n"
                "    def __init__(self):\n"
                "        super().__init__()\n"
                "        self.body = build_model()\n"
                "        self.norm = nn.BatchNorm1d(100)\n"
                "\n"
                "    def forward(self, x):\n"
                "        return self.norm(self.body(x))\n"
                "\n"
                "\n"
                "def build_model():",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "group norm": (
        "distributed",
        [
            (
                "    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)\n",
                "",
            ),
            (
                "nn.BatchNorm2d(64)",
                "nn.GroupNorm(8, 64)",
            ),
        ],
    ),
    "one process": (
        "distributed",
        [
            (
                "    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)\n",
                "",
            ),
            (
                "    model = DDP(model, device_ids=[rank])\n",
                "",
            ),
            (
                "from torch.nn.parallel import DistributedDataParallel as DDP\n",
                "",
            ),
        ],
    ),
    "by apex": (
        "distributed",
        [
            (
                "nn.SyncBatchNorm.convert_sync_batchnorm(model)",
                "apex.parallel.convert_syncbn_model(model)",
            ),
        ],
    ),
    "unknown network": (
        "distributed",
        [
            (
                "    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)\n",
                "",
            ),
            (
                "    model = build_model().to(rank)\n",
                "    model = registry.build(rank)\n",
            ),
            (
                "        nn.BatchNorm2d(64),\n",
                "",
            ),
        ],
    ),
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT715"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(UnsynchronisedBatchNorm.example, "loop.py")

    assert found == UnsynchronisedBatchNorm().finding(
        what="a network with BatchNorm is wrapped in DistributedDataParallel as it is",
        cause=(
            "each process normalises by its own samples alone, so the replicas compute "
            "different functions and evaluation uses the statistics of one of them"
        ),
        fix=(
            "call torch.nn.SyncBatchNorm.convert_sync_batchnorm(model) before wrapping, or "
            "use GroupNorm"
        ),
        severity=Severity.ADVICE,
        site="",
        file="loop.py",
        line=6,
        column=9,
    )
