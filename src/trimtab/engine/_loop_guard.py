"""The guard of a loop that is attached to."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trimtab.engine._ranks import largest, num_ranks
from trimtab.engine._rerun import Rerun
from trimtab.guard import ActiveGuard, Change, Guard
from trimtab.optim import Clipper
from trimtab.signals import Recorder


def make_loop_guard(
    config: Guard | None,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    *,
    clippers: Sequence[Clipper | None],
    recorder: Recorder,
    stateful: Mapping[str, Any],
    run_config: Mapping[str, Any] | None,
    folder: Callable[[], Path | None],
    apply: Callable[[Change], bool],
    joint: bool,
) -> tuple[ActiveGuard | None, Rerun | None]:
    """Return the guard of a loop, and what makes its steps again; None where there is none.

    Args:
        config: Settings; None guards nothing.
        model: As it is called.
        optimizers: Over its parameters. LBFGS is not guarded.
        clippers: One for each of them.
        recorder: Shall not see replays.
        stateful: What else has a state and goes back with a snapshot.
        run_config: Settings of the run.
        folder: Returns where incidents are written to; None for nowhere.
        apply: Keeps up what removed an incident.
        joint: Whether all ranks have a guard, and agree.
    """
    guarded = [o for o in optimizers if not isinstance(o, torch.optim.LBFGS)]
    if config is None or not guarded:
        return None, None
    ranks, device = num_ranks(model) if joint else 1, recorder.device
    parts = {f"clipper{i}": c for i, c in enumerate(clippers) if c is not None}
    rerun = None
    if len(guarded) == len(optimizers):
        rerun = Rerun(model, guarded, clippers=clippers, recorder=recorder)
    guard = ActiveGuard(
        config,
        model,
        optimizers,
        parts={**parts, **stateful},
        replayer=rerun,
        folder=folder,
        agree=lambda yes: bool(largest(float(yes), device, ranks)),
        slowest=lambda value: largest(value, device, ranks),
        apply=apply,
        run_config=lambda: run_config,
    )
    return guard, rerun


def clippers_for(clipper: Clipper | None, number: int) -> list[Clipper | None]:
    """Return one clipper for each optimizer: what one remembers must not mix with the others'."""
    shared = clipper is None or not clipper.state_dict()
    return [clipper if shared or i == 0 else copy.deepcopy(clipper) for i in range(number)]
