"""How many of the broken runs of the fault corpus `trimtab.repair` brings to their target.

Claims, on the part that nothing was tuned on: at least 98.5 % of the repairable runs reach their
target (AutoTrainer, Zhang et al., ICSE 2021, repairs 98.42 % of its own), with at most 1.14 times
the training on top, on average; and a healthy run comes back as a plain loop trains it, bit for
bit.

A run's metric is the error of its case, 0 the best and 1 that of a guess. Its target is what the
healthy twin reaches with the same seed in as many steps, plus a tenth of the way from there to a
guess. A run is repairable if it has an error to measure, misses the target as it is, and its fault
is none of `HOPELESS`, where the program lacks what only its author knows.

With `--blind`, repair is told neither metric nor target, and judges by what the run learned; what
it calls repaired is then compared with the target (`claimed_in_vain`: it is not reached), and so
is what it calls healthy as it is (`called_healthy`).

    python benchmarks/repair.py --part tune --seeds 1
    python benchmarks/repair.py --part fresh --seeds 2 --jobs 2
"""

import argparse
import functools
import json
import math
import re
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from faults.registry import Case, Setup, cases
from faults.verdict import train
from measure import save

from trimtab.repair import RepairResult, TrainingSetup, repair

MARGIN: Final = 0.1
"""Share of the way from the twin's error to that of a guess that a repaired run may lag behind."""

HOPELESS: Final[dict[str, str]] = {
    "labels-unrelated": "the labels do not belong to the inputs: what is right is lost",
    "constant-labels": "all labels are the same: what is right is lost",
    "repeated-batch": "the data are one batch: what the others hold is not there",
    "targets-equal-inputs": "the targets are the inputs: what comes next is not among the data",
    "diverging-targets": "the loop body's own targets grow without end: a discount above one",
}
"""Causes that no change of the training mends, and why."""

UNMEASURED: Final[dict[str, str]] = {
    "log-of-zero-in-preprocessing": "its error is that on other inputs than it is trained on",
}
"""Cases whose error says nothing of a repair, and why."""

SORTED: Final = "unshuffled-data"
"""Cause of a case that is mended by shuffling, though its first batches have constant labels."""

Job = tuple[str, int, int, bool]
"""Name of a case, seed, steps, and whether repair is told no target."""


def training_setup(setup: Setup) -> TrainingSetup:
    """Return a program of the corpus as repair takes it."""
    return TrainingSetup(
        setup.model,
        setup.optimizer,
        setup.loss_fn,
        setup.batches,
        setup.scheduler,
        setup.train_step,
    )


def error_of(setup: Setup, model: nn.Module) -> float:
    """Return the error of a trained model by a program's measure; NaN if it has none."""
    if setup.score is None:
        return math.nan
    model.eval()
    with torch.no_grad():
        return float(setup.score(model))


@functools.cache
def trained(name: str, seed: int, steps: int) -> tuple[float, dict[str, Any]]:
    """Train a program as it is, and return its error and its weights."""
    setup = cases()[name].setup(seed)
    try:
        train(setup, steps=steps, seed=seed)
    except Exception:  # noqa: BLE001 -- a program that raises has learned nothing
        return math.inf, {}
    weights = {k: v.clone() for k, v in setup.model.state_dict().items()}
    return error_of(setup, setup.model), weights


def hopeless(case: Case) -> str | None:
    """Return why no change of the training can mend a case; None if one might."""
    if case.name in UNMEASURED:
        return UNMEASURED[case.name]
    if SORTED in case.causes:
        return None
    return next((why for cause, why in HOPELESS.items() if cause in case.causes), None)


def examine(job: Job) -> dict[str, Any]:
    """Repair one program, and return all that is known of it as what JSON can hold."""
    name, seed, steps, blind = job
    case = cases()[name]
    row: dict[str, Any] = {
        "case": name, "kind": case.kind, "part": case.part, "seed": seed, "healthy": case.healthy,
        "causes": sorted(case.causes),
    }  # fmt: skip
    error, weights = trained(name, seed, steps)
    twin = error if case.twin is None else trained(case.twin, seed, steps)[0]
    row |= {"error": error, "twin": twin, "hopeless": hopeless(case)}
    measured = case.setup(seed).score is not None
    target = twin + MARGIN * max(0.0, 1 - twin) if measured and math.isfinite(twin) else None
    misses = target is not None and not error <= target
    row |= {"target": target, "repairable": misses and not row["hopeless"]}
    if not (case.healthy or row["repairable"]):
        return row
    began = time.perf_counter()
    try:
        result = _repaired(case, seed, steps, None if blind else target)
    except Exception as error:  # noqa: BLE001 -- a crash is a result
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return row | {"crash": f"{type(error).__name__} at {where}: {error}"[:300]}
    row |= result.to_dict() | {"seconds": time.perf_counter() - began}
    if blind and target is not None:
        reached = error_of(case.setup(seed), result.setup.model)
        row |= {"metric": reached, "claimed": result.repaired, "repaired": reached <= target}
    if case.healthy:
        row["untouched"] = not result.edits and _same(result.setup.model.state_dict(), weights)
    return row


def _repaired(case: Case, seed: int, steps: int, target: float | None) -> RepairResult:
    return repair(
        lambda s: training_setup(case.setup(s)),
        steps=steps,
        seed=seed,
        metric=None if target is None else case.setup(seed).score,
        target=target,
        higher_is_better=False,
    )


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Tell whether weights are equal, bit for bit; NaN equals itself."""
    return a.keys() == b.keys() and all(
        torch.equal(v.nan_to_num(), b[k].nan_to_num()) for k, v in a.items()
    )


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return shares and means."""
    broken = [r for r in rows if r["repairable"] and not r["healthy"]]
    mended = [r for r in broken if r.get("repaired")]
    healthy = [r for r in rows if r["healthy"]]
    return {
        "repairable": len(broken),
        "repaired": len(mended),
        "share": len(mended) / len(broken) if broken else None,
        "extra": fmean(r["extra"] for r in mended) if mended else None,
        "extra_of_all": fmean(r.get("extra", 0.0) for r in broken) if broken else None,
        "claimed": sum(bool(r.get("claimed")) for r in broken),
        "claimed_in_vain": [
            r["case"] for r in broken if r.get("claimed") and not r.get("repaired")
        ],
        "called_healthy": [r["case"] for r in broken if r.get("healthy_before")],
        "healthy": len(healthy),
        "untouched": sum(bool(r.get("untouched")) for r in healthy),
        "hopeless": sorted({r["case"] for r in rows if not r["healthy"] and r["hopeless"]}),
        "harmless": sorted(
            {
                r["case"]
                for r in rows
                if not (r["healthy"] or r["hopeless"] or r["repairable"])
                and r["target"] is not None
            }
        ),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print the summary."""
    for key, value in summarise(rows).items():
        print(f"{key:14}{value}")


def show_run(r: dict[str, Any], *, verbose: bool) -> None:
    """Print a run that failed, or with `verbose` any."""
    failed = r["repairable"] and not r["healthy"] and not r.get("repaired")
    touched = r["healthy"] and not r.get("untouched")
    if not (failed or touched or verbose):
        return
    state = "TOUCHED" if touched else "FAILED" if failed else ""
    metric = r.get("metric")
    reached = "none" if metric is None else f"{metric:.3f}"
    target = "-" if r["target"] is None else f"{r['target']:.3f}"
    print(
        f"{state:8}{r['case']} {r['seed']}: error {r['error']:.3f}, target {target}, reached "
        f"{reached}, extra {r.get('extra', math.nan):.2f} {r.get('crash', '')}"
    )
    for finding in r.get("findings", [])[:3]:
        print(f"          found   {finding['code']} {finding['what'][:110]}")
    for attempt in r.get("attempts", []):
        print(f"          tried   {attempt}", flush=True)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--part", choices=["tune", "report", "fresh", "heldout", "all"], default="all"
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--only", default="", help="pattern that a case's name has to match")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--faulty", action="store_true", help="leave the healthy runs out")
    parser.add_argument("--blind", action="store_true", help="tell repair no target")
    parser.add_argument("--verbose", action="store_true", help="show every run")
    parser.add_argument("--no-save", action="store_true", help="print only")
    return parser.parse_args()


def _prepare() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def examined(jobs: list[Job], workers: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each job in order."""
    if workers < 2:
        yield from map(examine, jobs)
        return
    with ProcessPoolExecutor(workers, initializer=_prepare) as pool:
        yield from pool.map(examine, jobs)


def main() -> None:
    """Repair, show, keep."""
    options = arguments()
    chosen = [
        c
        for c in cases().values()
        if options.part in {c.part, "all"}
        and re.search(options.only, c.name)
        and not (options.faulty and c.healthy)
    ]
    seeds = range(options.seeds)
    jobs = [(c.name, seed, options.steps, options.blind) for c in chosen for seed in seeds]
    _prepare()
    rows = []
    for row in examined(jobs, options.jobs):
        rows.append(row)
        show_run(row, verbose=options.verbose)
    show(rows)
    results = {
        "settings": {
            "part": options.part,
            "seeds": options.seeds,
            "steps": options.steps,
            "blind": options.blind,
        },
        "summary": summarise(rows),
        "rows": rows,
    }
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if not (options.no_save or options.only or options.faulty):
        name = f"repair-{options.part}" + ("-blind" if options.blind else "")
        save(name, torch.device("cpu"), results)


if __name__ == "__main__":
    main()
