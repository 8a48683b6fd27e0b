"""The one pass that most rules read: what modules, loss and gradients did."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from trimtab.preflight._batch import Batch, LossFunction, call, find_tensors, loss_of, main_output
from trimtab.preflight._gradients import gradients
from trimtab.preflight._graph import Graph, read_graph
from trimtab.preflight._loss_calls import LossCall, LossListener
from trimtab.preflight._records import Record, recording

SMALLEST_HALF: Final = 2.0**-24
"""Smallest number that float16 can hold."""


@dataclass
class FirstPass:
    """What one forward and backward pass showed; what came before an error if there was one."""

    error: Exception | None = None
    records: list[Record] = field(default_factory=list)
    """Leaf modules in the order of their calls."""
    unrecorded: dict[str, nn.Module] = field(default_factory=dict)
    """Leaf modules that were called under `torch.no_grad()`, by name."""
    calls: list[LossCall] = field(default_factory=list)
    output: Tensor | None = None
    outputs: tuple[Tensor, ...] = ()
    """All tensors that the model returned."""
    loss: float = math.nan
    has_gradient: bool = False
    """Whether any gradient reached a parameter and all of them are finite."""
    norms: dict[str, float | None] = field(default_factory=dict)
    """Norm of each trainable parameter's gradient; None where none came."""
    lost_in_half: float = 0.0
    """Share of gradient elements, not zero, that float16 would round to zero."""
    graph: Graph | None = None

    @property
    def call(self) -> LossCall | None:
        """The loss function that was called, if it was one alone."""
        return self.calls[0] if len(self.calls) == 1 else None


def run_first_pass(
    model: nn.Module,
    loss_fn: LossFunction | None,
    batch: Batch,
    autocast: Callable[[], AbstractContextManager[Any]],
    trainable: Mapping[str, nn.Parameter],
) -> FirstPass:
    """Run forward and backward once, and keep what an error leaves."""
    found = FirstPass()
    inner = LossListener()
    with recording(model, found.unrecorded) as found.records, torch.enable_grad(), autocast():
        try:
            with inner:
                returned = call(model, batch.inputs)
            found.output = main_output(returned)
            found.outputs = tuple(find_tensors(returned))
            found.calls = inner.calls
            target = next(find_tensors(batch.target), None)
            with LossListener(found.output, target) as outer:
                found.calls = outer.calls if loss_fn is not None else inner.calls
                loss = loss_of(returned, batch.target, loss_fn)
        except Exception as error:  # noqa: BLE001 - a user's code may fail in any way
            found.error = error
            return found
    found.loss = float(loss.detach())
    if loss.requires_grad:
        norms = [(r.given_node, r.made_node) for r in found.records if r.made_node is not None]
        found.graph = read_graph(loss, norms)
    for record in found.records:
        record.given_node = record.made_node = None
    try:
        _read_gradients(found, loss, trainable)
    except Exception as error:  # noqa: BLE001 - a user's backward may fail in any way
        found.error = error
    return found


def _read_gradients(found: FirstPass, loss: Tensor, trainable: Mapping[str, nn.Parameter]) -> None:
    grads = gradients(loss, list(trainable.values()))
    nonzero = lost = 0
    for name, grad in zip(trainable, grads, strict=True):
        if grad is None:
            found.norms[name] = None
            continue
        dense = grad.coalesce().values() if grad.is_sparse else grad
        found.norms[name] = float(torch.linalg.vector_norm(dense.float()))
        sizes = dense.detach().abs()
        nonzero += int((sizes > 0).sum())
        lost += int(((sizes > 0) & (sizes < SMALLEST_HALF)).sum())
    found.lost_in_half = lost / max(1, nonzero)
    reached = [n for n in found.norms.values() if n is not None]
    found.has_gradient = bool(reached) and all(map(math.isfinite, [found.loss, *reached]))
