"""The two ends of a model: what its batches look like, and how sharp its outputs are."""

import math
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor, nn

from trimtab.signals._sample import SAMPLE_SIZE, sample
from trimtab.signals._taps import Taps, Uncopied, find_tensor, is_dense, is_floating
from trimtab.signals._unit_rows import UNIT_ROWS, unit_rows

BATCH_COLUMNS: Final = ("input.mean", "input.std", "input.max", "input.nonfinite_fraction")
FINGERPRINT: Final = "input.fingerprint"
LOG_Z: Final = "output.log_z"

HALF_BITS: Final = 24
"""Bits of half a fingerprint: float32, in which numbers travel, holds as many exactly."""


class Ends:
    """Hooks on the whole model, which sample its inputs and its outputs as `Taps` do.

    Args:
        model: As it is called.
        taps: Whose arming these hooks follow. Where the model itself is tapped its output is seen
            there: torch.compile makes a graph of each hook.
    """

    def __init__(self, model: nn.Module, taps: Taps) -> None:
        self._taps = taps
        self.inputs = _Inputs(taps)
        self.outputs = _Outputs(taps)
        self._handles: list[Any] = [model.register_forward_pre_hook(self.inputs, with_kwargs=True)]
        if not taps.follow(self.outputs):
            self._handles.append(taps.model.register_forward_hook(self.outputs))

    @torch.no_grad()
    def gauges(self, device: torch.device) -> dict[str, Tensor]:
        """Measure what was seen since the last record, and forget it.

        Returns:
            One 0-d tensor for each of `BATCH_COLUMNS` and `LOG_Z`, and the two halves of the
            fingerprint, which `join_fingerprint` puts together; NaN for what was not seen.
        """
        batch, self.inputs.seen = self.inputs.seen, None
        rows, self.outputs.rows = self.outputs.rows, None
        unknown = torch.full((), math.nan, device=device)
        halves = (f"_{FINGERPRINT}.low", f"_{FINGERPRINT}.high")
        found = dict.fromkeys((*BATCH_COLUMNS, *halves, LOG_Z), unknown)
        if batch is not None:
            part = sample(batch.detach(), SAMPLE_SIZE).to(device)
            found |= dict(zip(BATCH_COLUMNS, batch_gauges(part).unbind(), strict=True))
            shape = self.inputs.shape or tuple(batch.shape)
            found |= dict(zip(halves, fingerprint(part, shape).unbind(), strict=True))
        if rows is not None:
            found[LOG_Z] = rows.to(device).float().logsumexp(dim=1).mean()
        return found

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def join_fingerprint(values: dict[str, float]) -> None:
    """Put the two halves of a fingerprint together; values without one stay as they are."""
    if f"_{FINGERPRINT}.low" in values:
        low, high = (values.pop(f"_{FINGERPRINT}.{half}") for half in ("low", "high"))
        values[FINGERPRINT] = low + high * 2**HALF_BITS


class _Inputs(Uncopied):
    """The forward pre-hook of the model."""

    def __init__(self, taps: Taps) -> None:
        self.taps = taps
        self.seen: Tensor | None = None
        self.shape: tuple[int, ...] | None = None  # None: what was seen is the whole batch

    def __call__(
        self,
        module: nn.Module,  # noqa: ARG002 # torch's
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        if not self.taps.looking:
            return
        tensor = find_tensor((args, kwargs), is_dense)
        if tensor is None:
            return
        # The copy is for forward passes that write into their input. In compiled code it would be a
        # graph by itself; there the input is looked at when the step is done.
        if torch.compiler.is_compiling():
            self.seen, self.shape = tensor, None
        else:
            self.seen = sample(tensor.detach(), SAMPLE_SIZE).clone()
            self.shape = tuple(tensor.shape)


class _Outputs(Uncopied):
    """The forward hook of the model, or what its tap hands the output to."""

    def __init__(self, taps: Taps) -> None:
        self.taps = taps
        self.rows: Tensor | None = None  # (rows, units)

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002 # torch's
        self.see(output)

    def see(self, output: Any) -> None:
        """Keep a few rows of what may be logits, whole."""
        if self.taps.looking:
            logits = find_tensor(output, _has_units)
            if logits is not None:
                self.rows = unit_rows(logits.detach())[:UNIT_ROWS].clone()


def _has_units(tensor: Tensor) -> bool:
    """Tell whether it can be logits: not a loss, and not one number for each row."""
    if tensor.ndim < 2 or not is_floating(tensor):
        return False
    return tensor.shape[1 if tensor.ndim >= 4 else -1] >= 2


def batch_gauges(part: Tensor) -> Tensor:
    """Measure a sample of a batch; NaN for what integers do not have.

    Args:
        part: `(size,)`, floating, integers or booleans.

    Returns:
        `(len(BATCH_COLUMNS),)`, float32, of the elements that are finite.
    """
    if not part.is_floating_point():
        unknown = torch.full((3,), math.nan, device=part.device)
        return torch.cat([unknown, torch.zeros(1, device=part.device)])
    x = part.float()
    finite = x.isfinite()
    count = finite.sum()
    x = torch.where(finite, x, 0)
    mean = x.sum() / count
    deviation = torch.where(finite, x - mean, 0)
    largest = torch.linalg.vector_norm(deviation, math.inf)
    scaled = deviation / largest.clamp(min=1e-30)  # before the square, which would overflow
    std = (scaled.square().sum() / count).sqrt() * largest
    top = torch.linalg.vector_norm(x, math.inf) + 0 * mean  # NaN if nothing is finite
    return torch.stack([mean, std, top, 1 - count / x.numel()])


def fingerprint(part: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return 48 bits that tell batches apart by what was sampled of them, bit for bit.

    Two different batches have the same with a probability of 4e-15.

    Args:
        part: `(size,)`, any real dtype.
        shape: Of the whole batch.

    Returns:
        Lower and upper half as integers below 2^24, `(2,)`, float32.

    Source: multilinear hashing of which the upper bits are kept: Dietzfelbinger 1996, STACS.
    """
    weights = _weights(part.numel(), part.device)
    total = (_bits(part) * weights).sum() + zlib.crc32(repr(shape).encode())
    total = total * 0x9E3779B97F4A7C1 + (total >> 31)
    halves = torch.stack([total >> 16, total >> (16 + HALF_BITS)])
    return (halves & (2**HALF_BITS - 1)).float()


def _bits(part: Tensor) -> Tensor:
    """Return the bits of each element as an integer."""
    if part.is_floating_point():
        kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        part = part.view(kinds[part.element_size()])
    return part.to(torch.int64)


@lru_cache(maxsize=8)
def _weights(size: int, device: torch.device) -> Tensor:
    """Return an odd random factor for each place, the same for ever."""
    g = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (size,), generator=g)
    return (2 * weights + 1).to(device)
