"""The guard of a Stepper: what it watches, and what it is asked once a step."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trimtab.engine import _ranks
from trimtab.engine._micro_guard import MicroGuard
from trimtab.engine._rerun import Rerun
from trimtab.engine._update import Update, Updater
from trimtab.guard import ActiveGuard, Change, Guard
from trimtab.signals import Recorder


def make_step_guard(
    config: Guard | None,
    model: nn.Module,
    updater: Updater,
    *,
    parts: Mapping[str, Any],
    recorder: Recorder | None,
    apply: Callable[[Change], None],
) -> ActiveGuard | None:
    """Return the guard of a run, which the updater asks from now on; None without settings.

    Args:
        config: Settings.
        model: As it is called.
        updater: Makes the updates.
        parts: What else has a state and goes back with a snapshot.
        recorder: Shall not see replays.
        apply: Keeps up what removed an incident.
    """
    if config is None:
        return None
    optimizer, ranks = updater.optimizer, _ranks.num_ranks(model)
    device = next(p.device for g in optimizer.param_groups for p in g["params"])
    guard = ActiveGuard(
        config,
        model,
        [optimizer],
        parts=parts,
        replayer=Rerun(
            model, [optimizer], clippers=[updater.clipper], parts=parts, recorder=recorder
        ),
        folder=lambda: None,
        agree=lambda yes: bool(_ranks.largest(float(yes), device, ranks)),
        slowest=lambda value: _ranks.largest(value, device, ranks),
        apply=apply,
    )

    def judge(loss: Tensor | None, norm: Tensor) -> Tensor:
        """Ask the guard; all ranks with the same numbers."""
        return guard.judge(loss, norm if ranks == 1 else _ranks.worst(norm))

    updater.judge, updater.obeys = judge, guard.acts
    return guard


def make_micro_guard(
    guard: ActiveGuard | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    accumulate: int,
) -> MicroGuard | None:
    """Return what judges each micro-batch; None where a window has one, or outliers stay."""
    if guard is None or not guard.acts or accumulate == 1:
        return None
    shared = _ranks.num_ranks(model) > 1 and not isinstance(model, DistributedDataParallel)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return MicroGuard(model, params, guard.policy.fresh(times=accumulate), shared=shared)


def guarded_update(
    updater: Updater, guard: ActiveGuard | None, *, divisor: float | Tensor, loss: Tensor
) -> Update:
    """Make an update, and let the guard clean up after it; arguments as for `Updater.apply`."""
    try:
        update = updater.apply(divisor=divisor, loss=loss)
    except BaseException:
        if guard is not None:
            guard.rates.put_back(stepped=False)
        raise
    if guard is not None:
        guard.after_update(update.found_inf)
    return update
