"""What survives an injected fault: trimtab's guard, beside no protection and beside its peers.

Claims: with the guard on, the final loss is within 1 % of the run without a fault; the named cause
is the injected one in at least 90 % of the runs; not one of 20 healthy runs is rolled back.

    python benchmarks/injection/run.py --peers PEERS/bin/python --jobs 2
    python benchmarks/injection/run.py --models cnn --faults nan-batch --protections none stepper

Two trainings of 300 steps, a GPT of two layers on English prose (AdamW) and a residual CNN with
BatchNorm on noisy digits (SGD), meet every fault of `faults.py` about halfway, identically under
every protection of `protections.py`. The peers run in an interpreter of their own, made as
`benchmarks/faults/README.md` says. `oracle` is told which batches are bad and leaves exactly these
out: its distance from the clean run is chance. The fault `disk-full` needs a system that can limit
the size of files; those named `rank-...` run in two processes.

Columns: `median` and `worst` are the final validation loss over that of the run without a fault
under the same protection (clipping alone changes the loss of the GPT by a tenth), of all seeds;
`lost` counts updates that were left out or thrown away; `recovered` the runs whose training loss
came back to within 2 % of the clean run's for good, and after how many steps at most; `finite`
those that end with finite parameters and buffers; `cause` says what the first incident since the
fault was blamed on, and how often that is what was injected. A fault is harmless if the unprotected
run ends finite and within 1 %; then it is no mistake to say nothing of it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from measure import save

from injection.faults import FAULTS, baseline_of
from injection.measures import (
    is_harmless,
    overall,
    print_faults,
    print_healthy,
    print_overall,
    row,
    summarise,
)
from injection.protections import OURS, PEERS, PROTECTIONS
from injection.tasks import STEPS, TASKS, VARIANTS
from injection.training import Outcome, to_dict

Answers = dict[str, dict[str, Any]]
"""Outcomes by their job as JSON."""

QUICK: Final = ("nan-batch", "garbage-labels-5", "flipped-weight")
"""Faults of a short look."""

NOT_APPLICABLE: Final = {
    "disk-full": frozenset(PROTECTIONS) - OURS,  # nobody else writes
    "loss-scale-jump": frozenset({"oracle"}),
}
"""Protections that a fault says nothing of."""


def key(job: dict[str, Any]) -> str:
    """Return what an answer is found by."""
    return json.dumps(job, sort_keys=True)


def make_job(model: str, fault: str, protection: str, seed: int, **more: Any) -> dict[str, Any]:
    """Return a job as the worker reads it."""
    return {"model": model, "fault": fault, "protection": protection, "seed": seed, **more}


def fault_jobs(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return every run with a fault that is asked for."""
    return [
        make_job(model, fault, protection, seed)
        for model in options.models
        for fault in options.faults
        if model in FAULTS[fault].models
        for protection in options.protections
        if _applies(fault, protection)
        for seed in range(options.seeds)
    ]


def _applies(fault: str, protection: str) -> bool:
    if protection == "oracle" and FAULTS[fault].data is None:
        return False  # it only knows of batches
    return protection not in NOT_APPLICABLE.get(fault, frozenset())


def healthy_jobs(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return ten healthy runs of each model, two of each variant, under each protection."""
    return [
        make_job(model, "clean", protection, seed, variant=variant)
        for model in options.models
        for protection in options.protections
        if protection != "oracle"
        for variant in VARIANTS
        for seed in range(min(2, options.seeds) if options.quick else 2)
    ]


def clean_job(job: dict[str, Any], protection: str | None = None) -> dict[str, Any]:
    """Return the run without a fault that a job is compared with; by default, protected alike."""
    kept = protection or ("none" if job["protection"] == "oracle" else job["protection"])
    return job | {"fault": baseline_of(FAULTS[job["fault"]]), "protection": kept}


def bare_job(job: dict[str, Any]) -> dict[str, Any]:
    """Return the same run without protection."""
    return job | {"protection": "none"}


def read_answers(path: Path | None) -> Answers:
    """Return the answers that an earlier call kept in a file."""
    if path is None or not path.exists():
        return {}
    lines = map(json.loads, path.read_text().splitlines())
    return {key(line["job"]): line["answer"] for line in lines}


def answer_all(
    jobs: Sequence[dict[str, Any]],
    peers: Path | None,
    workers: int,
    done: Answers,
    keep: Path | None,
) -> None:
    """Run all jobs that have no answer yet, enter their answers, and append them to a file."""
    waiting = list({key(job): job for job in jobs if key(job) not in done}.values())
    ours = [job for job in waiting if job["protection"] not in PEERS]
    theirs = [job for job in waiting if job["protection"] in PEERS]
    work = [(sys.executable, ours[i::workers]) for i in range(workers)]
    if peers is not None:
        work += [(str(peers), theirs[i::workers]) for i in range(workers)]
    began, total = time.perf_counter(), sum(len(part) for _, part in work)

    def enter(python: str, part: list[dict[str, Any]]) -> None:
        for job, answer in zip(part, run_jobs(python, part), strict=True):
            done[key(job)] = answer
            if keep is not None:
                with keep.open("a") as file:  # one line, one write
                    file.write(json.dumps({"job": job, "answer": answer}) + "\n")
            count = sum(key(j) in done for j in waiting)
            if count % 20 == 0 or count == total:
                seconds = time.perf_counter() - began
                print(f"  {count} of {total} runs, {seconds:.0f} s", file=sys.stderr)

    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(enter, *each) for each in work]:
            future.result()


def run_jobs(python: str, jobs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield an outcome for each job; if the process dies, it is started again behind it."""
    waiting = list(jobs)
    while waiting:
        count = 0
        with _started(python, waiting) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if not line.startswith("{"):  # of a library that writes past Python
                    continue
                yield json.loads(line)
                count += 1
        waiting = waiting[count:]
        if waiting:
            yield to_dict(Outcome(error="its process died or took too long"))
            waiting = waiting[1:]


def _started(python: str, jobs: list[dict[str, Any]]) -> "subprocess.Popen[str]":
    here = Path(__file__).parent
    source = os.environ.get("PYTHONPATH") or str(here.parents[1] / "src")
    process = subprocess.Popen(
        [python, str(here / "work.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdin is not None
    process.stdin.write("".join(json.dumps(job) + "\n" for job in jobs))
    process.stdin.close()
    return process


def arguments() -> argparse.Namespace:
    """Read the command line."""
    faults = [name for name in FAULTS if not name.startswith("clean")]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--faults", nargs="+", choices=faults, default=None)
    parser.add_argument("--protections", nargs="+", choices=PROTECTIONS, default=list(PROTECTIONS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--peers", type=Path, help="interpreter that has the peers installed")
    parser.add_argument("--no-healthy", action="store_true", help="only runs with a fault")
    parser.add_argument("--quick", action="store_true", help="three faults, one seed")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument(
        "--keep",
        type=Path,
        help="file of single runs: those in it are not run again, so delete it when code changes",
    )
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args()
    options.faults = options.faults or (list(QUICK) if options.quick else faults)
    if options.quick:
        options.seeds = 1
    if options.peers is None:
        options.protections = [p for p in options.protections if p not in PEERS]
    return options


def main() -> None:
    """Inject, compare, show, keep."""
    options = arguments()
    jobs = fault_jobs(options)
    healthy = [] if options.no_healthy else healthy_jobs(options)
    done = read_answers(options.keep)
    everything = [*map(clean_job, jobs), *map(bare_job, [*map(clean_job, jobs), *jobs, *healthy])]
    everything += [*jobs, *healthy]
    answer_all(everything, options.peers, options.jobs, done, options.keep)

    def measured(job: dict[str, Any]) -> dict[str, Any]:
        bare, bare_clean = (done[key(bare_job(j))] for j in (job, clean_job(job)))
        harmless = is_harmless(bare, bare_clean)
        return row(job, done[key(job)], done[key(clean_job(job))], harmless=harmless)

    faulty = [measured(job) for job in jobs]
    sound = [row(job, done[key(job)], done[key(bare_job(job))]) for job in healthy]
    lines = summarise(faulty)
    table = overall(lines)
    print_faults(lines)
    print_overall(table)
    if sound:
        print_healthy(sound)
    results = {
        "settings": {"steps": STEPS, "seeds": options.seeds, "faults": options.faults},
        "overall": table,
        "summary": lines,
        "rows": faulty,
        "healthy": sound,
    }
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if not (options.no_save or options.quick):
        torch.set_num_threads(1)  # as every run had
        save("injection", torch.device("cpu"), results)


if __name__ == "__main__":
    main()
