from dataclasses import dataclass
from typing import ClassVar

import pytest

from trimtab.errors import ConfigError
from trimtab.findings import (
    FAMILIES,
    Finding,
    Rule,
    Severity,
    Symptom,
    find_rule,
    register,
    registered,
)
from trimtab.findings._rule import caused_by


def make(**values):
    given = {"code": "TT900", "name": "a-fault", "symptom": Symptom.NAN, "scope": "run"} | values
    kept = {k: v for k, v in given.items() if v is not None}
    return dataclass(frozen=True, kw_only=True)(type("Made", (Rule,), {"__module__": "x", **kept}))


def test_finding_has_what_is_the_rules(rules):
    rule = rules.LossSpike()

    assert rule.finding(what="it jumped", step=3) == Finding(
        code="TT301",
        name="loss-spike",
        severity=Severity.ERROR,
        symptom=Symptom.LOSS_SPIKE,
        what="it jumped",
        step=3,
    )
    assert rule.finding(what="it jumped", severity="advice").severity is Severity.ADVICE


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"code": None}, "The rule Made has no code. Set it in the class body."),
        ({"scope": None}, "The rule Made has no scope."),
        ({"code": "tt900"}, "two to four capitals and three digits, got 'tt900'"),
        ({"name": "A fault"}, "words joined by hyphens, got 'A fault'"),
        ({"code": "TT301"}, "wants TT301 a-fault, but LossSpike has TT301 loss-spike"),
        ({"name": "loss-spike"}, "wants TT900 loss-spike, but LossSpike has TT301 loss-spike"),
    ],
)
def test_refuses_what_is_malformed_or_taken(rules, values, message):
    with pytest.raises(ConfigError, match=message):
        register(make(**values))


def test_the_same_rule_can_come_again(rules):
    register(rules.LossSpike)  # as after importlib.reload

    assert list(registered()) == ["TT001", "TT201", "TT301", "TT420", "TT701", "TT702"]


def test_rules_by_scope_in_order_of_codes(rules):
    assert list(registered("source").values()) == [rules.ClipFirst, rules.Cleared]
    assert all(any(code.startswith(f) for f in FAMILIES) for code in registered())


@pytest.mark.parametrize("word", ["TT301", " tt301 ", "loss-spike", "Loss-Spike"])
def test_finds_by_code_or_name(rules, word):
    assert find_rule(word) is rules.LossSpike


def test_names_the_nearest(rules):
    with pytest.raises(ConfigError, match=r"no rule 'los-spike'. Did you mean loss-spike\?"):
        find_rule("los-spike")
    with pytest.raises(ConfigError, match=r"no rule 'tt309'. Did you mean TT301 or "):
        find_rule("tt309")
    with pytest.raises(ConfigError, match=r"no rule '~'. 'trimtab explain --all' lists them all."):
        find_rule("~")


def test_causes(rules):
    assert caused_by("TT301") == (rules.DeadUnits,)
    assert caused_by("TT701") == ()


def test_a_class_variable_is_no_threshold():
    @dataclass(frozen=True, kw_only=True)
    class Odd(Rule):
        code: ClassVar = "TT901"

    with pytest.raises(TypeError):
        Odd(code="TT902")
