"""Losses and what they are given."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trimtab.lint._edits import edit_fix, replace_node
from trimtab.lint._graph import is_without_gradients
from trimtab.lint._names import SHAPERS
from trimtab.lint._origins import reaching
from trimtab.lint._outputs import KINDS, Outputs, loss_arguments, loss_names
from trimtab.lint._scopes import LOOPS

if TYPE_CHECKING:
    from trimtab.findings import Fix
    from trimtab.lint._source import Source


@dataclass(frozen=True)
class LossCall:
    """One computation of a loss."""

    node: ast.Call
    name: str
    """Of the class or function: `CrossEntropyLoss`."""
    prediction: ast.expr
    target: ast.expr | None
    kinds: frozenset[str]
    """What the prediction certainly is; more than one where branches differ."""
    is_local: bool
    """Whether the activation is applied in the function that computes the loss."""


def loss_calls(source: "Source", wanted: frozenset[str]) -> Iterator[LossCall]:
    """Yield each call that certainly computes one of the wanted losses, those in training first."""
    if not any(name in source.text for name in wanted):
        return
    outputs = Outputs(source)
    for call in _in_training_first(source):
        names = loss_names(source, call)
        if not names or not names <= wanted:
            continue
        prediction, target = loss_arguments(call)
        if prediction is not None:
            kinds = frozenset(outputs.of(prediction))
            local = any(culprit(source, prediction, kind) is not None for kind in kinds)
            yield LossCall(call, min(names), prediction, target, kinds, local)


def _in_training_first(source: "Source") -> list[ast.Call]:
    """Return all calls, those in functions and loops that train before the others."""
    trained = {id(n) for t in source.traces for e in t.of("backward") for n in e.loops}
    functions = {source.function(e.node) for t in source.traces for e in t.of("backward")}

    def trains(call: ast.Call) -> bool:
        inner = next((n for n in source.around(call) if isinstance(n, LOOPS)), None)
        if inner is not None:
            return id(inner) in trained and not is_without_gradients(source, call)
        return source.function(call) in functions

    return sorted(source.all(ast.Call), key=lambda call: not trains(call))


def culprit(source: "Source", node: ast.expr, wanted: str, depth: int = 8) -> ast.Call | None:
    """Return the call in the caller's own function that applies an activation to a prediction."""
    if depth == 0:
        return None
    if isinstance(node, ast.Call):
        name = source.called(node)
        method = node.func.attr if isinstance(node.func, ast.Attribute) and not name else ""
        if KINDS.get(name or method) == wanted:
            return node
        if method in SHAPERS and isinstance(node.func, ast.Attribute):
            return culprit(source, node.func.value, wanted, depth - 1)
        if name in SHAPERS and node.args:
            return culprit(source, node.args[0], wanted, depth - 1)
        return None
    if isinstance(node, ast.Name | ast.Attribute):
        found = reaching(source, node)
        if len(found) == 1 and found[0].how == "assign" and found[0].value is not None:
            return culprit(source, found[0].value, wanted, depth - 1)
    return None


def unwrap(source: "Source", call: ast.Call, within: ast.expr) -> "Fix | None":
    """Return a remedy that takes an activation off, if it is written in the loss's own argument."""
    if call is not within:
        return None
    if isinstance(call.func, ast.Attribute) and not source.called(call):
        inner = call.func.value
    elif call.args and isinstance(call.args[0], ast.expr):
        inner = call.args[0]
    else:
        return None
    text = source.segment(inner)
    return None if "\n" in text else edit_fix(replace_node(source, call, text))


def loss_called(name: str) -> str:
    """Return "the loss", with its name where that says more."""
    return "the loss" if name == "loss" else f"the loss {name}"
