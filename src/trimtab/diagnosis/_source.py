"""What the source code of a loop body says, beside what was seen of it."""

from collections.abc import Callable
from typing import Any, Final

from trimtab.findings import Finding, Selection, Severity

SEEN_RUNNING: Final = frozenset(
    {
        "TT701", "TT702", "TT703", "TT704", "TT705", "TT706", "TT707", "TT708", "TT721", "TT722",
        "TT723", "TT724", "TT728", "TT735", "TT736",
    }
)  # fmt: skip
"""Codes of faults that the body shows when it runs: then what was seen decides."""


def source_findings(train_step: Callable[..., Any] | None, chosen: Selection) -> list[Finding]:
    """Return what is wrong with the source of a loop body, as far as running it cannot tell.

    Args:
        train_step: The loop body; None has no source.
        chosen: Which rules speak.
    """
    if train_step is None:
        return []
    from trimtab.lint import SourceRule, lint_function  # half of what `import trimtab` would take

    rules = [r for r in chosen.rules("source") if isinstance(r, SourceRule)]
    return [
        finding
        for finding in lint_function(train_step, rules)
        if finding.code not in SEEN_RUNNING and finding.severity is not Severity.ADVICE
    ]
