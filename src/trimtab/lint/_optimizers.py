"""Which model an optimizer was built from, and what happens to the model afterwards."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trimtab.lint._names import OPTIMIZERS
from trimtab.lint._scopes import FUNCTIONS, dotted, position

if TYPE_CHECKING:
    from trimtab.lint._source import Source


@dataclass(frozen=True)
class Built:
    """An optimizer that is built from `model.parameters()`."""

    call: ast.Call
    name: str
    """Of its class."""
    model: ast.expr
    """As written."""
    key: str
    """Dotted name of the model."""


def built(source: "Source") -> Iterator[Built]:
    """Yield each construction of an optimizer whose parameters are all of one named model."""
    for call in source.all(ast.Call):
        name = source.called(call)
        if name not in OPTIMIZERS:
            continue
        params = call.args[0] if call.args else None
        for each in call.keywords:
            params = each.value if each.arg == "params" else params
        model = whole_model(params)
        if model is not None and dotted(model):
            yield Built(call, name, model, dotted(model))


def whole_model(node: ast.expr | None) -> ast.expr | None:
    """Return M of `M.parameters()`, also within `list(...)` or a filter on `requires_grad`."""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr == "parameters":
            return node.func.value if not node.args and not node.keywords else None
        if dotted(node.func) == "list" and len(node.args) == 1:
            return whole_model(node.args[0])
        if dotted(node.func) == "filter" and len(node.args) == 2:
            return whole_model(node.args[1])
    if isinstance(node, ast.ListComp | ast.GeneratorExp) and len(node.generators) == 1:
        part = node.generators[0]
        if ast.unparse(part.target) == ast.unparse(node.elt):
            return whole_model(part.iter)
    return None


def later_statements(source: "Source", node: ast.AST) -> Iterator[ast.stmt]:
    """Yield the simple statements of the same function that certainly come after a node.

    Those in loops and branches that do not hold the node are left out, except blocks of `if` and
    `with` that come after it.
    """
    statement = source.statement(node)
    while True:
        parent = source.parent(statement)
        for name in ("body", "orelse", "finalbody"):
            block = getattr(parent, name, None)
            if isinstance(block, list) and statement in block:
                yield from _simple(block[block.index(statement) + 1 :])
        if not isinstance(parent, ast.stmt) or isinstance(parent, (*FUNCTIONS, ast.ClassDef)):
            return
        statement = parent


def _simple(block: list[ast.stmt]) -> Iterator[ast.stmt]:
    for each in block:
        if isinstance(each, (*FUNCTIONS, ast.ClassDef)):
            continue
        inner = [getattr(each, n, None) for n in ("body", "orelse", "finalbody")]
        blocks = [b for b in inner if isinstance(b, list) and b]
        if not blocks:
            yield each
        for b in blocks:
            yield from _simple(b)


def is_rebuilt(source: "Source", one: Built, before: ast.AST) -> bool:
    """Tell whether the optimizer is built anew, or given parameters, after a change."""
    here = position(one.call)
    for call in source.all(ast.Call):
        if source.scope_of(call) is not source.scope_of(one.call) or position(call) <= here:
            continue
        later = position(call) > position(before)
        if source.called(call) in OPTIMIZERS and later:
            return True
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_param_group":
            return True
    return False
