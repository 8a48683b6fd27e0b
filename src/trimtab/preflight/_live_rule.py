"""The kind of rule that judges live objects before the first step."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Rule, Scope
from trimtab.preflight._subject import Subject


@dataclass(frozen=True, kw_only=True)
class LiveRule(Rule):
    """A rule over a model, its optimizer, its loss and one batch.

    Put `register` above a subclass and pass an instance of it to `preflight(rules=...)`.
    """

    scope: ClassVar[Scope] = "live"

    @abstractmethod
    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield what is wrong.

        What it asks the subject for is measured once and shared by all rules; parameters, buffers,
        gradients, modes and random state may be used, and are put back after all checks.
        """
