"""TT012: a model that cannot learn even a few examples by heart."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._batch import rms
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._records import variation
from trimtab.preflight._subject import Subject
from trimtab.preflight._trials import run_overfit


@register
@dataclass(frozen=True, kw_only=True)
class CannotOverfitBatch(LiveRule):
    """A few examples cannot be learnt by heart, whatever the learning rate.

    Why: a network that works can learn a handful of examples in some dozens of steps. One that does
    no better than a constant guess has a fault between input and loss: units that are all dead, a
    graph that is cut, labels that do not belong to the inputs, inputs that never reach the output.

    Measured: Adam on at most 16 examples, at 3e-3, 3e-4 and 3e-2, with gradients clipped at 1 and
    the same random numbers (dropout, noise) each step. It stops as soon as the loss is clearly
    below that of the best constant guess, which takes most networks less than 30 steps. Where the
    time runs out before that, nothing is said.

    Silent on: models that have learnt their task already; fewer parameters than labels.

    Fix: find what cuts input from output; see the other findings first.

    Source: Karpathy 2019, "A Recipe for Training Neural Networks" (overfit one batch).
    """

    code: ClassVar[str] = "TT012"
    name: ClassVar[str] = "cannot-overfit-batch"
    severity: ClassVar[Severity] = Severity.WARNING
    symptom: ClassVar[Symptom] = Symptom.NO_LEARNING
    rank: ClassVar[int] = 85
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(8).expand(32, 8), torch.arange(32) % 3  # the same input each time
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    max_fitted: float = 0.5
    """Share of a constant guess's loss below which a model counts as trained already."""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding if the trial failed within its time."""
        if subject.settings.overfit_s <= 0 or not subject.measured.has_gradient:
            return
        trial = subject.once(run_overfit)
        if trial is None or trial.solved is not False:
            return
        if trial.baseline is not None and trial.initial < self.max_fitted * trial.baseline:
            return
        labels = subject.batch.tensors[-1].numel() * trial.num_examples / max(1, subject.batch.size)
        if sum(p.numel() for p in subject.trainable.values()) < 2 * labels:
            return
        guess = (
            ""
            if trial.baseline is None
            else (f"; the best constant guess has {trial.baseline:.3g}")
        )
        dead = [r for r in subject.passed.records if r.dead > 0.9]
        output = subject.passed.output
        silent = output is not None and variation(output) < 1e-4 * rms(output)
        yield self.finding(
            what=f"{trial.num_examples} examples could not be learnt by heart: the loss went from "
            f"{trial.initial:.3g} to {trial.best:.3g} at best in {trial.steps} steps{guess}",
            site=dead[0].name if dead else "",
            evidence=(
                Evidence(name="lowest loss", value=trial.best, normal=f"< {trial.goal:.3g}"),
            ),
            cause=f"{dead[0].dead:.0%} of the units of {dead[0].name} are dead: zero on every "
            "example, so nothing passes."
            if dead
            else "The output is the same for all examples: the input does not reach it."
            if silent
            else "The inputs say nothing about the labels, a part of the model gets no gradient, "
            "or the loss does not reward a right answer.",
            fix="check that inputs and labels belong together, that each layer's output varies "
            "with its input, and that nothing between output and loss cuts the gradient",
        )
