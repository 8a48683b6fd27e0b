"""Random numbers of NumPy in a dataset that several workers load from."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._rule import SourceRule
from trimtab.lint._scopes import ClassInfo, dotted
from trimtab.lint._source import Source, keyword, last_name

MAKERS: Final = frozenset({"default_rng", "RandomState", "Generator", "Random"})
NOT_DRAWING: Final = frozenset({"seed", "get_state", "set_state", *MAKERS})


@register
@dataclass(frozen=True, kw_only=True)
class NumpyWorkerSeed(SourceRule):
    """Every worker of the DataLoader draws the same random numbers.

    Why: a worker process starts with a copy of the dataset. A generator that the dataset holds is
    copied with it, so all workers draw the same numbers, and begin anew in every epoch:
    augmentation repeats itself. NumPy's global state had the same fault until PyTorch 1.9, which
    seeds it in each worker.
    Measured: `__getitem__` of a dataset draws from a NumPy or Python generator made in `__init__`
    (a warning), or from `np.random` (advice), a DataLoader of the file has workers, and the file
    has no `worker_init_fn`.
    Silent on: random numbers from torch, which are seeded by worker and epoch.
    Fix: draw from torch, or seed the generator in a `worker_init_fn` from `torch.initial_seed()`.
    Source: PyTorch issue 5059, 2018; pull request 56488, 2021 (PyTorch 1.9).
    """

    code: ClassVar = "TT718"
    name: ClassVar = "numpy-worker-seed"
    severity: ClassVar = Severity.WARNING
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar[int] = 10
    example: ClassVar = """\
import numpy as np
from torch.utils.data import DataLoader, Dataset

class Noisy(Dataset):
    def __init__(self, data):
        self.data = data
        self.rng = np.random.default_rng(0)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index] + self.rng.normal()

loader = DataLoader(Noisy(data), batch_size=32, num_workers=4)
"""
    good: ClassVar = """\
import torch
from torch.utils.data import DataLoader, Dataset

class Noisy(Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index] + torch.randn(())

loader = DataLoader(Noisy(data), batch_size=32, num_workers=4)
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each dataset that draws so."""
        if source.mentions("worker_init_fn", "get_worker_info") or not self._has_workers(source):
            return
        for info in source.classes:
            if not any(last_name(b).endswith("Dataset") for b in info.bases):
                continue
            for call in self._called_for_items(source, info):
                finding = self._judge(source, info, call)
                if finding is not None:
                    yield finding
                    break

    def _has_workers(self, source: Source) -> bool:
        """Tell whether a DataLoader of the file has workers, by a number or by a setting."""
        for call in source.all(ast.Call):
            if source.called(call) != "DataLoader":
                continue
            workers = keyword(call, "num_workers", 5)
            values = source.origins.of(workers)
            if any(not (isinstance(v, ast.Constant) and not v.value) for v in values):
                return True
        return False

    def _called_for_items(self, source: Source, info: ClassInfo) -> Iterator[ast.Call]:
        """Yield the calls in `__getitem__`, and in the methods and functions that it calls."""
        waiting = [info.methods[n] for n in ("__getitem__", "__iter__") if n in info.methods]
        seen = set(waiting)
        while waiting:
            function = waiting.pop(0)
            for node in ast.walk(function):
                if not isinstance(node, ast.Call):
                    continue
                yield node
                inner = source.origins.function_called(node)
                if inner is not None and inner not in seen:
                    seen.add(inner)
                    waiting.append(inner)

    def _judge(self, source: Source, info: ClassInfo, call: ast.Call) -> Finding | None:
        path = source.qualname(call.func)
        drawn = last_name(path)
        if re.fullmatch(r"numpy\.random\.\w+", path) and drawn not in NOT_DRAWING:
            return self.at(
                source,
                call,
                severity=Severity.ADVICE,
                what=f"{info.name} draws from NumPy's global random state in worker processes",
                cause=(
                    "before PyTorch 1.9 every worker draws the same numbers; since then each is "
                    "seeded, and no generator that you pass to the DataLoader reaches it"
                ),
                fix="draw from torch, or seed NumPy in a worker_init_fn from torch.initial_seed()",
            )
        maker = self._maker(source, call)
        if maker is None:
            return None
        return self.at(
            source,
            call,
            what=f"{info.name} draws from a generator that every worker process has a copy of",
            cause=(
                "all workers draw the same random numbers, and begin anew with them in every epoch"
            ),
            fix=(
                "draw from torch, or seed the generator in a worker_init_fn from "
                "torch.initial_seed()"
            ),
        )

    def _maker(self, source: Source, call: ast.Call) -> ast.Call | None:
        """Return the call that made the generator, for a draw from one that the dataset holds."""
        func = call.func
        if not isinstance(func, ast.Attribute) or not dotted(func.value).startswith("self."):
            return None
        for origin in source.origins.of(func.value):
            if not isinstance(origin, ast.Call) or source.called(origin) not in MAKERS:
                continue
            if source.qualname(origin.func).startswith(("numpy.", "random.")):
                return origin
        return None
