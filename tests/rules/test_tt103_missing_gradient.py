import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Severity, Symptom
from trimtab.rules.tt103_missing_gradient import MissingGradient

RULE = MissingGradient()
NAN = float("nan")


def run(make_history, missing, *, weight=1.0, shares=NAN, steps=100, names=("body", "head")):
    """A run of two layers, of which the first one's weight has these gradients."""
    first, second = (f"{name}.weight" for name in names)
    model = nn.ModuleDict()
    for name in names:
        owner, _, last = name.rpartition(".")
        if owner:
            inner = model[owner] if owner in model else nn.ModuleDict()
            model[owner] = inner
            inner[last] = nn.Linear(4, 4, bias=False)
        else:
            model[name] = nn.Linear(4, 4, bias=False)
    return make_history(
        steps,
        parameters={
            "gradient.norm": {first: missing, second: [0.5, NAN] * 5 + [0.5]},
            "gradient.nonfinite_fraction": {first: shares, second: [0.0, NAN] * 5 + [0.0]},
            "weight.norm": {first: weight, second: 2.0},
        },
        model=model,
    )


def test_names_a_parameter_without_any_gradient(make_history):
    history = run(make_history, NAN)

    assert list(RULE.check(history)) == [
        Finding(
            code="TT103",
            name="missing-gradient",
            severity=Severity.WARNING,
            symptom=Symptom.SILENT_CONFIG_ERROR,
            site="body.weight",
            step=1,
            what="body.weight had no gradient in any of 11 records, while other parameters had one",
            evidence=(Evidence(name="records with a gradient", value=0.0, normal="nearly all"),),
            cause="the loss does not depend on them: the layer is not called, or a "
            "detach(), .data, .item() or no_grad() cuts the graph between it and "
            "the loss",
            fix="call the layer, or take out what cuts the graph; if they are meant "
            "to stay as they are, freeze them with requires_grad_(False) and "
            "leave them out of the optimizer",
        )
    ]


def test_an_expert_whose_likes_take_turns_is_advice(make_history):
    history = run(make_history, NAN, names=("experts.0", "experts.1"))

    (finding,) = RULE.check(history)

    assert finding.severity is Severity.ADVICE
    assert "its turn has never come" in finding.cause


@pytest.mark.parametrize(
    "given",
    [
        {"missing": 0.3},
        {"missing": [NAN] * 10 + [0.3]},  # now and then
        {"missing": NAN, "weight": [1.0, 1.1] * 5 + [1.2]},  # it moves between records
        {"missing": NAN, "shares": 1.0},  # a gradient, and it is NaN
        {"missing": NAN, "steps": 19},  # too early to tell
    ],
)
def test_is_silent_while_there_are_gradients(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


def test_leaves_frozen_parameters_alone(make_history):
    model = nn.ModuleDict({"body": nn.Linear(4, 4, bias=False), "head": nn.Linear(4, 4)})
    model["body"].requires_grad_(False)
    history = make_history(
        100,
        parameters={
            "gradient.norm": {"body.weight": NAN, "head.weight": 1.0},
            "weight.norm": {"body.weight": 1.0, "head.weight": 1.0},
        },
        model=model,
    )

    assert list(RULE.check(history)) == []


@pytest.mark.parametrize(("detach", "expected"), [(True, ["TT103"]), (False, [])])
def test_tells_a_cut_graph_from_a_whole_one(train, detach, expected):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters())

    def loss_of(step):
        x = torch.randn(16, 8)
        hidden = model[0](x)
        return model[1](hidden.detach() if detach else hidden).square().mean()

    assert [f.code for f in train(model, optimizer, loss_of, RULE, steps=40)] == expected


def test_heads_in_turn_are_silent_although_records_miss_them(train):
    model = nn.ModuleList(nn.Linear(8, 1) for _ in range(4))
    optimizer = torch.optim.Adam(model.parameters())

    def loss_of(step):
        return (model[step % 4](torch.randn(16, 8)) - 1).square().mean()

    assert train(model, optimizer, loss_of, RULE, watch=4, steps=80) == []
