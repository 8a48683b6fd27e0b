"""An optimizer that is built before its model is moved or sharded."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._optimizers import Built, built, is_rebuilt, later_statements
from trimtab.lint._rule import SourceRule
from trimtab.lint._scopes import dotted
from trimtab.lint._source import Source

SHARDING = frozenset({"FullyShardedDataParallel", "FSDP", "fully_shard"})


@register
@dataclass(frozen=True, kw_only=True)
class OptimizerBeforeMove(SourceRule):
    """The optimizer is built before the model is moved to its device or sharded.

    Why: an optimizer holds the parameters that the model had when it was built. Sharding (FSDP) and
    moving to an XLA device replace them, so the optimizer goes on updating tensors that the model
    does not use any more: nothing is learnt. Moving to CUDA swaps the data within the same
    parameters, so most optimizers keep working; Adagrad, which makes its state at once, is
    left with state on the wrong device.
    Measured: `model.to(...)`, `.cuda()`, `FSDP(model)` or `fully_shard(model)` after the optimizer
    was built from `model.parameters()`, in the same function. An error where parameters are
    replaced, advice where they are not.
    Silent on: optimizers that are built anew afterwards, changes of the type or the memory format,
    and DistributedDataParallel, which keeps the parameters.
    Fix: move and wrap the model first, then build the optimizer.
    Source: torch.optim: "If you need to move a model to GPU via .cuda(), please do so before
    constructing optimizers for it"; torch.distributed.fsdp.FullyShardedDataParallel.
    """

    code: ClassVar = "TT712"
    name: ClassVar = "optimizer-before-move"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.NO_LEARNING
    rank: ClassVar[int] = 20
    leads_to: ClassVar = ("TT4",)
    example: ClassVar = """\
import torch
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

model = Net()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
model = FSDP(model)
"""
    good: ClassVar = """\
import torch
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

model = FSDP(Net())
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each optimizer that is built too early."""
        for one in built(source):
            for statement in later_statements(source, one.call):
                move = self._move(source, one, statement)
                if move is not None and not is_rebuilt(source, one, statement):
                    yield self._finding(source, one, *move)
                    break

    def _move(
        self, source: Source, one: Built, statement: ast.stmt
    ) -> tuple[ast.Call, str, str] | None:
        """Return the call, its text, and what it does: `shard`, `replace`, `adagrad`, `swap`."""
        value = getattr(statement, "value", None)
        if not isinstance(value, ast.Call):
            return None
        if source.called(value) in SHARDING or dotted(value.func).endswith("fully_shard"):
            if value.args and dotted(value.args[0]) == one.key:
                return value, f"{source.called(value)}({one.key})", "shard"
            return None
        func = value.func
        if not isinstance(func, ast.Attribute) or dotted(func.value) != one.key:
            return None
        if func.attr not in {"to", "cuda"} or not self._is_device(source, value, func.attr):
            return None
        text = f"{one.key}.{func.attr}({', '.join(ast.unparse(a) for a in value.args)})"
        if self._is_xla(source, value):
            return value, text, "replace"
        return value, text, "adagrad" if one.name == "Adagrad" else "swap"

    def _is_device(self, source: Source, call: ast.Call, method: str) -> bool:
        if method == "cuda":
            return True
        if not call.args:
            return any(k.arg == "device" for k in call.keywords)
        return not source.qualname(call.args[0]).startswith("torch.") and (
            "dtype" not in ast.unparse(call.args[0])
        )

    def _is_xla(self, source: Source, call: ast.Call) -> bool:
        for argument in call.args[:1]:
            for origin in source.origins.of(argument):
                if "xla" in ast.unparse(origin):
                    return True
        return False

    def _finding(
        self, source: Source, one: Built, call: ast.Call, text: str, effect: str
    ) -> Finding:
        if effect == "swap":
            return self.at(
                source,
                call,
                severity=Severity.ADVICE,
                symptom=Symptom.SILENT_CONFIG_ERROR,
                what=f"the optimizer is built in line {one.call.lineno}, before {text}",
                cause=(
                    "on CUDA the parameters stay the same objects, so this works; on devices such "
                    "as XLA they are replaced, and the optimizer would update the old ones"
                ),
                fix="build the optimizer after the model has been moved",
            )
        causes = {
            "shard": "sharding replaces the parameters, so the optimizer updates tensors that the "
            "model does not use any more: nothing is learnt",
            "replace": "moving to an XLA device replaces the parameters, so the optimizer updates "
            "tensors that the model does not use any more: nothing is learnt",
            "adagrad": "Adagrad makes its state when it is built, so the state stays on the old "
            "device and the first step fails",
        }
        return self.at(
            source,
            call,
            what=f"the optimizer is built in line {one.call.lineno}, before {text}",
            cause=causes[effect],
            fix="build the optimizer after the model has been moved and wrapped",
        )
