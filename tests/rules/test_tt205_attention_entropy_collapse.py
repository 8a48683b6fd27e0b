import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.nn import Attention
from trimtab.rules.tt205_attention_entropy_collapse import AttentionEntropyCollapse

RULE = AttentionEntropyCollapse()


def run(make_history, entropy, logit=500.0, steps=60):
    return make_history(
        steps,
        modules={
            "attention.entropy": {"attn": entropy, "mlp": float("nan")},
            "attention.logit_max": {"attn": logit, "mlp": float("nan")},
        },
    )


def test_names_attention_that_is_one_hot(make_history):
    history = run(make_history, 0.02)

    assert list(RULE.check(history)) == [
        Finding(
            code="TT205",
            name="attention-entropy-collapse",
            severity=Severity.WARNING,
            symptom=Symptom.SATURATED_UNITS,
            site="attn",
            step=20,
            what="the attention weights are one-hot: their mean entropy is 0.02 nats, "
            "with logits up to 500",
            evidence=(Evidence(name="attention entropy in nats", value=0.02, normal=">= 0.1"),),
            cause="queries and keys have grown so large that softmax puts all weight "
            "on one key and passes no gradient: a learning rate that is too high "
            "for them, or initial weights that are too large",
            fix="normalise queries and keys (QK-norm: trimtab.nn.Attention(..., "
            "qk_norm=True)), cap the logits, lower the learning rate, and warm "
            "up longer",
            remedy=Fix(action="add_qk_norm", args={"site": "attn"}),
        )
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"entropy": 1.5},
        {"entropy": 0.0, "logit": 2.0},  # a sequence of one token
        {"entropy": [0.02] * 3 + [1.0] * 4},  # for a while
        {"entropy": 0.02, "steps": 20},
        {"entropy": float("nan"), "logit": float("nan")},
    ],
)
def test_is_silent_on_attention_that_looks_around(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(("factor", "expected"), [(100, ["TT205"]), (1, [])])
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
