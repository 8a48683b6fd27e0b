"""Nested state taken apart into tensors and the structure around them, and put together again."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.optim._norms import is_sharded
from trimtab.signals._sample import local


@dataclass(frozen=True)
class Leaf:
    """The place of a tensor in nested state."""

    index: int
    """Which of the tensors it is."""
    device: torch.device
    """Where it was."""
    layout: tuple[Any, ...] | None = None
    """Mesh, placements, shape and strides of the whole, if this is a shard of it."""


def take_apart(value: Any, tensors: list[Tensor]) -> Any:
    """Return `value` with a `Leaf` for each tensor in it, and append the tensors themselves.

    All but the tensors is copied, so that later changes of `value` do not reach the result.

    Args:
        value: Dictionaries, lists and tuples with tensors and anything that can be deep-copied.
        tensors: Grows by what this process holds of each tensor; nothing is copied.
    """
    if isinstance(value, Tensor):
        tensors.append(local(value.detach()))
        return Leaf(len(tensors) - 1, tensors[-1].device, _layout(value))
    kind = type(value)
    if kind in {dict, OrderedDict}:
        return kind((k, take_apart(v, tensors)) for k, v in value.items())
    if kind in {list, tuple}:
        return kind(take_apart(v, tensors) for v in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return kind(*(take_apart(v, tensors) for v in value))
    if value is None or kind in {int, float, bool, str}:
        return value
    return copy.deepcopy(value)


def put_together(structure: Any, make: Callable[[Leaf], Any]) -> Any:
    """Return what `take_apart` took apart, with `make` called for each tensor."""
    kind = type(structure)
    if kind is Leaf:
        return make(structure)
    if kind in {dict, OrderedDict}:
        return kind((k, put_together(v, make)) for k, v in structure.items())
    if kind in {list, tuple}:
        return kind(put_together(v, make) for v in structure)
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return kind(*(put_together(v, make) for v in structure))
    if structure is None or kind in {int, float, bool, str}:
        return structure
    return copy.deepcopy(structure)


def rebuilt(leaf: Leaf, stored: Tensor) -> Tensor:
    """Return a new tensor like the one that `leaf` stands for, on its device, with these values."""
    tensor = torch.empty_like(stored, device=leaf.device, pin_memory=False).copy_(stored)
    if leaf.layout is None:
        return tensor
    from torch.distributed.tensor import DTensor  # takes seconds to import

    mesh, placements, shape, strides = leaf.layout
    return DTensor.from_local(
        tensor, mesh, placements, run_check=False, shape=shape, stride=strides
    )


class InPlace:
    """Puts values back into the very tensors that hold them now, where they still fit.

    Compiled and captured optimizers read addresses, not names: a new tensor would be ignored.

    Args:
        stored: The values, by the index of their leaf.
    """

    def __init__(self, stored: Sequence[Tensor]) -> None:
        self.stored = stored
        self.pairs: list[tuple[Tensor, Tensor]] = []
        """Tensors to be filled, and with what."""
        self._used: set[int] = set()

    def into(self, structure: Any, now: Any) -> Any:
        """Return what has to stand in the place of `now`: itself where it can be filled."""
        if type(structure) is Leaf:
            return self._tensor(structure, now)
        if isinstance(structure, dict) and isinstance(now, dict):
            for key in now.keys() - structure.keys():
                del now[key]
            for key, value in structure.items():
                now[key] = self.into(value, now.get(key))
            return now
        if isinstance(structure, list) and isinstance(now, list) and len(structure) == len(now):
            now[:] = [self.into(s, n) for s, n in zip(structure, now, strict=True)]
            return now
        return put_together(structure, self._new)

    def _tensor(self, leaf: Leaf, now: Any) -> Tensor:
        stored = self.stored[leaf.index]
        if not isinstance(now, Tensor) or now.requires_grad or _layout(now) != leaf.layout:
            return self._new(leaf)
        held = local(now)
        # Two names for one memory may have had two values: the second gets memory of its own.
        taken = held.numel() > 0 and held.data_ptr() in self._used
        if not fits(held, stored) or held.device != leaf.device or taken:
            return self._new(leaf)
        self._used.add(held.data_ptr())
        self.pairs.append((held, stored))
        return now

    def _new(self, leaf: Leaf) -> Tensor:
        return rebuilt(leaf, self.stored[leaf.index])

    def fill(self) -> None:
        """Copy all values."""
        copy_all([p[0] for p in self.pairs], [p[1] for p in self.pairs])


def fits(tensor: Tensor, stored: Tensor) -> bool:
    """Tell whether `stored` can be copied into `tensor` bit for bit."""
    return tensor.shape == stored.shape and tensor.dtype == stored.dtype


@torch.no_grad()
def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target, without waiting for a device that can do so later."""
    if targets:
        torch._foreach_copy_(list(targets), list(sources), non_blocking=True)


def _layout(tensor: Tensor) -> tuple[Any, ...] | None:
    if not is_sharded(tensor):
        return None
    whole: Any = tensor
    return (whole.device_mesh, whole.placements, whole.shape, whole.stride())
