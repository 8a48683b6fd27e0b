"""Strided samples: about a thousand elements of a tensor, at a cost that does not grow with it."""

import math
from typing import Final

from torch import Tensor

SAMPLE_SIZE: Final = 1024
"""Elements that stand for a tensor; the error of their RMS is about 1 / sqrt(2 * 1024) = 2 %."""


def local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor: its shard of a `DTensor`, else all of it."""
    # FSDP2's DTensor; importing its class would take longer than importing all of trimtab.
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def sample_stride(num_elements: int, last_size: int, size: int = SAMPLE_SIZE) -> int:
    """Return the step between sampled elements.

    It has no factor in common with the last dimension: a stride that is a multiple of it would see
    one feature only.

    Args:
        num_elements: Of the whole tensor.
        last_size: Of its last dimension in memory.
        size: Elements wanted.
    """
    stride = num_elements // size
    if stride <= 1:
        return 1
    while stride > 1 and math.gcd(stride, last_size) != 1:
        stride -= 1
    return stride


def sample(tensor: Tensor, size: int = SAMPLE_SIZE) -> Tensor:
    """Return a sample of a tensor's elements: all of them if there are few enough.

    A view into the tensor's memory where its elements lie without gaps, which is nearly always so.

    Args:
        tensor: Any shape; real.
        size: Elements wanted, at least 1.

    Returns:
        `(min(num_elements, size),)`, the tensor's dtype.
    """
    count = tensor.numel()
    if tensor.is_contiguous():
        flat, last = tensor, tensor.shape[-1] if tensor.ndim else 1
    elif (inner := _inner_size(tensor)) is not None:
        flat, last = tensor, inner
    else:  # gaps or overlaps in memory: only here the cost grows with the tensor
        flat, last = tensor.contiguous(), tensor.shape[-1]
    if count <= size:
        return flat.as_strided((count,), (1,))
    return flat.as_strided((size,), (sample_stride(count, last, size),))


def _inner_size(tensor: Tensor) -> int | None:
    """Return the size of the dimension whose elements are neighbours; None if there are gaps.

    Images in channels-last order and transposed matrices have no gaps; slices often have.
    """
    expected, inner = 1, 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length == 1:
            continue
        if stride != expected:
            return None
        if expected == 1:
            inner = length
        expected *= length
    return inner
