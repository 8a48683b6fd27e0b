import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt207_nonfinite_activation import NonfiniteActivation

RULE = NonfiniteActivation()
NAN = float("nan")


class Log(nn.Module):
    def forward(self, x):
        return x.log()


def run(make_history, shares, gradient=NAN, order=("0", "1", "2")):
    """A run whose third step is the only one with such outputs, by module."""
    modules = {name: [0.0, 0.0, share, 0.0] for name, share in shares.items()}
    return make_history(
        4,
        {"gradient.norm": [1.0, 1.0, gradient, 1.0], "loss": [1.0, 1.0, NAN, 1.0]},
        every=1,
        modules={"activation.nonfinite_fraction": modules},
        model=nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)),
        order=order,
    )


def test_names_the_first_module_in_forward_order(make_history):
    history = run(make_history, {"2": 1.0, "1": 0.25, "0": 0.0})

    assert list(RULE.check(history)) == [
        Finding(
            code="TT207",
            name="nonfinite-activation",
            severity=Severity.ERROR,
            symptom=Symptom.NAN,
            site="1",
            step=3,
            what="25% of the outputs of this module were NaN or infinite, the first "
            "of 2 modules in forward order",
            evidence=(Evidence(name="share of outputs not finite", value=0.25, normal="0"),),
            cause="the modules before it gave out sound values, so it happened here: a "
            "log or sqrt of a negative number, a division by 0, an overflow, or "
            "weights that are not finite",
            fix="look for NaN in the inputs; clamp the arguments of log, sqrt, exp "
            "and divisions; if activations had grown before, lower the learning "
            "rate; in fp16, keep this module in float32",
            remedy=Fix(action="detect_anomaly", args={"site": "1"}),
        )
    ]


def test_blames_the_inputs_at_the_first_module(make_history):
    (finding,) = RULE.check(run(make_history, {"0": 0.5, "1": 1.0}))

    assert finding.site == "0"
    assert "came in with the inputs" in finding.cause


@pytest.mark.parametrize(
    ("shares", "gradient"),
    [({"0": 0.0, "1": 0.0}, NAN), ({"1": 0.25}, 1.0)],  # the last: a mask of minus infinity
)
def test_is_silent_where_nothing_is_harmed(make_history, shares, gradient):
    assert list(RULE.check(run(make_history, shares, gradient))) == []


@pytest.mark.parametrize(("layer", "expected"), [(Log(), [("TT207", "1")]), (nn.Softplus(), [])])
def test_finds_the_module_that_makes_them(train, layer, expected):
    model = nn.Sequential(nn.Linear(8, 8), layer, nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def loss_of(step):
        x = torch.randn(32, 8)
        return (model(x) - x[:, :1]).square().mean()

    found = train(model, optimizer, loss_of, RULE, steps=5)

    assert [(f.code, f.site) for f in found] == expected
