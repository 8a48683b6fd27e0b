"""A distributed sampler that shuffles the same way in every epoch."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Fix, Severity, Symptom, register
from trimtab.lint._edits import edit_fix, insert_before
from trimtab.lint._rule import SourceRule
from trimtab.lint._scopes import dotted
from trimtab.lint._source import Source, is_constant, keyword


@register
@dataclass(frozen=True, kw_only=True)
class NoSetEpoch(SourceRule):
    """The distributed sampler is never told the epoch, so every epoch has the same order.

    Why: `DistributedSampler` shuffles with a seed of its own plus the epoch. Without `set_epoch`
    the order of samples, and which of them meet in a batch, is the same in every epoch.
    Measured: a `DistributedSampler` that shuffles, an epoch loop in the same file, and no call of
    `set_epoch` anywhere in it.
    Silent on: samplers with `shuffle=False`, and Lightning, Accelerate and the Trainer, which call
    it by themselves.
    Fix: call `sampler.set_epoch(epoch)` at the start of each epoch.
    Source: torch.utils.data.distributed.DistributedSampler, "Warning".
    """

    code: ClassVar = "TT714"
    name: ClassVar = "no-set-epoch"
    severity: ClassVar = Severity.WARNING
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    example: ClassVar = """\
import torch
from torch.utils.data import DataLoader, DistributedSampler

sampler = DistributedSampler(dataset)
loader = DataLoader(dataset, batch_size=64, sampler=sampler)
for epoch in range(10):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
"""
    good: ClassVar = """\
import torch
from torch.utils.data import DataLoader, DistributedSampler

sampler = DistributedSampler(dataset)
loader = DataLoader(dataset, batch_size=64, sampler=sampler)
for epoch in range(10):
    sampler.set_epoch(epoch)
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each sampler that is never told the epoch."""
        if source.mentions("set_epoch") or not source.mentions("DistributedSampler"):
            return
        if source.mentions("Accelerator(", "LightningModule", "Fabric(", "Trainer("):
            return
        loop = self._epoch_loop(source)
        if loop is None:
            return
        for call in source.all(ast.Call):
            if source.called(call) != "DistributedSampler":
                continue
            shuffle = keyword(call, "shuffle", 3)
            if is_constant(shuffle, False) or self._held_out(source, call):  # noqa: FBT003
                continue
            yield self.at(
                source,
                call,
                what="the DistributedSampler shuffles, and its set_epoch() is never called",
                cause=(
                    "its random seed depends on the epoch that it is told, so every epoch goes "
                    "over the data in the same order"
                ),
                fix="call sampler.set_epoch(epoch) at the start of each epoch",
                remedy=self._remedy(source, call, loop),
            )

    def _epoch_loop(self, source: Source) -> ast.For | None:
        """Return the loop over epochs in which training happens, if the file has one."""
        for trace in source.traces:
            for event in trace.of("step", "backward"):
                for loop in event.loops:
                    if isinstance(loop, ast.For) and re.search(
                        r"(?i)\bep(och)?s?\b|epoch",
                        f"{ast.unparse(loop.target)} {ast.unparse(loop.iter)}",
                    ):
                        return loop
        return None

    def _held_out(self, source: Source, call: ast.Call) -> bool:
        statement = ast.unparse(source.statement(call))
        return bool(re.search(r"(?i)\b(val|valid|validation|test|eval|dev)(_|\b)", statement))

    def _remedy(self, source: Source, call: ast.Call, loop: ast.For) -> Fix | None:
        statement = source.statement(call)
        if not isinstance(statement, ast.Assign) or statement.value is not call:
            return None
        name = dotted(statement.targets[0])
        same = source.scope_of(call) is source.scope_of(loop)
        if (
            not name
            or not same
            or not isinstance(loop.target, ast.Name)
            or len(statement.targets) > 1
        ):
            return None
        if any(isinstance(n, ast.If | ast.For) for n in source.around(call)):
            return None
        line = f"{name}.set_epoch({loop.target.id})"
        return edit_fix(insert_before(source, loop.body[0], line))
