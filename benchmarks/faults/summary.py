"""Figures from rows of the fault benchmark, and how they are shown."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

Row = dict[str, Any]

QUESTIONS = ("symptom", "headline", "words", "named", "place", "early")
"""Marks that are shares of the faulty runs to which they apply."""


def share(values: Iterable[bool | None]) -> tuple[int, int]:
    """Return how many are true, and of how many."""
    known = [v for v in values if v is not None]
    return sum(known), len(known)


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the figures for each part of the corpus, and for each kind of program."""
    found: dict[str, Any] = {}
    for part in sorted({r["part"] for r in rows}):
        own = [r for r in rows if r["part"] == part]
        found[part] = _figures(own) | {
            "kinds": {
                kind: _figures([r for r in own if r["kind"] == kind])
                for kind in sorted({r["kind"] for r in own})
            }
        }
    return found


def _figures(rows: Sequence[Row]) -> dict[str, Any]:
    faulty = [r for r in rows if not r["healthy"]]
    healthy = [r for r in rows if r["healthy"]]
    figures: dict[str, Any] = {"faulty": len(faulty), "healthy": len(healthy)}
    for question in QUESTIONS:
        figures[question] = share(r["marks"][question] for r in faulty)
    figures["false_alarms"] = share(r["marks"]["false_alarm"] for r in healthy)
    leads = [
        r["marks"]["damage_step"] - r["marks"]["warned_step"] for r in faulty if r["marks"]["early"]
    ]
    figures["median_lead"] = median(leads) if leads else None
    seconds = [r["verdict"]["seconds"] for r in rows]
    figures["median_seconds"] = round(median(seconds), 2) if seconds else None
    figures["errors"] = sum(r["verdict"]["error"] is not None for r in rows)
    return figures


def print_summary(judge: str, summary: dict[str, Any]) -> None:
    """Show one judge's figures."""
    for part, figures in summary.items():
        print(f"\n{judge}, part {part!r}: {figures['faulty']} faulty, {figures['healthy']} healthy")
        for question in (*QUESTIONS, "false_alarms"):
            right, total = figures[question]
            percent = f"{right / total:6.1%}" if total else "     -"
            print(f"  {question:<13} {percent}  ({right} of {total})")
        print(
            f"  median lead {figures['median_lead']} steps, {figures['median_seconds']} s a run, "
            f"{figures['errors']} errors"
        )


def print_failures(rows: Sequence[Row]) -> None:
    """Show every run of which something wrong was said, with the first findings."""
    for row in rows:
        wrong = _wrong(row)
        if not wrong:
            continue
        findings = row["verdict"]["findings"]
        heard = "; ".join(_short(f) for f in findings[:3]) or row["verdict"]["error"] or "nothing"
        print(f"{row['part'][0]} {row['case']:<38} {row['seed']}  {' '.join(wrong):<28} {heard}")


def _wrong(row: Row) -> list[str]:
    marks = row["marks"]
    if row["healthy"]:
        return ["ALARM"] if marks["false_alarm"] else (["ERROR"] if row["verdict"]["error"] else [])
    wrong = [q for q in ("symptom", "headline", "place", "early") if marks[q] is False]
    return wrong if row["verdict"]["error"] is None else [*wrong, "ERROR"]


def _short(finding: dict[str, Any]) -> str:
    place = f" at {finding['place'][:28]}" if finding["place"] else ""
    step = "" if finding["step"] is None else f", step {finding['step']}"
    return f"{finding['code']} {finding['name']}{place}{step}"
