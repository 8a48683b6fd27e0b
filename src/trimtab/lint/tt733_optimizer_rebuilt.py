"""An optimizer that is built anew in every epoch or step."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._names import ADAPTIVE
from trimtab.lint._optimizers import Built, built
from trimtab.lint._rule import SourceRule
from trimtab.lint._scopes import LOOPS
from trimtab.lint._source import Source

OTHER_LOOPS: Final = re.compile(
    r"(?i)fold|seed|trial|run|round|client|task|restart|stage|phase|repeat|experiment|config|lr"
)
"""Loops that train anew, or train something else, each time."""

ANEW: Final = ("load_state_dict", "deepcopy", "reset_parameters", "requires_grad", "add_module")
"""What says that the model is another one at each pass."""


@register
@dataclass(frozen=True, kw_only=True)
class OptimizerRebuilt(SourceRule):
    """The optimizer is built anew in every epoch or step, so it forgets what it has learnt.

    Why: Adam's moments and step count, and SGD's momentum, live in the optimizer. Built anew, Adam
    begins each epoch with the large and noisy first steps that warm-up is there to tame, and a
    learning-rate schedule drives an optimizer that is not used any more.
    Measured: an optimizer with state is built inside a loop over epochs or batches, for a model
    that is made outside of it, and steps in the same loop.
    Silent on: loops over folds, seeds, rounds, tasks and the like, and branches.
    Fix: build the optimizer once, before the loop; set `group["lr"]` to change its learning rate.
    Source: Kingma & Ba 2015, arXiv:1412.6980, section 3; Liu et al. 2020, arXiv:1908.03265.
    """

    code: ClassVar = "TT733"
    name: ClassVar = "optimizer-rebuilt"
    severity: ClassVar = Severity.WARNING
    symptom: ClassVar = Symptom.SLOW_CONVERGENCE
    rank: ClassVar[int] = 20
    leads_to: ClassVar = ("TT4",)
    example: ClassVar = """\
import torch

model = Net()
for epoch in range(10):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
"""
    good: ClassVar = """\
import torch

model = Net()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for epoch in range(10):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each optimizer that is built in a loop."""
        for one in built(source):
            loop = self._loop(source, one)
            if loop is not None and self._keeps_state(one) and self._is_outside(source, one, loop):
                yield self._finding(source, one, loop)

    def _keeps_state(self, one: Built) -> bool:
        return one.name in ADAPTIVE or any(k.arg == "momentum" for k in one.call.keywords)

    def _loop(self, source: Source, one: Built) -> ast.For | None:
        """Return the loop over epochs or batches that builds it at every pass."""
        found: ast.For | None = None
        for node in source.around(one.call):
            if isinstance(node, ast.If | ast.Try | ast.FunctionDef | ast.While):
                return found
            if isinstance(node, ast.For):
                text = f"{ast.unparse(node.target)} {ast.unparse(node.iter)}"
                if OTHER_LOOPS.search(re.sub(r"(?i)train|range|trange", "", text)):
                    return None
                if found is None and re.search(r"(?i)epoch|loader|batch", text):
                    found = node
        return found

    def _is_outside(self, source: Source, one: Built, loop: ast.For) -> bool:
        """Tell whether the model is made, or comes, from outside the loop, and trains within."""
        scope = source.scope_of(one.call)
        for found in scope.find(one.key):
            if any(n is loop for n in source.around(found.node)):
                return False
        if any(isinstance(n, LOOPS) for n in source.around(loop)):
            return False
        text = ast.unparse(loop)
        if any(word in text for word in ANEW):
            return False
        return any(loop in e.loops for trace in source.traces for e in trace.of("step"))

    def _finding(self, source: Source, one: Built, loop: ast.For) -> Finding:
        return self.at(
            source,
            one.call,
            what=f"{one.name} is built anew at every pass of the loop in line {loop.lineno}",
            cause=(
                "its moments and step count start from zero each time, so it never knows more than "
                "one pass, and a learning rate schedule drives an optimizer that is gone"
            ),
            fix="build the optimizer once, before the loop",
        )
