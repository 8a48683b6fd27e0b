import pytest
import torch

from trimtab.audit._audit_rule import AccumulationRule, ResumeRule, largest_change, named, shown
from trimtab.audit._snapshot import Difference
from trimtab.findings import registered

RULES = [r for r in registered("audit").values() if r.__module__.startswith("trimtab.audit.")]


def test_every_rule_is_of_one_kind():
    assert len(RULES) == 16
    assert all(issubclass(r, ResumeRule | AccumulationRule) for r in RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.code)
def test_example_triggers_the_rule_alone(rule):
    scope = {"__name__": "__main__"}

    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        exec(compile(rule.example, "<example>", "exec"), scope)

    assert [f.code for f in scope["findings"]] == [rule.code]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.code)
def test_a_page_has_all_its_parts(rule):
    labels = [line.strip().partition(":")[0] for line in rule.__doc__.splitlines()]

    assert {"Why", "Measured", "Fix"} <= set(labels)


def test_names_are_shortened():
    assert named(["a", "b", "c"]) == "a, b, c"
    assert named(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "missing"),
        (0.1, "0.1"),
        (3, "3"),
        (torch.tensor(0.25), "0.25"),
        (torch.zeros(2, 3), "a tensor of (2, 3)"),
        ("text", "text"),
    ],
)
def test_values_are_shown_in_short(value, text):
    assert shown(value) == text


def test_the_largest_change_is_relative():
    def change(before, after):
        return Difference(name="x", before=before, after=after)

    one = torch.ones(4)
    assert largest_change([]) == 0
    assert largest_change([change(one, 1.5 * one), change(one, 1.25 * one)]) == 0.5
    for other in (None, torch.ones(5)):
        assert largest_change([change(one, other)]) == float("inf")
    assert largest_change([change(0 * one, one)]) == float("inf")
