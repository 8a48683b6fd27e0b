"""Layers that are put into a model after its optimizer was built."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._names import LAYERS
from trimtab.lint._optimizers import Built, built, is_rebuilt, later_statements
from trimtab.lint._rule import SourceRule
from trimtab.lint._scopes import dotted, position
from trimtab.lint._source import Source

ADDING_METHODS: Final = frozenset(
    {"resize_token_embeddings", "add_module", "register_parameter", "add_adapter"}
)
WRAPPING: Final = frozenset(
    {"get_peft_model", "inject_adapter_in_model", "deepcopy", "replace_linear"}
)
PARAMETRISING: Final = frozenset({"weight_norm", "spectral_norm", "register_parametrization"})


@register
@dataclass(frozen=True, kw_only=True)
class LayersReplacedAfterOptimizer(SourceRule):
    """Layers are replaced or added after the optimizer was built, so it never updates them.

    Why: an optimizer holds the parameters that the model had when it was built. A head that is put
    in later keeps its random weights for ever, and the rest of the network is trained to feed it.
    Measured: after `optimizer = ...(model.parameters())`, in the same function, a layer is assigned
    into the model (`model.fc = nn.Linear(...)`), the model's name gets a new model, or a call adds
    parameters (`resize_token_embeddings`, `get_peft_model`, `weight_norm`).
    Silent on: optimizers that are built anew afterwards or given `add_param_group`.
    Fix: change the model first, then build the optimizer.
    Source: Humbatova et al. 2020, arXiv:1910.11015; Jiang et al. 2025 (TrainCheck, OSDI 2025).
    """

    code: ClassVar = "TT713"
    name: ClassVar = "layers-replaced-after-optimizer"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.NO_LEARNING
    rank: ClassVar[int] = 20
    leads_to: ClassVar = ("TT4",)
    example: ClassVar = """\
import torch
from torch import nn

model = resnet18(weights="DEFAULT")
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
model.fc = nn.Linear(512, 10)
"""
    good: ClassVar = """\
import torch
from torch import nn

model = resnet18(weights="DEFAULT")
model.fc = nn.Linear(512, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each layer that the optimizer does not hold."""
        for one in built(source):
            for statement in later_statements(source, one.call):
                change = self._change(source, one, statement)
                if change and self._still_used(source, one, statement):
                    yield self._finding(source, one, statement, change)

    def _still_used(self, source: Source, one: Built, statement: ast.stmt) -> bool:
        """Tell whether the optimizer is the one in use after a change."""
        if is_rebuilt(source, one, statement):
            return False
        maker = source.statement(one.call)
        name = dotted(maker.targets[0]) if isinstance(maker, ast.Assign) else ""
        scope = source.scope_of(one.call)
        if not name or "." in name or scope is source.module:
            return True
        return any(
            n.id == name and position(n) > position(statement)
            for n in source.all(ast.Name)
            if scope in source.scope_of(n).chain()
        )

    def _change(self, source: Source, one: Built, statement: ast.stmt) -> str:
        """Return what a statement changes of the model, in words; empty for nothing."""
        value = getattr(statement, "value", None)
        if not isinstance(value, ast.Call):
            return ""
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                key = dotted(target) or ast.unparse(target)
                if key.startswith((f"{one.key}.", f"{one.key}[")) and self._is_layer(source, value):
                    return f"{key} is replaced"
                if key == one.key and self._is_new(source, one, value):
                    return f"{key} becomes another model"
        func = value.func
        inner = func.value if isinstance(func, ast.Attribute) else None
        adds = isinstance(func, ast.Attribute) and func.attr in ADDING_METHODS
        if isinstance(func, ast.Attribute) and adds and dotted(inner) == one.key:
            return f"{one.key}.{func.attr}() adds parameters"
        if source.called(value) in PARAMETRISING and value.args:
            argument = dotted(value.args[0])
            if argument == one.key or argument.startswith(f"{one.key}."):
                return f"{source.called(value)}() replaces parameters of {argument}"
        return ""

    def _is_layer(self, source: Source, value: ast.Call) -> bool:
        info = source.origins.local_class(value)
        return source.called(value) in LAYERS or (
            info is not None and source.origins.is_module(info)
        )

    def _is_new(self, source: Source, one: Built, value: ast.Call) -> bool:
        name = source.called(value)
        mentions = any(dotted(n) == one.key for n in ast.walk(value) if isinstance(n, ast.Name))
        if name in WRAPPING and mentions:
            return True
        if mentions or name in {"load", "compile"}:
            return False
        return self._is_layer(source, value) or ".from_pretrained" in ast.unparse(value.func)

    def _finding(self, source: Source, one: Built, statement: ast.stmt, change: str) -> Finding:
        return self.at(
            source,
            statement,
            what=f"after the optimizer is built in line {one.call.lineno}, {change}",
            cause=(
                "the optimizer holds the parameters that the model had then, so the new ones are "
                "never updated"
            ),
            fix="change the model first and build the optimizer from its final parameters",
        )
