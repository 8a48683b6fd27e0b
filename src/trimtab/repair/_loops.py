"""Remedies for the loop body, and for what happens at each step of the optimizer."""

from typing import Any, Final

import torch
from torch import nn

from trimtab.diagnosis._reach import reachable
from trimtab.engine import TrainingSetup
from trimtab.repair._edit import Edit
from trimtab.repair._remedy import Order

CORRECT: Final = """\
optimizer.zero_grad()
loss = loss_fn(model(x), y)
loss.backward()
optimizer.step()"""
"""The loop body that takes the place of a faulty one."""

_WHY: Final = {
    "TT106": "gradients were not cleared between steps (zero_grad)",
    "TT413": "gradients were clipped while they were scaled; call scaler.unscale_(optimizer) first",
    "TT420": "gradients were not cleared between steps (zero_grad)",
    "TT421": "gradients were cleared (zero_grad) between backward() and step()",
    "TT422": "optimizer.step() was never called",
    "TT423": "loss.backward() was never called",
    "TT424": "scheduler.step() belongs after optimizer.step()",
    "TT426": "a backward pass in fp16 needs a GradScaler; here it was made in float32",
    "TT427": "call model.train() before training, and again after each evaluation",
    "TT428": "the loss must not be detached or made anew (.item(), .detach(), torch.tensor)",
    "TT429": "clip gradients before optimizer.step(), not after",
    "TT432": "the clipping threshold was far below the gradients' norm",
    "TT435": "backward() must start from the loss, not from minus the loss",
}
"""What was wrong, by the code of the finding."""


def plain_loop(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Replace the loop body by a correct one in float32, with the schedule that it moved."""
    edits = _minimise(setup)
    step = setup.train_step
    if step is None:
        return edits
    if setup.scheduler is None:
        setup.scheduler = next((v for v in reachable(step) if _moves(v, setup.optimizer)), None)
    setup.train_step = None
    setup.model.train()
    why = _WHY.get(order.reason, "")
    code = getattr(step, "__code__", None)
    place = "" if code is None else f" ({code.co_filename}:{code.co_firstlineno})"
    edits.append(
        Edit(
            what="loop body",
            before=getattr(step, "__name__", type(step).__name__),
            after="zero_grad, forward, backward, step",
            advice=f"in the training step{place}: {why or 'use this order'}\n{CORRECT}",
        )
    )
    max_norm = order.args.get("max_norm")
    if max_norm is not None:
        edits += clip_gradients(setup, order)
    return edits


def _moves(value: Any, optimizer: torch.optim.Optimizer) -> bool:
    return getattr(value, "optimizer", None) is optimizer and hasattr(value, "last_epoch")


def _minimise(setup: TrainingSetup) -> list[Edit]:
    """Let an optimizer that maximises minimise."""
    groups = [g for g in setup.optimizer.param_groups if g.get("maximize")]
    for group in groups:
        group["maximize"] = False
    if not groups:
        return []
    return [
        Edit(
            what="optimizer's maximize",
            before="True",
            after="False",
            advice="leave out maximize=True",
        )
    ]


def clip_gradients(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Clip the joint norm of the gradients to `max_norm` right before each step."""
    max_norm = float(order.args.get("max_norm", 1.0))

    def clip(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        params = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        nn.utils.clip_grad_norm_(params, max_norm)

    setup.optimizer.register_step_pre_hook(clip)
    return [
        Edit(
            what="norm of the gradients",
            before="not clipped",
            after=f"clipped to {max_norm:.3g}",
            advice=f"call trimtab.clip_grad_norm_(model.parameters(), {max_norm:.3g}) before "
            "optimizer.step()",
        )
    ]


def skip_nonfinite(setup: TrainingSetup, _order: Order) -> list[Edit]:
    """Leave out steps whose gradients are not finite."""

    def skip(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        params = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        sums = [p.grad.float().sum() for p in params if p.grad is not None]
        if sums and not bool(torch.stack(sums).isfinite().all()):
            for p in params:
                p.grad = None

    setup.optimizer.register_step_pre_hook(skip)
    return [
        Edit(
            what="steps with a gradient that is not finite",
            before="made",
            after="left out",
            advice="attach the guard: trimtab.attach(model, optimizer)",
        )
    ]
