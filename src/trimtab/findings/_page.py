"""What a rule says of itself: its docstring in sections, its thresholds, its place among others."""

import ast
import functools
import inspect
import itertools
import re
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, Final, Self

from trimtab.findings._finding import sentence
from trimtab.findings._rule import Rule, caused_by, registered

TITLES: Final = {
    "Why": "Why it matters",
    "Measured": "How it is measured",
    "Silent on": "Silent on",
    "Fix": "What to do",
    "Source": "References",
}
"""Labels of a docstring's sections, and their headings."""

LOOKS_AT: Final = {
    "run": "the signals of a run",
    "live": "model, optimizer and batch before the first step",
    "loop": "the body of a loop, watched while it runs",
    "incident": "replays of the steps before an incident",
    "audit": "a run that was resumed, or whose batch was split",
    "source": "source code",
}
"""Scopes in words."""

NUM_NAMED: Final = 8
"""Related rules that are named; where there are more, their codes have to do."""

_LABEL: Final = re.compile(rf"^({'|'.join(TITLES)}):[ \t]*", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A setting of a rule."""

    name: str
    default: Any
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """The parts of a rule's page."""

    rule: type[Rule]
    summary: str
    """What a finding means: the docstring before its first section."""
    sections: dict[str, str]
    """Texts by label, in the order of `TITLES`."""
    thresholds: tuple[Threshold, ...]
    leads_to: tuple[type[Rule], ...]
    caused_by: tuple[type[Rule], ...]

    @classmethod
    def of(cls, rule: type[Rule]) -> Self:
        """Return the page of a rule."""
        summary, sections = parse(rule)
        effects = [r for r in registered().values() if r.code.startswith(rule.leads_to or ("-",))]
        return cls(
            rule=rule,
            summary=summary,
            sections=sections,
            thresholds=thresholds(rule),
            leads_to=tuple(r for r in effects if r.code != rule.code),
            caused_by=tuple(r for r in caused_by(rule.code) if r.code != rule.code),
        )

    @property
    def line(self) -> str:
        """What a finding means, on one line."""
        return " ".join(self.summary.partition("\n\n")[0].split())

    def to_dict(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return {
            "code": self.rule.code,
            "name": self.rule.name,
            "severity": str(self.rule.severity),
            "symptom": str(self.rule.symptom),
            "scope": self.rule.scope,
            "summary": self.summary,
            **{label.lower().replace(" ", "_"): self.sections.get(label, "") for label in TITLES},
            "example": example(self.rule),
            "good": good(self.rule),
            "thresholds": [
                {"name": t.name, "default": t.default, "meaning": t.meaning}
                for t in self.thresholds
            ],
            "leads_to": [r.code for r in self.leads_to],
            "caused_by": [r.code for r in self.caused_by],
        }


def parse(rule: type[Rule]) -> tuple[str, dict[str, str]]:
    """Return a rule's docstring as the text before its sections, and the sections by label."""
    text = inspect.cleandoc(rule.__doc__ or "")
    if text.startswith(f"{rule.__name__}("):  # made up by dataclass
        return "", {}
    summary, *parts = _LABEL.split(text)
    found = dict(zip(parts[::2], map(_dedented, parts[1::2]), strict=True))
    return summary.strip(), {k: sentence(found[k]) for k in TITLES if found.get(k)}


def _dedented(text: str) -> str:
    """Return a section without the indentation of the lines below its first."""
    first, _, rest = text.partition("\n")
    return f"{first}\n{textwrap.dedent(rest)}".strip()


def titles(rules: Sequence[type[Rule]]) -> list[str]:
    """Return codes and names of rules; of many, only their codes."""
    return [f"{r.code} {r.name}" if len(rules) <= NUM_NAMED else r.code for r in rules]


def example(rule: type[Rule]) -> str:
    """Return the code that triggers a rule, without the indentation of the class."""
    return textwrap.dedent(rule.example).strip("\n").rstrip()


def good(rule: type[Rule]) -> str:
    """Return the nearest code without the fault; empty for rules that have none."""
    return textwrap.dedent(getattr(rule, "good", "")).strip("\n").rstrip()


@functools.cache
def thresholds(rule: type[Rule]) -> tuple[Threshold, ...]:
    """Return a rule's thresholds; their meanings are the docstrings below the fields."""
    meanings: dict[str, str] = {}
    for base in reversed(rule.__mro__):
        meanings |= _field_docstrings(base)
    return tuple(
        Threshold(name=f.name, default=_default(f), meaning=meanings.get(f.name, ""))
        for f in fields(rule)
        if f.init
    )


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else None


def _field_docstrings(base: type) -> dict[str, str]:
    """Return the texts below a class's fields; empty where there is no source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
    except (OSError, SyntaxError, TypeError):
        return {}
    body = getattr(tree.body[0], "body", [])
    found = {}
    for field, after in itertools.pairwise(body):
        named = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[field.target.id] = " ".join(str(after.value.value).split())
    return found
