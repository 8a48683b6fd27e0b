"""TT010: an example's output that depends on other examples of its batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._batch import find_tensors
from trimtab.preflight._leaks import find_leak, leaks
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class LeakAcrossExamples(LiveRule):
    """What the model says of one example depends on the other examples of the batch.

    Why: a `view` or `reshape` that mixes batch and features, a softmax over the batch, or a
    recurrent or attention layer without `batch_first` lets examples see each other. The loss may
    fall, but predictions change with whatever shares the batch.

    Measured: in eval mode one half of the batch is exchanged for copies of an example from the
    other, whose outputs must stay; each half in turn, as a recurrent layer that takes the batch for
    time looks back only.

    Silent on: BatchNorm that uses the batch by design, outputs for pairs of examples as in
    contrastive learning, models that take a graph or hold one as a buffer.

    Fix: keep the batch dimension apart in `view`, `softmax(dim=-1)`, `batch_first=True`.

    Source: Karpathy 2019, "A Recipe for Training Neural Networks" (use backprop to chart
    dependencies).
    """

    code: ClassVar[str] = "TT010"
    name: ClassVar[str] = "leak-across-examples"
    severity: ClassVar[Severity] = Severity.WARNING
    symptom: ClassVar[Symptom] = Symptom.SILENT_CONFIG_ERROR
    leads_to: ClassVar[tuple[str, ...]] = ("TT012",)
    rank: ClassVar[int] = 27
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(x - x.mean(dim=0))  # the mean over the batch, not over features


model = Mixing()
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(32, 8), torch.randint(3, (32,))
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding if the first examples feel a change of the last."""
        if not subject.finite_batch or subject.passed.output is None or _is_exempt(subject):
            return
        dims = _batch_dims(subject)
        if not dims:
            return
        with subject.evaluating():
            found = [_leaking_side(subject, dim, size) for dim, size in dims]
            if None in found:
                return
            dim, size = dims[0]
            change, kept = _Change(dim, size, last=found[0]), _Kept(dim, size, last=found[0])
            site = find_leak(subject, change, kept)
        yield self.finding(
            what="the outputs of one half of the batch change when the other half does",
            site=site,
            evidence=(Evidence(name="examples that leak", value="yes", normal="no"),),
            cause="Examples see each other: a view or reshape mixes the batch with features, an "
            "operation runs over dim 0, or a recurrent or attention layer takes the batch for time "
            "(batch_first is False).",
            fix="keep the batch dimension apart: batch_first=True, dim=-1 in softmax and means, "
            "x.view(x.size(0), -1)",
        )


def _is_exempt(subject: Subject) -> bool:
    """Tell models whose examples belong together by design."""
    for module in subject.model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            return True
    size = subject.batch.size
    if any(b.ndim == 2 and b.shape[0] == b.shape[1] == size for b in subject.model.buffers()):
        return True  # the edges of one graph, whose nodes are the batch
    tensors = list(find_tensors(subject.batch.inputs))
    edges = [t for t in tensors if t.ndim == 2 and t.shape[0] == 2 and not t.is_floating_point()]
    square = [t for t in tensors[1:] if t.ndim == 2 and t.shape[0] == t.shape[1] == size]
    return len(tensors) > 1 and bool(edges or square)


def _batch_dims(subject: Subject) -> list[tuple[int, int]]:
    """Return the dimensions of the input that may be the batch, each with its size."""
    first = next(find_tensors(subject.batch.inputs))
    output = subject.passed.output
    target = next(find_tensors(subject.batch.target), None)
    if output is None or first.ndim == 0 or first.shape[0] < 2:
        return []
    leading = [first.shape[d] for d in range(min(2, first.ndim))]
    if output.ndim >= 2 and output.shape[0] == output.shape[1] == leading[0]:
        return []  # a matrix of pairs
    guide = output if target is None or target.ndim == 0 else target
    dims = [d for d, n in enumerate(leading) if guide.shape[0] == n and output.shape[0] == n]
    ordered = any(getattr(m, "batch_first", True) is False for m in subject.model.modules())
    both = guide.ndim >= 2 and first.ndim >= 2 and list(guide.shape[:2]) == leading
    if 0 in dims and ordered and both:
        dims = [0, 1]  # (time, batch) or (batch, time): it must leak along both to count
    return [(d, leading[d]) for d in dims if leading[d] >= 2]


def _leaking_side(subject: Subject, dim: int, size: int) -> bool | None:
    """Return which half leaks into the other, True for the last; None if neither is seen to."""
    for last in (True, False):
        if leaks(subject, _Change(dim, size, last=last), _Kept(dim, size, last=last)):
            return last
    return None


class _Change:
    """Puts copies of one example in the place of the last or the first half."""

    def __init__(self, dim: int, size: int, *, last: bool | None) -> None:
        self.dim, self.size, self.last = dim, size, last

    def __call__(self, t: Tensor) -> Tensor:
        if t.ndim <= self.dim or t.shape[self.dim] != self.size:
            return t
        half = self.size // 2
        first, second = t.narrow(self.dim, 0, half), t.narrow(self.dim, half, self.size - half)
        if self.last:
            return torch.cat([first, t.narrow(self.dim, 0, 1).expand_as(second)], self.dim)
        return torch.cat([t.narrow(self.dim, self.size - 1, 1).expand_as(first), second], self.dim)


class _Kept:
    """Picks the half of an output that must stay."""

    def __init__(self, dim: int, size: int, *, last: bool | None) -> None:
        self.dim, self.size, self.last = dim, size, last

    def __call__(self, t: Tensor) -> Tensor | None:
        half = self.size // 2
        for dim in (self.dim, 0):
            if t.ndim > dim and t.shape[dim] == self.size:
                return (
                    t.narrow(dim, 0, half) if self.last else t.narrow(dim, half, self.size - half)
                )
        return None
