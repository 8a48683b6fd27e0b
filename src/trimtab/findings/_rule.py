"""Rules: what judges, and the registry that gives each its code."""

import re
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, TypeVar

from trimtab.errors import ConfigError
from trimtab.findings._finding import Finding, Severity, Symptom

Scope = Literal["run", "live", "loop", "incident", "audit", "source"]
"""What a rule looks at: signals of a run, live objects before it, a loop body that is watched while
it runs, replays of the steps before an incident, a run that was resumed or accumulated, or source
code."""

FAMILIES: Final = {
    "TT0": "Set-up",
    "TT1": "Gradients",
    "TT2": "Activations",
    "TT3": "Loss",
    "TT4": "Optimizer and precision",
    "TT5": "Data",
    "TT6": "Distributed and hardware",
    "TT7": "Source code",
    "TT8": "Resuming and accumulation",
}
"""First characters of a code, and what its rules are about."""


@dataclass(frozen=True, kw_only=True)
class Rule(ABC):
    """A small pure object: what it reads, when it fires, what it says.

    A subclass for each kind of subject adds the method that judges. The docstring of a rule is its
    page in the catalogue: the first line says what a finding means; sections follow, each a
    paragraph that begins with `Why:`, `Measured:`, `Silent on:`, `Fix:` or `Source:`. Thresholds
    are fields with a docstring each, so that settings can change them.
    """

    code: ClassVar[str]
    """`TT` and three digits, never used twice."""
    name: ClassVar[str]
    """The fault, in words joined by hyphens."""
    severity: ClassVar[Severity] = Severity.WARNING
    symptom: ClassVar[Symptom]
    scope: ClassVar[Scope]
    leads_to: ClassVar[tuple[str, ...]] = ()
    """Codes, or beginnings of codes, of faults that this one brings about in time."""
    rank: ClassVar[int] = 50
    """Place among causes, from 0: what is lower is the cause of what is higher."""
    example: ClassVar[str] = ""
    """Code that triggers it."""

    def finding(self, *, what: str, **fields: Any) -> Finding:
        """Return a finding of this rule; `fields` are those of `Finding`."""
        given: dict[str, Any] = {
            "code": self.code,
            "name": self.name,
            "severity": self.severity,
            "symptom": self.symptom,
        }
        return Finding(**(given | fields), what=what)


_REGISTRY: Final[dict[str, type[Rule]]] = {}
_R = TypeVar("_R", bound=type[Rule])


def register(rule: _R) -> _R:
    """Add a rule to the catalogue; a class decorator, also for rules of your own.

    Raises:
        ConfigError: Its code or name is malformed or taken.
    """
    for field in ("code", "name", "symptom", "scope"):
        if not hasattr(rule, field):
            raise ConfigError(f"The rule {rule.__name__} has no {field}. Set it in the class body.")
    if not re.fullmatch(r"[A-Z]{2,4}[0-9]{3}", rule.code):
        raise ConfigError(
            f"A rule's code is two to four capitals and three digits, got {rule.code!r}."
        )
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.name):
        raise ConfigError(f"A rule's name is words joined by hyphens, got {rule.name!r}.")
    for other in _REGISTRY.values():
        same = (other.__module__, other.__qualname__) == (rule.__module__, rule.__qualname__)
        if not same and (other.code == rule.code or other.name == rule.name):
            raise ConfigError(
                f"The rule {rule.__name__} wants {rule.code} {rule.name}, but "
                f"{other.__name__} has {other.code} {other.name}. Choose others."
            )
    _REGISTRY[rule.code] = rule
    return rule


def registered(scope: Scope | None = None) -> Mapping[str, type[Rule]]:
    """Return the rules that are known so far by code, in the order of their codes."""
    rules = sorted(_REGISTRY.items())
    return {code: rule for code, rule in rules if scope in {None, rule.scope}}


def find_rule(code_or_name: str) -> type[Rule]:
    """Return a rule by its code or name.

    Raises:
        ConfigError: There is none; the message names the nearest.
    """
    import difflib

    wanted = code_or_name.strip()
    for rule in _REGISTRY.values():
        if wanted.upper() == rule.code or wanted.lower() == rule.name:
            return rule
    known = [key for rule in registered().values() for key in (rule.code, rule.name)]
    words = {key.lower(): key for key in known}
    near = [words[w] for w in difflib.get_close_matches(wanted.lower(), words, n=3, cutoff=0.5)]
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError(f"There is no rule {wanted!r}. {hint}'trimtab explain --all' lists them all.")


def caused_by(code: str) -> tuple[type[Rule], ...]:
    """Return the rules whose faults can bring this one about."""
    return tuple(r for r in registered().values() if code.startswith(r.leads_to or ("-",)))
