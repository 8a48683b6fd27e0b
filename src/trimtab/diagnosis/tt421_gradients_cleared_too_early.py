"""TT421 gradients-cleared-too-early: the optimizer finds no gradient."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.diagnosis._loop_rule import LoopRule, example_of, of, windows
from trimtab.diagnosis._trace import Trace
from trimtab.findings import Evidence, Finding, Symptom, register


@register
@dataclass(frozen=True, kw_only=True)
class GradientsClearedTooEarly(LoopRule):
    """Gradients are cleared between the backward pass and the optimizer step.

    Why: the optimizer then finds nothing to follow, and the model never changes.

    Measured: in the loop body's own calls: `zero_grad()` after the last `backward()` and before
        `optimizer.step()`, with no gradient left at the step; or gradients that were there after
        `backward()` and are gone at the step, whoever took them.

    Fix: move `zero_grad()` before `backward()` or after `optimizer.step()`.

    Source: Humbatova et al. 2020, arXiv:1910.11015, "wrong order of training operations".
    """

    code: ClassVar = "TT421"
    name: ClassVar = "gradients-cleared-too-early"
    symptom: ClassVar = Symptom.NO_LEARNING
    example: ClassVar = example_of(
        """
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.zero_grad()  # too early
    optimizer.step()
""",
    )

    def check(self, trace: Trace) -> Iterator[Finding]:
        """Yield one finding if most steps find their gradients cleared."""
        steps = windows(trace)
        seen = []
        for window in steps:
            passes, cleared = of(window, "backward"), of(window, "zero")
            late = passes and cleared and window.index(cleared[-1]) > window.index(passes[-1])
            if late and not window[-1].facts["has_gradients"]:
                seen.append(cleared[-1])
            elif passes and window[-1].facts["removed"]:
                seen.append(window[-1])
        if len(seen) < 2 or 2 * len(seen) < len(steps):
            return
        yield self.at(
            seen[0],
            what=f"gradients were cleared between backward() and step() in {len(seen)} of "
            f"{len(steps)} watched steps",
            evidence=(Evidence(name="steps with a gradient", value=float(len(steps) - len(seen)),
                               normal=str(len(steps))),),
            cause="zero_grad() comes too early, so the optimizer finds nothing to follow",
            fix="move zero_grad() before loss.backward(), or after optimizer.step()",
        )  # fmt: skip
