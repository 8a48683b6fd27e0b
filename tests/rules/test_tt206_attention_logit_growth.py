import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.nn import Attention
from trimtab.rules.tt206_attention_logit_growth import AttentionLogitGrowth

RULE = AttentionLogitGrowth()


def run(make_history, logit, steps=60):
    return make_history(steps, modules={"attention.logit_max": {"attn": logit}})


def test_names_logits_that_have_grown(make_history):
    history = run(make_history, [5.0] * 4 + [250.0] * 4, steps=70)

    assert list(RULE.check(run(make_history, [5.0] * 7 + [250.0] * 5, steps=110))) == [
        Finding(
            code="TT206",
            name="attention-logit-growth",
            severity=Severity.WARNING,
            symptom=Symptom.DIVERGENCE,
            site="attn",
            step=70,
            what="the largest attention logit is 250; in the first records it was 5",
            evidence=(Evidence(name="largest attention logit", value=250.0, normal="<= 50"),),
            cause="queries and keys grow together, so softmax becomes a switch that "
            "passes no gradient: the learning rate is too high for them, their "
            "weight decay too low, or their initial weights too large",
            fix="normalise queries and keys (QK-norm: trimtab.nn.Attention(..., "
            "qk_norm=True)) or cap the logits at 50, and lower the learning rate",
            remedy=Fix(action="add_qk_norm", args={"site": "attn"}),
        )
    ]
    assert list(RULE.check(history)) == []  # not for long enough


@pytest.mark.parametrize(
    ("logit", "severity"),
    [
        ([5.0] * 7 + [70.0] * 5, Severity.ADVICE),
        (250.0, Severity.WARNING),
        (2000.0, Severity.ERROR),
    ],
)
def test_weighs_them(make_history, logit, severity):
    (finding,) = RULE.check(run(make_history, logit, steps=110))

    assert finding.severity is severity


@pytest.mark.parametrize(
    "logit", [5.0, 70.0, [5.0] * 7 + [40.0] * 5, [5.0] * 9 + [250.0] + [5.0] * 2, float("nan")]
)
def test_is_silent_on_logits_that_softmax_can_weigh(make_history, logit):
    assert list(RULE.check(run(make_history, logit, steps=110))) == []


@pytest.mark.parametrize(("factor", "expected"), [(30, ["TT206"]), (1, [])])
def test_tells_queries_and_keys_that_are_too_large(train, factor, expected):
    attention = Attention(16, 2, qk_norm=False)
    with torch.no_grad():
        attention.q_proj.weight.mul_(factor)
        attention.k_proj.weight.mul_(factor)
    model = nn.Sequential(attention, nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def loss_of(step):
        x = torch.randn(8, 16, 16)
        return (model(x) - x[..., :1]).square().mean()

    assert [f.code for f in train(model, optimizer, loss_of, RULE, steps=60)] == expected
