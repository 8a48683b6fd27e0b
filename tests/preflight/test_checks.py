"""The list of all checks."""

import pytest
import torch

import trimtab
from trimtab.findings import Severity, registered
from trimtab.preflight._checks import CHECKS
from trimtab.preflight._preflight import preflight


def test_all_live_rules_of_the_package_are_listed_by_code():
    ours = {
        code: rule
        for code, rule in registered("live").items()
        if rule.__module__.startswith("trimtab.preflight.")
    }

    assert [rule.code for rule in CHECKS] == sorted(rule.code for rule in CHECKS)
    assert {rule.code: rule for rule in CHECKS} == ours


@pytest.mark.parametrize("rule", CHECKS, ids=lambda r: r.code)
def test_page_is_complete(rule):
    assert rule.__module__.endswith(f"{rule.code.lower()}_{rule.name.replace('-', '_')}")
    sections = [line.strip() for line in rule.__doc__.splitlines()]
    for name in ("Why:", "Measured:", "Fix:"):
        assert any(line.startswith(name) for line in sections), name
    assert rule.__doc__.splitlines()[0].endswith(".")


@pytest.mark.parametrize("rule", CHECKS, ids=lambda r: r.code)
def test_example_triggers_it(rule, monkeypatch):
    monkeypatch.setattr(trimtab, "preflight", preflight, raising=False)
    names: dict[str, object] = {}

    exec(compile(rule.example, rule.code, "exec"), names)

    found = {f.code: f for f in names["findings"]}
    assert rule.code in found, list(found)
    serious = rule.severity is not Severity.ADVICE
    assert (found[rule.code].severity is not Severity.ADVICE) == serious


@pytest.mark.parametrize("rule", CHECKS, ids=lambda r: r.code)
def test_is_silent_on_a_sound_set_up(rule, judge, classes):
    model = torch.nn.Sequential(
        torch.nn.Linear(8, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 1024), torch.nn.ReLU(),
        torch.nn.Linear(1024, 3),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)

    assert judge(rule(), model, optimizer, torch.nn.CrossEntropyLoss(), classes) == []
