"""The base of all rules over source code."""

import ast
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from trimtab.findings import Finding, Rule, Scope
from trimtab.lint._source import Source


@dataclass(frozen=True, kw_only=True)
class SourceRule(Rule):
    """A rule that reads source code; nothing is executed."""

    scope: ClassVar[Scope] = "source"
    rank: ClassVar[int] = 25
    good: ClassVar[str] = ""
    """The nearest code that is healthy, on which no rule speaks."""

    @abstractmethod
    def check(self, source: Source) -> Iterator[Finding]:
        """Yield a finding for each place where the fault stands."""

    def at(self, source: Source, node: ast.AST, *, what: str, **fields: Any) -> Finding:
        """Return a finding at a place in the source.

        Args:
            source: Of the node.
            node: Where the fault is.
            what: What is wrong, in one sentence.
            fields: Further fields of the finding.
        """
        line, offset = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
        place = {
            "site": source.site(node),
            "file": source.path,
            "line": line,
            "column": source.column(line, offset),
        }
        return self.finding(what=what, **(place | fields))
