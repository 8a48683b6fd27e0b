"""The shared vocabulary of everything that judges: findings, rules, and the registry of both."""

from trimtab.findings._finding import Evidence, Finding, Fix, Severity, Symptom
from trimtab.findings._merge import explains, merge
from trimtab.findings._rule import FAMILIES, Rule, Scope, find_rule, register, registered

__all__ = [
    "FAMILIES",
    "Evidence",
    "Finding",
    "Fix",
    "Rule",
    "Scope",
    "Severity",
    "Symptom",
    "explains",
    "find_rule",
    "merge",
    "register",
    "registered",
]
