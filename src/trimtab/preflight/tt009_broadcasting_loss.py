"""TT009: a regression loss that compares every prediction with every target."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._loss_calls import REGRESSION
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class BroadcastingLoss(LiveRule):
    """Prediction and target differ in shape, so that the loss compares each with all others.

    Why: an output of shape (n, 1) minus a target of shape (n,) broadcasts to (n, n). The loss is
    then least where every prediction is the mean of the batch, and the model learns just that.

    Measured: the arguments of `mse_loss`, `l1_loss`, `smooth_l1_loss` and `huber_loss`, and of a
    hand-written `output - target`.

    Silent on: shapes that broadcast without growing, such as one prediction for all.

    Fix: `output.squeeze(1)` or `target.unsqueeze(1)`.

    Source: Humbatova et al. 2020, arXiv:1910.11015 (taxonomy of real faults).
    """

    code: ClassVar[str] = "TT009"
    name: ClassVar[str] = "broadcasting-loss"
    severity: ClassVar[Severity] = Severity.ERROR
    symptom: ClassVar[Symptom] = Symptom.NO_LEARNING
    leads_to: ClassVar[tuple[str, ...]] = ("TT012", "TT3")
    rank: ClassVar[int] = 25
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(32, 8), torch.randn(32)  # the output is (32, 1)
findings = trimtab.preflight(model, optimizer, nn.MSELoss(), (x, y)).findings
"""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding for each loss that grows by broadcasting."""
        for call in subject.first.calls:
            if call.name not in REGRESSION | {"difference"}:
                continue
            made, wanted = call.input.shape, call.target.shape
            try:
                joint = torch.broadcast_shapes(made, wanted)  # type: ignore[no-untyped-call] # untyped
            except RuntimeError:
                continue
            if joint.numel() <= max(made.numel(), wanted.numel()):
                continue
            name = "output - target" if call.name == "difference" else call.name
            yield self.finding(
                what=f"{name} broadcasts an output of shape {tuple(made)} and a target of shape "
                f"{tuple(wanted)} to {tuple(joint)}",
                evidence=(
                    Evidence(
                        name="values compared",
                        value=joint.numel(),
                        normal=str(max(made.numel(), wanted.numel())),
                    ),
                ),
                cause="The shapes do not match, so broadcasting compares every prediction with "
                "every target of the batch, and the best that the model can learn is their mean.",
                fix="give both the same shape: output.squeeze(-1), or target.unsqueeze(-1)",
            )
