"""The base of rules over signals."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Rule, Scope
from trimtab.rules._history import History


@dataclass(frozen=True, kw_only=True)
class RunRule(Rule):
    """Judges what a run has measured; asked again and again while it goes on.

    A finding made twice at one site is counted, not repeated. A rule keeps nothing between calls:
    what it knows is in the history.
    """

    scope: ClassVar[Scope] = "run"

    @abstractmethod
    def check(self, history: History) -> Iterator[Finding]:
        """Yield what is wrong now; for each site at most one finding."""
