"""Many findings become few: one for each cause, with what followed from it."""

from collections.abc import Iterable, Sequence
from typing import Final

from trimtab.findings._finding import Finding, Severity
from trimtab.findings._rule import registered

SLACK: Final = 10
"""Steps by which a consequence may be seen before its cause: what is measured only every few steps
is seen late."""

_LATE: Final = 10**12
_UNRANKED: Final = 50


def merge(findings: Iterable[Finding], *, slack: int = SLACK) -> list[Finding]:
    """Return one finding for each cause, most causal first.

    The same fault seen again is counted; the same fault at several sites becomes one finding at the
    first of them, which names the others; a fault that another one explains becomes a consequence
    of it.

    Args:
        findings: In any order.
        slack: Steps by which a consequence may be seen before its cause.
    """
    single = _join_sites(_join_repeats(_flat(findings)))
    ordered = sorted(single, key=_order)
    return _join_consequences(ordered, slack)


def _flat(findings: Iterable[Finding]) -> Iterable[Finding]:
    for finding in findings:
        yield finding.with_(consequences=())
        yield from _flat(finding.consequences)


def _join_repeats(findings: Iterable[Finding]) -> list[Finding]:
    found: dict[tuple[object, ...], Finding] = {}
    for f in findings:
        key = (f.code, f.site, f.file, f.line, f.column)
        seen = found.get(key)
        if seen is None:
            found[key] = f
            continue
        first = min(seen, f, key=_when)
        also = tuple(dict.fromkeys([*seen.also, *f.also]))
        found[key] = first.with_(count=seen.count + f.count, also=also)
    return list(found.values())


def _join_sites(findings: Sequence[Finding]) -> list[Finding]:
    groups: dict[str, list[Finding]] = {}
    for f in findings:
        key = f.code if f.file is None else f"{f.code} {f.file} {f.line} {f.column}"
        groups.setdefault(key, []).append(f)
    joined = []
    for group in groups.values():
        first = min(group, key=lambda f: (f.severity.rank, _when(f)))
        others = [s for f in group if f is not first for s in (f.site, *f.also)]
        also = tuple(s for s in dict.fromkeys([*first.also, *others]) if s and s != first.site)
        joined.append(first.with_(also=also, count=sum(f.count for f in group)))
    return joined


def _when(finding: Finding) -> int:
    return -1 if finding.step is None else finding.step


def _order(finding: Finding) -> tuple[object, ...]:
    rule = registered().get(finding.code)
    return (
        finding.severity is Severity.ADVICE,
        _UNRANKED if rule is None else rule.rank,
        _when(finding),
        finding.code,
        finding.file or "",
        finding.line or 0,
    )


def explains(cause: Finding, effect: Finding, *, slack: int = SLACK) -> bool:
    """Tell whether one finding can be a consequence of another, by its rule and by time."""
    rule = registered().get(cause.code)
    if rule is None or cause is effect or cause.code == effect.code or effect.file is not None:
        return False
    if not effect.code.startswith(rule.leads_to or ("-",)):
        return False
    began = -1 if cause.step is None else cause.step
    ended = _LATE if effect.step is None else effect.step
    return began <= ended + slack


def _join_consequences(ordered: Sequence[Finding], slack: int) -> list[Finding]:
    """Hang each finding below the first one that explains it."""
    parent: dict[int, int] = {}
    for i, effect in enumerate(ordered):
        for j, cause in enumerate(ordered):
            if j < i and explains(cause, effect, slack=slack):
                parent[i] = j
                break
    roots = {i: _root(i, parent) for i in range(len(ordered))}
    return [
        f.with_(consequences=tuple(ordered[k] for k in parent if roots[k] == i))
        for i, f in enumerate(ordered)
        if i not in parent
    ]


def _root(index: int, parent: dict[int, int]) -> int:
    while index in parent:
        index = parent[index]
    return index
