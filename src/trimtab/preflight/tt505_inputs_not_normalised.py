"""TT505: inputs of a scale that no initialisation expects."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._records import is_norm, is_weighted
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class InputsNotNormalised(LiveRule):
    """The inputs are far from mean 0 and deviation 1, or their features from each other.

    Why: initialisation and learning rate assume inputs of about 1. Raw pixels up to 255 multiply
    the first gradients by 255; features of very different scales make the loss a narrow valley in
    which one learning rate is too high for one and too low for the other.

    Measured: what the first layer really reads on this batch, feature by feature (channels for
    images), so that scaling inside the model counts.

    Silent on: models that begin with a norm or an embedding; constant features; inputs between 0
    and 1.

    Fix: subtract the mean and divide by the standard deviation of the training set.

    Source: LeCun et al. 1998, "Efficient BackProp", section 4.3.
    """

    code: ClassVar[str] = "TT505"
    name: ClassVar[str] = "inputs-not-normalised"
    severity: ClassVar[Severity] = Severity.WARNING
    symptom: ClassVar[Symptom] = Symptom.SLOW_CONVERGENCE
    leads_to: ClassVar[tuple[str, ...]] = ("TT006", "TT007", "TT012", "TT020", "TT1", "TT2", "TT3")
    rank: ClassVar[int] = 12
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randint(256, (32, 64)).float(), torch.randint(3, (32,))
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    max_scale: float = 20.0
    """Largest healthy RMS of a feature; digits of 0 to 16, unscaled, have 8 and train."""
    max_ratio: float = 100.0
    """Largest healthy ratio of the deviations of two features, where the larger exceeds 3."""
    min_scale: float = 1e-3
    """Least healthy RMS of all inputs."""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding for the worst feature."""
        if not subject.finite_batch:
            return
        read = subject.once(first_input)
        if read is None:
            return
        features = _features(*read)  # (num_rows, num_features)
        if features.shape[0] < 2:
            return
        scales = features.square().mean(0).sqrt()
        spread = (features - features.mean(0)).square().mean(0).sqrt()
        worst = int(scales.argmax())
        moving = spread[spread > 0]
        ratio = float(moving.max() / moving.min()) if moving.numel() > 1 else 1.0
        where = f"feature {worst}: mean {float(features[:, worst].mean()):.3g}, standard deviation "
        where += f"{float(spread[worst]):.3g}"
        if float(scales[worst]) > self.max_scale:
            yield self._found(
                f"the inputs are not normalised, worst {where}",
                Evidence(
                    name="RMS of the largest feature",
                    value=float(scales[worst]),
                    normal=f"<= {self.max_scale:g}, best 1",
                ),
            )
        elif ratio > self.max_ratio and float(moving.max()) > 3:
            yield self._found(
                f"the features' scales differ by a factor of {ratio:.3g}, largest {where}",
                Evidence(name="ratio of deviations", value=ratio, normal=f"<= {self.max_ratio:g}"),
            )
        elif 0 < float(scales.square().mean().sqrt()) < self.min_scale:
            yield self._found(
                f"the inputs are tiny, largest {where}",
                Evidence(
                    name="RMS of the inputs",
                    value=float(scales.square().mean().sqrt()),
                    normal=f">= {self.min_scale:g}, best 1",
                ),
            )

    def _found(self, what: str, evidence: Evidence) -> Finding:
        return self.finding(
            what=what,
            site="inputs",
            evidence=(evidence,),
            cause="Initialisation and learning rates assume inputs of mean 0 and deviation 1; "
            "unnormalised ones make the first layer's gradients as large as themselves.",
            fix="standardise each feature with the training set's mean and standard deviation "
            "(pixels: divide by 255 first), or begin the model with a norm",
        )


def first_input(subject: Subject) -> tuple[Tensor, nn.Module] | None:
    """Return what the first layer reads, with that layer; None if it is a norm or an embedding."""
    found: list[tuple[Tensor, nn.Module]] = []
    ended: list[nn.Module] = []

    def look(module: nn.Module, args: tuple[object, ...]) -> None:
        if ended:
            return
        given = args[0] if args else None
        stops = is_norm(module) or isinstance(module, nn.Embedding | nn.EmbeddingBag)
        if stops or (is_weighted(module) and isinstance(given, Tensor)):
            ended.append(module)
            if not stops and isinstance(given, Tensor) and given.is_floating_point():
                found.append((given.detach().float(), module))

    hooks = [m.register_forward_pre_hook(look) for m in subject.model.modules()]
    try:
        subject.compute_output(subject.batch.inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found and math.isfinite(float(found[0][0].sum())) else None


def _features(read: Tensor, layer: nn.Module) -> Tensor:
    """Return `(num_rows, num_features)`: channels before a convolution, else the last dimension."""
    if isinstance(layer, nn.modules.conv._ConvNd) and read.ndim > 2:
        read = read.movedim(1, -1)
    if read.ndim < 2:
        return torch.zeros(0, 1)
    return read.reshape(-1, read.shape[-1])
