"""A remedy for data that become others on the way, such as tokens of another source."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from trimtab.engine import TrainingSetup
from trimtab.repair._data import POOL, REFERENCE, Changed, Pair
from trimtab.repair._edit import Edit
from trimtab.repair._remedy import Order
from trimtab.repair._scaled import first_tensor

APART: Final = 1.5
"""Distance from usual counts, as a multiple of the largest among the first batches, from which on a
batch comes from another source."""

LASTING: Final = 10
"""Batches at the end of a run that have to be like this."""

LEAST: Final = 16
"""Tokens of a batch at least, for their counts to say anything."""


class Counts:
    """How often each token comes in the first batches, and how far batches are from that."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        self.limit = 0.0

    @property
    def is_known(self) -> bool:
        """Whether enough batches were seen."""
        return len(self.rows) >= REFERENCE

    def add(self, tokens: Tensor) -> None:
        """Learn what is usual from one batch."""
        self.rows.append(_shares(tokens))
        if self.is_known:
            self._whole = _sum(self.rows)
            own = [_distance(r, self._whole - r, len(self.rows) - 1) for r in _even(self.rows)]
            self.limit = APART * max(own)

    def is_far(self, tokens: Tensor) -> bool:
        """Tell whether a batch is far from what is usual."""
        row, whole = _even([_shares(tokens), self._whole])
        return _distance(row, whole, len(self.rows)) > self.limit


def _shares(tokens: Tensor) -> Tensor:
    counts = torch.bincount(tokens.flatten().cpu()).double()
    return counts / counts.sum()


def _even(rows: Sequence[Tensor]) -> list[Tensor]:
    """Return vectors with zeros up to one length."""
    width = max(len(row) for row in rows)
    return [torch.nn.functional.pad(row, (0, width - len(row))) for row in rows]


def _sum(rows: Sequence[Tensor]) -> Tensor:
    return torch.stack(_even(rows)).sum(dim=0)


def _distance(row: Tensor, whole: Tensor, count: int) -> float:
    """Return the total variation between shares and the mean of others."""
    return float((row - whole / count).abs().sum()) / 2


def tokens_of(pair: Pair) -> Tensor | None:
    """Return the tokens of a batch; None if its inputs are something else."""
    x = first_tensor(pair[0])
    if x is None or x.dtype not in {torch.int64, torch.int32} or x.numel() < LEAST:
        return None
    return x if int(x.min()) >= 0 else None


def shifts_for_good(sample: Sequence[Pair]) -> bool:
    """Tell whether the last batches of a run come from another source than the first."""
    tokens = [tokens_of(pair) for pair in sample]
    if len(tokens) < REFERENCE + LASTING:
        return False
    counts = Counts()
    for each in tokens[:REFERENCE]:
        if each is None:
            return False
        counts.add(each)
    return all(each is not None and counts.is_far(each) for each in tokens[-LASTING:])


def repeat_early(setup: TrainingSetup, _order: Order) -> list[Edit]:
    """Repeat earlier batches in the place of those that come from another source."""

    def change(pairs: Iterator[Pair]) -> Iterator[Pair]:
        for pair in pairs:
            tokens = tokens_of(pair)
            if tokens is not None and counts.is_known and counts.is_far(tokens):
                pool.rotate(-1)
                yield pool[0]
                continue
            if tokens is not None and not counts.is_known:
                counts.add(tokens)
            pool.append(pair)
            yield pair

    counts = Counts()
    pool: deque[Any] = deque(maxlen=POOL)
    setup.batches = Changed(setup.batches, change)
    return [
        Edit(
            what="batches from another source",
            before="trained on",
            after="left out; earlier ones were repeated",
            advice="find out where the data change on the way: from some batch on, tokens come "
            "about as often as in no batch before. Mix the sources, or leave that one out",
        )
    ]
