"""A finding: what is wrong, where, on what evidence, why, and what to do."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, Self


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    """The run is broken, or will be."""
    WARNING = "warning"
    """The run suffers, or is likely to."""
    ADVICE = "advice"
    """Worth knowing; the run is healthy all the same."""

    @property
    def rank(self) -> int:
        """Place in the order of gravity, from 0."""
        return list(type(self)).index(self)


class Symptom(StrEnum):
    """What a fault does to a run, in a fixed vocabulary."""

    VANISHING_GRADIENT = "vanishing_gradient"
    EXPLODING_GRADIENT = "exploding_gradient"
    DEAD_UNITS = "dead_units"
    SATURATED_UNITS = "saturated_units"
    LOSS_SPIKE = "loss_spike"
    DIVERGENCE = "divergence"
    NAN = "nan"
    SLOW_CONVERGENCE = "slow_convergence"
    OSCILLATING_LOSS = "oscillating_loss"
    NO_LEARNING = "no_learning"
    SILENT_CONFIG_ERROR = "silent_config_error"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A measured number beside what it is in health."""

    name: str
    value: float | str
    normal: str
    """The range in health, such as `"<= 0.1"`."""

    def __str__(self) -> str:
        if isinstance(self.value, str):
            value = self.value
        else:
            value = f"{self.value:,}" if isinstance(self.value, int) else f"{self.value:.3g}"
        return f"{self.name} {value}, normal {self.normal}"


@dataclass(frozen=True, kw_only=True)
class Fix:
    """A remedy that a program can apply."""

    action: str
    """What is to be done, such as `"scale_learning_rate"`."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """How, such as `{"factor": 0.1}`; what JSON can hold."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One judgement, whether of source code, of live objects or of a run.

    Made by a rule's `finding()`, which fills in what is the rule's.
    """

    code: str
    """Of the rule, such as `"TT301"`; never used for anything else."""
    name: str
    """Of the fault, such as `"loss-spike"`."""
    severity: Severity
    symptom: Symptom
    what: str
    """What was seen, in one sentence with its numbers."""
    site: str = ""
    """Module, parameter, `param group 0`, or function; empty for the run as a whole."""
    step: int | None = None
    """First seen, from 1; None if it does not belong to a step."""
    evidence: tuple[Evidence, ...] = ()
    cause: str = ""
    """Why it is so, or why it does harm."""
    fix: str = ""
    """What to do about it."""
    remedy: Fix | None = None
    """The same for a program, where it is known."""
    file: str | None = None
    line: int | None = None
    """From 1."""
    column: int | None = None
    """From 1."""
    count: int = 1
    """How often it was seen."""
    also: tuple[str, ...] = ()
    """Further sites of the same fault."""
    consequences: tuple["Finding", ...] = ()
    """What followed from it, most direct first."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "severity", Severity(self.severity))
        object.__setattr__(self, "symptom", Symptom(self.symptom))

    @property
    def place(self) -> str:
        """Where it is, in words; empty for the run as a whole."""
        if self.file is not None:
            spots = [str(n) for n in (self.line, self.column) if n is not None]
            return ":".join([self.file, *spots])
        return self.site

    @property
    def message(self) -> str:
        """What, why and fix in one line."""
        parts = [self.what, self.cause, self.fix and f"Fix: {self.fix}"]
        return " ".join(sentence(part) for part in parts if part)

    @property
    def symptoms(self) -> frozenset[Symptom]:
        """Its own symptom and those of its consequences."""
        found = {self.symptom}
        for each in self.consequences:
            found |= each.symptoms
        return frozenset(found)

    def to_dict(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return {
            "code": self.code,
            "name": self.name,
            "severity": str(self.severity),
            "symptom": str(self.symptom),
            "site": self.site,
            "step": self.step,
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "message": self.message,
            "what": self.what,
            "evidence": [
                {"name": e.name, "value": e.value, "normal": e.normal} for e in self.evidence
            ],
            "cause": self.cause,
            "fix": self.fix,
            "remedy": None if self.remedy is None else asdict(self.remedy),
            "count": self.count,
            "also": list(self.also),
            "consequences": [each.to_dict() for each in self.consequences],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return what `to_dict` was called on; keys that are not known are passed over."""
        known = {k: v for k, v in data.items() if k in _FIELDS}
        remedy = known.get("remedy")
        known["remedy"] = None if remedy is None else Fix(**remedy)
        known["evidence"] = tuple(Evidence(**e) for e in known.get("evidence", ()))
        known["also"] = tuple(known.get("also", ()))
        known["consequences"] = tuple(cls.from_dict(c) for c in known.get("consequences", ()))
        return cls(**known)

    def __str__(self) -> str:
        where = f" at {self.place}" if self.place else ""
        when = f", step {self.step}" if self.step is not None else ""
        return f"{self.code} {self.name}{where}{when}: {self.what}"

    def with_(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


_FIELDS: Final = frozenset(Finding.__dataclass_fields__)


def sentence(text: str) -> str:
    """Return the text as a sentence: with a capital, unless it begins with a name in code."""
    text = text.strip()
    if not text:
        return text
    end = "" if text[-1] in ".!?:" else "."
    begins_with_word = re.match(r"[a-z][a-z'-]*[,;:]?(\s|$)", text) is not None
    return (text[0].upper() if begins_with_word else text[0]) + text[1:] + end
