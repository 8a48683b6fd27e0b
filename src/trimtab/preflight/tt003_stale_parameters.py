"""TT003: an optimizer that holds tensors which are no longer the model's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class StaleParameters(LiveRule):
    """The optimizer holds tensors that are not the model's, so its steps change nothing there.

    Why: a layer was replaced, the model was loaded, wrapped or copied after the optimizer was
    built. The optimizer goes on moving the old tensors, the model uses the new ones, and nothing
    is raised.

    Measured: tensors in param groups are compared with the model's parameters by identity, and with
    the leaves of the loss's graph. A model parameter of the same shape that no group holds names
    the layer.

    Silent on: parameters of the loss function or of a second model that the loss depends on.

    Fix: build the optimizer last: after moving, wrapping, tying and replacing layers.

    Source: Jiang et al. 2025 (TrainCheck, OSDI), arXiv:2506.14813.
    """

    code: ClassVar[str] = "TT003"
    name: ClassVar[str] = "stale-parameters"
    severity: ClassVar[Severity] = Severity.ERROR
    symptom: ClassVar[Symptom] = Symptom.SILENT_CONFIG_ERROR
    leads_to: ClassVar[tuple[str, ...]] = ("TT001", "TT3")
    rank: ClassVar[int] = 20
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.Adam(model.parameters())
model[2] = nn.Linear(16, 3)  # a new head, after the optimizer was built
x, y = torch.randn(32, 8), torch.randint(3, (32,))
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding for all tensors that belong to nothing."""
        if not subject.optimizers:
            return
        stale = _stale(subject)
        held = {id(p) for p in subject.held}
        free = {n: p for n, p in subject.trainable.items() if id(p) not in held}
        names = _matches(stale, free)
        none_held = bool(subject.trainable) and len(free) == len(subject.trainable)
        if not stale and not none_held:
            return
        certain = bool(names) or none_held
        what = (
            "the optimizer holds no parameter of this model at all"
            if none_held
            else f"the optimizer holds {len(stale)} tensors that are not the model's"
        )
        yield self.finding(
            what=what,
            severity=Severity.ERROR if certain else Severity.ADVICE,
            site=names[0] if names else "",
            also=tuple(names[1:]),
            evidence=(
                Evidence(name="tensors of no model", value=len(stale), normal="0"),
                Evidence(name="parameters that no group holds", value=len(free), normal="0"),
            ),
            cause="The model was replaced, copied or partly rebuilt after the optimizer was "
            "created, so its steps move stale tensors and leave the model as it is."
            if certain
            else "They may belong to another model that is trained beside this one.",
            fix="build the optimizer from model.parameters() after the model is final (moved, "
            "wrapped, tied, layers replaced)",
        )


def _stale(subject: Subject) -> list[Tensor]:
    known = {id(p) for p in subject.parameters.values()}
    if subject.first.graph is not None:
        known |= {id(t) for t in subject.first.graph.leaves}
    parameters = getattr(subject.loss_fn, "parameters", None)
    if parameters is not None:
        known |= {id(p) for p in parameters()}
    return [p for p in subject.held if id(p) not in known]


def _matches(stale: list[Tensor], free: Mapping[str, Tensor]) -> list[str]:
    """Return parameters without an optimizer that have the shape of a stale tensor."""
    shapes = [t.shape for t in stale]
    names = []
    for name, p in free.items():
        if p.shape in shapes:
            shapes.remove(p.shape)
            names.append(name)
    return names
