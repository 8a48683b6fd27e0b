"""Findings as text that people read, and as JSON."""

import json
import math
import os
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TextIO

from trimtab.findings._finding import Finding, Severity

LABELS: Final = 10
"""Width of the column of labels, here and in the catalogue."""
NUM_SITES: Final = 3
"""Further sites that are named; the rest is counted."""

COLOURS: Final = {Severity.ERROR: "1;31", Severity.WARNING: "1;33", Severity.ADVICE: "1;36"}
"""ANSI codes of the head line: bold red, yellow and cyan."""
_DIM: Final = "2"


def render_text(
    findings: Sequence[Finding], *, colour: bool = False, width: int | None = None
) -> str:
    """Return findings as text, a paragraph each; empty without any.

    Args:
        findings: In the order in which they are shown, most causal first.
        colour: Whether to mark severities with ANSI colours.
        width: Columns to wrap at; None leaves lines as long as they are.
    """
    return "\n".join(_paragraph(finding, colour=colour, width=width) for finding in findings)


def summarise(findings: Sequence[Finding]) -> str:
    """Return the number of findings of each severity in one line."""
    if not findings:
        return "No findings."
    counts = [(s, sum(f.severity is s for f in findings)) for s in Severity]
    parts = [_plural(n, s.value) for s, n in counts if n]
    return f"{_plural(len(findings), 'finding')}: {', '.join(parts)}."


def print_findings(findings: Sequence[Finding], stream: TextIO) -> None:
    """Write findings and their number to a stream.

    On a terminal, lines are wrapped at its width and severities coloured, unless the variable
    `NO_COLOR` is set. What the stream's encoding lacks becomes a question mark.
    """
    terminal = stream.isatty()
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    width = shutil.get_terminal_size().columns if terminal else None
    text = render_text(findings, colour=terminal and not plain, width=width)
    whole = f"{text}\n{summarise(findings)}\n" if text else f"{summarise(findings)}\n"
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(whole.encode(encoding, errors="replace").decode(encoding))


def to_json(findings: Sequence[Finding]) -> str:
    """Return findings as a JSON list of what `Finding.to_dict()` returns.

    JSON has no NaN and no infinity: they become the texts `"nan"`, `"inf"` and `"-inf"`.
    """
    return json.dumps([plain(f.to_dict()) for f in findings], indent=2, allow_nan=False)


def plain(value: Any) -> Any:
    """Return a value as what JSON can hold: no NaN, no tuples, no scalars of NumPy or torch."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "item") and not isinstance(value, float):
        return plain(value.item())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    return str(value)


def _paragraph(finding: Finding, *, colour: bool, width: int | None) -> str:
    lines = [_paint(heading(finding), COLOURS[finding.severity], colour=colour)]
    for label, values in _rows(finding):
        texts = [line for value in values for line in _wrapped(value, width)]
        for title, line in zip([label, *[""] * len(texts)], texts, strict=False):
            lines.append(f"  {_paint(title.ljust(LABELS), _DIM, colour=colour)}{line}".rstrip())
    return "\n".join(lines) + "\n"


def heading(finding: Finding) -> str:
    """Return code, name, place and first step of a finding."""
    where = f" at {finding.place}" if finding.place else ""
    if finding.file is not None and finding.site:
        where += f" in {finding.site}"
    when = f", step {finding.step}" if finding.step is not None else ""
    return f"{finding.code} {finding.name}{where}{when}"


def _rows(finding: Finding) -> Iterator[tuple[str, list[str]]]:
    """Yield label and values of each part that the finding has."""
    yield "what", [finding.what]
    if finding.severity is Severity.ADVICE:
        yield "advice", ["worth knowing; the run can be healthy all the same"]
    yield "evidence", [str(e) for e in finding.evidence]
    yield "why", [finding.cause] if finding.cause else []
    yield "fix", [finding.fix] if finding.fix else []
    yield "also at", [_sites(finding.also)] if finding.also else []
    yield "seen", [f"{finding.count:,} times"] if finding.count > 1 else []
    yield "led to", list(_tree(finding.consequences))


def _tree(consequences: Sequence[Finding], depth: int = 0) -> Iterator[str]:
    for finding in consequences:
        yield "  " * depth + heading(finding)
        yield from _tree(finding.consequences, depth + 1)


def _sites(sites: Sequence[str]) -> str:
    """Return the first sites, and how many more there are."""
    if len(sites) <= NUM_SITES + 1:
        return ", ".join(sites)
    return f"{', '.join(sites[:NUM_SITES])} and {len(sites) - NUM_SITES:,} more"


def _wrapped(value: str, width: int | None) -> list[str]:
    """Return the lines of a value; a word that does not fit stands out."""
    lines = value.splitlines()
    if width is None:
        return lines
    room = max(width - LABELS - 2, 20)
    found: list[str] = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()))
        found += textwrap.wrap(
            line,
            room,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    return found


def _paint(text: str, code: str, *, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour and text.strip() else text


def _plural(count: int, word: str) -> str:
    if word == "advice":
        return f"{count:,} piece{'s' if count > 1 else ''} of advice"
    return f"{count:,} {word}{'s' if count > 1 else ''}"
