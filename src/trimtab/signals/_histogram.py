"""Histograms on a symmetric logarithmic scale: one octave a bin, from 2^-24 to 2^9."""

from typing import Final

import torch
from torch import Tensor

from trimtab.signals._gauges import ABSENT, chunks

LOWEST, HIGHEST = -24, 8
"""Exponents of the innermost and outermost bin; what lies beyond goes into the nearest."""
OCTAVES: Final = HIGHEST - LOWEST + 1
NUM_BINS: Final = 2 * OCTAVES + 1
"""Negative octaves from the outside in, one bin around zero, positive octaves."""


def histogram_edges() -> list[float]:
    """Return the `NUM_BINS + 1` edges of the bins."""
    outward = [2.0**e for e in range(LOWEST, HIGHEST + 2)]
    return [-e for e in reversed(outward)] + outward


def histograms(samples: Tensor) -> Tensor:
    """Count the sampled elements of each row; those that are not finite are left out.

    Args:
        samples: `(rows, size)`, float32, `ABSENT` where there is none.

    Returns:
        `(rows, NUM_BINS)`.
    """
    return torch.cat([_histograms(part) for part in chunks(samples)])


def _histograms(x: Tensor) -> Tensor:
    exponent = torch.frexp(x).exponent - 1  # exact, where log2() rounds up just below an edge
    octave = exponent.clamp(LOWEST, HIGHEST) - LOWEST + 1  # 1 is the innermost
    octave = torch.where(x.abs() < 2.0**LOWEST, 0, octave)  # zero and what is as good as zero
    place = OCTAVES + torch.where(x < 0, -octave, octave)
    counted = (x.isfinite() & (x != ABSENT)).to(torch.float32)
    counts = torch.zeros(x.shape[0], NUM_BINS, device=x.device)
    return counts.scatter_add_(1, place.to(torch.int64), counted)
