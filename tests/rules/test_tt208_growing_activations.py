import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt208_growing_activations import GrowingActivations

RULE = GrowingActivations()
NAN = float("nan")


def run(make_history, rms, nonfinite=0.0):
    """A run of two steps: RMS of each of five modules."""
    names = [str(i) for i in range(5)]
    layers = [nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)]
    return make_history(
        2,
        every=1,
        modules={
            "activation.rms": dict(zip(names, rms, strict=True)),
            "activation.nonfinite_fraction": dict.fromkeys(names, nonfinite),
        },
        model=nn.Sequential(*layers),
        order=names,
    )


def test_names_the_first_module_that_has_outgrown_its_input(make_history):
    history = run(make_history, [2.0, 1.0, 3e3, 2e3, 9e6])

    assert list(RULE.check(history)) == [
        Finding(
            code="TT208",
            name="growing-activations",
            severity=Severity.ERROR,
            symptom=Symptom.EXPLODING_GRADIENT,
            site="2",
            step=1,
            what="the outputs of this module have an RMS of 3e+03; the largest of a hidden module "
            "has 3e+03",
            evidence=(Evidence(name="RMS of the output", value=3000.0, normal="<= 2e+03"),),
            cause="each layer makes its input larger, or a residual stream without "
            "norm adds up: the initial weights are too large for the activation, "
            "or the learning rate too high",
            fix="initialise with trimtab.init.auto_(model), scale residual branches "
            "by depth, add norm layers, and lower the learning rate if the "
            "outputs grew during training",
            remedy=Fix(action="reinitialise", args={"scheme": "auto"}),
        )
    ]


def test_counts_the_last_one_before_a_value_that_is_not_finite(make_history):
    history = run(make_history, [2.0, 1.0, [3e3, NAN], [2e3, NAN], NAN], nonfinite=[0.0, 1.0])

    assert [(f.site, f.step) for f in RULE.check(history)] == [("2", 1)]


@pytest.mark.parametrize(
    "rms",
    [
        [2.0, 1.0, 30.0, 20.0, 10.0],
        [2.0, 1.0, 3.0, 2.0, 1e6],  # the output of a regression in large units
        [5e3, 4e3, 5e3, 4e3, 1e3],  # as large as what comes in
        [2.0, 1.0, [3e3, 3.0], [2e3, 2.0], 1.0],  # one record
    ],
)
def test_is_silent_on_activations_in_range(make_history, rms):
    assert list(RULE.check(run(make_history, rms))) == []


@pytest.mark.parametrize(("std", "expected"), [(1.0, {"TT208"}), (0.25, set())])
def test_tells_weights_too_large_from_those_that_fit(train, std, expected):
    layers = [layer for _ in range(8) for layer in (nn.Linear(32, 32), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(32, 10))
    for p in model.parameters():
        nn.init.normal_(p, std=std if p.ndim == 2 else 0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def loss_of(step):
        x = torch.randn(32, 32)
        return nn.functional.cross_entropy(model(x), x[:, :10].argmax(1))

    found = train(model, optimizer, loss_of, RULE, steps=12)

    assert {f.code for f in found} == expected
