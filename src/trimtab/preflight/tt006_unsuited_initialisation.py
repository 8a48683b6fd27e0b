"""TT006: first weights through which signal or gradient do not come."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.init import plan
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._records import Record, is_norm
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class UnsuitedInitialisation(LiveRule):
    """The first weights make the signal or its gradient fade, explode or saturate on its way.

    Why: a layer that halves the signal looks harmless, twenty of them leave a millionth. The layers
    at the beginning then get no gradient, or a huge one, and the first steps are lost or diverge.

    Measured: one forward and backward pass on the real batch. Forwards, how much each layer's
    output still varies from example to example; backwards, the norm of the gradient at each layer's
    output; and the share of tanh and sigmoid outputs in their flat ends. Depth profiles are judged,
    not single values, so width, loss and batch do not matter.

    Silent on: networks whose norms or residual connections hold the signal, whatever the weights;
    plain ReLU stacks in PyTorch's default initialisation up to eight layers, which train.

    Fix: `trimtab.init.auto_(model)` chooses by the activation that follows each layer; deep stacks
    need norms and residual connections besides.

    Source: Glorot & Bengio 2010; He et al. 2015, arXiv:1502.01852; Schoenholz et al. 2017,
    arXiv:1611.01232.
    """

    code: ClassVar[str] = "TT006"
    name: ClassVar[str] = "unsuited-initialisation"
    severity: ClassVar[Severity] = Severity.WARNING
    symptom: ClassVar[Symptom] = Symptom.VANISHING_GRADIENT
    leads_to: ClassVar[tuple[str, ...]] = (
        "TT007", "TT012", "TT020", "TT022", "TT1", "TT2", "TT3",
        "TT40",
        "TT418",
    )  # fmt: skip
    rank: ClassVar[int] = 30
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

layers = [m for _ in range(12) for m in (nn.Linear(32, 32), nn.Sigmoid())]
model = nn.Sequential(*layers, nn.Linear(32, 3))
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(32, 32), torch.randint(3, (32,))
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    min_ratio: float = 1e-3
    """Least healthy share of signal, or of gradient, that is left at the far end. On the digits a
    plain ReLU stack in PyTorch's default initialisation passes 2e-3 through 8 layers and learns; at
    10 layers and 3e-4 SGD learns nothing, and at 20 and 4e-8 Adam neither."""
    min_sigmoid_ratio: float = 4e-3
    """The same with sigmoids in between, whose outputs are besides all positive: 3e-3 at 4 layers
    left 66 % accuracy where 2 layers had 93 %."""
    max_ratio: float = 100.0
    """Largest healthy growth of the same; N(0, 1) weights reach 200 in 4 layers of 64 units."""
    max_gain: float = 4.0
    """Largest healthy factor by which one layer spreads its input, if no norm follows: He's
    initialisation has 1.4, N(0, 1) at 64 inputs 8."""
    max_saturated: float = 0.5
    """Largest healthy share of a bounded activation's outputs in its flat ends; healthy networks
    had at most 0.32, N(0, 1) weights 0.7 and more."""

    max_dead: float = 0.9
    """Largest tolerable share of ReLU units that are zero on every row of the batch."""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding for the worst that the signal suffers."""
        if not subject.passed.loss or not subject.finite_batch:
            return
        records = subject.passed.records
        layers = [r for r in records if r.weighted]
        if subject.batch.size < 2:
            layers = layers[:1]  # nothing varies from example to example
        fault = _constant(layers) or self._profile(records, layers)
        if fault is not None:
            yield self._found(subject, *fault)

    def _profile(self, records: Sequence[Record], layers: Sequence[Record]) -> "_Fault | None":
        normed = any(is_norm(r.module) for r in records)
        for record in layers:
            if not record.finite and math.isfinite(record.input_rms):
                return _Fault(
                    record.name, "explodes", "outputs are not finite",
                    Evidence(name="output RMS", value=str(record.rms), normal="about 1"),
                )  # fmt: skip
        if len(layers) < 2:
            return None
        return (
            self._dead(records, layers)
            or self._saturation(records, layers)
            or self._gains(layers, normed=normed)
            or self._forwards(layers)
            or self._backwards(records, layers, normed=normed)
        )

    def _dead(self, records: Sequence[Record], layers: Sequence[Record]) -> "_Fault | None":
        last = records.index(layers[-1])
        for index, record in enumerate(records[:last]):
            if record.dead > self.max_dead:
                before = [r for r in records[:index] if r.weighted]
                return _Fault(
                    before[-1].name if before else record.name,
                    "is cut off",
                    f"{record.dead:.0%} of the units of the {_kind(record)} that follows are dead, "
                    "zero on every example",
                    Evidence(name="dead share", value=record.dead, normal=f"<= {self.max_dead:g}"),
                )
        return None

    def _saturation(self, records: Sequence[Record], layers: Sequence[Record]) -> "_Fault | None":
        last = records.index(layers[-1])
        for index, record in enumerate(records[:last]):
            if record.saturated > self.max_saturated:
                before = [r for r in records[:index] if r.weighted]
                return _Fault(
                    before[-1].name if before else record.name,
                    "saturates",
                    f"{record.saturated:.0%} of the outputs of the {_kind(record)} that follows "
                    "lie in its flat ends",
                    Evidence(
                        name="saturated share",
                        value=record.saturated,
                        normal=f"<= {self.max_saturated:g}",
                    ),
                )
        return None

    def _gains(self, layers: Sequence[Record], *, normed: bool) -> "_Fault | None":
        gains = [(r, r.variation / r.input_variation) for r in layers if r.input_variation > 0]
        wild = [(r, gain) for r, gain in gains if gain > self.max_gain]
        if normed or len(wild) < 2 or 2 * len(wild) < len(gains):
            return None
        record, gain = wild[0]
        return _Fault(
            record.name,
            "explodes",
            f"it is multiplied by {gain:.2g} in one layer, and alike in {len(wild)} of "
            f"{len(gains)} layers",
            Evidence(name="gain of the layer", value=gain, normal=f"0.4 to {self.max_gain:g}"),
        )

    def _forwards(self, layers: Sequence[Record]) -> "_Fault | None":
        start, end = layers[0].variation, layers[-1].input_variation
        if not start > 0 or not math.isfinite(end):
            return None
        if end / start >= self.min_ratio:
            return None
        halved = next(r for r in layers[1:] if r.input_variation < 0.1 * start)
        return _Fault(
            halved.name,
            "vanishes",
            f"of its variation from example to example, {end / start:.1g} is left before the last "
            f"of {len(layers)} layers",
            Evidence(name="signal left", value=end / start, normal=f">= {self.min_ratio:g}"),
        )

    def _backwards(
        self, records: Sequence[Record], layers: Sequence[Record], *, normed: bool
    ) -> "_Fault | None":
        first = next((r for r in records if r.gradient is not None), None)
        ends = [r.gradient for r in layers[-2:] if r.gradient is not None]
        if first is None or first.gradient is None or not ends or not min(ends) > 0:
            return None
        if first.gradient == 0 and _is_zero(layers[-1].module):
            return None  # a head that starts at zero passes no gradient on at the first step
        sigmoids = sum(isinstance(r.module, nn.Sigmoid) for r in records) >= 2
        least = self.min_sigmoid_ratio if sigmoids and not normed else self.min_ratio
        most = self.max_ratio * (1e3 if normed else 1)
        left, grown = first.gradient / min(ends), first.gradient / max(ends)
        if left < least:
            return _Fault(
                first.name, "vanishes",
                f"of the gradient at the last layers, {left:.1g} arrives at the first of "
                f"{len(layers)}",
                Evidence(name="gradient left", value=left, normal=f">= {least:g}"),
            )  # fmt: skip
        if grown > most:
            return _Fault(
                first.name, "explodes",
                f"its gradient grows by {grown:.1g} on the way back to the first of "
                f"{len(layers)} layers",
                Evidence(name="growth of the gradient", value=grown, normal=f"<= {most:g}"),
            )  # fmt: skip
        return None

    def _found(
        self, subject: Subject, site: str, how: str, what: str, evidence: Evidence
    ) -> Finding:
        symptom = {
            "vanishes": Symptom.VANISHING_GRADIENT,
            "explodes": Symptom.EXPLODING_GRADIENT,
            "is cut off": Symptom.DEAD_UNITS,
            "saturates": Symptom.SATURATED_UNITS,
            "is the same in every unit": Symptom.NO_LEARNING,
        }[how]
        return self.finding(
            what=f"the signal {how} from initialisation on: {what}",
            symptom=symptom,
            site=site,
            evidence=(evidence,),
            cause=f"The initial weights do not suit the activations. {_compare(subject, site)}",
            fix="initialise with trimtab.init.auto_(model), which chooses He, Xavier or orthogonal "
            "by the activation that follows; for a deep stack add norms and residual connections",
            remedy=Fix(action="initialise", args={"initialiser": "auto"}),
        )


@dataclass(frozen=True)
class _Fault:
    site: str
    how: str
    what: str
    evidence: Evidence

    def __iter__(self) -> Iterator[object]:
        return iter((self.site, self.how, self.what, self.evidence))


def _constant(layers: Sequence[Record]) -> _Fault | None:
    """Find a hidden layer whose weights are all one number, other than zero."""
    for record in layers[:-1]:
        weight = getattr(record.module, "weight", None)
        if not isinstance(weight, torch.Tensor) or weight.numel() < 2 or weight.ndim < 2:
            continue
        low, high = float(weight.detach().min()), float(weight.detach().max())
        if low == high != 0:
            return _Fault(
                record.name,
                "is the same in every unit",
                f"all {weight.numel()} weights of this layer are {low:g}",
                Evidence(name="deviation of the weights", value=0.0, normal="> 0"),
            )
    return None


def _kind(record: Record) -> str:
    return type(record.module).__name__


def _is_zero(module: nn.Module) -> bool:
    return all(not bool(p.any()) for p in module.parameters(recurse=False) if p.ndim >= 2)


def _compare(subject: Subject, site: str) -> str:
    """Say what the layer's weights are and what would fit."""
    try:
        choice = next(c for c in plan(subject.model) if c.name == site)
        weight = subject.model.get_submodule(site).weight
    except Exception:  # noqa: BLE001 - the sentence is an extra, whatever the model may be
        return ""
    names = {"he": "He", "xavier": "Xavier", "lecun": "LeCun", "orthogonal": "orthogonal"}
    fits = names.get(choice.initialiser, "a small")
    if not isinstance(weight, torch.Tensor):
        return ""
    return (
        f"Those of {site} have a standard deviation of {float(weight.detach().std()):.2g}; "
        f"{fits} initialisation for the {' and '.join(choice.follows)} that follows has "
        f"{choice.std:.2g}."
    )
