"""TT208 growing-activations: outputs grow from layer to layer, or step by step, without bound."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.rules._depth import by_depth, is_hidden
from trimtab.rules._history import Floats, History
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class GrowingActivations(RunRule):
    """The outputs of hidden layers are thousands of times larger than what came in.

    Why: each layer multiplies what it gets by more than 1, or each residual branch adds to a stream
        that no norm brings back. Logits, losses and gradients have the same factor; in fp16 the end
        is at 65504.

    Measured: the RMS of each hidden module's output over that of the first module, or over 1 if
        that is larger, in two records in a row or in the last one before a value that is not
        finite.

    Silent on: outputs of a regression in large units; few large elements, which do not move the
        RMS.

    Fix: initialise with `trimtab.init.auto_`, scale residual branches by depth
        (`trimtab.init.gpt2_`, `trimtab.init.deepnorm_`), add norms, lower the learning rate if it
        grew during training.

    Source: He et al. 2015, arXiv:1502.01852; Zhang et al. 2019 (Fixup), arXiv:1901.09321.
    """

    code: ClassVar = "TT208"
    name: ClassVar = "growing-activations"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.EXPLODING_GRADIENT
    rank: ClassVar = 46
    leads_to: ClassVar = (
        "TT102",
        "TT104",
        "TT107",
        "TT201",
        "TT202",
        "TT203",
        "TT207",
        "TT3",
        "TT4",
    )
    example: ClassVar = """\
import torch, trimtab
from torch import nn

layers = [layer for _ in range(8) for layer in (nn.Linear(32, 32), nn.ReLU())]
model = nn.Sequential(*layers, nn.Linear(32, 10))
for p in model.parameters():
    nn.init.normal_(p)  # a standard deviation of 1 in place of sqrt(2 / 32)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(10):
    x = torch.randn(32, 32)
    optimizer.zero_grad()
    trim.loss(nn.functional.cross_entropy(model(x), x.argmax(1) % 10)).backward()
    optimizer.step()
findings = trim.findings
"""

    max_rms: float = 1e3
    """Largest healthy RMS of a hidden output over that of the first module, or over 1. Sound
    networks have 0.1 to 10; the residual streams of large language models reach some hundreds."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the first module whose output has outgrown its input."""
        table = history.table("modules", "activation.rms").last(2)
        if len(table.steps) < 2:
            return
        rms = np.where(np.isfinite(table.values), table.values, np.inf)
        rms[np.isnan(table.values)] = np.nan
        self._mark_nonfinite(history, rms)
        limit = self.max_rms * np.fmax(1.0, self._input(history, table.sites, rms))
        large = rms > limit[:, None]
        flags = large.all(axis=0) & np.isfinite(table.values).any(axis=0)
        leaves = {m.name for m in history.setup.modules if m.leaf}
        sites = {
            table.sites[i]: i
            for i in np.flatnonzero(flags)
            if not leaves or table.sites[i] in leaves
        }
        found = [s for s in by_depth(history, list(sites)) if is_hidden(history, s)]
        if not found:
            return
        site = found[0]
        values = table.values[:, sites[site]]
        largest = table.values[:, [sites[s] for s in found]]
        most = float(np.max(largest[np.isfinite(largest)]))
        at = int(np.flatnonzero(np.isfinite(values))[0])
        yield self.finding(
            site=site,
            step=int(table.steps[at]),
            what=f"the outputs of this module have an RMS of {values[at]:.3g}; the largest of "
            f"a hidden module has {most:.3g}",
            evidence=(
                Evidence(
                    name="RMS of the output",
                    value=float(values[at]),
                    normal=f"<= {float(limit[at]):.3g}",
                ),
            ),
            cause="each layer makes its input larger, or a residual stream without norm adds up: "
            "the initial weights are too large for the activation, or the learning rate too high",
            fix="initialise with trimtab.init.auto_(model), scale residual branches by depth, add "
            "norm layers, and lower the learning rate if the outputs grew during training",
            remedy=Fix(action="reinitialise", args={"scheme": "auto"}),
        )

    def _mark_nonfinite(self, history: History, rms: Floats) -> None:
        """Take a module without any finite output for an infinite one; in place."""
        bad = history.table("modules", "activation.nonfinite_fraction").last(len(rms)).values
        rms[bad > 0] = np.inf

    def _input(self, history: History, sites: list[str], rms: Floats) -> Floats:
        """Return the RMS of the first module's output, `(num_records,)`; 0 where it is unknown."""
        order = by_depth(history, sites)
        first = rms[:, sites.index(order[0])] if order and history.order else np.zeros(len(rms))
        return np.where(np.isfinite(first), first, 0.0)
