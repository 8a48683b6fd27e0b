"""TT428 loss-not-connected: the backward pass reaches no parameter."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from trimtab.diagnosis._loop_rule import LoopRule, example_of, of, windows
from trimtab.diagnosis._trace import Event, Trace
from trimtab.findings import Evidence, Finding, Symptom, register


@register
@dataclass(frozen=True, kw_only=True)
class LossNotConnected(LoopRule):
    """The backward pass runs, and no parameter receives a gradient.

    Why: somewhere between the model and the loss the graph was cut: by `.item()`, `.detach()`,
        `.data`, NumPy, `argmax`, or a new `torch.tensor(loss)`. Setting `requires_grad` on the
        result silences the error, not the fault.

    Measured: which parameters' gradients a `backward()` touches, be it with zeros.

    Silent on: a gradient that is cleared too early (TT421); gradients that are all zero, as of dead
        units or of a hinge loss without a violation.

    Fix: compute the loss from the model's output with tensor operations alone.

    Source: Islam et al. 2019, arXiv:1906.01388.
    """

    code: ClassVar = "TT428"
    name: ClassVar = "loss-not-connected"
    symptom: ClassVar = Symptom.NO_LEARNING
    needs_loop: ClassVar = False
    example: ClassVar = example_of(
        """
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss = torch.tensor(loss.item(), requires_grad=True)  # a new leaf
    loss.backward()
    optimizer.step()
"""
    )

    def check(self, trace: Trace) -> Iterator[Finding]:
        """Yield one finding if no step finds a gradient after its backward pass."""
        steps = [w for w in windows(trace) if of(w, "backward")]
        bare = [w for w in steps if not _reaches(w)]
        if len(bare) < 2 or len(bare) < len(steps):
            return
        yield self.at(
            of(bare[0], "backward")[0],
            what=f"{len(bare)} backward passes gave no parameter a gradient",
            evidence=(Evidence(name="steps with a gradient", value=0.0, normal=str(len(steps))),),
            cause="the loss is cut off from the model: by item(), detach(), .data, NumPy, argmax "
            "or a new torch.tensor",
            fix="compute the loss from the model's output by tensor operations, and remove "
            "requires_grad_ from it",
        )


def _reaches(window: Sequence[Event]) -> bool:
    received = any(e.facts["reached"] for e in of(window, "backward"))
    return received or bool(window[-1].facts["has_gradients"])
