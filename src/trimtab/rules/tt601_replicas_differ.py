"""TT601 replicas-differ: processes that should hold the same parameters do not."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class ReplicasDiffer(RunRule):
    """The processes of a distributed run hold different parameters.

    Why: each replica then follows a run of its own. The averaged gradient fits none of them, and
        the checkpoint is that of the first rank alone.

    Measured: checksums of all replicated parameters, exchanged between the ranks every few records.
        Replicas that apply the same averaged gradient to the same parameters stay equal bit for
        bit.

    Silent on: sharded parameters, and runs of one process.

    Fix: wrap the model in DDP after it is initialised, so that all ranks begin with the parameters
        of the first; average gradients on all ranks; change parameters on no rank alone; skip a
        step on all ranks or on none.

    Source: Li et al. 2020 (PyTorch Distributed), arXiv:2006.15704, section 3.
    """

    code: ClassVar = "TT601"
    name: ClassVar = "replicas-differ"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar = 15
    leads_to: ClassVar = ("TT602", "TT3")
    example: ClassVar = """\
from trimtab.rules import Judge
from trimtab.signals import StepRecord

judge = Judge()  # as the recorder of a run of several processes feeds it
judge.see(StepRecord(100, {"loss": 1.0, "replicas.parameter_difference": 0.03}))
findings = judge.findings
"""

    signal: ClassVar = "replicas.parameter_difference"

    max_difference: float = 0.0
    """Largest healthy relative difference. What the order of additions explains counts as none."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding from the first comparison on that finds a difference."""
        series = history.series(self.signal)
        flags = series.values > self.max_difference  # False for NaN
        if not flags.any():
            return
        at = int(np.flatnonzero(flags)[0])
        now = float(series.values[flags][-1])
        yield self.finding(
            step=int(series.steps[at]),
            what=f"the processes hold different parameters: they differ by up to {now:.2g} of a "
            "parameter's norm",
            evidence=(Evidence(name="difference between ranks", value=now, normal="0"),),
            cause="the replicas began with different parameters, or took different steps: a seed "
            "for each rank with no broadcast, gradients that are not averaged on all ranks, a step "
            "skipped or weights changed on one rank only",
            fix="wrap the model in DistributedDataParallel after it is initialised and call it "
            "through the wrapper, let all ranks skip a step or none, and load checkpoints on all "
            "ranks",
            remedy=Fix(action="broadcast_parameters"),
        )
