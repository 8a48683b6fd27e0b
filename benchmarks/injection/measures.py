"""What a run is worth beside the clean one, and how that is shown."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any, Final

from injection.faults import FAULTS, start_of
from injection.protections import OURS

SMOOTHING: Final = 10
"""Batches that a training loss is averaged over before two runs are compared."""

TOLERANCE: Final = 0.02
"""How near to the clean run's training loss a run is recovered."""

GOAL: Final = 0.01
"""Largest excess of the final loss over the clean run's."""


def recovery(losses: Sequence[float], clean: Sequence[float], fault: str, seed: int) -> int | None:
    """Return how many steps after the fault's begin a run is back at the clean one's loss for good.

    Runs see the same batch at the same index, so their losses are compared pair by pair, in means
    over ten. A batch that the fault itself spoils is left out of both. None: never.
    """
    start, spoils = start_of(seed), FAULTS[fault].spoils_loss
    kept = [
        i
        for i in range(min(len(losses), len(clean)))
        if not (spoils and FAULTS[fault].hits(seed, i))
    ]
    after = [i for i in kept if i >= start]
    if not after or len(losses) < len(clean):
        return None
    away = None  # index of the last mean that was too far off
    for place, i in enumerate(kept):
        window = kept[max(0, place - SMOOTHING + 1) : place + 1]
        here, there = (fmean(series[j] for j in window) for series in (losses, clean))
        if i >= start and not here <= there * (1 + TOLERANCE):
            away = i
    if away is None:
        return 0
    return None if away == after[-1] else away + 1 - start


def excess(outcome: Mapping[str, Any], clean: Mapping[str, Any]) -> float:
    """Return the final loss over another run's, as a share; infinite if it is not finite."""
    ratio = outcome["validation"] / clean["validation"]
    return ratio - 1 if math.isfinite(ratio) else math.inf


def is_harmless(outcome: Mapping[str, Any], clean: Mapping[str, Any]) -> bool:
    """Tell whether an unprotected run bears a fault without any protection."""
    sound = outcome["finite"] and outcome["buffers_finite"]
    return bool(sound and excess(outcome, clean) <= GOAL)


def row(
    job: Mapping[str, Any],
    outcome: Mapping[str, Any],
    clean: Mapping[str, Any],
    *,
    harmless: bool = False,
) -> dict[str, Any]:
    """Return all measures of one run.

    Args:
        job: What was run.
        outcome: What came of it.
        clean: What came of the run that it is compared with.
        harmless: Whether the fault did no harm without protection: who says nothing of it is not
            wrong then.
    """
    fault, seed = FAULTS[job["fault"]], job["seed"]
    found = {
        **job,
        "excess": excess(outcome, clean),
        "validation": outcome["validation"],
        "harmless": harmless,
        "recovered_after": recovery(outcome["losses"], clean["losses"], job["fault"], seed),
        **{k: v for k, v in outcome.items() if k not in {"losses", "validation"}},
    }
    if job["protection"] in OURS and fault.causes:
        found["cause"], right = verdict(outcome["incidents"], fault.name, seed)
        if not (harmless and found["cause"] is None):
            found["right"] = right
    if job["fault"].startswith("clean"):
        kinds = [incident["kind"] for incident in outcome["incidents"]]
        found["rollbacks"] = sum(kind in {"rollback", "stop"} for kind in kinds)
    return found


def verdict(
    incidents: Iterable[Mapping[str, Any]], fault: str, seed: int
) -> tuple[str | None, bool]:
    """Return the cause that was named, and whether it is the injected one.

    It is the first incident's from the fault's first step on; what came before is a false alarm.
    """
    later = [i for i in incidents if i["detected"] >= start_of(seed)]
    if not later:
        return None, False
    return later[0]["name"], later[0]["name"] in FAULTS[fault].causes


def group(rows: Iterable[Mapping[str, Any]], *keys: str) -> dict[tuple[Any, ...], list[Any]]:
    """Return rows by the values of some keys, in their order."""
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for each in rows:
        groups.setdefault(tuple(each[key] for key in keys), []).append(each)
    return groups


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one line for each model, fault and protection, over its seeds."""
    lines = []
    for (model, fault, protection), found in group(rows, "model", "fault", "protection").items():
        times = [r["recovered_after"] for r in found]
        right = [r["right"] for r in found if "right" in r]
        lines.append(
            {
                "model": model,
                "fault": fault,
                "protection": protection,
                "runs": len(found),
                "judged": len(right),
                "harmless": sum(r["harmless"] for r in found),
                "excess_median": median(r["excess"] for r in found),
                "excess_worst": max(r["excess"] for r in found),
                "within_goal": sum(r["excess"] <= GOAL for r in found),
                "lost_median": median(r["lost"] for r in found),
                "recovered": sum(t is not None for t in times),
                "recovered_after_worst": max((t for t in times if t is not None), default=None),
                "finite": sum(r["finite"] and r["buffers_finite"] for r in found),
                "errors": sum(bool(r["error"]) for r in found),
                "right": sum(right) if right else None,
                "causes": sorted({str(r["cause"]) for r in found if "cause" in r}),
            }
        )
    return lines


def overall(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return each protection's shares over all faults."""
    table = {}
    for (protection,), found in group(lines, "protection").items():
        runs = sum(line["runs"] for line in found)
        judged = [line for line in found if line["right"] is not None]
        table[protection] = {
            "runs": runs,
            "within_goal": sum(line["within_goal"] for line in found) / runs,
            "finite": sum(line["finite"] for line in found) / runs,
            "recovered": sum(line["recovered"] for line in found) / runs,
        }
        if judged:
            right = sum(line["right"] for line in judged)
            table[protection]["right_cause"] = right / sum(line["judged"] for line in judged)
    return table


def print_faults(lines: Iterable[Mapping[str, Any]]) -> None:
    """Show one table for each model and fault."""
    for (model, fault), found in group(lines, "model", "fault").items():
        harmless = sum(line["harmless"] for line in found[:1])
        note = f"  (harmless in {harmless} of {found[0]['runs']})" if harmless else ""
        print(f"\n{model}  {fault}{note}")
        print("  protection        median    worst  lost  recovered after   finite  cause")
        for line in found:
            after = line["recovered_after_worst"]
            back = f"{line['recovered']}/{line['runs']}" + (f" ({after})" if after else "")
            cause = "" if line["right"] is None else f"{line['right']}/{line['judged']} right"
            named = ", ".join(line["causes"])
            print(
                f"  {line['protection']:<15} {percent(line['excess_median'])} "
                f"{percent(line['excess_worst'])} {line['lost_median']:5.0f}  {back:<15} "
                f"{line['finite']:>4}/{line['runs']}  {cause} {named}"
                + (f"  {line['errors']} stopped" if line["errors"] else "")
            )


def print_overall(table: Mapping[str, Mapping[str, float]]) -> None:
    """Show each protection's shares."""
    print("\nall faults           runs  within 1 %  finite  recovered  right cause")
    for protection, found in table.items():
        right = f"{found['right_cause']:11.0%}" if "right_cause" in found else ""
        print(
            f"  {protection:<16} {found['runs']:6.0f}  {found['within_goal']:9.0%} "
            f"{found['finite']:7.0%} {found['recovered']:9.0%}  {right}"
        )


def print_healthy(rows: Iterable[Mapping[str, Any]]) -> None:
    """Show what protections did to runs that had no fault."""
    print("\nhealthy runs         runs  rollbacks  lost steps  beside unprotected: median, worst")
    for (protection,), found in group(rows, "protection").items():
        rollbacks = sum(r["rollbacks"] for r in found)
        lost = sum(r["lost"] for r in found)
        over = [r["excess"] for r in found]
        print(
            f"  {protection:<16} {len(found):6}  {rollbacks:9} {lost:11}  "
            f"{percent(median(over))} {percent(max(over))}"
        )


def percent(share: float) -> str:
    """Return a share as text of nine characters."""
    if not math.isfinite(share):
        return "     lost"
    return f"{share:+9.1%}" if share < 10 else f"{share:+9.0e}"
