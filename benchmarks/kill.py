"""Kills a real training process at random moments, and asks whether it resumes bit for bit.

`trimtab train gpt` is killed with SIGKILL: half of the times at a moment drawn evenly over the run,
half of them within 20 ms after a save began. It is resumed each time, and killed again on its way,
until it reaches its end. Then every tensor of the last checkpoint (weights, optimizer, random
state of torch) and every number of metrics.csv but the seconds have to be those of the run that
nobody killed. What a checkpoint cannot give back, a process that is killed before the first one,
begins anew and is counted apart.

The parent imports what a run needs and forks, so that a run takes a second, not five.
"""

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import measure
import torch
from safetensors.torch import load

from trimtab.checkpoint import list_checkpoints
from trimtab.cli import main as trimtab

STEPS = 40
SAVE_EVERY = 3
SHAPE = {"depth": 2, "dim": 32, "heads": 2, "context": 32, "dropout": 0.1}
AFTER_SAVE_S = 0.02
"""Longest time after the beginning of a save: about as long as one takes."""
TIMEOUT_S = 120


def settings(out: Path, data: Path) -> list[str]:
    """Return the command of the run, a small GPT with dropout and accumulation."""
    options = {"steps": STEPS, "save-every": SAVE_EVERY, "eval-every": 10, "threads": 1}
    options |= {"batch-size": 4, "accumulate": 2, "device": "cpu", "data": data, **SHAPE}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return ["train", "gpt", *words, "--out", str(out)]


def start(args: list[str], log: Path, note_modules: Path | None = None) -> int:
    """Fork a process that trains, and return its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status = trimtab(args)
        if note_modules is not None:
            note_modules.write_text("\n".join(sys.modules))
    finally:
        os._exit(status)


def wait(pid: int, until: Callable[[], bool]) -> int | None:
    """Return the exit status if the process ends first; None once `until` says so.

    Raises:
        TimeoutError: Neither happens.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if until():
            return None
        time.sleep(0.0002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"A run took longer than {TIMEOUT_S} s.")


def never() -> bool:
    return False


def after(seconds: float) -> Callable[[], bool]:
    """Tell when so many seconds have passed."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


class NearSave:
    """Tells when some time has passed since a save began.

    Args:
        folder: Of the checkpoints, where a hidden folder is filled before it gets its name.
        skip: Saves that are let through before.
        delay_s: From the beginning of the save.
    """

    def __init__(self, folder: Path, skip: int, delay_s: float) -> None:
        self.folder, self.skip, self.delay_s = folder, skip, delay_s
        self.seen: set[str] = set()
        self.began: float | None = None

    def __call__(self) -> bool:
        if self.began is not None:
            return time.monotonic() >= self.began + self.delay_s
        with suppress(OSError):
            saves = {p.name for p in self.folder.iterdir() if p.name.startswith(".step-")}
            self.seen |= saves
            if len(self.seen) > self.skip:
                self.began = time.monotonic()
        return False


def result(run: Path) -> tuple[dict[str, bytes], list[list[str]]]:
    """Return what a run came to: tensors of its last checkpoint, and its table without seconds.

    Of the state that is what the training depends on: optimizer, schedule, torch's random state.
    """
    last = list_checkpoints(run / "checkpoints")[-1]
    state = load((last / "state.safetensors").read_bytes())
    kept = {k: v for k, v in state.items() if k.startswith(("stepper.", "random.cpu"))}
    tensors = {f"{last.name} {name}": raw(value) for name, value in sorted(kept.items())}
    tensors[f"{last.name} model"] = (last / "model.safetensors").read_bytes()
    rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    seconds = rows[0].index("seconds")
    return tensors, [[v for i, v in enumerate(row) if i != seconds] for row in rows]


def raw(tensor: torch.Tensor) -> bytes:
    """Return a tensor's bytes."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@dataclass
class Tally:
    """What happened."""

    kills: int = 0
    near_save: int = 0
    """Kills that were aimed at a save."""
    during_save: int = 0
    """Kills that left a folder half-written."""
    before_first: int = 0
    """Kills before the first checkpoint, after which the run began anew."""
    runs: int = 0
    equal_runs: int = 0
    survived: int = 0
    """Kills that runs with the right end went through."""
    kills_a_run: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Bench:
    """Runs, kills and compares.

    Args:
        folder: For everything that is written.
        draw: Of the moments.
        goal: Kills in all.
    """

    def __init__(self, folder: Path, draw: random.Random, goal: int) -> None:
        self.folder, self.draw, self.goal = folder, draw, goal
        self.data, self.log = folder / "text.txt", folder / "log.txt"
        self.out = folder / "run"
        self.tally = Tally()
        self.whole_s = 0.0
        write_text(self.data)

    def reference(self) -> tuple[dict[str, bytes], list[list[str]]]:
        """Return what the run comes to that nobody kills; it is made twice.

        The first one says what there is to import before forking, the second how long a run takes.

        Raises:
            RuntimeError: It fails, or its two ends differ.
        """
        ends = []
        for name in ("first", "whole"):
            out, modules = self.folder / name, self.folder / "modules.txt"
            began = time.monotonic()
            status = wait(start(settings(out, self.data), self.log, modules), never)
            self.whole_s = time.monotonic() - began
            if status != 0:
                raise RuntimeError(f"The run fails with {status}:\n{self.log.read_text()}")
            for module in modules.read_text().split():
                with suppress(Exception):
                    importlib.import_module(module)
            ends.append(result(out))
        if ends[0] != ends[1]:
            raise RuntimeError("Two runs that nobody killed differ: nothing can be shown with it.")
        return ends[1]

    def run(self, wanted: tuple[dict[str, bytes], list[list[str]]]) -> None:
        """Bring one run to its end, with kills on its way, and compare."""
        tally, before = self.tally, self.tally.kills
        shutil.rmtree(self.out, ignore_errors=True)
        self.log.write_text("")
        status = self._session()
        while status is None:
            status = self._session()
        killed = tally.kills - before
        tally.runs += 1
        tally.kills_a_run.append(killed)
        name = f"run {tally.runs}, killed {killed} times"
        if status != 0:
            tail = self.log.read_text()[-2000:]
            tally.failures.append(f"{name}: exit status {status}: {tail}")
            return
        tensors, rows = result(self.out)
        same = tensors == wanted[0], rows == wanted[1]
        if same == (True, True):
            tally.equal_runs += 1
            tally.survived += killed
        else:
            tally.failures.append(f"{name}: tensors equal: {same[0]}, metrics equal: {same[1]}")

    def _session(self) -> int | None:
        """Let one process train; return its exit status, None if it was killed."""
        checkpoints, tally = self.out / "checkpoints", self.tally
        saved = bool(list_checkpoints(checkpoints))
        if not saved:
            tally.before_first += self.out.exists()
            shutil.rmtree(self.out, ignore_errors=True)
        aimed = self.draw.random() < 0.5
        until: Callable[[], bool] = never
        if tally.kills < self.goal:
            delay_s = self.draw.uniform(0, AFTER_SAVE_S)
            near = NearSave(checkpoints, self.draw.randrange(5), delay_s)
            until = near if aimed else after(self.draw.uniform(0, self.whole_s))
        resume = ["train", "--resume", "--out", str(self.out)]
        pid = start(resume if saved else settings(self.out, self.data), self.log)
        status = wait(pid, until)
        if status is not None:
            return status
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        tally.kills += 1
        tally.near_save += aimed
        tally.during_save += any(checkpoints.glob(".step-*.tmp"))
        return None


def write_text(path: Path) -> None:
    """Write a text that is large enough to train on and small enough to validate on in no time."""
    from pydoc_data.topics import topics

    path.write_text("\n".join(topics[name] for name in sorted(topics))[:60_000], encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-save", action="store_true", help="print only")
    given = parser.parse_args()
    torch.set_num_threads(1)  # a pool of threads would not survive a fork
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="trimtab-kill-") as folder:
        bench = Bench(Path(folder), random.Random(given.seed), given.kills)
        wanted = bench.reference()
        tally = bench.tally
        while tally.kills < given.kills:
            bench.run(wanted)
            print(f"{tally.kills} kills, {tally.equal_runs} of {tally.runs} runs equal", flush=True)
    results = {
        "command": " ".join(settings(Path("RUN"), Path("TEXT"))),
        "seed": given.seed,
        "run_s": round(bench.whole_s, 2),
        "seconds": round(time.monotonic() - began, 1),
        **asdict(tally),
    }
    print(json.dumps(results, indent=2))
    if not given.no_save:
        measure.save("kill", torch.device("cpu"), results)
    return 0 if tally.survived == tally.kills and not tally.failures else 1


if __name__ == "__main__":
    sys.exit(main())
