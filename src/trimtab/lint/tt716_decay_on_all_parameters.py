"""Weight decay on norms and biases too."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.lint._models import has_biases, has_norms, layers_of
from trimtab.lint._names import words
from trimtab.lint._optimizers import Built, built
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source, keyword

DECOUPLED = words("AdamW AdamW8bit PagedAdamW8bit Lion LAMB Lamb NAdamW")
"""Optimizers that shrink weights directly, so that the decay acts in full on every parameter."""


@register
@dataclass(frozen=True, kw_only=True)
class DecayOnAllParameters(SourceRule):
    """Weight decay pulls norm weights and biases towards zero.

    Why: decay is to keep weight matrices small. A norm's weight is healthy near one, and a bias
    where the data puts it; pulled towards zero they shrink the signal of every layer, for nothing.
    Measured: AdamW or a relative of it is given `model.parameters()` as one group, with a weight
    decay above AdamW's own 0.01, for a model that the source shows to have norm layers (a warning)
    or biases only (advice).
    Silent on: SGD, whose standard recipe decays everything by 1e-4 or 5e-4; decay up to 0.01;
    models that the source does not show.
    Fix: build the optimizer from `trimtab.optim.param_groups(model, weight_decay)`.
    Source: He et al. 2019, arXiv:1812.01187, section 3.1 ("no bias decay"); Loshchilov & Hutter
    2019, arXiv:1711.05101.
    """

    code: ClassVar = "TT716"
    name: ClassVar = "decay-on-all-parameters"
    severity: ClassVar = Severity.WARNING
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar[int] = 20
    example: ClassVar = """\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
"""
    good: ClassVar = """\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
"""

    harmless: float = 0.01
    """Largest decay that is passed over: the default of torch.optim.AdamW."""
    strong: float = 0.05
    """Decay from which biases alone are worth a word: that of DeiT, arXiv:2012.12877, table 9."""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each optimizer that decays everything."""
        for one in built(source):
            decay = self._decay(source, one)
            if one.name not in DECOUPLED or decay is None or decay <= self.harmless:
                continue
            layers = layers_of(source, one.model)
            if has_norms(layers):
                yield self._finding(source, one, decay, "norm weights and biases")
            elif has_biases(layers) and decay >= self.strong:
                found = self._finding(source, one, decay, "biases")
                yield found.with_(severity=Severity.ADVICE)

    def _decay(self, source: Source, one: Built) -> float | None:
        for each in one.call.keywords:
            if each.arg == "weight_decay":
                given = [*source.origins.of(each.value), *_defaults(source, each.value)]
                values = {
                    o.value
                    for o in given
                    if isinstance(o, ast.Constant) and isinstance(o.value, int | float)
                }
                return float(max(values)) if len(values) == 1 else None
        return None

    def _finding(self, source: Source, one: Built, decay: float, what: str) -> Finding:
        return self.at(
            source,
            one.call,
            what=f"{one.name} applies weight decay {decay:g} to all parameters, {what} included",
            evidence=(Evidence(name="weight decay of norms and biases", value=decay, normal="0"),),
            cause=(
                "weight decay pulls them towards zero, where a norm silences its layer and a bias "
                "forgets what it has learnt"
            ),
            fix=f"build {one.name} from trimtab.optim.param_groups({one.key}, {decay:g})",
        )


def _defaults(source: Source, node: ast.expr) -> list[ast.expr]:
    """Return the default of a command-line option, for `args.weight_decay`."""
    if not isinstance(node, ast.Attribute):
        return []
    flags = {f"--{node.attr}", f"--{node.attr.replace('_', '-')}"}
    return [
        default
        for call in source.all(ast.Call)
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
        if any(isinstance(a, ast.Constant) and a.value in flags for a in call.args)
        if (default := keyword(call, "default")) is not None
    ]
