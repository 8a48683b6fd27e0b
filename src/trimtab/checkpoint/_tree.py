"""Nested state as JSON beside tensors: everything a run remembers, without pickling."""

import base64
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import ConfigError

_TENSOR, _TUPLE, _PAIRS, _BYTES = "__tensor__", "__tuple__", "__pairs__", "__bytes__"


def to_cpu(tensor: Tensor) -> Tensor:
    """Return the tensor on the CPU, contiguous; the same memory if it is that already."""
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()


def flatten(
    state: object, move: Callable[[Tensor], Tensor] = to_cpu, *, shards: bool = False
) -> tuple[Any, dict[str, Tensor]]:
    """Split nested state into what JSON can hold and the tensors it refers to.

    Args:
        state: Dictionaries with string or whole-number keys, lists, tuples, tensors, numbers,
            strings, bytes, booleans and None. Tensors that are one are kept as one.
        move: What to keep of each tensor.
        shards: Whether tensors may be split over processes (`DTensor`).

    Returns:
        The structure, and the tensors by their path in it.

    Raises:
        ConfigError: Something else is in the state.
    """
    encoder = _Encoder(move, shards=shards)
    try:
        return encoder.encode(state, ""), encoder.tensors
    except RecursionError:
        raise ConfigError(
            "The state is nested too deeply to be saved, or contains itself. Keep it flat."
        ) from None


class _Encoder:
    """One walk over a state; remembers which tensors it has met."""

    def __init__(self, move: Callable[[Tensor], Tensor], *, shards: bool) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._move, self._shards = move, shards
        self._seen: dict[tuple[object, ...], str] = {}

    def encode(self, value: object, path: str) -> Any:
        if isinstance(value, Tensor):
            return {_TENSOR: self._name(value, path)}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, bytes):
            return {_BYTES: base64.b64encode(value).decode()}
        if isinstance(value, list | tuple):
            items = [self.encode(v, f"{path}.{i}") for i, v in enumerate(value)]
            return {_TUPLE: items} if isinstance(value, tuple) else items
        if isinstance(value, Mapping):
            pairs = [[k, self.encode(v, f"{path}.{k}".lstrip("."))] for k, v in value.items()]
            if all(isinstance(k, str) and not k.startswith("__") for k, _ in pairs):
                return dict(pairs)
            if all(isinstance(k, str | int) for k, _ in pairs):
                return {_PAIRS: pairs}
        raise ConfigError(
            f"State at {path or 'the top'} is a {type(value).__name__}, which cannot be saved "
            "without pickling. Keep state in tensors, numbers, strings, lists and dictionaries."
        )

    def _name(self, value: Tensor, path: str) -> str:
        """Keep a tensor, and return the name it is kept by.

        Raises:
            ConfigError: It is of a kind that cannot be saved, or split over processes.
        """
        split = hasattr(value, "to_local")  # a DTensor, whose class is slow to import
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            kind = "meta tensor" if value.is_meta else f"{value.layout} tensor"
            raise ConfigError(
                f"State at {path or 'the top'} is a {kind}, which cannot be saved. "
                "Keep state in dense tensors."
            )
        if split and not self._shards:
            raise ConfigError(
                f"State at {path or 'the top'} is split over several processes. Save it on all "
                "of them with save_sharded()."
            )
        key = _identity(value)
        if key not in self._seen:
            name = self._free_name(path)
            self._seen[key] = name
            self.tensors[name] = self._move(value)
        return self._seen[key]

    def _free_name(self, path: str) -> str:
        """Return a name that safetensors takes and no other tensor has: `{"a.b": x}` is not a.b."""
        name = path.encode("utf-8", "backslashreplace").decode() or "value"
        name = f"value.{name}" if name.startswith("__") else name  # "__metadata__" is its own
        number = 1
        while name in self.tensors:
            number += 1
            name = f"{name.rpartition('~')[0] or name}~{number}"
        return name


def _identity(tensor: Tensor) -> tuple[object, ...]:
    """Return what tells whether two tensors are the same memory seen the same way."""
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    if local.numel() == 0:
        return (id(tensor),)
    layout = (tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)
    signs = (tensor.is_conj(), tensor.is_neg())
    return (local.device, local.data_ptr(), *layout, *signs)


def unflatten(structure: object, tensors: Mapping[str, Tensor]) -> Any:
    """Put together what `flatten` split."""
    return assemble(structure, lambda name, _: tensors[name])


def assemble(structure: object, find: Callable[[str, object], Tensor], like: object = None) -> Any:
    """Put together what `flatten` split, with tensors that somebody finds.

    Args:
        structure: The first part of what `flatten` returned.
        find: Gets a tensor's name, and what `like` has in its place.
        like: State of the same kind, or a part of it, or None.
    """
    if isinstance(structure, list):
        return [assemble(v, find, _part(like, i)) for i, v in enumerate(structure)]
    if not isinstance(structure, dict):
        return structure
    if _TENSOR in structure:
        return find(structure[_TENSOR], like)
    if _BYTES in structure:
        return base64.b64decode(structure[_BYTES], validate=True)
    if _TUPLE in structure:
        return tuple(assemble(structure[_TUPLE], find, like))
    if _PAIRS in structure:
        return {k: assemble(v, find, _part(like, k)) for k, v in structure[_PAIRS]}
    return {k: assemble(v, find, _part(like, k)) for k, v in structure.items()}


def _part(like: object, key: Any) -> object:
    if isinstance(like, Mapping):
        return like.get(key)
    if isinstance(like, list | tuple) and isinstance(key, int) and key < len(like):
        return like[key]
    return None
