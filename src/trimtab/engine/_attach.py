"""attach: clip, guard and watch any training loop from inside `optimizer.step()`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from trimtab.engine._ranks import num_ranks
from trimtab.engine._trim import Trim
from trimtab.errors import ConfigError
from trimtab.findings import Rule, Selection
from trimtab.guard import Guard, GuardLike, as_guard
from trimtab.optim import Clipper, as_clipper
from trimtab.rules import run_rules
from trimtab.signals import Watch, as_watch


def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    *,
    clip: float | Clipper | None = 1.0,
    guard: GuardLike = "auto",
    watch: bool | int | Watch = True,
    out: Path | str | Literal["auto"] | None = "auto",
    loggers: Sequence[Callable[[int, Mapping[str, float]], None]] = (),
    config: Mapping[str, Any] | None = None,
    max_skips: int = 50,
    judge: bool | Selection = True,
    stateful: Mapping[str, Any] | None = None,
) -> Trim:
    """Clip, guard, measure, record and judge every step of a training loop that stays as it is.

    Works through hooks of the modules and of `optimizer.step()`, so a plain loop, Lightning, the
    Transformers Trainer and Accelerate need no other change. Gradient accumulation, `GradScaler`,
    DDP and FSDP2 stay the loop's own business; what is clipped and measured is what the optimizer
    is about to use, after unscaling.

    A model that is compiled has to be attached before its first call: torch.compile does not look
    at hooks that come later. Under Lightning and Accelerate, steps that their loss scale leaves out
    are not seen.

    With a fused optimizer clipping and skipping ride on the update itself. Another one on an
    accelerator has to wait for one value a step; pass `fused=True` to it, or `guard=None`.

    Args:
        model: As it is trained: plain, compiled, wrapped in DDP or sharded.
        optimizer: One or several, over this model's parameters. LBFGS is measured only.
        clip: Largest joint L2 norm of the gradients, or a `Clipper`; None leaves them alone. A
            loop that clips by itself is clipped to the lower of the two.
        guard: Which steps are left out, and what is done if they go on: the name of a policy,
            `"observe"`, a policy, a `trimtab.guard.Guard`, or None, which leaves out none. A step
            that is left out touches neither parameters nor buffers nor the optimizer's state.
            `"auto"` is `"spike"`, and where several processes train one model `"nonfinite"` without
            going back; any other guard has them exchange two numbers a step, so it has to be
            attached on every rank.
        watch: What is measured how often: True for the defaults, False for the numbers of each
            step alone, a number of steps between records, or a `Watch`.
        out: Run folder for what is measured; `"auto"` makes one under `runs/`, None keeps it in
            memory only. Needs the `watch` extra.
        loggers: Called with each record: `trimtab.signals.tensorboard_logger(...)` and its like,
            or any function of step and numbers.
        config: Settings of the run to keep beside it; what JSON can hold.
        max_skips: Steps left out in a row before `DivergedError` ends the run.
        judge: Whether rules look at the measurements: what is wrong is in `findings`, in the run
            folder, and said once as a `StabilityWarning`. A `Selection` says which rules, and with
            which thresholds.
        stateful: What else has a state and goes back with a snapshot, by name: an average of the
            weights, a `GradScaler`. Anything with `state_dict` and `load_state_dict`.

    Returns:
        What shows the measurements and takes all of it off again.

    Raises:
        ConfigError: The optimizer holds no parameter of the model, or a value is out of range.
        StateError: The optimizer is attached already.

    Examples:
        >>> model = nn.Linear(4, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with attach(model, optimizer, out=None) as trim:
        ...     loss = trim.loss(model(torch.ones(8, 4)).square().mean())
        ...     loss.backward()
        ...     optimizer.step()
        >>> trim.steps
        1
    """
    given = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    return Trim(
        model,
        _as_optimizers(given),
        clipper=as_clipper(clip),
        guard=_as_guard(guard, num_ranks(model)),
        joint=guard != "auto",
        stateful=stateful or {},
        watch=as_watch(watch),
        out=out,
        loggers=loggers,
        config=config,
        max_skips=max_skips,
        rules=as_rules(judge),
        tells=judge.allows if isinstance(judge, Selection) else lambda _: bool(judge),
        take_overflow=not _overflow_is_theirs(model, given),
    )


def _as_guard(guard: GuardLike, ranks: int) -> Guard | None:
    """Return the settings of the guard; those of `"auto"` need no exchange between ranks."""
    if guard != "auto":
        return as_guard(guard)
    return Guard() if ranks == 1 else Guard(policy="nonfinite", snapshots=0, explain=False)


def as_rules(judge: bool | Selection) -> Sequence[Rule]:  # noqa: FBT001 # what a user may pass
    """Return the rules for what a user may pass.

    Raises:
        ConfigError: It is something else.
    """
    if isinstance(judge, bool):
        return run_rules() if judge else []
    if isinstance(judge, Selection):
        return run_rules(judge)
    raise ConfigError(f"judge must be True, False or a Selection, got {type(judge).__name__}.")


def _as_optimizers(given: Sequence[Any]) -> list[torch.optim.Optimizer]:
    """Return the torch optimizers that are meant; wrappers of other engines are seen through.

    Raises:
        ConfigError: There is none, or one is named twice.
    """
    found: list[torch.optim.Optimizer] = []
    for each in given:
        inner = each
        while type(inner).__name__ in {"AcceleratedOptimizer", "LightningOptimizer"}:
            inner = inner.optimizer
        if not isinstance(inner, torch.optim.Optimizer):
            raise ConfigError(
                "optimizer must be a torch optimizer or a list of them, got "
                f"{type(inner).__name__}."
            )
        if any(inner is other for other in found):
            raise ConfigError(f"The list of optimizers names one {type(inner).__name__} twice.")
        found.append(inner)
    if not found:
        raise ConfigError("optimizer is an empty list; there is nothing to attach to.")
    return found


def _overflow_is_theirs(model: nn.Module, optimizers: Sequence[Any]) -> bool:
    """Tell whether an engine wants to see for itself which steps a GradScaler left out.

    Lightning refuses to clip for an optimizer that unscales by itself, and Accelerate holds the
    schedule when `step()` was not called.
    """
    lightning = any(kind.__name__ == "LightningModule" for kind in type(model).__mro__)
    return lightning or any(type(o).__name__ == "AcceleratedOptimizer" for o in optimizers)
