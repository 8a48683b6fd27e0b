"""Whether gradients flow through an expression back to a network."""

import ast
from typing import TYPE_CHECKING, Final, Literal

from trimtab.lint._names import (
    DATA_NAME,
    LOSS_FUNCTION_NAME,
    OPTIMIZERS,
    SHAPERS,
    TARGET_NAME,
    words,
)
from trimtab.lint._origins import reaching
from trimtab.lint._outputs import loss_names
from trimtab.lint._scopes import FUNCTIONS, Definition, dotted
from trimtab.lint._source import is_constant, keyword, last_name, names_in

if TYPE_CHECKING:
    from trimtab.lint._source import Source

State = Literal["alive", "cut", "data"]
"""Gradients may flow; they are certainly cut off; there never were any."""

CUTTING_METHODS: Final = frozenset({"detach", "item", "numpy", "tolist", "argmax", "detach_"})
CUTTING_CALLS: Final = frozenset({"argmax", "tensor", "as_tensor", "from_numpy"})
KEEPING: Final = words(
    "mean sum float log exp abs neg pow sqrt clamp add mul sub div squeeze "
    "log_softmax softmax sigmoid tanh relu unsqueeze cat stack"
)
"""Operations of tensors that gradients pass, and that hold no parameters themselves."""
DEPTH: Final = 16


class Graph:
    """Follows losses back along the gradients' path."""

    def __init__(self, source: "Source") -> None:
        self.source = source
        self.cuts: list[ast.AST] = []
        """Where the path of the last call of `of` was cut, nearest to the loss first."""
        self._busy: set[ast.AST] = set()

    def of(self, node: ast.expr | None) -> State:
        """Return what is certain about the gradients of an expression."""
        self.cuts = []
        return self._of(node)

    def _of(self, node: ast.expr | None) -> State:
        if node is None or node in self._busy or len(self._busy) > DEPTH:
            return "alive"
        self._busy.add(node)
        try:
            return self._judge(node)
        finally:
            self._busy.discard(node)

    def _judge(self, node: ast.expr) -> State:
        if isinstance(node, ast.Constant):
            return "data"
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.Attribute) and node.attr == "data":
            return self._cut(node, node.value)
        if isinstance(node, ast.Name | ast.Attribute):
            return self._name(node)
        if isinstance(node, ast.BinOp):
            return self._all([node.left, node.right])
        if isinstance(node, ast.UnaryOp):
            return self._of(node.operand)
        if isinstance(node, ast.Compare):
            return self._cut(node, node.left)
        if isinstance(node, ast.Subscript):
            return self._subscript(node)
        return "alive"

    def _subscript(self, node: ast.Subscript) -> State:
        value = node.value
        indices = isinstance(value, ast.Call) and is_constant(node.slice, 1)
        if indices and isinstance(value, ast.Call) and self._op(value) in {"max", "topk", "sort"}:
            return self._cut(node, self._operand(value))
        return self._of(value)

    def _cut(self, node: ast.AST, what: ast.expr | None) -> State:
        """Return `cut` if what is cut off had gradients, `data` otherwise."""
        if what is None or self._of(what) == "data":
            return "data"
        self.cuts.append(node)
        return "cut"

    def _all(self, nodes: list[ast.expr]) -> State:
        states = [self._of(n) for n in nodes]
        if "alive" in states:
            return "alive"
        return "cut" if "cut" in states else "data"

    def _op(self, call: ast.Call) -> str:
        name = self.source.called(call)
        if not name and isinstance(call.func, ast.Attribute):
            return call.func.attr
        return name

    def _operand(self, call: ast.Call) -> ast.expr | None:
        if self.source.called(call):
            return call.args[0] if call.args else None
        return call.func.value if isinstance(call.func, ast.Attribute) else None

    def _call(self, call: ast.Call) -> State:
        if is_without_gradients(self.source, call) and self._is_network(call):
            self.cuts.append(call)
            return "cut"
        cut = self._cutting(call)
        if cut is not None:
            return cut
        name = self.source.called(call)
        if name in SHAPERS | KEEPING and self._is_of(call, "torch"):
            return self._all(list(call.args[:1]))
        if not name and isinstance(call.func, ast.Attribute):
            if call.func.attr == "requires_grad_" and self._is_wanted(call):
                return "alive"  # a new leaf
            if call.func.attr in SHAPERS | KEEPING:
                return self._of(call.func.value)
        if self._is_loss(call):
            passed = [*call.args, *(k.value for k in call.keywords)]
            return self._all([p for p in passed if not isinstance(p, ast.Starred)])
        return "alive"

    def _cutting(self, call: ast.Call) -> State | None:
        """Judge calls that return a value without its history; None for others."""
        name = self.source.called(call)
        first = call.args[0] if call.args else None
        if not name and isinstance(call.func, ast.Attribute):
            return self._cut(call, call.func.value) if call.func.attr in CUTTING_METHODS else None
        if name in CUTTING_CALLS and self._is_of(call, "torch", "numpy"):
            if isinstance(first, ast.Constant | ast.List | ast.Tuple | ast.UnaryOp):
                return "data" if keyword(call, "requires_grad") is None else "alive"  # a leaf
            return self._cut(call, first)
        if name in {"Variable", "FloatTensor"} and first is not None:
            return self._of(first)
        return self._cut(call, first) if name == "float" else None

    def _is_of(self, call: ast.Call, *packages: str) -> bool:
        return self.source.qualname(call.func).startswith(packages)

    def _is_loss(self, call: ast.Call) -> bool:
        if loss_names(self.source, call):
            return True
        known = self.source.origins.of(call.func)
        unknown = all(isinstance(o, ast.Name | ast.Attribute) for o in known)
        return unknown and bool(LOSS_FUNCTION_NAME.search(last_name(dotted(call.func))))

    def _is_network(self, call: ast.Call) -> bool:
        return self.source.origins.is_model(call.func) and not self.source.called(call)

    def _name(self, node: ast.expr) -> State:
        if self._is_made_leaf(node):
            return "alive"
        found = reaching(self.source, node)
        if not found:
            name = last_name(dotted(node))
            known = TARGET_NAME.search(name) or DATA_NAME.search(name)
            return "data" if known and isinstance(node, ast.Name) else "alive"
        states = [self._definition(d, node) for d in found]
        if "alive" in states:
            return "alive"
        return "cut" if "cut" in states else "data"

    def _is_made_leaf(self, node: ast.expr) -> bool:
        """Tell whether gradients of a tensor are asked for, and used: `x.requires_grad_()`."""
        key = dotted(node)
        asked = "requires_grad_" in self.source.text and any(
            isinstance(n.func, ast.Attribute)
            and n.func.attr == "requires_grad_"
            and dotted(n.func.value) == key
            for n in self.source.all(ast.Call)
        )
        scope = self.source.scope_of(node)
        return bool(asked or scope.definitions.get(f"{key}.requires_grad")) and self._is_used(key)

    def _is_wanted(self, call: ast.Call) -> bool:
        """Tell whether the gradients of a leaf are used that a statement makes."""
        statement = self.source.statement(call)
        if not isinstance(statement, ast.Assign):
            return False
        return any(self._is_used(dotted(t)) for t in statement.targets)

    def _is_used(self, key: str) -> bool:
        """Tell whether something reads a tensor's gradient, or an optimizer moves the tensor."""
        if not key:
            return False
        if self.source.mentions("autograd.grad"):
            return True
        if any(n.attr == "grad" and dotted(n.value) == key for n in self.source.all(ast.Attribute)):
            return True
        return any(
            self.source.called(c) in OPTIMIZERS and any(key in names_in(a) for a in c.args)
            for c in self.source.all(ast.Call)
        )

    def _definition(self, found: Definition, node: ast.expr) -> State:
        if found.how in {"loop", "param"}:
            name = last_name(found.key)
            if found.how == "loop" and _is_loader(found):
                return "data"
            known = TARGET_NAME.search(name) or DATA_NAME.search(name)
            return "data" if known else "alive"
        if found.how == "augment":
            return self._of(found.value)
        if found.how != "assign":
            return "alive"
        if found.index is not None:
            return self._unpacked(found)
        del node
        return self._of(found.value)

    def _unpacked(self, found: Definition) -> State:
        value, index = found.value, found.index or 0
        if isinstance(value, ast.Tuple) and index < len(value.elts):
            return self._of(value.elts[index])
        if isinstance(value, ast.Call) and index == 1 and self._op(value) in {"max", "topk"}:
            return self._cut(value, self._operand(value))
        if isinstance(value, ast.Name | ast.Subscript | ast.Call):
            return self._of(value)
        return "alive"


def is_no_grad(text: str) -> bool:
    """Tell whether the expression of a `with` turns gradients off."""
    if "set_grad_enabled" in text:
        return text.endswith(("(False)", "mode=False)"))
    return any(word in text for word in ("no_grad", "inference_mode")) and "(False)" not in text


def is_without_gradients(source: "Source", node: ast.AST) -> bool:
    """Tell whether a node is in a block without gradients, within its function."""
    for outer in source.around(node):
        if isinstance(outer, ast.With):
            texts = [ast.unparse(i.context_expr) for i in outer.items]
            if any(is_no_grad(t) for t in texts):
                return True
            if any("enable_grad" in t or "set_grad_enabled" in t for t in texts):
                return False
        if isinstance(outer, FUNCTIONS):
            return any(is_no_grad(ast.unparse(d)) for d in outer.decorator_list)
    return False


def _is_loader(found: Definition) -> bool:
    text = ast.unparse(found.value) if found.value is not None else ""
    words = ("loader", "_dl", "dataset", "batches", "_iter", "data")
    return any(w in text.lower() for w in words) and "optim" not in text


def roots_of(source: "Source", node: ast.expr) -> set[str]:
    """Return every name that an expression is computed from, within its function."""
    scope = source.scope_of(node)
    known: set[str] = set()
    waiting = list(names_in(node))
    while waiting:
        name = waiting.pop()
        if name in known:
            continue
        known.add(name)
        for each in scope.definitions.get(name, ()):
            if each.value is not None and each.how != "param":
                waiting += names_in(each.value)
    return known
