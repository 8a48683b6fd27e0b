"""How often a judge is right: trimtab, and its peers, over the corpus of training programs.

Claims, on the part that no rule was tuned on: the right symptom in at least 95 % of the faulty
runs; a first finding that names the cause in at least 85 %; an alarm in at most 2 % of the healthy
runs; and a warning before the damage in at least 80 % of those that end in divergence.

    python benchmarks/faults/run.py --part tune --seeds 1
    python benchmarks/faults/run.py --part report --peers PEERS/bin/python
"""

import argparse
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from measure import save

from faults.registry import Case, cases
from faults.sources import check_sources
from faults.summary import print_failures, print_summary, summarise
from faults.verdict import Verdict, damage_step, mark, train

TIMEOUT_S: Final = 180
"""Longest that one program may take; a hung one is a failure, not the end of the benchmark."""

PEERS: Final = ("trainscope", "torchmortem", "stabilityguard")

Job = tuple[str, int, int]
"""Name of a case, seed, steps."""


class _Late(Exception):  # noqa: N818 -- not an error of the program
    """A program took longer than `TIMEOUT_S`."""


def _ring(*_: object) -> None:
    raise _Late


def judge_ours(job: Job) -> Verdict:
    """Return trimtab's verdict; what it raises is kept."""
    from faults import ours

    name, seed, steps = job
    signal.signal(signal.SIGALRM, _ring)
    signal.alarm(TIMEOUT_S)
    try:
        return ours.judge(cases()[name], seed, steps=steps)
    except _Late:
        return Verdict(error=f"took over {TIMEOUT_S} s")
    except Exception as error:  # noqa: BLE001 -- a crash of the judge is a result
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return Verdict(error=f"{type(error).__name__} at {where}: {error}"[:300])
    finally:
        signal.alarm(0)


@functools.cache
def damage(job: Job) -> int | None:
    """Return when a program without a judge is lost; None if it is not meant to be."""
    name, seed, steps = job
    case = cases()[name]
    if case.ends_in is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return damage_step(train(case.setup(seed), steps=steps, seed=seed))


def examine(job: Job) -> tuple[Verdict, int | None]:
    """Return trimtab's verdict of a program, and when it is lost without one."""
    return judge_ours(job), damage(job)


def _prepare() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def run_ours(jobs: list[Job], workers: int) -> Iterator[tuple[Verdict, int | None]]:
    """Yield a verdict for each job in order."""
    if workers < 2:
        _prepare()
        yield from map(examine, jobs)
        return
    with ProcessPoolExecutor(workers, initializer=_prepare) as pool:
        yield from pool.map(examine, jobs)


def run_peer(peer: str, python: Path, jobs: list[Job]) -> Iterator[Verdict]:
    """Yield a peer's verdict for each job; if its process dies, it is started again behind it."""
    waiting = list(jobs)
    while waiting:
        done = 0
        with _started(peer, python, waiting) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if not line.startswith("{"):  # of a library that writes past Python
                    continue
                yield Verdict.from_dict(json.loads(line))
                done += 1
        waiting = waiting[done:]
        if waiting:
            yield Verdict(error="its process died")
            waiting = waiting[1:]


def _started(peer: str, python: Path, jobs: list[Job]) -> "subprocess.Popen[str]":
    here = Path(__file__).parent
    source = str(here.parents[1] / "src")
    lines = "".join(f"{name} {seed}\n" for name, seed, _ in jobs)
    process = subprocess.Popen(
        [str(python), str(here / "peers.py"), peer, str(jobs[0][2])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert process.stdin is not None
    process.stdin.write(lines)
    process.stdin.close()
    return process


def row(case: Case, seed: int, verdict: Verdict, lost: int | None) -> dict[str, Any]:
    """Return all that is known of one run, as what JSON can hold."""
    return {
        "case": case.name,
        "kind": case.kind,
        "part": case.part,
        "healthy": case.healthy,
        "seed": seed,
        "verdict": verdict.to_dict(),
        "marks": asdict(mark(case, verdict, lost)),
    }


def measured(
    jobs: list[Job], verdicts: Iterable[tuple[Verdict, int | None]], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Return a row for each job, with progress."""
    rows = []
    began = time.perf_counter()
    for i, (job, (verdict, lost)) in enumerate(zip(jobs, verdicts, strict=True), 1):
        rows.append(row(cases()[job[0]], job[1], verdict, lost))
        if i % 25 == 0 or i == len(jobs):
            say(f"  {i} of {len(jobs)} runs, {time.perf_counter() - began:.0f} s")
    return rows


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--part", choices=["tune", "report", "fresh", "heldout", "all"], default="all"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--only", default="", help="pattern that a case's name has to match")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--peers", type=Path, help="interpreter that has the peers installed")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--no-ours", action="store_true", help="only source code and peers")
    parser.add_argument("--no-save", action="store_true", help="print only")
    return parser.parse_args()


def main() -> None:
    """Judge, compare, show, keep."""
    options = arguments()
    chosen = [
        c
        for c in cases().values()
        if options.part in {c.part, "all"} and re.search(options.only, c.name)
    ]
    jobs = [(c.name, seed, options.steps) for c in chosen for seed in range(options.seeds)]
    _prepare()
    rows: dict[str, list[dict[str, Any]]] = {}
    if not options.no_ours:
        rows["trimtab"] = measured(jobs, run_ours(jobs, options.jobs), print)
        print_failures(rows["trimtab"])
    for peer in PEERS if options.peers else ():
        print(f"\n{peer}")
        found = (
            (v, damage(j)) for v, j in zip(run_peer(peer, options.peers, jobs), jobs, strict=True)
        )
        rows[peer] = measured(jobs, found, print)
    results: dict[str, Any] = {
        "settings": {"part": options.part, "seeds": options.seeds, "steps": options.steps},
        "summary": {judge: summarise(found) for judge, found in rows.items()},
        "sources": check_sources(options.part, options.only),
        "rows": rows,
    }
    for judge, summary in results["summary"].items():
        print_summary(judge, summary)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if not (options.no_save or options.only):
        save("faults", torch.device("cpu"), results)


if __name__ == "__main__":
    main()
