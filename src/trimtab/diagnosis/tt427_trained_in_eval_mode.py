"""TT427 trained-in-eval-mode: dropout and batch statistics are off while training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from trimtab.diagnosis._loop_rule import LoopRule, example_of, of, windows
from trimtab.diagnosis._trace import Event, Trace
from trimtab.findings import Evidence, Finding, Symptom, register


@register
@dataclass(frozen=True, kw_only=True)
class TrainedInEvalMode(LoopRule):
    """The model is in evaluation mode while it is trained.

    Why: dropout does nothing, and BatchNorm normalises by statistics that no longer move. Often
        an evaluation called `eval()`, and nothing called `train()` again.

    Measured: the mode of the model, and of its dropout and BatchNorm layers, in the forward passes
        before the last backward pass of each step.

    Silent on: models without such layers; single layers, or parts without trainable parameters,
        that are in evaluation mode on purpose; further passes in evaluation mode beside one in
        training mode, as for a teacher or for adversarial examples.

    Fix: call `model.train()` before the training steps, also after each evaluation.

    Source: Humbatova et al. 2020, arXiv:1910.11015; PyTorch, `nn.Module.eval`.
    """

    code: ClassVar = "TT427"
    name: ClassVar = "trained-in-eval-mode"
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    needs_loop: ClassVar = False
    example: ClassVar = example_of(
        """
    model.eval()
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
"""
    )

    def check(self, trace: Trace) -> Iterator[Finding]:
        """Yield one finding if most forward passes are in evaluation mode."""
        passes = [forwards for w in windows(trace) if (forwards := _last_pass(w))]
        wrong = [p for p in passes if not any(e.facts["training"] for e in p)]
        modal = list(trace.modal)
        if not modal or len(wrong) < 2 or 2 * len(wrong) < len(passes):
            return
        share = 1 - len(wrong) / len(passes)
        yield self.finding(
            site=modal[0],
            also=tuple(modal[1:]),
            what=f"{len(wrong)} of {len(passes)} training steps ran in evaluation mode",
            evidence=(Evidence(name="share in train mode", value=share, normal="1"),),
            cause=f"model.eval() switches off {len(modal)} dropout or BatchNorm layers, and "
            "nothing switched them on again",
            fix="call model.train() before training, and again after each evaluation",
        )


def _last_pass(window: Sequence[Event]) -> list[Event]:
    """Return the forward passes that belong to the last backward pass before a step."""
    passes = [i for i, e in enumerate(window) if e.kind == "backward"]
    if not passes:
        return []
    return of(window[passes[-2] if len(passes) > 1 else 0 : passes[-1]], "forward")
