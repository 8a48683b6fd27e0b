import pytest

from trimtab.findings import Severity, registered
from trimtab.guard._incident_rule import IncidentRule, example_of

RULES = registered("incident")
WITH_EXAMPLE = [code for code, rule in RULES.items() if rule.example]


def test_all_causes_are_here():
    assert set(RULES) >= {
        "TT109", "TT209", "TT310", "TT450", "TT451", "TT452", "TT453", "TT512", "TT603"
    }  # fmt: skip
    assert set(WITH_EXAMPLE) >= {"TT450", "TT451", "TT512", "TT603"}


@pytest.mark.parametrize("code", RULES)
def test_a_cause_is_an_error_found_by_replay(code):
    rule = RULES[code]

    assert issubclass(rule, IncidentRule)
    assert (rule.scope, rule.severity) == ("incident", Severity.ERROR)
    assert "replay" in rule.__doc__.split("Measured: ")[1].split("\n\n")[0]
    assert {"TT1", "TT2", "TT3"} <= set(rule.leads_to)


@pytest.mark.parametrize("code", WITH_EXAMPLE)
def test_the_example_has_the_guard_name_it(code, findings_of):
    assert code in {finding.code for finding in findings_of(RULES[code].example)}


def test_the_example_without_a_fault_is_healthy(findings_of):
    assert findings_of(example_of("pass")) == []


def test_the_fault_stands_in_the_loop():
    source = example_of("if step == 60:\n    x = 0 * x", optimizer="torch.optim.SGD(p, lr=0.1)")

    assert "    if step == 60:\n        x = 0 * x\n    stepper.backward" in source
    assert "optimizer = torch.optim.SGD(p, lr=0.1)\n" in source
