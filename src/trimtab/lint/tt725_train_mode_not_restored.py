"""Training that goes on in evaluation mode."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._models import has_modes, layers_of
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source
from trimtab.lint._trace import Event, Trace, compatible


@register
@dataclass(frozen=True, kw_only=True)
class TrainModeNotRestored(SourceRule):
    """The network is put into evaluation mode in the training loop and never back.

    Why: `eval()` stays until `train()` is called. From the second epoch on the network trains
    without dropout, and BatchNorm uses and keeps running statistics that no longer follow it.
    Measured: within one epoch loop, `model.eval()` is called, the model is trained, and no
    `train()` of it stands in the loop.
    Silent on: other networks (teachers, targets), networks that compute the same in both modes, and
    frozen BatchNorm by intent (`eval()` of a part).
    Fix: call `model.train()` at the start of each epoch.
    Source: torch.nn.Module.eval; Jiang et al. 2025 (TrainCheck, OSDI 2025).
    """

    code: ClassVar = "TT725"
    name: ClassVar = "train-mode-not-restored"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    example: ClassVar = """\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 2))
model.train()
for epoch in range(10):
    for x, y in train_loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        for x, y in test_loader:
            correct += (model(x).argmax(dim=1) == y).sum().item()
"""
    good: ClassVar = """\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 2))
for epoch in range(10):
    model.train()
    for x, y in train_loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        for x, y in test_loader:
            correct += (model(x).argmax(dim=1) == y).sum().item()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each network that stays in evaluation mode."""
        seen: set[ast.AST] = set()
        for trace in source.traces:
            for event in trace.of("mode"):
                is_new = event.detail == "eval" and event.node not in seen
                if is_new and self._stays(source, trace, event):
                    seen.add(event.node)
                    yield self._finding(source, event)

    def _stays(self, source: Source, trace: Trace, event: Event) -> bool:
        if event.subject is None or not event.key:
            return False
        loops = [n for n in event.loops if isinstance(n, ast.For | ast.While)]
        if not loops:
            return False
        inside = [e for e in trace.events if loops[0] in e.loops]
        backwards = [e for e in inside if e.kind == "backward"]
        forwards = [e for e in inside if e.kind == "forward" and e.key == event.key]
        if not any(self._trains(backwards, e) for e in forwards):
            return False
        if not has_modes(layers_of(source, event.subject)):
            return False
        modes = [e for e in inside if e.kind == "mode" and e.detail != "eval"]
        if any(e.key == event.key or not e.key or e.key.startswith("self") for e in modes):
            return False
        return not any(
            e.kind == "call"
            and isinstance(e.node, ast.Call)
            and any(e.context.key(a) == event.key for a in e.node.args)
            and not source.called(e.node)
            for e in inside
        )

    def _trains(self, backwards: list[Event], forward: Event) -> bool:
        """Tell whether a forward pass is followed by a backward in its own loop."""
        return any(
            e.loops == forward.loops and e.index > forward.index and compatible(e, forward)
            for e in backwards
        )

    def _finding(self, source: Source, event: Event) -> Finding:
        name = event.key
        return self.at(
            source,
            event.node,
            what=f"after {name}.eval() in the training loop, {name}.train() is never called again",
            cause=(
                "from the second epoch on the network trains in evaluation mode: dropout is off, "
                "and BatchNorm uses frozen statistics"
            ),
            fix=f"call {name}.train() at the start of each epoch",
        )
