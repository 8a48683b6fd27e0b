import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt418_partly_frozen import PartlyFrozen

RULE = PartlyFrozen()


def run(make_history, *, first=0.0, norm=1.0, zeros=0.0, others=1e-3, role="weight", dtype=None):
    """Eleven records in which the first layer stands still."""
    model = nn.Sequential(nn.Embedding(4, 4) if role == "embedding" else nn.Linear(4, 4))
    model.append(nn.Linear(4, 2))
    return make_history(
        100,
        parameters={
            "update.ratio": {"0.weight": first, "1.weight": others},
            "gradient.norm": {"0.weight": norm, "1.weight": 1.0},
            "gradient.zero_fraction": {"0.weight": zeros, "1.weight": 0.0},
        },
        model=model.to(dtype),
    )


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT418",
            name="partly-frozen",
            severity=Severity.WARNING,
            symptom=Symptom.SILENT_CONFIG_ERROR,
            site="0.weight",
            step=1,
            what="1 of 2 parameters got gradients in every record and never changed",
            evidence=(
                Evidence(name="parameters that stand still", value=1, normal="0"),
                Evidence(name="their largest update ratio", value=0.0, normal="about 1e-3"),
            ),
            cause="their param group has a learning rate of 0, or something restores them after "
            "each step",
            fix="look at the learning rate (lr) of all param groups; to freeze a part on "
            "purpose, set requires_grad_(False)",
            remedy=Fix(action="check_param_groups"),
        )
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"first": 1e-4},
        {"first": [0.0] * 10 + [1e-3]},  # moved once
        {"norm": float("nan")},  # no gradient
        {"norm": 0.0},
        {"zeros": 0.95},  # a sparse gradient
        {"role": "embedding"},  # whose rows are used now and then
        {"dtype": torch.bfloat16},  # which rounds
        {"others": 0.0},  # nothing moves at all
        {"others": 1e-7},  # float32 rounds too
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"), [("", "", True), ('"lr": 0.0', '"lr": 0.1', False)]
)
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
