"""Rows of a module's units: how much they vary over a batch, and in how many directions."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor

UNIT_ROWS: Final = 64
"""Rows of a record in which a unit can show that it is alive, and that stand for the batch."""
MAX_UNITS: Final = 128
"""Units of a row that are kept: of a wider output every third, fifth... Twice as many as there are
rows, which bound the rank."""
BLOCK: Final = 16
"""Neighbouring units that are kept together: a cache line of float32."""
MIN_UNITS: Final = BLOCK
MAX_KEPT: Final = 2**22
"""Kept elements of all modules together: in a very deep model each keeps fewer units."""

CHUNK_ELEMENTS: Final = 2**15
"""Elements handled at once on a CPU, where PyTorch starts threads for more."""

LEAST_VARIATION: Final = 1e-6
"""Below it the rows differ by no more than float32 rounds, and have no rank of their own."""

ROW_COLUMNS: Final = ("activation.variation", "activation.rank")


def unit_rows(output: Tensor) -> Tensor:
    """Return up to `UNIT_ROWS` rows spread over a batch, `(rows, num_units)`.

    Units are the channels of an image, else the last dimension. The cost does not depend on the
    batch.
    """
    some = _spread(output)
    return some.reshape(-1, some.shape[-1])


def _spread(output: Tensor) -> Tensor:
    """Return a view of rows spread over all dimensions, with the units last."""
    if output.ndim == 0:
        return output.reshape(1, 1)
    if output.ndim >= 4:
        output = output.movedim(1, -1)
    leading = output.shape[:-1]
    each = round(UNIT_ROWS ** (1 / max(1, len(leading))))
    steps = [max(1, size // each) for size in leading]
    return output[tuple(slice(0, each * step, step) for step in steps)]


def units_kept(num_modules: int) -> int:
    """Return how many units of each module's rows are kept."""
    return max(MIN_UNITS, min(MAX_UNITS, MAX_KEPT // (UNIT_ROWS * max(1, num_modules))))


def row_sample(output: Tensor, max_units: int = MAX_UNITS) -> Tensor:
    """Return a copy of up to `UNIT_ROWS` rows and `max_units` units of an output.

    Units come in blocks of neighbours, which copy three times as fast. The step between blocks
    has no factor in common with their number: another one might see a single one of several
    interleaved parts.
    """
    some = _spread(output)
    units = kept = some.shape[-1]
    if units > max_units:
        block = BLOCK if units % BLOCK == 0 else 1
        number = units // block
        stride = -(-number * block // max_units)
        while math.gcd(stride, number) != 1:
            stride += 1
        some = some.reshape(*some.shape[:-1], number, block)[..., ::stride, :]
        kept = some.shape[-2] * block
    return some.clone(memory_format=torch.contiguous_format).view(-1, kept)[:UNIT_ROWS]


@torch.no_grad()
def row_gauges(rows: Sequence[Tensor | None], device: torch.device) -> Tensor:
    """Measure how much the rows of each module vary.

    Args:
        rows: `(rows, units)` of each module; None where there are none.
        device: Where the result is wanted.

    Returns:
        `(num_modules, len(ROW_COLUMNS))`: the root of the units' mean variance over the RMS, 0 if
        all rows are the same; and the participation ratio of the centred rows, the number of
        directions in which they vary. NaN for fewer than two rows, for rows that are zero or not
        finite; the rank also for fewer than two units, and for rows that are all the same.

    Source: participation ratio tr(K)^2 / |K|^2: Gao et al. 2017, bioRxiv 214262.
    """
    found: dict[int, Tensor] = {}
    for indices, some in _alike(rows):
        # A copy: what was given stays as it is.
        gauges = _row_gauges(torch.stack(some).to(device, torch.float32))
        found |= dict(zip(indices, gauges.unbind(), strict=True))
    if not found:
        return torch.full((len(rows), len(ROW_COLUMNS)), math.nan, device=device)
    unknown = torch.full((len(ROW_COLUMNS),), math.nan, device=device)
    return torch.stack([found.get(index, unknown) for index in range(len(rows))])


def _alike(rows: Sequence[Tensor | None]) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Yield modules with rows of the same form; on a CPU few at a time."""
    alike: dict[tuple[object, ...], list[tuple[int, Tensor]]] = {}
    for index, part in enumerate(rows):
        if part is not None and part.shape[0] >= 2:
            alike.setdefault((part.shape, part.dtype, part.device), []).append((index, part))
    for group in alike.values():
        part = group[0][1]
        many = max(1, CHUNK_ELEMENTS // part.numel()) if part.device.type == "cpu" else len(group)
        for first in range(0, len(group), many):
            indices, some = zip(*group[first : first + many], strict=True)
            yield list(indices), list(some)


def _row_gauges(x: Tensor) -> Tensor:
    """Return `(num_modules, 2)` of `(num_modules, rows, units)`, which is overwritten."""
    rows, units = x.shape[1:]
    x /= torch.linalg.vector_norm(x, math.inf, dim=(1, 2), keepdim=True)  # no square overflows
    mean = x.mean(dim=1, keepdim=True)
    x -= mean
    small = x if rows <= units else x.mT
    gram = small @ small.mT
    spread = gram.diagonal(dim1=1, dim2=2).sum(dim=1)
    square = spread + rows * mean.square().sum(dim=(1, 2))
    variation = (spread / square).sqrt()
    rank = (spread / torch.linalg.vector_norm(gram, dim=(1, 2))).square()
    known = (variation > LEAST_VARIATION) & (units >= 2)
    return torch.stack([variation, torch.where(known, rank, math.nan)], dim=1)
