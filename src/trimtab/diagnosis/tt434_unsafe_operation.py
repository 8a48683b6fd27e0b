"""TT434 unsafe-operation: a sound run meets a logarithm, root or quotient at its edge."""

from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Rule, Scope, Severity, Symptom, register


@register
@dataclass(frozen=True, kw_only=True)
class UnsafeOperation(Rule):
    """NaN or infinity came up in a run whose losses were sound until then.

    Why: log(0), 0/0, the root's slope at 0, exp of more than 88 and a norm's slope at 0 are not
        finite. Inputs, parameters and loss can be in order a step before.

    Measured: where the first value was that is not finite, with everything before it finite, and
        the losses before it no higher than at the start.

    Silent on: runs whose loss grows before; there the steps are too long.

    Fix: use the function that joins the two operations (`log_softmax`, `logsumexp`,
        `binary_cross_entropy_with_logits`), add a small number before the logarithm or the root, or
        clamp.

    Source: Humbatova et al. 2020, arXiv:1910.11015; PyTorch, "Numerical accuracy".
    """

    code: ClassVar = "TT434"
    name: ClassVar = "unsafe-operation"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.NAN
    scope: ClassVar[Scope] = "loop"
    leads_to: ClassVar = ("TT107", "TT207", "TT208", "TT303", "TT302")
    rank: ClassVar = 33
    example: ClassVar = """\
import torch
import trimtab

model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
batches = [(x, x.sum(1, keepdim=True)) for x in torch.randn(20, 16, 8)]
batches[10] = (torch.zeros(16, 8), torch.zeros(16, 1))


def loss_fn(output, target):
    norms = torch.linalg.vector_norm(output - target, dim=1)
    return norms.mean() + (target.abs().mean() / target.abs().mean())  # 0/0 in one batch


findings = trimtab.diagnose(model, optimizer, loss_fn, batches, steps=40).findings
"""
