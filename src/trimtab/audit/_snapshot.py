"""A snapshot of all that a run depends on, by name, and what differs between two of them."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from trimtab.audit._fingerprint import fingerprint, leaves
from trimtab.diagnosis._reach import stateful
from trimtab.engine import TrainingSetup

Parts = dict[str, dict[str, Any]]
"""Values by name, in parts: `"weights"`, `"buffers"`, `"optimizer"`, `"groups"`, `"schedule"`,
`"modes"`, `"gradients"` and `"others"`."""

_ATTRIBUTES: Final = (bool, int, float, str, Tensor, torch.Generator)
"""Types of a module's own attributes that count as its state."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One value that is not the same in two snapshots."""

    name: str
    before: Any
    """None if it was not there."""
    after: Any
    """None if it is not there."""

    @property
    def is_missing(self) -> bool:
        """Whether it was there and is no more."""
        return self.before is not None and self.after is None


def snapshot(setup: TrainingSetup, functions: Sequence[Any] = ()) -> Parts:
    """Return copies of everything in a setup that training changes.

    Args:
        setup: Of the run.
        functions: Of the user's; what they have hold of and has a `state_dict` belongs to the run.
    """
    model = setup.model
    named = dict(model.named_parameters())
    return {
        "weights": leaves({n: p.detach() for n, p in named.items()}),
        "buffers": leaves(dict(model.named_buffers())),
        "optimizer": _optimizer_state(setup),
        "groups": {
            f"param group {i}: {key}": copy.deepcopy(value)
            for i, group in enumerate(setup.optimizer.param_groups)
            for key, value in group.items()
            if key != "params"
        },
        "schedule": state_leaves(setup.scheduler),
        "modes": {n or "the model": m.training for n, m in model.named_modules()},
        "gradients": leaves({n: p.grad for n, p in named.items() if p.grad is not None}),
        "others": _others(setup, functions),
    }


def others_of(setup: TrainingSetup, functions: Sequence[Any] = ()) -> list[Any]:
    """Return what the user's functions have hold of and has a state, such as a loss scaler."""
    known = [setup.model, setup.optimizer, setup.loss_fn, setup.scheduler]
    found = [o for f in (setup.train_step, *functions) for o in stateful(f, known=known)]
    return list({id(o): o for o in found}.values())


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Return what is not equal bit for bit in one part of two snapshots."""
    return [
        Difference(name=name, before=before.get(name), after=after.get(name))
        for name in dict.fromkeys([*before, *after])
        if fingerprint(before.get(name)) != fingerprint(after.get(name))
    ]


def state_leaves(thing: Any) -> dict[str, Any]:
    """Return what a `state_dict()` holds, by dotted names; nothing if there is none."""
    if thing is None or not hasattr(thing, "state_dict"):
        return {}
    return leaves(copy.deepcopy(thing.state_dict()))


def _optimizer_state(setup: TrainingSetup) -> dict[str, Any]:
    names = {id(p): name for name, p in setup.model.named_parameters()}
    return {
        f"{names.get(id(p), 'a parameter that is not of the model')}: {key}": value
        for p, state in setup.optimizer.state.items()
        if isinstance(state, Mapping)
        for key, value in leaves(state).items()
    }


def _others(setup: TrainingSetup, functions: Sequence[Any]) -> dict[str, Any]:
    """Return the state of what else there is: scalers, averages of weights, counters in modules."""
    found: dict[str, Any] = {}
    seen: dict[str, int] = {}
    things = [*others_of(setup, functions)]
    if isinstance(setup.loss_fn, nn.Module) and setup.loss_fn.state_dict():
        things.append(setup.loss_fn)
    for each in things:
        kind = type(each).__name__
        seen[kind] = seen.get(kind, 0) + 1
        label = kind if seen[kind] == 1 else f"{kind} {seen[kind]}"
        found |= {f"{label}: {key}": value for key, value in state_leaves(each).items()}
    for name, module in setup.model.named_modules():
        if not type(module).__module__.startswith("torch."):
            found |= {f"{name or 'model'}.{k}": v for k, v in _attributes(module).items()}
    return found


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return the plain attributes of a module of the user's, which no state_dict holds."""
    own = {k: v for k, v in vars(module).items() if not k.startswith("_") and k != "training"}
    return {
        k: v.get_state() if isinstance(v, torch.Generator) else copy.copy(v)
        for k, v in own.items()
        if isinstance(v, _ATTRIBUTES) and not (isinstance(v, Tensor) and v.requires_grad)
    }
