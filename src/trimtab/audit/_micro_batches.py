"""One batch cut into micro-batches along its first axis, and several joined to one."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trimtab.diagnosis._batches import Pair, tensors_in
from trimtab.errors import ConfigError


def equal_sizes(total: int, parts: int) -> tuple[int, ...]:
    """Return the sizes of parts that are equal."""
    return (total // parts,) * parts


def growing_sizes(total: int, parts: int) -> tuple[int, ...]:
    """Return sizes that grow by about the same number from part to part, and add up."""
    ends = [round(total * i * (i + 1) / (parts * (parts + 1))) for i in range(parts + 1)]
    return tuple(b - a for a, b in itertools.pairwise(ends))


def chunk_sizes(total: int, parts: int) -> tuple[int, ...]:
    """Return the sizes that `torch.chunk` makes."""
    return tuple(len(chunk) for chunk in torch.arange(total).chunk(parts))


def num_examples(pair: Pair) -> int:
    """Return how many examples a batch has: the first axis of its first input.

    Raises:
        ConfigError: There is no tensor with an axis.
    """
    found = [t for t in tensors_in(pair[0]) if t.ndim]
    if not found:
        raise ConfigError(
            "A batch cannot be cut into micro-batches: its inputs hold no tensor with an axis."
        )
    return int(found[0].shape[0])


def cut(pair: Pair, sizes: Sequence[int]) -> list[Pair]:
    """Return the batch's parts, the first examples first.

    Args:
        pair: Inputs and targets; tensors whose first axis is the examples are cut, all else goes
            into each part.
        sizes: Examples of each part; not more together than there are.
    """
    total = num_examples(pair)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    spans = zip([0, *ends], ends, strict=False)
    return [(_part(pair[0], a, b, total), _part(pair[1], a, b, total)) for a, b in spans]


def join(pairs: Sequence[Pair]) -> Pair:
    """Return one batch of all examples.

    Raises:
        ConfigError: They do not fit together.
    """
    if len(pairs) == 1:
        return pairs[0]
    try:
        return _joined([p[0] for p in pairs]), _joined([p[1] for p in pairs])
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f"The first batches are small and cannot be joined to a larger one: {error}. Let "
            "build() give batches with more examples."
        ) from error


def to_dtype(value: Any, dtype: torch.dtype) -> Any:
    """Return nested values with their floating-point tensors in another precision."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: to_dtype(each, dtype) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([to_dtype(each, dtype) for each in value])
    return value


def _part(value: Any, begin: int, end: int, total: int) -> Any:
    if isinstance(value, Tensor):
        return value[begin:end] if value.ndim and value.shape[0] == total else value
    if isinstance(value, Mapping):
        return {key: _part(each, begin, end, total) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_part(each, begin, end, total) for each in value])
    return value


def _joined(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values)) if first.ndim else first
    if isinstance(first, Mapping):
        return {key: _joined([v[key] for v in values]) for key in first}
    if isinstance(first, list | tuple):
        return type(first)([_joined(list(each)) for each in zip(*values, strict=True)])
    return first
