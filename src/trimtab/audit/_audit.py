"""What an audit returns."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.findings import Finding, Selection, render_text, to_json


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What an audit found.

    Attributes:
        subject: `"resume"` or `"accumulation"`.
        findings: What differs and why, most causal first; empty if nothing does.
        facts: What was done and measured, by name; what JSON can hold.
    """

    subject: str
    findings: list[Finding]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON can hold."""
        return {
            "subject": self.subject,
            "ok": self.ok,
            "facts": dict(self.facts),
            "findings": json.loads(to_json(self.findings)),
        }

    def __str__(self) -> str:
        """Return findings and facts as text."""
        facts = "\n".join(f"{name}: {value}" for name, value in self.facts.items())
        return f"{render_text(self.findings) or 'nothing found'}\n{facts}".strip() + "\n"


def allowed(findings: Sequence[Finding], selection: Selection) -> list[Finding]:
    """Return the findings whose rules speak, without consequences whose rules are silent."""
    return [
        f.with_(consequences=tuple(c for c in f.consequences if selection.allows(c.code)))
        for f in findings
        if selection.allows(f.code)
    ]
