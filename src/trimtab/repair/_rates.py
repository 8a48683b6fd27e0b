"""Remedies for learning rates and their schedules."""

from typing import Any

import torch
from torch import Tensor

from trimtab.diagnosis._job import Job
from trimtab.diagnosis._reach import reachable, stateful
from trimtab.diagnosis._trials import scale_rates
from trimtab.engine import TrainingSetup
from trimtab.repair._edit import Edit
from trimtab.repair._remedy import Order

USUAL_RATES = {"SGD": 0.05, "Adam": 1e-3, "AdamW": 1e-3, "RMSprop": 1e-3}
"""Rates at which most models learn: torch's defaults, for SGD that of He et al. 2015 halved."""


def usual_rate(optimizer: torch.optim.Optimizer) -> float:
    """Return the learning rate that an optimizer of this kind is mostly used with."""
    return USUAL_RATES.get(type(optimizer).__name__, 1e-3)


def rates_of(optimizer: torch.optim.Optimizer) -> list[float]:
    """Return the learning rate of each param group."""
    return [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]


def job_of(setup: TrainingSetup) -> Job:
    """Return a setup as what diagnosis works with, with all that its loop body has hold of."""
    known = (setup.model, setup.optimizer, setup.loss_fn, setup.scheduler)
    return Job(
        setup.model, setup.optimizer, setup.loss_fn, setup.scheduler, setup.train_step,
        others=stateful(setup.train_step, known=known),
    )  # fmt: skip


def scale_learning_rate(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Multiply the learning rate, in schedules too, by `factor`."""
    before = rates_of(setup.optimizer)
    scale_rates(job_of(setup), float(order.args["factor"]))
    return _changed(setup.optimizer, before)


def set_learning_rate(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Give each param group one rate for the whole run: `lr`, or a usual one without it."""
    rate = float(order.args.get("lr") or usual_rate(setup.optimizer))
    before = rates_of(setup.optimizer)
    edits = drop_schedule(setup, order)
    _set_rates(setup.optimizer, [rate] * len(before))
    return [*_changed(setup.optimizer, before), *edits]


def drop_schedule(setup: TrainingSetup, _order: Order) -> list[Edit]:
    """Train at the rate that the schedule begins with, instead of a schedule that ends too early.

    A schedule that a loop body moves by itself goes on, and the rate is put back behind it.
    """
    before = rates_of(setup.optimizer)
    begun = [float(g.get("initial_lr", g["lr"])) for g in setup.optimizer.param_groups]
    schedule = setup.scheduler
    theirs = [v for v in reachable(setup.train_step) if _is_schedule(v, setup.optimizer)]
    setup.scheduler = None
    _set_rates(setup.optimizer, begun)
    if theirs:
        _hold(setup.optimizer, begun)
    if schedule is None and not theirs and before == begun:
        return []
    name = type(schedule or (theirs[0] if theirs else None)).__name__.replace("NoneType", "none")
    return [
        Edit(
            what="schedule",
            before=name,
            after=f"a constant learning rate of {begun[0]:.3g}",
            advice="move the scheduler once an epoch, or build it for the number of steps that "
            "will really be made (here a constant learning rate was used)",
        )
    ]


def cap_learning_rate(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Let no schedule raise the learning rate above `lr`."""
    limit = float(order.args["lr"])

    def cap(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] = min(float(group["lr"]), limit)

    setup.optimizer.register_step_pre_hook(cap)
    return [
        Edit(
            what="largest learning rate",
            before="whatever the schedule gives",
            after=f"{limit:.3g}",
            advice=f"cap the schedule at a learning rate of {limit:.3g}",
        )
    ]


def warm_up(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Raise the learning rate linearly over the first `steps` steps."""
    steps = max(1, int(order.args.get("steps", 100)))
    rates: list[Any] = []
    made = 0

    def before(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        nonlocal made
        made += 1
        share = min(1.0, made / steps)
        rates[:] = [group["lr"] for group in optimizer.param_groups]
        if share < 1:
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * share

    def after(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    setup.optimizer.register_step_pre_hook(before)
    setup.optimizer.register_step_post_hook(after)
    return [
        Edit(
            what="warm-up",
            before="none",
            after=f"linear over {steps} steps",
            advice=f"warm the learning rate up over the first {steps} steps",
        )
    ]


def _is_schedule(value: Any, optimizer: torch.optim.Optimizer) -> bool:
    return getattr(value, "optimizer", None) is optimizer and hasattr(value, "last_epoch")


def _hold(optimizer: torch.optim.Optimizer, rates: list[float]) -> None:
    def hold(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        _set_rates(optimizer, rates)

    optimizer.register_step_pre_hook(hold)


def _set_rates(optimizer: torch.optim.Optimizer, rates: list[float]) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        for key in ("lr", "initial_lr"):
            if isinstance(group.get(key), Tensor):
                group[key] = torch.full_like(group[key], rate)
            elif key in group:
                group[key] = rate


def _changed(optimizer: torch.optim.Optimizer, before: list[float]) -> list[Edit]:
    """Return one edit for each rate that is another than before."""
    after = rates_of(optimizer)
    if before == after:
        return []
    if len(set(before)) == 1 and len(set(after)) == 1:
        pairs = [("", before[0], after[0])]
    else:
        groups = [f"param group {i}" for i in range(len(before))]
        pairs = list(zip(groups, before, after, strict=True))
    return [
        Edit(
            what="learning rate",
            where=where,
            before=f"{old:.3g}",
            after=f"{new:.3g}",
            advice=f"use lr={new:.3g}" + (f" in {where}" if where else ""),
        )
        for where, old, new in pairs
        if old != new
    ]
