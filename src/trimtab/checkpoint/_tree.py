"""Nested state as JSON beside tensors: everything a run remembers, without pickling."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trimtab.errors import ConfigError

_TENSOR, _TUPLE, _PAIRS = "__tensor__", "__tuple__", "__pairs__"


def flatten(state: object) -> tuple[Any, dict[str, Tensor]]:
    """Split nested state into what JSON can hold and the tensors it refers to.

    Args:
        state: Dictionaries with string or whole-number keys, lists, tuples, tensors, numbers,
            strings, booleans and None. Tensors that are one are kept as one.

    Returns:
        The structure, and the tensors by their path in it, on the CPU and contiguous.

    Raises:
        ConfigError: Something else is in the state.
    """
    tensors: dict[str, Tensor] = {}
    return _encode(state, "", tensors, {}), tensors


def _encode(value: object, path: str, tensors: dict[str, Tensor], seen: dict[Any, str]) -> Any:
    if isinstance(value, Tensor):
        key = _identity(value)
        if key not in seen:
            seen[key] = path or "value"
            tensors[seen[key]] = value.detach().cpu().contiguous()
        return {_TENSOR: seen[key]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        items = [_encode(v, f"{path}.{i}", tensors, seen) for i, v in enumerate(value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping):
        pairs = [
            [k, _encode(v, f"{path}.{k}".lstrip("."), tensors, seen)] for k, v in value.items()
        ]
        if all(isinstance(k, str) and not k.startswith("__") for k, _ in pairs):
            return dict(pairs)
        if all(isinstance(k, str | int) for k, _ in pairs):
            return {_PAIRS: pairs}
    raise ConfigError(
        f"State at {path or 'the top'} is a {type(value).__name__}, which cannot be saved without "
        "pickling. Keep state in tensors, numbers, strings, lists and dictionaries."
    )


def _identity(tensor: Tensor) -> tuple[object, ...]:
    """Return what tells whether two tensors are the same memory seen the same way."""
    if tensor.numel() == 0:
        return (id(tensor),)
    layout = (tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)
    return (tensor.device, tensor.data_ptr(), *layout)


def unflatten(structure: object, tensors: Mapping[str, Tensor]) -> Any:
    """Put together what `flatten` split."""
    if isinstance(structure, list):
        return [unflatten(v, tensors) for v in structure]
    if not isinstance(structure, dict):
        return structure
    if _TENSOR in structure:
        return tensors[structure[_TENSOR]]
    if _TUPLE in structure:
        return tuple(unflatten(v, tensors) for v in structure[_TUPLE])
    if _PAIRS in structure:
        return {k: unflatten(v, tensors) for k, v in structure[_PAIRS]}
    return {k: unflatten(v, tensors) for k, v in structure.items()}
