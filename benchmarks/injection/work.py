"""Runs jobs that come as lines of JSON, and answers each with its outcome as one line.

A job is what `Job` of `training.py` holds; `run.py` starts this in the interpreter that a
protection is installed in.
"""

import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from injection.faults import FAULTS, is_on_two_ranks
from injection.training import Job, Outcome, run, to_dict

TIMEOUT_S = 600
"""Longest that one run may take; the process then ends, and the runner starts another."""


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Run a job, in two processes if its fault needs them."""
    if not is_on_two_ranks(FAULTS[job["fault"]]):
        return _run(job)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, json.dumps(job), f"file://{folder}/meeting"]
        ranks = [
            subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True)
            for rank in range(2)
        ]
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(_listen, ranks, reversed(ranks)))
    if None in found:
        return to_dict(Outcome(error="a rank died"))
    found[0]["replicas_agree"] = found[0]["checksum"] == found[1]["checksum"]
    return found[0]


def _listen(rank: "subprocess.Popen[str]", other: "subprocess.Popen[str]") -> Any:
    """Return what a rank says; if it dies or hangs, the other one is ended too."""
    try:
        return json.loads(rank.communicate(timeout=TIMEOUT_S)[0].strip().splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, json.JSONDecodeError):
        rank.kill()
        other.kill()
        return None


def _run(job: dict[str, Any], rank: int | None = None) -> dict[str, Any]:
    with warnings.catch_warnings(record=True) as said, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        outcome = run(Job(**job), rank)
    outcome.warnings = sorted({str(w.message)[:200] for w in said})[:10]
    return to_dict(outcome)


def run_rank(job: dict[str, Any], meeting: str, rank: int) -> None:
    """Be one of two ranks, and say what came of it."""
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    found = _run(job, rank)
    print(json.dumps(found), flush=True)
    os._exit(0)  # a peer of ours may be gone already


def main() -> None:
    """Answer each line of the standard input, or be a rank."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    if len(sys.argv) > 1:
        run_rank(json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    for line in sys.stdin:
        signal.alarm(TIMEOUT_S + 60)
        print(json.dumps(answer(json.loads(line))), flush=True)
        signal.alarm(0)


if __name__ == "__main__":
    main()
