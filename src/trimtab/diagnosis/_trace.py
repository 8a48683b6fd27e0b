"""What a loop body does, in which order, and at which lines of the code."""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from trimtab import optim
from trimtab.diagnosis._batches import size_of, tensors_in
from trimtab.diagnosis._reach import is_own
from trimtab.signals import local, unwrapped

Kind = Literal[
    "forward", "loss", "scale", "backward", "unscale", "clip", "attempt", "step", "update", "zero",
    "schedule",
]  # fmt: skip
"""An attempt is a call of `GradScaler.step`, which leaves a step with an overflow out."""


@dataclass(frozen=True, eq=False)  # two calls on one line are two events
class Event:
    """One thing that a loop body did."""

    kind: Kind
    call: int
    """Of the loop body, from 1."""
    file: str | None = None
    line: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def _codes(kind: Kind, *functions: Callable[..., Any]) -> dict[CodeType, Kind]:
    return {inspect.unwrap(f).__code__: kind for f in functions}


_SCHEDULERS: Final = [
    kind.__dict__["step"]
    for kind in vars(lr_scheduler).values()
    if isinstance(kind, type) and inspect.isfunction(kind.__dict__.get("step"))
]

_WATCHED: Final[dict[CodeType, Kind]] = {
    **_codes("backward", Tensor.backward, torch.autograd.backward),
    **_codes(
        "clip",
        nn.utils.clip_grad_norm_,
        nn.utils.clip_grad_value_,
        optim.clip_grad_norm_,
        optim.clip_grad_value_,
    ),
    **_codes("zero", torch.optim.Optimizer.zero_grad, nn.Module.zero_grad),
    **_codes("scale", torch.amp.GradScaler.scale),
    **_codes("unscale", torch.amp.GradScaler.unscale_),
    **_codes("attempt", torch.amp.GradScaler.step),
    **_codes("update", torch.amp.GradScaler.update),
    **_codes("schedule", *_SCHEDULERS),
}

_RUNS: Final = "trimtab.diagnosis._job"
"""The module that calls the loop body."""

_CHANGED: Final = 1e-3
"""Relative difference of gradient norms that is more than rounding, also in bf16."""


class Trace:
    """Watches a loop body from outside: nothing of torch is replaced.

    Calls of interest are seen by Python's profiling hook, whichever way they were imported; the
    model, the loss and the optimizer are seen through hooks.

    Args:
        model: That is trained.
        optimizer: That trains it.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.events: list[Event] = []
        self.calls = 0
        """Calls of the loop body that were watched."""
        self.num_steps = 0
        """Optimizer steps of all calls, watched or not."""
        self.moved = False
        """Whether parameters changed although no step was seen."""
        self.sizes: dict[int, tuple[int, int]] = {}
        """Examples and elements that each call was given."""
        self.modal: Final = modal_layers(model)
        """Layers in use that behave differently in evaluation mode."""
        self._own = _unique(p for g in optimizer.param_groups for p in g["params"])
        self._params = _unique([*(p for p in model.parameters() if p.requires_grad), *self._own])
        self._depth = 0
        self._backward: dict[str, Any] = {}
        self._clip: dict[str, Any] = {}
        self._before: list[Any] = []
        self._norm: float | None = None
        self._sums: list[float] = []

    @contextmanager
    def watch(self, call: int, size: tuple[int, int]) -> Iterator[None]:
        """Watch one call of the loop body, with a batch of so many examples and elements."""
        self.calls += 1
        self.sizes[call] = size
        self._sums = self._sums or self._checksums()
        handles: list[Any] = []
        before: Any = sys.getprofile()
        try:
            handles += self._hooks(call)
            sys.setprofile(lambda frame, event, _arg: self._profile(call, frame, event))
            yield
        finally:
            _set_profile(before)
            self._depth = 0
            for handle in handles:
                handle.remove()
            if not any(e.kind == "step" for e in self.events):
                self.moved = self.moved or self._checksums() != self._sums

    def _hooks(self, call: int) -> Iterator[Any]:
        yield unwrapped(self.model).register_forward_pre_hook(
            lambda _m, args, kwargs: self._forward(call, args, kwargs), with_kwargs=True
        )
        handle = self.optimizer.register_step_pre_hook(lambda *_: self._step(call))
        # Before hooks that unscale or clip what the loop has left.
        hooks: Any = self.optimizer._optimizer_step_pre_hooks
        hooks.move_to_end(handle.id, last=False)
        yield handle

    def loss(self, call: int, value: Tensor, *, summed: bool = False) -> None:
        """Note what the loss function returned, and whether it adds up over examples."""
        facts = {"value": float(value.detach()) if value.numel() == 1 else None, "summed": summed}
        self.events.append(Event("loss", call, facts=facts))

    def _profile(self, call: int, frame: FrameType, event: str) -> None:
        kind = _WATCHED.get(frame.f_code)
        if kind is None:
            return
        if event == "return":
            self._returned(kind)
        elif event == "call":
            self._depth += kind == "backward"
            if kind == "backward" and self._depth > 1:  # Tensor.backward calls autograd.backward
                return
            facts = self._facts(kind, frame.f_locals)
            if facts is not None:
                self.events.append(Event(kind, call, *_caller(frame), facts))

    def _returned(self, kind: Kind) -> None:
        self._depth -= kind == "backward"
        if kind == "backward" and self._depth == 0:
            self._backward["reached"] = _versions(self._params) != self._before
        if kind in {"clip", "unscale"} or (kind == "backward" and self._depth == 0):
            self._norm = _grad_norm(self._params)
        if kind == "clip":
            self._clip["after"] = self._norm

    def _facts(self, kind: Kind, given: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return what matters of a call; None if it is about other objects."""
        if kind == "backward":
            return self._backward_facts(given)
        if kind == "clip":
            threshold = float(given.get("max_norm", given.get("clip_value")))
            self._clip = {"threshold": threshold, "before": self._norm, "after": None}
            return None if threshold == float("inf") else self._clip  # that only measures
        if kind in {"scale", "unscale", "update", "attempt"}:
            scaler, other = given["self"], given.get("optimizer", self.optimizer)
            mine = scaler.is_enabled() and other is self.optimizer
            return {"scale": float(scaler.get_scale())} if mine else None
        if kind == "zero":
            mine = any(
                given["self"] is m for m in (self.optimizer, self.model, unwrapped(self.model))
            )
            return {} if mine else None
        if kind == "schedule":
            owner = getattr(given["self"], "optimizer", self.optimizer)
            return {} if owner is self.optimizer else None
        return {}

    def _backward_facts(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        root = given.get("self", given.get("tensors"))
        root = root if isinstance(root, Tensor) else next(iter(root or ()), None)
        one = isinstance(root, Tensor) and root.numel() == 1
        self._before = _versions(self._params)
        self._backward = {
            "value": float(root.detach()) if one and isinstance(root, Tensor) else None,
            "dirty": _grad_norm(self._own) != 0,
            "reached": False,  # until it has returned
        }
        return self._backward

    def _forward(self, call: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not torch.is_grad_enabled():
            return
        tensors = tensors_in([args, kwargs])
        device = tensors[0].device.type if tensors else "cpu"
        half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        facts = {
            "size": size_of([args, kwargs]),
            "training": self.model.training or any(m.training for m in self.modal.values()),
            "fp16": half is torch.float16,
        }
        self.events.append(Event("forward", call, facts=facts))

    def _step(self, call: int) -> None:
        norm, before = _grad_norm(self._params), self._norm
        near = before is None or abs(norm - before) <= _CHANGED * before or norm != norm
        facts = {
            "has_gradients": norm != 0,
            "changed_by_hand": not near,
            "removed": before not in {None, 0.0} and norm == 0,
        }
        self._norm = None
        self.events.append(Event("step", call, *_caller(sys._getframe(1)), facts))

    def _checksums(self) -> list[float]:
        return [float(local(p.detach()).abs().sum()) for p in self._params]


def modal_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that behave differently in evaluation mode, and are in parts that train."""
    return {
        name: module
        for name, module in model.named_modules()
        if _is_modal(module) and _is_trained(model, name)
    }


def _is_modal(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return float(module.dropout) > 0
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats


def _is_trained(model: nn.Module, name: str) -> bool:
    own = model.get_submodule(name)
    around = own if any(True for _ in own.parameters()) else model.get_submodule(_parent(name))
    return any(p.requires_grad for p in around.parameters())


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _unique(params: Iterable[Tensor]) -> list[Tensor]:
    return list({id(p): p for p in params}.values())


def _versions(params: Sequence[Tensor]) -> list[Any]:
    """Return what changes for a parameter whose gradient is added to, even if zeros are."""
    return [None if p.grad is None else (id(p.grad), p.grad._version) for p in params]


def _grad_norm(params: Sequence[Tensor]) -> float:
    """Return the norm of all gradients; 0 if there are none, NaN if they are not finite."""
    total = 0.0
    for p in params:
        if p.grad is not None:
            grad = p.grad.detach()
            values = grad.coalesce().values() if grad.is_sparse else local(grad)
            total += float(values.abs().float().norm()) ** 2
    return total**0.5 if total < float("inf") else float("nan")


def _set_profile(before: Any) -> None:
    """Put back the profiling hook that was there, also cProfile's, which is no function."""
    if before is None or callable(before):
        sys.setprofile(before)
    else:
        sys.setprofile(None)
        before.enable()


def is_users(frame: FrameType) -> bool:
    """Tell whether a frame runs code of the user's."""
    return is_own(str(frame.f_globals.get("__name__", "")), frame.f_code.co_filename)


def _caller(frame: FrameType) -> tuple[str | None, int | None]:
    """Return file and line of the nearest caller that is the user's, within the loop body."""
    above = frame.f_back
    while above is not None and above.f_globals.get("__name__") != _RUNS:
        if is_users(above):
            file = above.f_code.co_filename
            return (file, above.f_lineno) if not file.startswith("<") else (None, None)
        above = above.f_back
    return None, None
