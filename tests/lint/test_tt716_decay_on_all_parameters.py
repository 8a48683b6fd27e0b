"""Weight decay pulls norm weights and biases towards zero."""

import pytest

from trimtab.findings import Evidence
from trimtab.lint import DecayOnAllParameters, lint_source

BAD = {
    "trainer": ("trainer", [("weight_decay=0.01", "weight_decay=0.1")]),
    "flat": (
        "flat",
        [
            (
                "AdamW(net.parameters(), lr=1e-3)",
                "AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)",
            ),
        ],
    ),
    "constant": (
        "steps",
        [
            (
                "torch.optim.AdamW(groups, lr=config.lr)",
                "torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=WEIGHT_DECAY)",
            ),
            (
                '    groups = [{"params": decay, "weight_decay": 0.1}, {"params": '
                'rest, "weight_decay": 0.0}]\n',
                "",
            ),
            (
                "@dataclass\n",
                "WEIGHT_DECAY = 0.1\n\n\n@dataclass\n",
            ),
            (
                "nn.Dropout(0.1)",
                "nn.LayerNorm(width)",
            ),
        ],
    ),
    "list": (
        "distributed",
        [
            (
                "torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)",
                "torch.optim.AdamW(list(model.parameters()), lr=1e-3, weight_decay=0.3)",
            ),
        ],
    ),
}
"""Healthy programs with the fault put in: the program, and what takes the place of what."""

GOOD = {
    "groups": (
        "trainer",
        [
            (
                "self.model.parameters(), lr=3e-4, weight_decay=0.01",
                "param_groups(self.model, 0.1), lr=3e-4",
            ),
        ],
    ),
    "sgd": (
        "trainer",
        [
            (
                "AdamW(self.model.parameters(), lr=3e-4, weight_decay=0.01)",
                "torch.optim.SGD(self.model.parameters(), lr=0.1, weight_decay=5e-4)",
            ),
        ],
    ),
    "no decay": ("trainer", [("weight_decay=0.01", "weight_decay=0.0")]),
    "biases at a mild decay": (
        "binary",
        [
            (
                "torch.optim.SGD(model_0.parameters(), lr=0.1)",
                "torch.optim.AdamW(model_0.parameters(), lr=0.1, weight_decay=0.02)",
            ),
        ],
    ),
    "unknown strength": ("trainer", [("weight_decay=0.01", "weight_decay=config.decay")]),
}
"""What looks like the fault and is none."""


@pytest.mark.parametrize("name", BAD)
def test_speaks(name, program):
    assert [f.code for f in lint_source(program(BAD[name]))] == ["TT716"]


@pytest.mark.parametrize("name", GOOD)
def test_is_silent(name, program):
    assert lint_source(program(GOOD[name])) == []


def test_what_it_says():
    (found,) = lint_source(DecayOnAllParameters.example, "loop.py")

    assert found == DecayOnAllParameters().finding(
        what="AdamW applies weight decay 0.1 to all parameters, norm weights and biases included",
        cause=(
            "weight decay pulls them towards zero, where a norm silences its layer and a bias"
            " forgets what it has learnt"
        ),
        fix="build AdamW from trimtab.optim.param_groups(model, 0.1)",
        evidence=(Evidence(name="weight decay of norms and biases", value=0.1, normal="0"),),
        site="",
        file="loop.py",
        line=5,
        column=13,
    )
