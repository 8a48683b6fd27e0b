"""TT011: a causal model that sees the future."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._batch import find_tensors
from trimtab.preflight._leaks import find_leak, leaks
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class LeakFromFuture(LiveRule):
    """The output at one position depends on inputs after it, where the target is the next input.

    Why: without a causal mask, or with one that is off by one, the model reads the answer from its
    input. The loss falls far below what is possible, and generation is useless.

    Measured: in eval mode the inputs of the second half of the sequence are exchanged; the outputs
    of the first half must stay.

    Silent on: targets that are not the input shifted by one, unless `causal=True`.

    Fix: pass a causal mask, or `is_causal=True`; shift the targets by exactly one.

    Source: Karpathy 2019, "A Recipe for Training Neural Networks" (use backprop to chart
    dependencies).
    """

    code: ClassVar[str] = "TT011"
    name: ClassVar[str] = "leak-from-future"
    severity: ClassVar[Severity] = Severity.ERROR
    symptom: ClassVar[Symptom] = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar[int] = 26
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn


class Blind(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 20)

    def forward(self, tokens):
        return self.head(self.layer(self.embedding(tokens))).transpose(1, 2)  # no mask


model = Blind()
optimizer = torch.optim.Adam(model.parameters())
tokens = torch.randint(20, (8, 17))
batch = tokens[:, :-1], tokens[:, 1:]
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), batch).findings
"""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding if the first positions feel a change of the last."""
        shape = _sequence(subject)
        if shape is None or subject.passed.output is None:
            return
        with subject.evaluating():
            change, kept = _Change(*shape), _Kept(*shape)
            if not leaks(subject, change, kept):
                return
            site = find_leak(subject, change, kept)
        yield self.finding(
            what=f"the outputs of the first {shape[1] // 2} positions change with the inputs after "
            "them",
            site=site,
            evidence=(Evidence(name="positions that see the future", value="yes", normal="no"),),
            cause="There is no causal mask, or it is off by one or of the wrong sign, so the model "
            "reads the next token from its input.",
            fix="pass is_causal=True or an upper-triangular mask to the attention, and use only "
            "left padding in convolutions over time",
        )


def _sequence(subject: Subject) -> tuple[int, int] | None:
    """Return batch and length of the sequences if the model has to be causal."""
    causal = subject.settings.causal
    first = next(find_tensors(subject.batch.inputs))
    if causal is False or first.ndim < 2 or first.shape[1] < 4:
        return None
    if not causal and not _is_shifted(first, next(find_tensors(subject.batch.target), None)):
        return None
    return first.shape[0], first.shape[1]


def _is_shifted(inputs: Tensor, target: Tensor | None) -> bool:
    """Return whether the target is the input, moved by one position."""
    if target is None or inputs.is_floating_point() or target.is_floating_point():
        return False
    if target.ndim == 1 and target.numel() == inputs.numel():
        target = target.view_as(inputs)
    return target.shape == inputs.shape and bool(torch.equal(inputs[:, 1:], target[:, :-1]))


class _Change:
    """Exchanges the inputs of the second half of each sequence."""

    def __init__(self, batch: int, length: int) -> None:
        self.batch, self.length = batch, length

    def __call__(self, t: Tensor) -> Tensor:
        if t.ndim < 2 or t.shape[:2] != (self.batch, self.length) or t.dtype == torch.bool:
            return t
        half = self.length // 2
        return torch.cat([t[:, :half], t[:, :1].expand_as(t[:, half:])], 1)


class _Kept:
    """Picks the outputs of the first half of each sequence, whatever the layout."""

    def __init__(self, batch: int, length: int) -> None:
        self.batch, self.length = batch, length

    def __call__(self, t: Tensor) -> Tensor | None:
        half = self.length // 2
        if t.ndim == 2 and t.shape[0] == self.batch * self.length:
            return t.view(self.batch, self.length, -1)[:, :half]
        if t.ndim < 2 or t.shape[0] != self.batch:
            return None
        for dim in range(1, t.ndim):
            if t.shape[dim] == self.length:
                return t.narrow(dim, 0, half)
        return None
