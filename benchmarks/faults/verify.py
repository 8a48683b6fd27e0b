"""Whether each fault of the corpus does harm: its program beside its healthy twin.

    python benchmarks/faults/verify.py [PATTERN]

Harm is a loss that stops being finite, triples on the way or grows a thousandfold in magnitude, a
higher loss at the end than the twin's, or a higher error. A case that is marked as silent is shown,
but not asked for it.
"""

import math
import re
import sys
import time
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.registry import Case, cases
from faults.verdict import train

SEEDS = (0, 1)


@dataclass(frozen=True)
class Run:
    """What came of one program."""

    losses: tuple[float, ...]
    score: float
    seconds: float

    @property
    def start(self) -> float:
        """Mean of the first five losses."""
        return fmean(self.losses[:5])

    @property
    def end(self) -> float:
        """Mean of the last ten losses."""
        return fmean(self.losses[-10:])


@cache
def run(name: str, seed: int) -> Run:
    """Train a program for 200 steps, and score it in evaluation mode."""
    setup = cases()[name].setup(seed)
    began = time.perf_counter()
    losses = train(setup, steps=200, seed=seed)
    seconds = time.perf_counter() - began
    setup.model.eval()
    with torch.no_grad():
        score = math.nan if setup.score is None else setup.score(setup.model)
    return Run(tuple(losses), score, seconds)


def is_harmed(found: Run, twin: Run) -> bool:
    """Tell whether a run is worse than its twin, by more than seeds differ."""
    if not all(map(math.isfinite, found.losses)) or math.isinf(found.score):
        return True
    if found.score > 1.05 * twin.score + 0.02:
        return True
    if found.end > twin.end + 0.08 * abs(twin.end) + 0.01:
        return True
    if abs(found.end) > 1000 * abs(found.start):  # below any bound
        return True
    return max(found.losses[20:]) > 3 * max(found.start, 1e-9)


def line(case: Case) -> tuple[str, bool]:
    """Return a case's line, and whether it is as it claims to be."""
    runs = [run(case.name, seed) for seed in SEEDS]
    parts = [f"{r.start:9.3g} {r.end:9.3g} error {r.score:6.3f}" for r in runs]
    right, note = True, ""
    if case.twin is not None:
        twins = [run(case.twin, seed) for seed in SEEDS]
        harmed = [is_harmed(r, t) for r, t in zip(runs, twins, strict=True)]
        right = case.silent or all(harmed)
        note = "silent" if case.silent else ("" if right else "NO HARM")
    slow = max(r.seconds for r in runs)
    return f"{case.name:<40} {' | '.join(parts)}  {slow:4.1f} s  {note}", right


def main() -> None:
    """Show all cases, or those whose name matches."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    pattern = sys.argv[1] if len(sys.argv) > 1 else ""
    wrong = 0
    for case in cases().values():
        if re.search(pattern, case.name):
            text, right = line(case)
            wrong += not right
            print(text, flush=True)
    print(f"\n{wrong} cases do not do what they claim")


if __name__ == "__main__":
    main()
