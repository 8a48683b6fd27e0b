import json

import pytest

from trimtab.findings import rules_to_json
from trimtab.findings._page import Page, Threshold, example, parse, thresholds, titles


def test_a_docstring_in_sections(rules):
    summary, sections = parse(rules.DeadUnits)

    assert summary == "Units are zero on every sample,\nstep after step."
    assert sections == {
        "Why": "A ReLU that never fires gets no gradient, so training\ncannot revive it.\n\n"
        "It is lost.",
        "Measured": "Share of units with `activation.zero_fraction` 1.",
        "Silent on": "Sparsity that moves between units.",
        "Fix": "Lower the learning rate.",
        "Source": "Lu et al. 2019, arXiv:1903.06733.",
    }


def test_a_rule_that_says_nothing(rules):
    assert parse(rules.NoDocstring) == ("", {})
    assert Page.of(rules.NoDocstring).line == ""


def test_thresholds_have_meanings(rules):
    assert thresholds(rules.DeadUnits) == (
        Threshold(name="patience", default=50, meaning="Steps to wait."),
        Threshold(name="max_share", default=0.1, meaning="Largest healthy share, of | all units."),
        Threshold(name="kinds", default=("relu",), meaning="Kinds of units."),
        Threshold(name="mode", default="mean", meaning="How it is joined."),
        Threshold(name="limit", default=None, meaning=""),
        Threshold(name="strict", default=False, meaning="Whether one unit is enough."),
    )
    assert thresholds(rules.LossSpike) == ()


def test_thresholds_without_source():
    scope = {}
    exec(
        "from dataclasses import dataclass, field\n"
        "from trimtab.findings import Rule\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Typed(Rule):\n"
        "    kinds: list = field(default_factory=lambda: ['relu'])\n"
        "    needed: int\n",
        scope,
    )

    assert thresholds(scope["Typed"]) == (
        Threshold(name="kinds", default=["relu"], meaning=""),
        Threshold(name="needed", default=None, meaning=""),
    )


def test_an_example_stands_at_the_margin(rules):
    assert example(rules.DeadUnits) == "x = 1\nif x:\n    y = 2"


def test_its_place_among_others(rules):
    assert Page.of(rules.DeadUnits).leads_to == (rules.LossSpike,)
    assert Page.of(rules.LossSpike).caused_by == (rules.DeadUnits,)
    assert Page.of(rules.LossSpike).leads_to == ()


@pytest.mark.parametrize("cycle", [("TT2",), ("TT201",)])
def test_no_rule_leads_to_itself(rules, monkeypatch, cycle):
    monkeypatch.setattr(rules.DeadUnits, "leads_to", cycle)

    assert Page.of(rules.DeadUnits).leads_to == Page.of(rules.DeadUnits).caused_by == ()


def test_many_rules_are_named_by_code(rules):
    assert titles([rules.LossSpike] * 8) == ["TT301 loss-spike"] * 8
    assert titles([rules.LossSpike] * 9) == ["TT301"] * 9


def test_as_json(rules):
    dead, bare, clip = json.loads(
        rules_to_json([rules.DeadUnits, rules.NoDocstring, rules.ClipFirst])
    )

    assert dead["code"] == "TT201"
    assert dead["summary"] == "Units are zero on every sample,\nstep after step."
    assert dead["silent_on"] == "Sparsity that moves between units."
    assert dead["leads_to"] == ["TT301"]
    assert dead["thresholds"][1] == {
        "name": "max_share",
        "default": 0.1,
        "meaning": "Largest healthy share, of | all units.",
    }
    assert (clip["example"], clip["good"]) == ("bad()", "good()")
    assert (bare["summary"], bare["why"], bare["example"]) == ("", "", "$ no python")
