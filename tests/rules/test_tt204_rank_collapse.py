import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt204_rank_collapse import RankCollapse

RULE = RankCollapse()
ORDER = ["0", "1", "2", "3", "4"]


def stack(width=4, outputs=3):
    return nn.Sequential(
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, outputs),
    )


def run(make_history, varies, ranks=(4.0, 4.0, 3.0, 3.0, 2.0), steps=60):
    modules = {
        "activation.variation": dict(zip(ORDER, varies, strict=True)),
        "activation.rank": dict(zip(ORDER, ranks, strict=True)),
    }
    return make_history(steps, modules=modules, model=stack(), order=ORDER)


def test_names_the_first_module_that_is_constant(make_history):
    history = run(make_history, [0.7, 0.2, 0.005, 0.002, 0.001])

    assert list(RULE.check(history)) == [
        Finding(
            code="TT204",
            name="rank-collapse",
            severity=Severity.WARNING,
            symptom=Symptom.NO_LEARNING,
            site="2",
            step=1,
            what="the output of 3 is the same for every input, but for 0.002 of its "
            "RMS, and from 2 on all of it varies by less than 0.01",
            evidence=(Evidence(name="variation over the batch", value=0.002, normal=">= 0.01"),),
            cause="each layer loses what tells one input from another: initial weights "
            "too small for the activation, attention without residual "
            "connections, units that are dead or saturated, a learning rate that "
            "is too high, or inputs that are all alike",
            fix="initialise with trimtab.init.auto_(model), add residual connections "
            "and norm layers, lower the learning rate, and check that the inputs "
            "of a batch differ",
            remedy=Fix(action="reinitialise", args={"scheme": "auto"}),
        )
    ]


def test_names_units_that_are_copies(make_history):
    history = run(make_history, [0.7] * 5, ranks=[1.0, 1.0, 1.0, 1.01, 1.0])

    assert list(RULE.check(history)) == [
        Finding(
            code="TT204",
            name="rank-collapse",
            severity=Severity.WARNING,
            symptom=Symptom.NO_LEARNING,
            site="0",
            step=1,
            what="all units of each of the 4 hidden modules vary together: they span "
            "1.00 directions",
            evidence=(
                Evidence(name="directions of the hidden output", value=1.0, normal=">= 1.05"),
            ),
            cause="the units of a layer are copies of one another, as after an "
            "initialisation with a constant: their gradients are equal, so "
            "training cannot tell them apart",
            fix="draw the initial weights at random (trimtab.init.auto_(model))",
            remedy=Fix(action="reinitialise", args={"scheme": "auto"}),
        )
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"varies": [0.7, 0.6, 0.4, 0.3, 0.5]},
        {"varies": [0.7, 0.6, 0.4, 0.3, 0.001]},  # an output about a large mean
        {"varies": [0.001, 0.6, 0.4, 0.3, 0.5]},  # a side branch
        {"varies": [0.7, [0.001] * 4 + [0.1] * 3, 0.4, [0.001] * 4 + [0.1] * 3, 0.1]},  # a phase
        {"varies": [0.7] * 5, "ranks": [1.0, 1.6, 1.0, 1.3, 1.0]},  # inputs of one dimension
        {"varies": [0.7, 0.2, 0.005, 0.002, 0.001], "steps": 20},
    ],
)
def test_is_silent_on_outputs_that_depend_on_inputs(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(
    ("gain", "constant", "expected"),
    [(0.01, False, ["TT204"]), (1.0, True, ["TT204"]), (1.0, False, [])],
)
def test_tells_collapse_from_a_sound_start(train, gain, constant, expected):
    model = stack(16)
    for name, p in model.named_parameters():
        if constant:
            nn.init.constant_(p, 0.1)
        elif name.endswith("weight"):
            nn.init.xavier_normal_(p, gain=gain)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)

    def loss_of(step):
        x = torch.randn(64, 16)
        return nn.functional.cross_entropy(model(x), x[:, :3].argmax(1))

    assert [f.code for f in train(model, optimizer, loss_of, RULE, steps=90)] == expected
