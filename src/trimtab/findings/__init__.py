"""The shared vocabulary of everything that judges: findings, rules, and the registry of both."""

from trimtab.findings._catalogue import catalogue, explain, rules_to_json
from trimtab.findings._finding import Evidence, Finding, Fix, Severity, Symptom
from trimtab.findings._markdown import index_page, page
from trimtab.findings._merge import explains, merge
from trimtab.findings._render import print_findings, render_text, summarise, to_json
from trimtab.findings._rule import FAMILIES, Rule, Scope, find_rule, register, registered
from trimtab.findings._sarif import to_sarif
from trimtab.findings._selection import Selection

__all__ = [
    "FAMILIES",
    "Evidence",
    "Finding",
    "Fix",
    "Rule",
    "Scope",
    "Selection",
    "Severity",
    "Symptom",
    "catalogue",
    "explain",
    "explains",
    "find_rule",
    "index_page",
    "merge",
    "page",
    "print_findings",
    "register",
    "registered",
    "render_text",
    "rules_to_json",
    "summarise",
    "to_json",
    "to_sarif",
]
