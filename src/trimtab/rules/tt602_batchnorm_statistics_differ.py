"""TT602 batchnorm-statistics-differ: each process normalises by statistics of its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class BatchnormStatisticsDiffer(RunRule):
    """The running statistics of BatchNorm differ far between the processes of a run.

    Why: each rank normalises by its own batch, so with few samples a rank the replicas compute
        different functions, and evaluation and the checkpoint see the statistics of one rank only.

    Measured: checksums of all buffers, exchanged between the ranks every few records. DDP copies
        the buffers of the first rank to all at each forward pass, which hides the difference but
        does not synchronise the batches: what is left is that of a single step.

    Silent on: differences below a fifth, as batches of a few dozen samples a rank show in health.

    Fix: `torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)` before wrapping it, or GroupNorm,
        which needs no batch; shuffle the data over the ranks if one of them sees other classes.

    Source: Peng et al. 2018 (MegDet), arXiv:1711.07240; Wu & He 2018, arXiv:1803.08494.
    """

    code: ClassVar = "TT602"
    name: ClassVar = "batchnorm-statistics-differ"
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar = 16
    leads_to: ClassVar = ("TT3",)
    example: ClassVar = """\
from trimtab.rules import Judge
from trimtab.signals import StepRecord

judge = Judge()  # as the recorder of a run of several processes feeds it
for step in (100, 200):
    judge.see(StepRecord(step, {"loss": 1.0, "replicas.buffer_difference": 0.4}))
findings = judge.findings
"""

    signal: ClassVar = "replicas.buffer_difference"

    max_difference: float = 0.2
    """Largest difference of a buffer that is no cause for alarm, over its norm. The mean of n
    samples is off by 1/sqrt(n), and a momentum of 0.1 averages over some twenty batches: 0.04 for
    32."""
    comparisons: int = 2
    """Comparisons in a row."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if the buffers of the ranks were far apart in the last comparisons."""
        series = history.series(self.signal)
        keep = ~np.isnan(series.values)
        steps, values = series.steps[keep][-self.comparisons :], series.values[keep]
        values = values[-self.comparisons :]
        if len(values) < self.comparisons or not (values > self.max_difference).all():
            return
        norms = [m.name for m in history.setup.modules if "batchnorm" in m.kind.lower()]
        if history.setup.modules and not norms:
            return
        difference = float(np.median(values))
        yield self.finding(
            site=norms[0] if norms else "",
            step=int(steps[0]),
            what=f"the BatchNorm statistics of the processes differ by up to {difference:.2g} of "
            "their norm",
            evidence=(
                Evidence(
                    name="difference of a buffer between ranks",
                    value=difference,
                    normal=f"<= {self.max_difference:g}",
                ),
            ),
            cause="each process normalises by its own batch: the batches are small, or the ranks "
            "see different data, and BatchNorm is not synchronised",
            fix="call torch.nn.SyncBatchNorm.convert_sync_batchnorm(model) before wrapping it, use "
            "GroupNorm in place of BatchNorm, and shuffle the data over all ranks",
            remedy=Fix(action="synchronise_batch_norm"),
        )
