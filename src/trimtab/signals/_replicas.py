"""Whether the processes that should hold the same weights still do."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trimtab.signals._sample import local
from trimtab.signals._taps import site_name

Kind = Literal["parameter", "buffer"]

ROUNDING: Final = 1e-14
"""Difference of two sums, as a share of the largest possible sum, that the order of additions in
float64 explains; one step of float32 in every weight makes a thousand times as much."""


@dataclass(frozen=True, kw_only=True)
class ReplicaDifference:
    """A parameter or buffer that is not the same on all ranks that hold it."""

    name: str
    kind: Kind
    ranks: tuple[int, ...]
    """Those that hold something else than most; of two halves, the one without the first rank."""
    difference: float
    """Estimated L2 norm of the largest difference over that of the tensor; infinite if one of them
    is not finite."""


@dataclass(frozen=True)
class Checksums:
    """Three float64 numbers for each tensor and rank: sums over even and odd places, L2 norm."""

    names: list[str]
    kinds: list[Kind]
    numel: list[int]
    ranks: list[int]
    """Global number of each row's process."""
    peers: list[list[list[int]]]
    """For each tensor, the rows that should be the same, in groups."""
    values: Tensor
    """`(num_ranks, num_tensors, 3)`, float64, on the device."""


def replica_differences(model: nn.Module) -> list[ReplicaDifference]:
    """Compare parameters and buffers over all ranks; every rank has to call it at the same time.

    Each rank sums its values in float64, over even and over odd places; the sums travel in one
    exchange. Of a sharded model, what is replicated is compared: buffers, parameters that are not
    sharded, and the same shards of different replicas. Batch norms that are not synchronised have
    different statistics in health.

    Args:
        model: Wrapped in DDP, sharded, or plain.

    Returns:
        What differs, in the order of the model; empty without several processes.
    """
    sums = gather_checksums(model)
    if sums is None:
        return []
    values = sums.values.cpu()
    found = []
    for i, name in enumerate(sums.names):
        odd: list[int] = []
        largest = 0.0
        for group in sums.peers[i]:
            rows, difference = _unlike(values[:, i], group, sums.numel[i])
            odd += rows
            largest = max(largest, difference)
        if odd:
            ranks = tuple(sorted(sums.ranks[row] for row in odd))
            found.append(
                ReplicaDifference(name=name, kind=sums.kinds[i], ranks=ranks, difference=largest)
            )
    return found


def _unlike(values: Tensor, group: list[int], numel: int) -> tuple[list[int], float]:
    """Return the rows that differ from most of their group, and the largest difference."""
    # Sums that differ by rounding alone count as the same as the first of their kind.
    kinds: list[int] = []
    for row in group:
        kind = next((k for k in kinds if not _difference(values[row], values[k], numel)), row)
        kinds.append(kind)
    usual = Counter(kinds).most_common(1)[0][0]
    rows = [row for row, kind in zip(group, kinds, strict=True) if kind != usual]
    return rows, max((_difference(values[r], values[usual], numel) for r in rows), default=0.0)


def _difference(one: Tensor, other: Tensor, numel: int) -> float:
    return float(_relative(one[None], other[None], torch.tensor([numel]))[0])


def _relative(one: Tensor, other: Tensor, numel: Tensor) -> Tensor:
    """Return the estimated relative differences of tensors from their checksums.

    The sum over n independent differences of size d is about d sqrt(n): their L2 norm.

    Args:
        one: `(num_tensors, 3)`.
        other: Likewise.
        numel: `(num_tensors,)`.

    Returns:
        `(num_tensors,)`; 0 where it is rounding, infinite where one of both is not finite.
    """
    away = (one - other).abs()
    size = torch.maximum(one[:, 2], other[:, 2])
    both = torch.stack([away[:, 0] + away[:, 1], away[:, 2]]).amax(dim=0)
    relative = both / size
    relative = torch.where(both > ROUNDING * numel.sqrt() * size, relative, 0)
    same = ((one == other) | (one.isnan() & other.isnan())).all(dim=1)
    finite = away.isfinite().all(dim=1)
    return torch.where(same, 0, torch.where(finite, relative, math.inf))


def largest_differences(sums: Checksums) -> dict[Kind, Tensor]:
    """Return the largest relative difference of parameters and of buffers, 0-d, on the device.

    NaN where nothing is replicated.
    """
    device = sums.values.device
    numel = torch.tensor(sums.numel, dtype=torch.float64).to(device, non_blocking=True)
    found: dict[Kind, list[Tensor]] = {"parameter": [], "buffer": []}
    first = torch.tensor(_first_peers(sums)).to(
        device, non_blocking=True
    )  # (num_ranks, num_tensors)
    reference = sums.values.gather(0, first[..., None].expand_as(sums.values))
    for row, other in zip(sums.values, reference, strict=True):
        away = _relative(row, other, numel)
        for kind in found:
            mine = [i for i, k in enumerate(sums.kinds) if k == kind and sums.peers[i]]
            if mine:
                found[kind].append(away[mine[0] : mine[-1] + 1].amax())
    unknown = torch.full((), math.nan, device=device, dtype=torch.float64)
    return {k: torch.stack(v).amax() if v else unknown for k, v in found.items()}


def _first_peers(sums: Checksums) -> list[list[int]]:
    """Return, for each row and tensor, the first row that should be the same."""
    table = [[row] * len(sums.names) for row in range(len(sums.ranks))]
    for i, groups in enumerate(sums.peers):
        for group in groups:
            for row in group:
                table[row][i] = group[0]
    return table


@torch.no_grad()
def gather_checksums(model: nn.Module) -> Checksums | None:
    """Exchange the checksums of all ranks; None without several processes."""
    group = process_group(model)
    if group is None:
        return None
    ranks = dist.get_process_group_ranks(group)
    tensors = list(_replicated(model))
    if not tensors:
        return None
    rows = {rank: row for row, rank in enumerate(ranks)}
    own = torch.stack([_checksum(local(tensor.detach())) for _, _, tensor in tensors])
    every = [torch.empty_like(own) for _ in ranks]
    dist.all_gather(every, own, group=group)
    return Checksums(
        names=[name for name, _, _ in tensors],
        kinds=[kind for _, kind, _ in tensors],
        numel=[local(tensor).numel() for _, _, tensor in tensors],
        ranks=ranks,
        peers=[_peers(tensor, rows) for _, _, tensor in tensors],
        values=torch.stack(every),
    )


def process_group(model: nn.Module) -> Any:
    """Return the processes that train this model together; None if there is one only."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    group = getattr(model, "process_group", None)  # of DDP
    group = dist.group.WORLD if group is None else group
    return group if dist.get_world_size(group) > 1 else None


def _replicated(model: nn.Module) -> Iterator[tuple[str, Kind, Any]]:
    """Yield name, kind and tensor of all parameters and buffers that can be summed."""
    ignored = set(getattr(model, "parameters_to_ignore", ()))  # of DDP, without its prefix
    named: list[tuple[str, Kind, Tensor]] = []
    named += [(n, "parameter", p) for n, p in model.named_parameters()]
    named += [(n, "buffer", b) for n, b in model.named_buffers()]
    for name, kind, tensor in named:
        own = local(tensor)
        usable = own.layout == torch.strided and not own.is_meta
        if usable and name.removeprefix("module.") not in ignored:
            yield site_name(name), kind, tensor


def _checksum(tensor: Tensor) -> Tensor:
    """Return the sums over even and over odd places and the L2 norm, `(3,)`, float64."""
    flat = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(-1)
    flat = flat if flat.is_floating_point() else flat.double()
    even, odd = (flat[start::2].sum(dtype=torch.float64) for start in (0, 1))
    return torch.stack([even, odd, torch.linalg.vector_norm(flat, dtype=torch.float64)])


def _peers(tensor: Any, rows: dict[int, int]) -> list[list[int]]:
    """Return groups of rows that hold the same of a tensor, of those with more than one."""
    if not hasattr(tensor, "to_local"):
        return [list(rows.values())]
    if any(p.is_partial() for p in tensor.placements):
        return []
    groups: dict[tuple[int, ...], list[int]] = {}
    mesh = tensor.device_mesh.mesh
    for place in itertools.product(*map(range, mesh.shape)):
        pairs = zip(place, tensor.placements, strict=True)
        shard = tuple(i for i, placement in pairs if not placement.is_replicate())
        rank = int(mesh[place])
        if rank in rows:
            groups.setdefault(shard, []).append(rows[rank])
    return [group for group in groups.values() if len(group) > 1]
