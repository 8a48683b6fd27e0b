"""Methods that are named and not called."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._edits import edit_fix, insert_after_node
from trimtab.lint._names import OPTIMIZERS
from trimtab.lint._rule import SourceRule
from trimtab.lint._scopes import dotted
from trimtab.lint._source import Source

METHODS: Final = {
    "step": "the optimizer or schedule never moves",
    "zero_grad": "the gradients are never cleared",
    "backward": "no gradient is ever computed",
    "eval": "the network stays in training mode",
    "train": "the network stays in its mode",
    "update": "the loss scale never changes",
}


@register
@dataclass(frozen=True, kw_only=True)
class MissingCall(SourceRule):
    """A method is named without being called, so nothing happens.

    Why: without its brackets `optimizer.step` is only an expression. Python evaluates it and throws
    it away without a word.
    Measured: a statement that is nothing but `x.step`, `x.zero_grad`, `x.backward`, `x.eval`,
    `x.train` or `x.update`; and an optimizer that is given `model.parameters`.
    Silent on: the same names in any other place.
    Fix: add the brackets.
    Source: Islam et al. 2019, arXiv:1906.01388 (API misuse).
    """

    code: ClassVar = "TT731"
    name: ClassVar = "missing-call"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.NO_LEARNING
    leads_to: ClassVar = ("TT4",)
    example: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step
"""
    good: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each method that is not called."""
        for statement in source.all(ast.Expr):
            value = statement.value
            if isinstance(value, ast.Attribute) and value.attr in METHODS and dotted(value):
                yield self._finding(source, value, METHODS[value.attr])
        for call in source.all(ast.Call):
            if source.called(call) in OPTIMIZERS and call.args:
                given = call.args[0]
                named = isinstance(given, ast.Attribute) and given.attr == "parameters"
                if isinstance(given, ast.Attribute) and named and self._is_method(source, given):
                    yield self._finding(source, given, "the optimizer is given no parameters")

    def _is_method(self, source: Source, given: ast.Attribute) -> bool:
        """Tell whether `x.parameters` is no attribute that the file's own class sets."""
        infos = source.origins.instances(given.value)
        return not any("parameters" in i.attributes for i in infos)

    def _finding(self, source: Source, node: ast.Attribute, effect: str) -> Finding:
        return self.at(
            source,
            node,
            what=f"the method {dotted(node)} is named and not called",
            cause=f"without brackets nothing happens: {effect}",
            fix=f"write {dotted(node)}()",
            remedy=edit_fix(insert_after_node(source, node, "()")),
        )
