"""TT008: an output that the loss function is not made for."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._loss_calls import (
    REGRESSION,
    LossCall,
    is_probability,
    last_operation,
    operation_name,
)
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class OutputLossMismatch(LiveRule):
    """What the model returns is not what the loss function expects.

    Why: softmax before `CrossEntropyLoss` or sigmoid before `BCEWithLogitsLoss` applies it twice:
    the loss can no longer come near zero, and gradients shrink. Logits in `BCELoss` or `NLLLoss`
    are taken for (log-)probabilities. A ReLU, sigmoid or tanh at the end cannot reach targets
    outside of its range.

    Measured: the calls of PyTorch's loss functions are listened to, with their real arguments, and
    autograd's graph says which operation made the prediction.

    Silent on: `log_softmax` before `CrossEntropyLoss`, which changes nothing but costs time.

    Fix: return logits and use the loss that applies softmax or sigmoid itself.

    Source: Humbatova et al. 2020, arXiv:1910.11015 (taxonomy of real faults).
    """

    code: ClassVar[str] = "TT008"
    name: ClassVar[str] = "output-loss-mismatch"
    severity: ClassVar[Severity] = Severity.ERROR
    symptom: ClassVar[Symptom] = Symptom.SLOW_CONVERGENCE
    leads_to: ClassVar[tuple[str, ...]] = ("TT007", "TT010", "TT012", "TT024", "TT1", "TT3")
    rank: ClassVar[int] = 26
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3), nn.Softmax(dim=1))
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(32, 8), torch.randint(3, (32,))
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    max_outside: float = 0.05
    """Largest tolerable share of regression targets that the output's range does not contain."""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding for each call of a loss that is given the wrong thing."""
        if not subject.finite_batch:
            return
        for call in subject.first.calls:
            judge = _JUDGES.get(call.name)
            if call.name in REGRESSION | {"difference"}:
                judge = self._range
            found = judge(call) if judge is not None else None
            if found is not None:
                yield self.finding(what=found.what, **found.fields)

    def _range(self, call: LossCall) -> "_Mismatch | None":
        operation = _operation(call.input)
        bounds = {"Relu": (0.0, None), "Sigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0),
                  "Softmax": (0.0, 1.0), "Softplus": (0.0, None)}.get(operation)  # fmt: skip
        if bounds is None or call.input.shape != call.target.shape:
            return None
        low, high = bounds
        target = call.target.detach()
        outside = target < low
        if high is not None:
            outside |= target > high
        share = float(outside.float().mean())
        if share <= self.max_outside:
            return None
        reach = f"{low:g} to {high:g}" if high is not None else f"{low:g} and more"
        return _Mismatch(
            f"the output ends in {operation.lower()} and reaches {reach}, but {share:.0%} of the "
            "targets lie outside",
            Evidence(name="targets out of reach", value=share, normal=f"<= {self.max_outside:g}"),
            f"The last activation ({operation.lower()}) bounds the output, so the model can never "
            "predict these targets.",
            "leave out the activation after the last layer of a regression, or scale the targets "
            "into its range",
        )


class _Mismatch:
    def __init__(
        self, what: str, evidence: Evidence, cause: str, fix: str, severity: Severity | None = None
    ) -> None:
        self.what = what
        self.fields = {"evidence": (evidence,), "cause": cause, "fix": fix}
        if severity is not None:
            self.fields["severity"] = severity


def _operation(tensor: Tensor) -> str:
    node = last_operation(tensor)
    return "" if node is None else operation_name(node)


def _cross_entropy(call: LossCall) -> _Mismatch | None:
    operation = _operation(call.input)
    if call.num_classes == 1 and call.has_indices:
        return _Mismatch(
            "cross-entropy is given a single class, so the loss is 0 whatever the model says",
            Evidence(name="classes", value=1, normal=">= 2"),
            "Softmax over one number is always 1.",
            "use BCEWithLogitsLoss with float targets for one output, or two outputs",
        )
    if operation == "Softmax" or (operation != "LogSoftmax" and is_probability(call.rows)):
        return _Mismatch(
            "the output has passed a softmax already: every row sums to 1",
            Evidence(name="last operation", value="softmax", normal="logits"),
            "Cross-entropy applies log-softmax itself, so softmax acts twice: gradients shrink and "
            f"the loss cannot fall below about {_double_softmax(call.num_classes):.2g}.",
            "return the logits: remove the softmax from the model and apply it for predictions "
            "only",
        )
    if operation in {"Sigmoid", "Relu"}:
        what = operation.lower()
        return _Mismatch(
            f"the output has passed a {what} before cross-entropy",
            Evidence(name="last operation", value=what, normal="logits"),
            f"Cross-entropy expects logits of any sign; a {what} on the output bounds them and "
            "cuts gradients off.",
            f"return the logits: remove the {what} after the last layer",
            Severity.WARNING,
        )
    return None


def _double_softmax(num_classes: int) -> float:
    """Return the least cross-entropy of probabilities taken for logits."""
    return math.log(math.e + num_classes - 1) - 1


def _bce_with_logits(call: LossCall) -> _Mismatch | None:
    operation = _operation(call.input)
    if operation == "Relu":
        return _Mismatch(
            "the output has passed a relu before binary cross-entropy with logits",
            Evidence(name="last operation", value="relu", normal="logits"),
            "A logit below 0 says no. After a relu the prediction is never below 0.5, and where it "
            "is 0.5 no gradient comes back.",
            "return the logits: remove the relu after the last layer",
            Severity.WARNING,
        )
    if operation not in {"Sigmoid", "Softmax"}:
        return None
    what = operation.lower()
    return _Mismatch(
        f"the output has passed a {what} before binary cross-entropy with logits",
        Evidence(name="last operation", value=what, normal="logits"),
        f"BCEWithLogitsLoss applies the sigmoid itself, so after a {what} the prediction stays "
        "between 0.5 and 0.73 and the loss cannot come near zero.",
        f"return the logits: remove the {what}, or use BCELoss",
    )


def _bce(call: LossCall) -> _Mismatch | None:
    low, high = float(call.input.detach().min()), float(call.input.detach().max())
    if low >= 0 and high <= 1:
        return None
    return _Mismatch(
        f"binary cross-entropy is given values from {low:.3g} to {high:.3g}",
        Evidence(name="range of the output", value=f"{low:.3g} to {high:.3g}", normal="0 to 1"),
        "BCELoss expects probabilities, but the output is raw logits: there is no sigmoid.",
        "use BCEWithLogitsLoss, which applies the sigmoid itself and is stable",
    )


def _nll(call: LossCall) -> _Mismatch | None:
    node = last_operation(call.input)
    operation = "" if node is None else operation_name(node)
    if operation == "LogSoftmax":
        return _wrong_dim(call, node)
    highest = float(call.input.detach().max())
    if highest <= 1e-4:
        return None
    what = "probabilities" if is_probability(call.rows) else "raw logits"
    return _Mismatch(
        f"negative log-likelihood is given {what}, up to {highest:.3g}",
        Evidence(name="largest output", value=highest, normal="<= 0 (log-probabilities)"),
        f"NLLLoss expects log-probabilities; on {what} it has no lower bound, or no meaning.",
        "return logits and use CrossEntropyLoss, or end the model in log_softmax",
    )


def _wrong_dim(call: LossCall, node: object) -> _Mismatch | None:
    dim = getattr(node, "_saved_dim", None)
    if dim is None or call.input.ndim != 2:
        return None
    dim = dim - 2**64 if dim > 2**63 else dim
    if dim % 2 == 1:
        return None
    return _Mismatch(
        "log_softmax was taken over the batch (dim=0), not over the classes (dim=1)",
        Evidence(name="dim of log_softmax", value=str(dim), normal="1"),
        "Examples of the batch compete with each other instead of the classes.",
        "pass dim=-1 to log_softmax, or return logits and use CrossEntropyLoss",
    )


_JUDGES: dict[str, Callable[[LossCall], _Mismatch | None]] = {
    "cross_entropy": _cross_entropy,
    "nll_loss": _nll,
    "binary_cross_entropy": _bce,
    "binary_cross_entropy_with_logits": _bce_with_logits,
}
