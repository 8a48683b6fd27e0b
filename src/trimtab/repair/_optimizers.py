"""Remedies for an optimizer's settings, and for what it trains."""

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import nn

from trimtab.diagnosis._trials import unfreeze as unfreeze_job
from trimtab.diagnosis._trials import usual_settings as set_usual
from trimtab.engine import TrainingSetup
from trimtab.repair._edit import Edit
from trimtab.repair._rates import job_of
from trimtab.repair._remedy import Order

_SHOWN: Final = ("betas", "eps", "alpha", "momentum", "nesterov", "dampening", "maximize")


def usual_settings(setup: TrainingSetup, _order: Order) -> list[Edit]:
    """Set betas, epsilon and the like as torch does, and a momentum of 0.9 at the most."""
    before = [dict(group) for group in setup.optimizer.param_groups]
    set_usual(job_of(setup))
    return [
        edit
        for old, group in zip(before, setup.optimizer.param_groups, strict=True)
        for edit in _differences(old, group)
    ][: len(_SHOWN)]


def set_weight_decay(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Set the weight decay of all param groups that have any."""
    given = order.args.get("weight_decay", order.args.get("value", 0.0))
    return _set(setup, {"weight_decay": float(given)})


def set_eps(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Set Adam's epsilon."""
    return _set(setup, {"eps": float(order.args.get("eps", 1e-8))})


def set_beta2(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Set Adam's second beta."""
    beta2 = float(order.args.get("beta2", 0.95))
    edits = []
    for group in setup.optimizer.param_groups:
        if "betas" in group:
            old = dict(group)
            group["betas"] = (group["betas"][0], beta2)
            edits += _differences(old, group)
    return edits[:1]


def split_weight_decay(setup: TrainingSetup, _order: Order) -> list[Edit]:
    """Put biases, norms and other vectors into groups of their own, without decay."""
    new, moved = [], 0
    for group in list(setup.optimizer.param_groups):
        vectors = [p for p in group["params"] if p.ndim < 2]
        if not group.get("weight_decay") or not vectors or len(vectors) == len(group["params"]):
            continue
        taken = {id(p) for p in vectors}
        group["params"] = [p for p in group["params"] if id(p) not in taken]
        rest = {k: v for k, v in group.items() if k != "params"}
        new.append({**rest, "params": vectors, "weight_decay": 0.0})
        moved += len(vectors)
    for group in new:
        setup.optimizer.add_param_group(group)
    if not moved:
        return []
    return [
        Edit(
            what="weight decay of biases and norms",
            before="as of the weights",
            after="0",
            advice=f"put the {moved} vectors (biases, norms) into a param group with "
            "weight_decay=0.0",
        )
    ]


def repoint_optimizer(setup: TrainingSetup, _order: Order) -> list[Edit]:
    """Let the optimizer hold the model's present parameters: all, and no others."""
    own = {id(p): p for p in setup.model.parameters()}
    groups = setup.optimizer.param_groups
    stale = 0
    for group in groups:
        kept = [p for p in group["params"] if id(p) in own]
        stale += len(group["params"]) - len(kept)
        group["params"] = kept
    new = adopt(setup.optimizer, (p for p in own.values() if p.requires_grad))
    if not stale and not new:
        return []
    was = f"{stale} tensors that the model does not have" if stale else f"without {new} parameters"
    return [
        Edit(
            what="parameters of the optimizer",
            before=was,
            after="all trainable parameters of the model",
            advice="build the optimizer from model.parameters(), after the last change of the "
            "model's layers",
        )
    ]


def adopt(optimizer: torch.optim.Optimizer, params: Iterable[nn.Parameter]) -> int:
    """Add parameters that the optimizer does not hold, with the settings of its first group.

    Returns:
        How many there were.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    new = [p for p in params if id(p) not in held]
    if new:
        optimizer.param_groups[0]["params"] += new
    return len(new)


def unfreeze(setup: TrainingSetup, _order: Order) -> list[Edit]:
    """Train what is frozen too."""
    frozen = sum(not p.requires_grad for p in setup.model.parameters())
    unfreeze_job(job_of(setup))
    if not frozen:
        return repoint_optimizer(setup, Order(action="repoint_optimizer"))
    return [
        Edit(
            what="frozen parameters",
            before=str(frozen),
            after="0",
            advice="call model.requires_grad_(True), and build the optimizer afterwards",
        )
    ]


def use_adamw(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Replace the optimizer by AdamW with its usual settings, and drop its schedule."""
    rate = float(order.args.get("lr", 1e-3))
    old = setup.optimizer
    own = [p for p in setup.model.parameters() if p.requires_grad]
    setup.optimizer = torch.optim.AdamW(own, lr=rate)
    setup.scheduler = None
    lr = ", ".join(f"{float(g['lr']):.3g}" for g in old.param_groups[:1] if "lr" in g)
    return [
        Edit(
            what="optimizer",
            before=f"{type(old).__name__}(lr={lr})",
            after=f"AdamW(lr={rate:.3g})",
            advice=f"use torch.optim.AdamW(model.parameters(), lr={rate:.3g})",
        )
    ]


def _set(setup: TrainingSetup, values: dict[str, Any]) -> list[Edit]:
    edits = []
    for group in setup.optimizer.param_groups:
        old = dict(group)
        group.update({k: v for k, v in values.items() if k in group})
        edits += _differences(old, group)
    return list({edit.diff: edit for edit in edits}.values())


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[Edit]:
    return [
        Edit(
            what=f"optimizer's {key}",
            before=str(old[key]),
            after=str(new[key]),
            advice=f"pass {key}={new[key]} to the optimizer",
        )
        for key in (*_SHOWN, "weight_decay")
        if key in new and old.get(key) != new[key]
    ]
