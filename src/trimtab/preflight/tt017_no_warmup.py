"""TT017: an adaptive optimizer at full speed from the first step, where that is known to fail."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._schedule import has_warmup
from trimtab.preflight._subject import Subject

ADAPTIVE: Final = frozenset(
    {"Adam", "AdamW", "NAdam", "Adamax", "StableAdamW", "RMSprop", "Lion", "Adan", "Lamb", "LAMB"}
)
"""Classes whose first steps are as large as all others. RAdam allows for young moments itself."""


@register
@dataclass(frozen=True, kw_only=True)
class NoWarmup(LiveRule):
    """Adam starts a deep or post-norm network at its full learning rate, without warmup.

    Why: Adam's first step moves every weight by the whole learning rate, whatever its gradient. In
    a post-norm transformer the gradients near the output are large at the start, and a deep network
    multiplies the disturbance; many never recover.

    Measured: whether the schedule rises; how many residual sums there are, and whether norms stand
    behind them (post-norm) or inside of the branches (pre-norm), read from autograd's graph.

    Silent on: networks without residual connections, SGD, a schedule that starts low.

    Fix: `trimtab.optim.warmup_cosine(optimizer, warmup_steps, total_steps)`.

    Source: Xiong et al. 2020, arXiv:2002.04745; Ma & Yarats 2021, arXiv:1910.04209 (2 / (1 - beta2)
    steps).
    """

    code: ClassVar[str] = "TT017"
    name: ClassVar[str] = "no-warmup"
    severity: ClassVar[Severity] = Severity.WARNING
    symptom: ClassVar[Symptom] = Symptom.DIVERGENCE
    leads_to: ClassVar[tuple[str, ...]] = ("TT1", "TT3", "TT4")
    rank: ClassVar[int] = 41
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)  # post-norm is its default
model = nn.Sequential(nn.TransformerEncoder(layer, 6), nn.Flatten(), nn.Linear(8 * 32, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
x, y = torch.randn(16, 8, 32), torch.randint(3, (16,))
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    min_lr: float = 5e-4
    """Learning rate from which on post-norm without warmup is a warning."""
    min_post_norms: int = 8
    """Closing norms from which on it is a warning: four layers of a transformer."""
    min_norms: int = 24
    """Norms behind residual sums from which on a pre-norm network is deep: twelve layers."""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding if the network is such a one."""
        adaptive = [o for o in subject.optimizers if _is_adaptive(o)]
        graph = subject.passed.graph
        if not adaptive or graph is None or has_warmup(subject.scheduler, subject.optimizers):
            return
        deep = graph.norms_of_sums >= self.min_norms
        if not (graph.is_post_norm or deep):
            return
        lr = max(float(g["lr"]) for o in adaptive for g in o.param_groups)
        kind = "post-norm" if graph.is_post_norm else "pre-norm"
        strong = (
            graph.is_post_norm and graph.closing_norms >= self.min_post_norms and lr >= self.min_lr
        )
        betas = adaptive[0].param_groups[0].get("betas", (0.9, 0.999))
        steps = round(2 / max(1e-6, 1 - float(betas[1])))
        yield self.finding(
            what=f"{type(adaptive[0]).__name__} starts a {kind} network of {graph.norms_of_sums} "
            f"residual sums at its full learning rate {lr:g}, without warmup",
            severity=Severity.WARNING if strong else Severity.ADVICE,
            evidence=(
                Evidence(name="learning rate of the first step", value=lr, normal="near 0, rising"),
            ),
            cause="Adam's first steps are as large as all later ones while its second moments know "
            "next to nothing"
            + (", and post-norm has its largest gradients then." if graph.is_post_norm else "."),
            fix=f"warm up over some {steps} steps (2 / (1 - beta2)), or a tenth of a short run: "
            "scheduler = trimtab.optim.warmup_cosine(optimizer, warmup_steps, total_steps)",
            remedy=Fix(action="warm_up", args={"steps": steps}),
        )


def _is_adaptive(optimizer: object) -> bool:
    return any(cls.__name__ in ADAPTIVE for cls in type(optimizer).__mro__)
