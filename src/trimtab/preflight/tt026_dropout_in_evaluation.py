"""TT026: dropout that `eval()` does not turn off."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, Final

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject

DROPOUTS: Final = frozenset(
    {
        functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d,
        functional.alpha_dropout, functional.feature_alpha_dropout,
    }
)  # fmt: skip
"""Functional forms of dropout; their `training` says whether they drop."""
_TORCH: Final = str(Path(torch.__file__).parent)


@register
@dataclass(frozen=True, kw_only=True)
class DropoutInEvaluation(LiveRule):
    """Dropout stays on when the model is evaluated.

    Why: `torch.nn.functional.dropout` is on unless it is told otherwise, and so is the `dropout_p`
    of `scaled_dot_product_attention`. `eval()` only tells layers. Predictions are then random, and
    worse than the model: what training shows is sound, what evaluation shows is not.

    Measured: calls of functional dropout with `training=True`, and of attention with a `dropout_p`
    above 0, in a forward pass in eval mode.

    Silent on: layers such as `nn.Dropout`; a probability of 0.

    Fix: pass `training=self.training`, or `dropout_p=self.p if self.training else 0.0`, or use the
    layer. Where predictions are random on purpose (Monte Carlo dropout), ignore this code.

    Source: PyTorch, `torch.nn.functional.dropout`; Gal & Ghahramani 2016, arXiv:1506.02142, for the
    purpose.
    """

    code: ClassVar[str] = "TT026"
    name: ClassVar[str] = "dropout-in-evaluation"
    severity: ClassVar[Severity] = Severity.WARNING
    symptom: ClassVar[Symptom] = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar[int] = 24
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(nn.functional.dropout(x, 0.5))  # training=self.training is missing


model = Net()
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(32, 8), torch.randint(3, (32,))
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding for all calls that are on."""
        if subject.passed.output is None:
            return
        listener = _Listener()
        with subject.evaluating(), listener:
            subject.compute_output(subject.batch.inputs)
        if not listener.calls:
            return
        names = {module: name for name, module in subject.model.named_modules()}
        first = listener.calls[0]
        sites = list(dict.fromkeys(names.get(c.module, "") for c in listener.calls if c.module))
        yield self.finding(
            what=f"functional.{first.name} drops with p = {first.p:g} in eval mode, too",
            site=sites[0] if sites else "",
            also=tuple(sites[1:]),
            file=first.file or None,
            line=first.line or None,
            evidence=(
                Evidence(name="dropouts that eval() leaves on", value=len(listener.calls),
                         normal="0"),
            ),
            cause="The functional form of dropout is on unless it is told otherwise; eval() turns "
            "off layers alone. So predictions are random.",
            fix="pass training=self.training, or dropout_p=p if self.training else 0.0, or use the "
            "layer nn.Dropout",
        )  # fmt: skip


@dataclass(frozen=True)
class _Call:
    """A dropout that was on."""

    name: str
    p: float
    module: nn.Module | None
    """Whose method made the call."""
    file: str
    line: int


@dataclass
class _Listener(TorchFunctionMode):
    """Notes functional dropouts that are on."""

    calls: list[_Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],  # torch's
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        p = _probability(func, args, given)
        if p > 0:
            self.calls.append(_called(func.__name__, p, sys._getframe(1)))
        return func(*args, **given)


def _probability(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
    """Return with what probability a call drops; 0 for all that is no dropout, or is off."""
    if func is functional.scaled_dot_product_attention:
        return float(kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0))
    if func not in DROPOUTS:
        return 0.0
    on = kwargs.get("training", args[2] if len(args) > 2 else "alpha" not in func.__name__)
    return float(kwargs.get("p", args[1] if len(args) > 1 else 0.5)) if on else 0.0


def _called(name: str, p: float, frame: FrameType | None) -> _Call:
    """Return a call with the place in the user's code that it was made at."""
    while frame is not None and frame.f_code.co_filename.startswith(_TORCH):
        frame = frame.f_back
    if frame is None:
        return _Call(name, p, None, "", 0)
    owner = frame.f_locals.get("self")
    module = owner if isinstance(owner, nn.Module) else None
    return _Call(name, p, module, frame.f_code.co_filename, frame.f_lineno)
