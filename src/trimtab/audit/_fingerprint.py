"""Fingerprints: whether two nested values are the same, bit for bit."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)


def fingerprint(*values: Any) -> str:
    """Return what is equal for values that are equal bit for bit, and else differs.

    Tensors, arrays, numbers, texts, generators and containers of these are looked at; of anything
    else the type alone.
    """
    digest = hashlib.sha256()
    for value in values:
        _add(digest, value)
    return digest.hexdigest()


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Return what nested dictionaries, lists and tuples hold, by a dotted name, as copies."""
    if isinstance(value, Mapping):
        pairs = [(str(key), each) for key, each in value.items()]
    elif isinstance(value, list | tuple):
        pairs = [(str(index), each) for index, each in enumerate(value)]
    else:
        return {name: value.detach().clone() if isinstance(value, Tensor) else value}
    return {
        key: leaf
        for label, each in pairs
        for key, leaf in leaves(each, f"{name}.{label}" if name else label).items()
    }


def _add(digest: Any, value: Any) -> None:
    digest.update(f"{type(value).__name__}(".encode())
    if isinstance(value, Tensor):
        _add_tensor(digest, value)
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, torch.Generator):
        _add_tensor(digest, value.get_state())
    elif isinstance(value, _PLAIN):
        digest.update(repr(value).encode(errors="replace"))
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            _add(digest, key)
            _add(digest, value[key])
    elif isinstance(value, set | frozenset):
        digest.update(repr(sorted(value, key=repr)).encode(errors="replace"))
    elif isinstance(value, list | tuple):
        for each in value:
            _add(digest, each)
    digest.update(b")")


def _add_tensor(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest.update(raw.numpy().tobytes())
