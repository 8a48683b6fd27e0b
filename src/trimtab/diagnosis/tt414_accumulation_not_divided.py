"""TT414 accumulation-not-divided: micro-batches are added up, not averaged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from trimtab.diagnosis._loop_rule import LoopRule, example_of, of, windows
from trimtab.diagnosis._trace import Event, Trace
from trimtab.findings import Evidence, Finding, Fix, register


@register
@dataclass(frozen=True, kw_only=True)
class AccumulationNotDivided(LoopRule):
    """Gradients of several micro-batches are added without dividing by their number.

    Why: each loss is a mean, so the sum over k micro-batches is k times the gradient of the whole
        batch. It acts like a learning rate k times as high, clips k times as often, and changes
        whenever the number of micro-batches does.

    Measured: in the loop body's own calls: several backward passes between two optimizer steps, of
        parts of a batch or in several calls, each starting from the undivided loss.

    Silent on: several losses of the same whole batch, as in a GAN or with auxiliary heads; losses
        that are sums themselves; gradients that are divided afterwards; steps that a GradScaler
        left out, whose gradients are cleared.

    Fix: divide each loss by the number of micro-batches before `backward()`, or weigh it by its
        samples or tokens as `trimtab.Stepper` does.

    Source: Unsloth and Hugging Face 2024, "Bugs in LLM training: gradient accumulation fix".
    """

    code: ClassVar = "TT414"
    name: ClassVar = "accumulation-not-divided"
    example: ClassVar = example_of(
        """
    optimizer.zero_grad()
    for part, labels in zip(x.chunk(4), y.chunk(4)):
        loss = loss_fn(model(part), labels)
        loss.backward()  # four times the gradient of the whole batch
    optimizer.step()
""",
    )

    tolerance: float = 0.05
    """Relative difference up to which a backward pass counts as starting from the loss itself."""

    def check(self, trace: Trace) -> Iterator[Finding]:
        """Yield one finding if most accumulation windows are undivided."""
        steps = windows(trace)
        undivided = [w for w in steps if self._is_undivided(w, trace)]
        if len(undivided) < 2 or 2 * len(undivided) < len(steps):
            return
        passes = _added_up(undivided[0])
        count = len(passes)
        yield self.at(
            passes[0],
            what=f"{count} micro-batches were added up for each optimizer step, and none of their "
            "losses was divided",
            evidence=(
                Evidence(name="loss given to backward() over the mean loss", value=1.0,
                         normal=f"1/{count}"),
            ),
            cause=f"gradient accumulation without division makes the gradient {count} times that "
            "of the whole batch, like a learning rate as many times too high",
            fix=f"call (loss / {count}).backward(), or use trimtab.Stepper(accumulate={count})",
            remedy=Fix(action="divide_loss", args={"by": count}),
        )  # fmt: skip

    def _is_undivided(self, window: Sequence[Event], trace: Trace) -> bool:
        passes = _added_up(window)
        if len(passes) < 2 or not _in_parts(window, passes, trace):
            return False
        if window[-1].facts["changed_by_hand"]:
            return False
        for event in passes:
            before = window[: window.index(event)]
            losses, scales = of(before, "loss"), of(before, "scale")
            loss = losses[-1].facts["value"] if losses else None
            if not loss or event.facts["value"] is None or losses[-1].facts["summed"]:
                return False
            scale = scales[-1].facts["scale"] if scales else 1.0
            if abs(event.facts["value"] / scale / loss - 1) > self.tolerance:
                return False
        return True


def _added_up(window: Sequence[Event]) -> list[Event]:
    """Return the backward passes whose gradients are still there at the step."""
    passes = of(window, "backward")
    clean = [i for i, event in enumerate(passes) if not event.facts["dirty"]]
    return passes[clean[-1] :] if clean else passes


def _in_parts(window: Sequence[Event], passes: Sequence[Event], trace: Trace) -> bool:
    """Tell whether the backward passes are of different examples."""
    if len({e.call for e in passes}) == len(passes):
        return True
    whole = [(e.facts["size"], trace.sizes[e.call]) for e in of(window, "forward")]
    return all(own[0] < given[0] and own[1] < given[1] for own, given in whole)
