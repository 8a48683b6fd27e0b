"""TT019: runs for which stabilising is not worth the trouble."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject

SECOND_ORDER: Final = ("lbfgs", "kfac", "k_fac", "newton", "shampoo", "hessianfree", "gaussnewton")


@register
@dataclass(frozen=True, kw_only=True)
class NotNeeded(LiveRule):
    """This run has little to gain from clipping, warmup and watching.

    Why: a small network, or a head on frozen features, rarely becomes unstable, and a second-order
    method or the inner loop of meta-learning has safeguards and needs that clipping and skipping
    disturb.

    Measured: parameters and how many of them are frozen, and the kind of optimizer.

    Fix: none; look for a fault in the data, the labels and the loss first.
    """

    code: ClassVar[str] = "TT019"
    name: ClassVar[str] = "not-needed"
    severity: ClassVar[Severity] = Severity.ADVICE
    symptom: ClassVar[Symptom] = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar[int] = 99
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Linear(8, 3)
optimizer = torch.optim.LBFGS(model.parameters())
x, y = torch.randn(32, 8), torch.randint(3, (32,))
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    small: int = 1_000_000
    """Trainable elements below which training is rarely unstable."""
    frozen: float = 0.9
    """Share of frozen elements from which on a head is trained on fixed features."""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one piece of advice, for the strongest reason."""
        total = subject.num_parameters
        trainable = sum(p.numel() for p in subject.trainable.values())
        share = 1 - trainable / max(1, total)
        names = [type(o).__name__ for o in subject.optimizers]
        second = [n for n in names if n.lower().startswith(SECOND_ORDER)]
        inner = [
            n for _, g, o in subject.groups for n in [type(o).__name__] if g.get("differentiable")
        ]
        if not trainable:
            yield self._advise(
                "nothing is trained: the model only runs inference",
                Evidence(name="trainable elements", value=0, normal="> 0"),
                "Stabilisers act on training alone.",
            )
        elif second:
            yield self._advise(
                f"{second[0]} is a second-order method with safeguards of its own",
                Evidence(name="optimizer", value=second[0], normal="first order"),
                "Its line search, trust region or damping assumes the true gradient; clipping and "
                "skipping take that away.",
            )
        elif inner:
            yield self._advise(
                f"{inner[0]} is differentiable, as in the inner loop of meta-learning",
                Evidence(name="differentiable", value="True", normal="False"),
                "Clipping and skipping in place cut the graph of the update; stabilise the outer "
                "loop.",
            )
        elif share >= self.frozen:
            yield self._advise(
                f"{share:.0%} of the model is frozen",
                Evidence(name="frozen share", value=share, normal=f"< {self.frozen:g}"),
                "A small head on a frozen backbone is a nearly convex problem; a plain optimizer "
                "with a constant learning rate does.",
            )
        elif trainable < self.small:
            yield self._advise(
                f"the model has {trainable:,} trainable parameters",
                Evidence(name="trainable elements", value=trainable, normal=f">= {self.small:,}"),
                "Networks under a million parameters rarely become unstable, and a wrong setting "
                "shows within seconds.",
            )

    def _advise(self, what: str, evidence: Evidence, cause: str) -> Finding:
        return self.finding(
            what=f"stabilisers are hardly needed here: {what}",
            evidence=(evidence,),
            cause=cause,
            fix="leave them out if you like; if training fails, look at data, labels and the loss",
        )
