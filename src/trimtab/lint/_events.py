"""Which calls and statements matter for training, and what each of them is."""

import ast
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from trimtab.lint._names import FRAMEWORK_NAME, LOSS_NAME
from trimtab.lint._origins import reaching
from trimtab.lint._scopes import dotted
from trimtab.lint._source import is_constant, keyword, last_name
from trimtab.lint._trace import Context, Event, Kind

if TYPE_CHECKING:
    from trimtab.lint._source import Source

CLIPPERS: Final = frozenset({"clip_grad_norm_", "clip_grad_value_", "clip_grad_norm"})
GRADIENT_METHODS: Final[dict[str, Kind]] = {
    "zero_": "zero",
    "fill_": "zero",
    "clamp_": "clip",
    "clip_": "clip",
}
"""Methods that do this when they are called on a `.grad`."""
FRAMEWORK_BACKWARDS: Final = frozenset({"manual_backward"})


def classify(source: "Source", node: ast.Call | ast.stmt, context: Context) -> Iterator[Event]:
    """Yield the events that a call or a simple statement is; a call that is none is a `call`."""
    if isinstance(node, ast.Call):
        yield _call(source, node, context)
    elif _clears_by_hand(node):
        yield Event("zero", node, context)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Attribute):
        yield from _meant(source, node, node.value, context)


def _meant(
    source: "Source", node: ast.Expr, value: ast.Attribute, context: Context
) -> Iterator[Event]:
    """Yield what a method would be that is named and not called: one fault is told once."""
    call = ast.Call(func=value, args=[], keywords=[])
    found = _method(source, ast.copy_location(call, value), value, context)
    if found is not None:
        yield replace(found, node=node)


def _call(source: "Source", node: ast.Call, context: Context) -> Event:
    if source.called(node) in CLIPPERS:
        return Event("clip", node, context, subject=node.args[0] if node.args else None)
    if source.qualname(node.func) == "torch.autograd.backward":
        return Event("backward", node, context, loss=keyword(node, "tensors", 0))
    if isinstance(node.func, ast.Attribute):
        found = _method(source, node, node.func, context)
        if found is not None:
            return found
    if source.origins.is_model(node.func) and not source.called(node):
        return Event("forward", node, context, context.key(node.func), node.func)
    return Event("call", node, context)


def _method(
    source: "Source", node: ast.Call, func: ast.Attribute, context: Context
) -> Event | None:
    name, subject, key = func.attr, func.value, context.key(func.value)
    if name in {"backward", *FRAMEWORK_BACKWARDS}:
        return _backward(source, node, func, context)
    if name == "step":
        return _step(source, node, subject, context)
    if name in CLIPPERS:
        return Event("clip", node, context, key, subject, via="framework")
    if name == "zero_grad":
        return Event("zero", node, context, key, subject)
    if name in {"unscale_", "unscale_gradients"}:
        argument = node.args[0] if node.args else None
        return Event("unscale", node, context, context.key(argument), argument)
    if name == "update" and source.origins.is_scaler(subject):
        return Event("update", node, context, key, subject)
    if name in {"train", "eval"} and (not node.args or name == "train"):
        return _mode(source, node, subject, context)
    if name in GRADIENT_METHODS and _is_gradient(subject):
        return Event(GRADIENT_METHODS[name], node, context)
    if name in {"forward", "generate"} and source.origins.is_model(subject):
        return Event("forward", node, context, key, subject)
    return None


def _backward(source: "Source", node: ast.Call, func: ast.Attribute, context: Context) -> Event:
    subject, argument = func.value, node.args[0] if node.args else None
    module = dotted(subject).partition(".")[0] in source.aliases  # dist_autograd.backward(...)
    if func.attr in FRAMEWORK_BACKWARDS or (module and argument is not None):
        return Event("backward", node, context, loss=argument, via="framework")
    if argument is not None and not is_constant(argument, None):
        plain = LOSS_NAME.search(dotted(subject)) or not LOSS_NAME.search(ast.unparse(argument))
        if FRAMEWORK_NAME.search(dotted(subject)) or not plain:
            return Event(
                "backward", node, context, context.key(subject), subject, argument, "framework"
            )
    scaled = scaled_loss(source, subject)
    if scaled is not None:
        scaler = scaled.func.value if isinstance(scaled.func, ast.Attribute) else None
        loss = scaled.args[0] if scaled.args else None
        return Event("backward", node, context, context.key(scaler), scaler, loss, "scaler")
    if any("scale_loss" in ast.unparse(w) for w in context.withs):  # apex
        return Event("backward", node, context, loss=subject, via="framework")
    return Event("backward", node, context, loss=subject)


def scaled_loss(source: "Source", subject: ast.expr) -> ast.Call | None:
    """Return the `scaler.scale(loss)` that is, or has made, what `backward` is called on."""
    if isinstance(subject, ast.Call):
        if isinstance(subject.func, ast.Attribute) and subject.func.attr == "scale":
            return subject
        inner = (scaled_loss(source, a) for a in subject.args)  # cast(Tensor, scaler.scale(loss))
        return next((found for found in inner if found is not None), None)
    if isinstance(subject, ast.Name | ast.Attribute):
        for each in reaching(source, subject)[:1]:
            value = each.value if each.how == "assign" and each.index is None else None
            if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
                return value if value.func.attr == "scale" else None
    return None


def _step(source: "Source", node: ast.Call, subject: ast.expr, context: Context) -> Event | None:
    origins, argument = source.origins, node.args[0] if node.args else None
    if origins.is_scheduler(subject):
        return Event("schedule", node, context, context.key(subject), subject)
    if argument is not None and origins.is_scaler(subject):
        return Event("step", node, context, context.key(argument), argument, via="scaler")
    if origins.is_optimizer(subject):
        return Event("step", node, context, context.key(subject), subject)
    if FRAMEWORK_NAME.search(last_name(dotted(subject))) and not node.args:
        return Event("step", node, context, context.key(subject), subject, via="framework")
    return None


def _mode(source: "Source", node: ast.Call, subject: ast.expr, context: Context) -> Event | None:
    assert isinstance(node.func, ast.Attribute)
    if not dotted(subject):
        return None
    detail = node.func.attr
    if node.args:
        value = node.args[0]
        if not isinstance(value, ast.Constant):
            detail = "unknown"
        elif not value.value:
            detail = "eval"
    if not (source.origins.is_model(subject) or detail == "eval" or not node.args):
        return None
    return Event("mode", node, context, context.key(subject), subject, detail=detail)


def _is_gradient(node: ast.expr) -> bool:
    text = dotted(node)
    return text.endswith((".grad", ".grad.data"))


def _clears_by_hand(node: ast.stmt) -> bool:
    """Tell whether a statement is `p.grad = ...`."""
    if isinstance(node, ast.Assign):
        return any(dotted(t).endswith(".grad") for t in node.targets)
    return False
