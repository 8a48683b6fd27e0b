"""What learning-rate schedules are built for: steps or epochs, and whose learning rate."""

import ast
import re
from typing import TYPE_CHECKING, Final, Literal

from trimtab.lint._names import SCHEDULERS
from trimtab.lint._scopes import dotted
from trimtab.lint._source import keyword, names_in

if TYPE_CHECKING:
    from trimtab.lint._source import Source
    from trimtab.lint._trace import Event

STEP_WORDS: Final = re.compile(
    r"""(?ix)
    (^|_|\b)(total|num|n|max|train|training|t)_?(train|training|optimization)?_?
    (steps|iters|iterations)\b|\w+_per_epoch|num_batches
    """
)
EPOCH_WORDS: Final = re.compile(r"(?i)epoch")
HORIZONS: Final = {
    "OneCycleLR": (("total_steps", 2),),
    "CosineAnnealingLR": (("T_max", 1),),
    "CosineAnnealingWarmRestarts": (("T_0", 1),),
    "StepLR": (("step_size", 1),),
    "LinearLR": (("total_iters", 3),),
    "PolynomialLR": (("total_iters", 1),),
    "get_scheduler": (("num_training_steps", 3),),
    "get_linear_schedule_with_warmup": (("num_training_steps", 2),),
    "get_cosine_schedule_with_warmup": (("num_training_steps", 2),),
    "get_cosine_with_hard_restarts_schedule_with_warmup": (("num_training_steps", 2),),
    "get_polynomial_decay_schedule_with_warmup": (("num_training_steps", 2),),
    "get_constant_schedule_with_warmup": (("num_warmup_steps", 1),),
}
"""Arguments that say how long a schedule lasts, with their places."""

Unit = Literal["step", "epoch"]

SHORT: Final = 300
"""Lengths up to this, written as plain numbers, are of epochs: a run of so few steps needs no
schedule."""
FAST_DECAY: Final = 0.98
"""Factors below this, applied at every batch, take a learning rate below a tenth within 114."""


def constructors(source: "Source", subject: ast.expr | None) -> list[ast.Call]:
    """Return the calls that can have made a schedule."""
    return [
        o
        for o in source.origins.of(subject)
        if isinstance(o, ast.Call) and source.called(o) in SCHEDULERS
    ]


def drives(source: "Source", schedule: "Event", step: "Event") -> bool:
    """Tell whether a schedule can set the learning rate of the optimizer that steps."""
    made = constructors(source, schedule.subject)
    given = [keyword(c, "optimizer", 1 if source.called(c) == "get_scheduler" else 0) for c in made]
    wanted = [g for g in given if g is not None]
    if not wanted or step.subject is None:
        return True
    mine = {o for g in wanted for o in source.origins.of(g)}
    theirs = set(source.origins.of(step.subject))
    if mine & theirs:
        return True
    calls = (isinstance(o, ast.Call) for o in mine | theirs)
    names = {dotted(g).rpartition(".")[2] for g in wanted}
    same = step.key.rpartition(".")[2] in names
    return same or not (mine and theirs and all(calls))


def expanded(source: "Source", node: ast.expr | None, depth: int = 3) -> str:
    """Return an expression's text with that of what its names stand for."""
    if node is None:
        return ""
    text = ast.unparse(node)
    if depth == 0:
        return text
    scope = source.scope_of(node)
    for name in sorted(names_in(node)):
        for found in scope.find(name):
            if found.how == "param":
                for value in source.origins.arguments(found):
                    text += " " + expanded(source, value, depth - 1)
            elif found.how == "assign" and found.index is None and found.value is not node:
                text += " " + expanded(source, found.value, depth - 1)
    return text


def unit_of(source: "Source", call: ast.Call) -> Unit | None:
    """Return what a schedule counts, judged by its arguments; None if that is not certain."""
    name = source.called(call)
    if name in {"SequentialLR", "ChainedScheduler"}:
        parts = [p for p in ast.walk(call) if isinstance(p, ast.Call) and p is not call]
        inner = {u for p in parts if source.called(p) in SCHEDULERS for u in [unit_of(source, p)]}
        return inner.pop() if len(inner) == 1 else None
    if name == "OneCycleLR":
        per_epoch = keyword(call, "steps_per_epoch", 4)
        one = isinstance(per_epoch, ast.Constant) and per_epoch.value in {1, None}
        if per_epoch is not None and not one:
            return "step"
    if name == "ReduceLROnPlateau":
        return "epoch"
    if name == "ExponentialLR":
        gamma = _number(keyword(call, "gamma", 1))
        return "epoch" if gamma is not None and gamma < FAST_DECAY else None
    if name == "MultiStepLR":
        return _of_milestones(source, keyword(call, "milestones", 1))
    for argument, place in HORIZONS.get(name, ()):
        found = keyword(call, argument, place)
        if found is not None:
            return _of_horizon(source, call, found)
    return None


def _of_horizon(source: "Source", call: ast.Call, horizon: ast.expr) -> Unit | None:
    text = expanded(source, horizon)
    counts = re.search(r"\blen\(", text) or STEP_WORDS.search(text)
    if counts:
        return "step"
    if EPOCH_WORDS.search(text):
        return "epoch"
    values = {_number(o) for o in source.origins.of(horizon)}
    number = values.pop() if len(values) == 1 else None
    name = source.called(call)
    if number is None:
        return None
    if name == "StepLR":
        gamma = _number(keyword(call, "gamma", 2))
        decay = 0.1 if keyword(call, "gamma", 2) is None else gamma
        certain = decay is not None and decay <= 0.7 and number <= SHORT
        return "epoch" if certain else None
    if name == "CosineAnnealingLR":
        return "epoch" if number <= SHORT else None
    return None


def _of_milestones(source: "Source", node: ast.expr | None) -> Unit | None:
    found = [o for o in source.origins.of(node) if isinstance(o, ast.List | ast.Tuple)]
    if len(found) != 1:
        return "epoch" if EPOCH_WORDS.search(expanded(source, node)) else None
    numbers = [_number(e) for e in found[0].elts]
    if numbers and all(n is not None and n <= SHORT for n in numbers):
        return "epoch"
    return None


def _number(node: ast.expr | None) -> float | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    return None
