"""diagnose_run: judge what a run folder holds."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.findings import Finding, Rule
from trimtab.rules._judge import Judge
from trimtab.rules._setup import EMPTY, Setup
from trimtab.signals import Run, StepRecord, load_run


def diagnose_run(path: str | Path, rules: Sequence[Rule] | None = None) -> list[Finding]:
    """Judge a recorded run, as the rules would have while it went on.

    Args:
        path: The run's folder; the run may still be going on.
        rules: That are asked; None for all that are registered.

    Returns:
        One finding for each cause, most causal first.

    Raises:
        ConfigError: There is no run in the folder.
    """
    run = load_run(path)
    saved = run.info.get("setup")
    judge = Judge(EMPTY if saved is None else Setup.from_dict(saved), rules=rules)
    judge.history.order = list(run.info.get("order", ()))
    for record in records(run):
        judge.see(record)
    if judge.history.num_steps:
        judge.check()
    return judge.findings


def records(run: Run) -> Iterator[StepRecord]:
    """Yield what a run has measured, step by step."""
    families = [name for name in ("parameters", "modules") if name in run.tables]
    tables: dict[str, dict[int, Any]] = {name: _by_step(run, name) for name in families}
    steps = run.table("steps")
    columns = {
        name: steps[name].cast(float, strict=False).to_numpy()
        for name in steps.columns
        if name != "step" and steps[name].dtype.is_numeric()
    }
    for i, step in enumerate(steps["step"].to_list()):
        values = {name: float(column[i]) for name, column in columns.items()}
        found = {name: parts[step] for name, parts in tables.items() if step in parts}
        yield StepRecord(step, values, found)


def _by_step(run: Run, name: str) -> dict[int, Any]:
    """Return sites and columns of each step of a table."""
    rows = run.table(name)
    if not len(rows):
        return {}
    steps = rows["step"].to_numpy()
    sites = rows["site"].cast(str).to_numpy()
    columns = {
        c: rows[c].cast(float, strict=False).to_numpy()
        for c in rows.columns
        if c not in {"step", "site"} and rows[c].dtype.is_numeric()
    }
    order = np.argsort(steps, kind="stable")
    starts = np.flatnonzero(np.diff(steps[order], prepend=-1))
    found: dict[int, Any] = {}
    for part in np.split(order, starts[1:]):
        found[int(steps[part[0]])] = (
            [str(s) for s in sites[part]],
            {c: values[part] for c, values in columns.items()},
        )
    return found
