"""Layers stand in a plain list or dict, where the module does not see their parameters."""

import pytest

from trimtab.findings import Fix
from trimtab.lint import HiddenParameters, lint_source

BAD = {
    "comprehension": (
        "script",
        [
            (
                "nn.ModuleList([nn.Linear(128, 128) for _ in range(3)])",
                "[nn.Linear(128, 128) for _ in range(3)]",
            ),
        ],
    ),
    "generator": (
        "trainer",
        [
            (
                "nn.ModuleList(Block(dim) for _ in range(depth))",
                "list(Block(dim) for _ in range(depth))",
            ),
        ],
    ),
    "append": (
        "binary",
        [
            (
                "        self.relu = nn.ReLU()\n",
                "        self.relu = nn.ReLU()\n"
                "        self.more = []\n"
                "        for _ in range(3):\n"
                "            self.more.append(nn.Linear(10, 10))\n",
            ),
        ],
    ),
    "dict": (
        "steps",
        [
            (
                "        self.head = nn.Linear(width, 10)\n",
                "        self.head = nn.Linear(width, 10)\n"
                '        self.heads = {"a": nn.Linear(width, 2), "b": nn.Linear(width, 3)}\n',
            ),
        ],
    ),
    "tensor": (
        "steps",
        [
            (
                "        self.head = nn.Linear(width, 10)\n",
                "        self.head = nn.Linear(width, 10)\n"
                "        self.scale = torch.ones(10, requires_grad=True)\n",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "registered later": (
        "binary",
        [
            (
                "        self.relu = nn.ReLU()\n",
                "        self.relu = nn.ReLU()\n"
                "        self.parts = [nn.Linear(10, 10), nn.Linear(10, 10)]\n"
                "        self.body = nn.Sequential(*self.parts)\n",
            ),
        ],
    ),
    "add_module": (
        "binary",
        [
            (
                "        self.relu = nn.ReLU()\n",
                "        self.relu = nn.ReLU()\n"
                "        self.parts = []\n"
                "        for i in range(2):\n"
                "            self.parts.append(nn.Linear(10, 10))\n"
                '            self.add_module(f"part{i}", self.parts[-1])\n',
            ),
        ],
    ),
    "activations": (
        "binary",
        [
            (
                "        self.relu = nn.ReLU()\n",
                "        self.relu = nn.ReLU()\n"
                "        self.activations = [nn.ReLU(), nn.Tanh()]\n",
            ),
        ],
    ),
    "kept from registration": (
        "binary",
        [
            (
                "    def __init__(self):\n",
                "    def __init__(self, teacher=None):\n",
            ),
            (
                "        self.relu = nn.ReLU()\n",
                "        self.relu = nn.ReLU()\n        self.teacher = [teacher]\n",
            ),
        ],
    ),
    "a local list": (
        "binary",
        [
            (
                "        self.relu = nn.ReLU()\n",
                "        self.relu = nn.ReLU()\n"
                "        layers = [nn.Linear(10, 10)]\n"
                "        layers.append(nn.Linear(10, 10))\n"
                "        self.body = nn.Sequential(*layers)\n",
            ),
        ],
    ),
    "no module": (
        "trainer",
        [
            (
                "        self.history = []\n",
                "        self.history = []\n        self.probes = [nn.Linear(2, 2)]\n",
            ),
        ],
    ),
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT719"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(HiddenParameters.example, "loop.py")

    assert found == HiddenParameters().finding(
        what="the plain list self.layers holds Linear, unknown to the module",
        cause=(
            "its parameters are not in parameters(): the optimizer never updates them, "
            ".to(device) leaves them behind, and state_dict() does not save them"
        ),
        fix="use nn.ModuleList for self.layers",
        remedy=Fix(
            action="edit",
            args={"edits": [[7, 23, 7, 58, "nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])"]]},
        ),
        site="Net.__init__",
        file="loop.py",
        line=7,
        column=23,
    )
