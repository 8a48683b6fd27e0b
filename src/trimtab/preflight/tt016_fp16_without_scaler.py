"""TT016: float16 without a loss scale."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class Fp16WithoutScaler(LiveRule):
    """The forward pass runs in float16, but nothing scales the loss.

    Why: float16 holds nothing below 6e-8. Gradients smaller than that become zero in the backward
    pass, and what is left are the large ones alone. Weights that are float16 themselves lose small
    updates as well.

    Measured: `precision`, the scaler, the dtype of the parameters, and the share of gradient
    elements on this batch that float16 rounds to zero.

    Silent on: bf16, which has the range of float32.

    Fix: `precision="bf16"`, or a `torch.amp.GradScaler` or `trimtab.precision.LossScaler`.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.
    """

    code: ClassVar[str] = "TT016"
    name: ClassVar[str] = "fp16-without-scaler"
    severity: ClassVar[Severity] = Severity.WARNING
    symptom: ClassVar[Symptom] = Symptom.SILENT_CONFIG_ERROR
    leads_to: ClassVar[tuple[str, ...]] = ("TT1", "TT3", "TT4")
    rank: ClassVar[int] = 25
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(32, 8), torch.randint(3, (32,))
findings = trimtab.preflight(
    model, optimizer, nn.CrossEntropyLoss(), (x, y), precision="fp16"
).findings
"""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding for weights in float16, or for a scaler that is missing."""
        half = [n for n, p in subject.trainable.items() if p.dtype == torch.float16]
        if half:
            yield self.finding(
                what=f"{len(half)} trainable parameters are float16 themselves",
                severity=Severity.ERROR,
                site=half[0],
                also=tuple(half[1:]),
                evidence=(Evidence(name="dtype", value="float16", normal="float32"),),
                cause="Updates below a thousandth of a weight round to nothing, Adam's epsilon of "
                "1e-8 becomes zero, and a GradScaler refuses such gradients.",
                fix="keep the parameters in float32 and run the forward pass under torch.autocast",
            )
            return
        if subject.settings.precision != "fp16" or _is_on(subject.settings.scaler):
            return
        lost = subject.first.lost_in_half
        yield self.finding(
            what="the forward pass is to run in fp16 without a loss scaler",
            evidence=(
                Evidence(name="gradient elements that fp16 makes zero", value=lost, normal="0"),
            ),
            cause="Without loss scaling small gradients underflow to zero in float16, which holds "
            "nothing below 6e-8.",
            fix='pass a torch.amp.GradScaler and step through it, or use precision="bf16"',
        )


def _is_on(scaler: object) -> bool:
    enabled = getattr(scaler, "is_enabled", None)
    return scaler is not None and (not callable(enabled) or bool(enabled()))
