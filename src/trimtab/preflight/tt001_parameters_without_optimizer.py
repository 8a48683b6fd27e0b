"""TT001: trainable parameters that no optimizer moves."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class ParametersWithoutOptimizer(LiveRule):
    """Some trainable parameters are in no param group, so no step will ever change them.

    Why: the optimizer was built from a part of the model, before a layer was added, or a layer sits
    in a plain Python list, where `parameters()` does not find it. The loss may still fall, as the
    other layers learn around the ones that stay random.

    Measured: parameters with `requires_grad` are compared with the tensors in all param groups by
    identity; the graph of the loss tells of tensors that need a gradient and belong to no module.

    Silent on: frozen parameters (`requires_grad=False`), parameters held by any of several
    optimizers, parameters of the loss function itself.

    Fix: build the optimizer from `model.parameters()` after the model is complete; keep layers in
    `nn.ModuleList` or `nn.ModuleDict`; freeze on purpose with `requires_grad_(False)`.

    Source: Humbatova et al. 2020, arXiv:1910.11015 (taxonomy of real faults).
    """

    code: ClassVar[str] = "TT001"
    name: ClassVar[str] = "parameters-without-optimizer"
    severity: ClassVar[Severity] = Severity.WARNING
    symptom: ClassVar[Symptom] = Symptom.SILENT_CONFIG_ERROR
    leads_to: ClassVar[tuple[str, ...]] = ("TT3",)
    rank: ClassVar[int] = 21
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.Adam(model[2].parameters())  # the first layer is forgotten
x, y = torch.randn(32, 8), torch.randint(3, (32,))
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding for what is left out, and one for what is hidden."""
        if not subject.optimizers:
            return
        held = {id(p) for p in subject.held}
        missing = [n for n, p in subject.trainable.items() if id(p) not in held]
        if missing and len(missing) < len(subject.trainable):
            yield self._left_out(subject, missing)
        hidden = _hidden(subject, held)
        if hidden:
            yield self._hidden(hidden)

    def _left_out(self, subject: Subject, missing: list[str]) -> Finding:
        total = sum(p.numel() for p in subject.trainable.values())
        count = sum(subject.trainable[n].numel() for n in missing)
        return self.finding(
            what=f"{len(missing)} of {len(subject.trainable)} trainable parameters are in no param "
            "group of the optimizer",
            site=missing[0],
            also=tuple(missing[1:]),
            evidence=(
                Evidence(name="share of elements left out", value=count / total, normal="0"),
            ),
            cause="The optimizer was built from a part of the model, or before these parameters "
            "existed, so they keep their first values for ever.",
            fix="build the optimizer from model.parameters() once the model is complete, or freeze "
            "them on purpose with requires_grad_(False)",
        )

    def _hidden(self, hidden: list[Tensor]) -> Finding:
        shapes = ", ".join(str(tuple(t.shape)) for t in hidden[:3])
        return self.finding(
            what=f"the loss depends on {len(hidden)} tensors that need a gradient but are no "
            f"parameters of the model, of shape {shapes}",
            site="tensors outside of the model",
            evidence=(Evidence(name="hidden tensors", value=len(hidden), normal="0"),),
            cause="Layers in a plain Python list, tuple or dictionary are not registered, so "
            "parameters(), to() and state_dict() do not see them and the optimizer cannot train "
            "them.",
            fix="keep layers in nn.ModuleList or nn.ModuleDict and tensors in nn.Parameter, then "
            "build the optimizer again",
        )


def _hidden(subject: Subject, held: set[int]) -> list[Tensor]:
    graph = subject.first.graph
    if graph is None:
        return []
    known = held | {id(p) for p in subject.parameters.values()}
    known |= {id(t) for t in subject.batch.tensors}
    parameters = getattr(subject.loss_fn, "parameters", None)
    if parameters is not None:
        known |= {id(p) for p in parameters()}
    return [t for t in graph.leaves if id(t) not in known]
