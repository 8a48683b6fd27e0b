"""Tensors that are split over ranks: which part each holds, and any part put together again."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trimtab.checkpoint._manifest import Manifest, read_verified, shard_files
from trimtab.checkpoint._tree import unflatten
from trimtab.errors import ConfigError

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Box:
    """Where a part lies in the whole tensor."""

    offset: Shape
    size: Shape

    def overlap(self, other: "Box") -> tuple["Box", "Box"] | None:
        """Return what both cover, seen from inside this one and from inside the other."""
        ends = zip(self.offset, self.size, other.offset, other.size, strict=True)
        low = [max(a, b) for a, b in zip(self.offset, other.offset, strict=True)]
        high = [min(a + m, b + n) for a, m, b, n in ends]
        size = tuple(h - at for at, h in zip(low, high, strict=True))
        if min(size, default=1) <= 0:
            return None
        seen = [
            Box(offset=tuple(at - o for at, o in zip(low, box.offset, strict=True)), size=size)
            for box in (self, other)
        ]
        return seen[0], seen[1]

    def of(self, tensor: Tensor) -> Tensor:
        """Return that part of a tensor, as a view."""
        return tensor[tuple(slice(o, o + n) for o, n in zip(self.offset, self.size, strict=True))]


def is_sharded(tensor: object) -> bool:
    """Return whether it is a `DTensor`, without importing that class, which is slow."""
    return isinstance(tensor, Tensor) and hasattr(tensor, "to_local")


def own_box(tensor: Any) -> Box | None:
    """Return which part of a `DTensor` this rank holds; None if it takes no part in it.

    Raises:
        ConfigError: It is a sum that is still pending.
    """
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, placements = tensor.device_mesh, tensor.placements
    if mesh.get_coordinate() is None:
        return None
    if any(p.is_partial() for p in placements):
        raise ConfigError(
            f"A tensor of shape {tuple(tensor.shape)} is a pending sum over ranks (Partial), which "
            "cannot be saved. Call redistribute() or full_tensor() on it first."
        )
    size, offset = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
    return Box(offset=tuple(offset), size=tuple(size))


def parts_to_write(
    tensors: Mapping[str, Tensor], *, rank: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what this rank writes, so that every number is written once.

    A whole tensor is rank 0's; of copies of a shard the first is written.

    Returns:
        The parts where they are, and for each where it belongs, as JSON can hold it.
    """
    parts, index = {}, {}
    tensor: Any
    for name, tensor in tensors.items():
        local, box = tensor, Box(offset=(0,) * tensor.dim(), size=tuple(tensor.shape))
        if is_sharded(tensor):
            found = own_box(tensor)
            if found is None or _is_copy(tensor):
                continue
            local, box = tensor.to_local(), found
        elif rank:
            continue
        parts[name] = local
        index[name] = {
            "shape": list(tensor.shape),
            "offset": list(box.offset),
            "size": list(box.size),
            "dtype": str(local.dtype).removeprefix("torch."),
        }
    return parts, index


def _is_copy(tensor: Any) -> bool:
    """Return whether another rank holds the same shard and comes before this one."""
    places = zip(tensor.placements, tensor.device_mesh.get_coordinate(), strict=True)
    return any(placement.is_replicate() and at > 0 for placement, at in places)


class ShardReader:
    """Reads parts of tensors out of the files that the ranks wrote; each file at most once.

    Args:
        path: Of the checkpoint.
        manifest: What `read_manifest` returned.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._path, self._manifest = path, manifest
        self._names = [shard_files(r, manifest.num_ranks) for r in range(manifest.num_ranks)]
        self._indices = [json.loads(self._read(r, "index")) for r in range(manifest.num_ranks)]
        self._files: dict[tuple[int, str], dict[str, Tensor]] = {}

    def finder(self, kind: str) -> Callable[[str, object], Tensor]:
        """Return what finds a tensor by name: whole, or split like the `DTensor` it is given.

        Args:
            kind: `"model"` or `"state"`.
        """
        found: dict[tuple[object, ...], Tensor] = {}

        def find(name: str, like: Any) -> Tensor:
            split = is_sharded(like)
            key = (name, like.device_mesh, tuple(like.placements)) if split else (name,)
            if key not in found:  # tied tensors stay one
                found[key] = self._like(kind, name, like) if split else self._part(kind, name)
            return found[key]

        return find

    def own_state(self, rank: int, num_ranks: int) -> dict[str, Any]:
        """Return what one rank kept for itself; nothing if there are more or fewer ranks now."""
        if num_ranks != self._manifest.num_ranks:
            return {}
        tensors = {
            name.removeprefix("own."): tensor
            for name, tensor in self._tensors(rank, "state").items()
            if name.startswith("own.")
        }
        own: dict[str, Any] = unflatten(self._indices[rank]["own"], tensors)
        return own

    def _like(self, kind: str, name: str, like: Any) -> Tensor:
        """Return this rank's shard as a `DTensor` on the same ranks and device as `like`."""
        from torch.distributed.tensor import DTensor

        box = own_box(like) or Box(offset=(0,) * like.dim(), size=(0,) * like.dim())
        local = self._part(kind, name, box, tuple(like.shape)).to(like.to_local().device)
        return DTensor.from_local(
            local,
            like.device_mesh,
            like.placements,
            run_check=False,
            shape=like.shape,
            stride=like.stride(),
        )

    def _part(
        self, kind: str, name: str, box: Box | None = None, shape: Shape | None = None
    ) -> Tensor:
        """Put one part of a tensor together, by default all of it.

        Raises:
            ConfigError: The whole has another shape than expected.
            TypeError: Its type is unknown.
            ValueError: Parts of it are missing.
        """
        entries = [(r, i[kind][name]) for r, i in enumerate(self._indices) if name in i[kind]]
        if not entries:
            raise ValueError(f"no rank holds {name}.")
        whole = tuple(entries[0][1]["shape"])
        if shape is not None and whole != shape:
            raise ConfigError(
                f"{name} has shape {whole} in {self._path}, but {shape} here. Build the model with "
                "the settings it was trained with."
            )
        box = box or Box(offset=(0,) * len(whole), size=whole)
        stored = [(r, Box(offset=tuple(e["offset"]), size=tuple(e["size"]))) for r, e in entries]
        shared = [(r, pair) for r, b in stored if (pair := box.overlap(b))]
        if sum(math.prod(inside.size) for _, (inside, _) in shared) != math.prod(box.size):
            raise ValueError(f"parts of {name} are missing.")
        dtype = getattr(torch, str(entries[0][1]["dtype"]), None)
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"{name} has an unknown type.")
        result = torch.zeros(box.size, dtype=dtype)
        for rank, (inside, theirs) in shared:
            tensor = self._tensors(rank, kind)[name if kind == "model" else f"shared.{name}"]
            inside.of(result).copy_(theirs.of(tensor))
        return result

    def _tensors(self, rank: int, kind: str) -> dict[str, Tensor]:
        from safetensors.torch import load

        if (rank, kind) not in self._files:
            self._files[rank, kind] = load(self._read(rank, kind))
        return self._files[rank, kind]

    def _read(self, rank: int, kind: str) -> bytes:
        return read_verified(self._path, self._manifest, self._names[rank][kind])
