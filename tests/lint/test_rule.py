"""What all rules over source code share."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest

from trimtab.findings import Finding, Symptom, registered
from trimtab.lint import Source, SourceRule, fix_source, lint_source
from trimtab.lint._edits import edits_of

RULES = [r for r in registered("source").values() if r.code.startswith("TT7")]


def test_codes_run_without_gaps():
    assert [r.code for r in RULES] == [f"TT7{n:02}" for n in range(1, len(RULES) + 1)]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.code)
def test_example_triggers_its_rule_alone(rule):
    assert [f.code for f in lint_source(rule.example)] == [rule.code]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.code)
def test_nearest_healthy_code_is_silent(rule):
    assert rule.good != rule.example
    assert lint_source(rule.good) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.code)
def test_repaired_example_is_silent(rule):
    (found,) = lint_source(rule.example)

    fixed, left = fix_source(rule.example)

    if edits_of(found):
        assert left == []
        ast.parse(fixed)
    else:
        assert fixed == rule.example


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.code)
def test_page_has_its_sections(rule):
    page = rule.__doc__
    labels = r"^    (Why|Measured|Silent on|Fix|Source): \S"
    sections = [m[1] for m in re.finditer(labels, page, re.MULTILINE)]

    assert sections == ["Why", "Measured", "Silent on", "Fix", "Source"]
    assert page.splitlines()[0].endswith(".")
    assert rule.scope == "source"


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.code)
def test_message_begins_with_a_word(rule):
    (found,) = lint_source(rule.example)

    assert re.match(r"[A-Za-z]+[A-Za-z0-9_]*[ ,]", found.what)
    assert not re.search(r"\b(\w+) \1\b", found.message)


def test_no_rule_speaks_on_a_healthy_program(healthy):
    assert lint_source(healthy) == []


@dataclass(frozen=True, kw_only=True)
class NoPrint(SourceRule):
    """Something is printed."""

    code: ClassVar = "XY701"
    name: ClassVar = "no-print"
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR

    def check(self, source: Source) -> Iterator[Finding]:
        for call in source.all(ast.Call):
            if source.called(call) == "print":
                yield self.at(source, call, what="something is printed")


def test_a_rule_of_ones_own_places_its_finding():
    text = "import torch\n\n\nclass A:\n    def f(self):\n        é = 1; print(é)\n"

    (found,) = lint_source(text, "a.py", [NoPrint()])

    assert (found.site, found.place) == ("A.f", "a.py:6:16")
