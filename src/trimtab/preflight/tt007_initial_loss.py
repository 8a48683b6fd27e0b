"""TT007: a first loss far above that of guessing."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._baseline import mean_loss
from trimtab.preflight._batch import rms
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._loss_calls import BINARY, REGRESSION, LossCall
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class InitialLoss(LiveRule):
    """The loss starts far above that of a model which knows nothing.

    Why: a network without knowledge should guess: ln C for C classes, ln 2 for yes or no, the
    variance of the targets in regression. Far above it the network is confidently wrong, since its
    output layer starts too large, or the targets are of another scale than any output; the first
    steps are then spent on unlearning, with large gradients.

    Measured: the mean of the loss function's own inputs, without class weights and reduction.

    Silent on: fine-tuning, which starts below; losses that are not known; smoothed or soft labels
    within the same limits.

    Fix: initialise the output layer small (`trimtab.init.auto_`); standardise regression targets.

    Source: Karpathy 2019, "A Recipe for Training Neural Networks" (verify loss at init).
    """

    code: ClassVar[str] = "TT007"
    name: ClassVar[str] = "initial-loss"
    severity: ClassVar[Severity] = Severity.WARNING
    symptom: ClassVar[Symptom] = Symptom.SLOW_CONVERGENCE
    leads_to: ClassVar[tuple[str, ...]] = ("TT012", "TT020", "TT1", "TT3")
    rank: ClassVar[int] = 38
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
nn.init.normal_(model[2].weight, std=10.0)
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(32, 8), torch.randint(3, (32,))
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    max_excess: float = 3.0
    """Nats above guessing that are tolerable: the right class is then 20 times less likely than by
    chance. PyTorch's default initialisation has below 0.1, He's on the output layer up to 2.4."""
    advice_excess: float = 1.0
    """Nats from which on it is worth knowing."""
    max_target_scale: float = 30.0
    """Largest healthy RMS of regression targets. Adam moves an output bias by its learning rate a
    step, so targets of 100 take it 100,000 steps at 1e-3."""
    max_output_ratio: float = 30.0
    """Largest healthy mean squared first output, relative to the targets' mean square."""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding for a known loss."""
        call = subject.passed.call
        if call is None or not subject.finite_batch or not math.isfinite(subject.passed.loss):
            return
        if call.name in REGRESSION | {"difference"}:
            yield from self._regression(call)
        elif call.name in BINARY or call.name == "cross_entropy":
            yield from self._classification(call)

    def _classification(self, call: LossCall) -> Iterator[Finding]:
        mean = mean_loss(call)
        chance = math.log(2 if call.name in BINARY else max(2, call.num_classes))
        if mean is None or not mean - chance > self.advice_excess:
            return
        guess = "ln 2" if call.name in BINARY else f"ln {call.num_classes}"
        strong = mean - chance > self.max_excess
        yield self.finding(
            what=f"the first loss is {mean:.3g}, while guessing has {guess} = {chance:.3g}",
            severity=Severity.WARNING if strong else Severity.ADVICE,
            evidence=(
                Evidence(
                    name="first loss",
                    value=mean,
                    normal=f"<= {chance + self.max_excess:.3g}",
                ),
                Evidence(name="RMS of the outputs", value=rms(call.input), normal="below about 2"),
            ),
            cause="The model is confidently wrong from the start: the initial weights of its "
            "output layer, or what reaches it, are too large.",
            fix="initialise the output layer with small weights, as trimtab.init.auto_(model) "
            "does, and standardise the inputs",
        )

    def _regression(self, call: LossCall) -> Iterator[Finding]:
        wanted, made = rms(call.target), rms(call.input)
        if wanted > self.max_target_scale and made < 0.5 * wanted:
            target = call.target.detach().float()
            yield self.finding(
                what=f"the targets are far from the outputs: mean {float(target.mean()):.3g} and "
                f"RMS {wanted:.3g} against an output RMS of {made:.2g}",
                evidence=(
                    Evidence(
                        name="RMS of the targets",
                        value=wanted,
                        normal=f"<= {self.max_target_scale:g}",
                    ),
                ),
                cause="The regression targets are not standardised (not normalised), so the loss "
                "starts huge, its gradients as well, and the output has a long way to go.",
                fix="subtract the targets' mean and divide by their standard deviation, over the "
                "training set, and undo it on predictions",
            )
        elif made**2 > self.max_output_ratio * max(wanted**2, 1e-12) and made > 1:
            yield self.finding(
                what=f"the first outputs have an RMS of {made:.3g}, the targets {wanted:.3g}",
                evidence=(
                    Evidence(
                        name="mean squared output against targets",
                        value=made**2 / max(wanted**2, 1e-12),
                        normal=f"<= {self.max_output_ratio:g}",
                    ),
                ),
                cause="The initial weights of the output layer, or what reaches it, are too large.",
                fix="initialise the output layer with small weights, as trimtab.init.auto_(model) "
                "does, and standardise the inputs",
            )
