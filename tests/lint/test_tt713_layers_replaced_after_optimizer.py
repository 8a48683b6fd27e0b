"""Layers are replaced or added after the optimizer was built, so it never updates them."""

import pytest

from trimtab.lint import LayersReplacedAfterOptimizer, lint_source

BAD = {
    "head": (
        "script",
        [
            (
                "    scheduler = StepLR",
                "    model.fc2 = nn.Linear(128, 100)\n    scheduler = StepLR",
            ),
        ],
    ),
    "new model": (
        "binary",
        [
            (
                "train_losses = []",
                "model_0 = CircleModel()\ntrain_losses = []",
            ),
        ],
    ),
    "index": (
        "flat",
        [
            (
                "loss_func =",
                "loss_func =",
            ),
            (
                "sched = torch",
                "net[4] = nn.Linear(256, 20)\nsched = torch",
            ),
        ],
    ),
    "self": (
        "trainer",
        [
            (
                "        total_steps =",
                "        self.model.head = nn.Linear(config.dim, 50_000)\n        total_steps =",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "replaced first": (
        "script",
        [
            (
                "    optimizer = optim",
                "    model.fc2 = nn.Linear(128, 100)\n    optimizer = optim",
            ),
        ],
    ),
    "added to the optimizer": (
        "binary",
        [
            (
                "train_losses = []",
                "model_0.layer_3 = nn.Linear(10, 1)\n"
                'optimizer.add_param_group({"params": model_0.layer_3.parameters()})\n'
                "train_losses = []",
            ),
        ],
    ),
    "loaded again after training": """\
import torch
from transformers import AutoModel

def test_training():
    optimizer = torch.optim.AdamW(model.parameters())
    for x in batches:
        optimizer.zero_grad()
        model(x).loss.backward()
        optimizer.step()
    model = AutoModel.from_pretrained("saved")
    return model
""",
    "no layer": (
        "binary",
        [
            (
                "train_losses = []",
                "model_0.name = make_name()\nmodel_0.config = dict(width=10)\ntrain_losses = []",
            ),
        ],
    ),
    "compiled": (
        "binary",
        [
            (
                "train_losses = []",
                "model_0 = torch.compile(model_0)\ntrain_losses = []",
            ),
        ],
    ),
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT713"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(LayersReplacedAfterOptimizer.example, "loop.py")

    assert found == LayersReplacedAfterOptimizer().finding(
        what="after the optimizer is built in line 5, model.fc is replaced",
        cause=(
            "the optimizer holds the parameters that the model had then, so the new ones are "
            "never updated"
        ),
        fix="change the model first and build the optimizer from its final parameters",
        site="",
        file="loop.py",
        line=6,
        column=1,
    )
