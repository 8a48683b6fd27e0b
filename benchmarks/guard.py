"""What the guard costs a healthy run: snapshots, tape and verdicts, beside the plain loop.

Claims: a step with the guard, its snapshots and default watching takes at most 1.02x of the same
step with `clip_grad_norm_`, and with a fused optimizer at most 1.00x.

    python benchmarks/guard.py --threads 1
"""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from measure import arguments, interleave, print_table, ratios, save, timed
from overhead import Problem, adamw, bare, conv_problem, gpt_problem

from trimtab import Stepper, attach

STEPS: Final = 30
"""Steps of one round: more than there are between two snapshots."""

BARE: Final = "clip_grad_norm_ + AdamW"
FUSED: Final = "clip_grad_norm_ + fused AdamW"


def with_stepper(problem: Problem, *, guard: str | None, fused: bool) -> Callable[[], None]:
    """Return a step of the Stepper."""
    stepper = Stepper(problem.model, adamw(problem, fused=fused), schedule="constant", guard=guard)

    def step() -> None:
        stepper.backward(problem.loss)
        stepper.step()

    return step


def with_attach(
    problem: Problem, folder: Path, *, guard: str | None, fused: bool
) -> Callable[[], None]:
    """Return a step of a plain loop with attach and its default watching."""
    optimizer = adamw(problem, fused=fused)
    trim = attach(problem.model, optimizer, guard=guard, out=folder)

    def step() -> None:
        trim.loss(problem.loss).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def contenders(
    make: Callable[[], Problem], folder: Path, *, fused: bool
) -> dict[str, Callable[[], None]]:
    """Return all ways to make a step, each with a model of its own."""
    name = FUSED if fused else BARE
    return {
        name: bare(make(), fused=fused).step,
        "the same again": bare(make(), fused=fused).step,
        "Stepper, no guard": with_stepper(make(), guard=None, fused=fused),
        "Stepper, guard": with_stepper(make(), guard="spike", fused=fused),
        "attach, no guard": with_attach(make(), folder / f"{fused}-0", guard=None, fused=fused),
        "attach, guard": with_attach(make(), folder / f"{fused}-1", guard="spike", fused=fused),
    }


def repeat(step: Callable[[], None]) -> Callable[[], None]:
    """Return a round of steps."""

    def steps() -> None:
        for _ in range(STEPS):
            step()

    return steps


def main() -> None:
    """Measure, show, keep."""
    parser = arguments(__doc__.splitlines()[0])
    parser.set_defaults(rounds=9)
    parser.add_argument("--fused-only", action="store_true", help="leave the default AdamW out")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    warnings.simplefilter("ignore")
    results = {}
    problems = {"gpt": gpt_problem, "cnn": conv_problem}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in problems.items():
            for fused in (True,) if options.fused_only else (True, False):
                ways = contenders(lambda make=make: make(device), Path(folder) / name, fused=fused)
                rounds = {
                    way: (lambda step=step: timed(repeat(step), device))
                    for way, step in ways.items()
                }
                seconds = interleave(rounds, rounds=options.rounds, warmup=1)
                table = ratios(seconds, to=FUSED if fused else BARE)
                key = f"{name}, {'fused' if fused else 'default'} AdamW"
                print_table(f"{key}, {STEPS} steps a round", table)
                results[key] = {"table": table, "seconds": seconds}
    if not options.no_save:
        save("guard", device, {"steps": STEPS, "results": results})


if __name__ == "__main__":
    main()
