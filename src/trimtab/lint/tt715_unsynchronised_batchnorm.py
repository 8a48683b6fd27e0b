"""BatchNorm in distributed training that normalises by each process's own batch."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.lint._models import has_batch_norms
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source, keyword

WRAPPERS = frozenset({"DistributedDataParallel", "DDP"})


@register
@dataclass(frozen=True, kw_only=True)
class UnsynchronisedBatchNorm(SourceRule):
    """BatchNorm normalises by each process's own batch, so the replicas see different networks.

    Why: DistributedDataParallel averages gradients, not the statistics of BatchNorm. Each process
    normalises by its own few samples, and the running statistics that evaluation uses are those of
    one process alone. With large batches a process the difference is small; below about 16 it costs
    accuracy.
    Measured: a network of the file with BatchNorm layers is wrapped in DistributedDataParallel, and
    the file has no SyncBatchNorm. A warning where the batch size is written out and small, advice
    elsewhere.
    Silent on: networks of which neither the source nor torchvision shows the layers.
    Fix: `torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)` before wrapping, or GroupNorm.
    Source: Wu & He 2018, arXiv:1803.08494, figure 1 (error against batch size);
    torch.nn.SyncBatchNorm.
    """

    code: ClassVar = "TT715"
    name: ClassVar = "unsynchronised-batchnorm"
    severity: ClassVar = Severity.WARNING
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    example: ClassVar = """\
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP

model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU())
model = DDP(model)
"""
    good: ClassVar = """\
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP

model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU())
model = DDP(nn.SyncBatchNorm.convert_sync_batchnorm(model))
"""

    small_batch: int = 16
    """Samples a process up to which statistics are too noisy: Wu & He 2018, figure 1."""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each wrapped network."""
        if source.mentions("SyncBatchNorm", "convert_sync", "sync_bn", "syncbn"):
            return
        if not source.mentions("DistributedDataParallel"):
            return
        for call in source.all(ast.Call):
            if source.called(call) not in WRAPPERS:
                continue
            model = keyword(call, "module", 0)
            if model is not None and has_batch_norms(source, model):
                yield self._finding(source, call, self._batch_size(source))

    def _batch_size(self, source: Source) -> int | None:
        sizes = [
            origin.value
            for call in source.all(ast.Call)
            if source.called(call) == "DataLoader"
            for origin in source.origins.of(keyword(call, "batch_size", 1))
            if isinstance(origin, ast.Constant) and isinstance(origin.value, int)
        ]
        return min(sizes, default=None)

    def _finding(self, source: Source, call: ast.Call, size: int | None) -> Finding:
        small = size is not None and size <= self.small_batch
        normal = f"> {self.small_batch}"
        return self.at(
            source,
            call,
            severity=Severity.WARNING if small else Severity.ADVICE,
            what="a network with BatchNorm is wrapped in DistributedDataParallel as it is",
            evidence=()
            if size is None
            else (Evidence(name="batch size of a process", value=size, normal=normal),),
            cause=(
                "each process normalises by its own samples alone, so the replicas compute "
                "different functions and evaluation uses the statistics of one of them"
            ),
            fix=(
                "call torch.nn.SyncBatchNorm.convert_sync_batchnorm(model) before wrapping, "
                "or use GroupNorm"
            ),
        )
