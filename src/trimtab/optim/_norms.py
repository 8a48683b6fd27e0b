"""Norms of gradients, measured without waiting for the device."""

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from torch import Tensor

from trimtab.errors import ConfigError

Params: TypeAlias = Tensor | Iterable[Tensor]
"""One parameter or many; a generator is consumed once."""

DOT_MIN_ELEMENTS: Final = 2**16
"""From here on a dot product beats `_foreach_norm` on a CPU.

40 tensors of float32 on two cores, `_foreach_norm` against dot, in microseconds: 189 and 243 at
2^15 elements each, 329 and 297 at 2^16, 487 and 384 at 10^5.
"""

_HALF: Final = (torch.float16, torch.bfloat16)


class GradNorms(NamedTuple):
    """Norms of gradients; `float(norms)` reads the joint one back to the host."""

    total: Tensor
    """Joint norm, 0-d; float32, or float64 if a gradient is."""
    each: Tensor
    """Norm of each gradient, `(num_params_with_grad,)`, in the order of the parameters."""

    def __float__(self) -> float:
        return self.total.item()


@torch.no_grad()
def grad_norms(params: Params, norm_type: float = 2.0) -> GradNorms:
    """Measure the norm of every gradient and of all of them together.

    Half precision is summed up in float32. Sharded gradients (`DTensor`) count in full, at the cost
    of one small exchange between ranks. Nothing here waits for the device, except for sparse
    gradients, which are coalesced, and for parameters on several kinds of device.

    Squares are taken in the precision of the gradient, as torch does: in float32 an element above
    1.8e19 gives an infinite L2 norm, one below 1e-23 counts as zero.

    Args:
        params: Any shapes, types and devices; those without a gradient are passed over.
        norm_type: The p of the p-norm, above 0; `math.inf` for the largest absolute value.

    Returns:
        The norms, on the first gradient's device; zero if there is no gradient.

    Raises:
        ConfigError: `norm_type` is not above 0, or `params` holds something without a gradient
            field.

    Examples:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> float(grad_norms([weight]))
        5.0
    """
    return norms_of(gradients(params), norm_type)


def listed(params: Params) -> list[Tensor]:
    """Return the parameters as a list, so that a generator can be read twice.

    Raises:
        ConfigError: `params` is not a tensor and cannot be iterated over.
    """
    if isinstance(params, Tensor):
        return [params]
    if not isinstance(params, Iterable):
        raise ConfigError(
            f"params must be a tensor or an iterable of tensors, got {type(params).__name__}. "
            "For a module, pass module.parameters()."
        )
    return list(params)


def gradients(params: Params) -> list[Tensor]:
    """Return the gradients that are there, in the order of the parameters.

    Raises:
        ConfigError: `params` holds something that is not a tensor.
    """
    try:
        return [p.grad for p in listed(params) if p.grad is not None]
    except AttributeError as error:
        raise ConfigError(
            f"params must hold tensors only: {error}. Pass parameters(), not named_parameters()."
        ) from error


def check_norm_type(norm_type: float) -> float:
    """Return the p of a p-norm as a float.

    Raises:
        ConfigError: It is not a number above 0.
    """
    number = isinstance(norm_type, Real) and not isinstance(norm_type, bool)
    if not (number and norm_type > 0):
        raise ConfigError(
            f"norm_type must be a number above 0, or math.inf, got {norm_type!r}. Use 2.0 for the "
            "usual norm."
        )
    return float(norm_type)


def norms_of(tensors: Sequence[Tensor], norm_type: float = 2.0) -> GradNorms:
    """Return the norms of tensors of any kind.

    Raises:
        ConfigError: `norm_type` is not above 0.
    """
    norm_type = check_norm_type(norm_type)
    if not tensors:
        return GradNorms(torch.zeros(()), torch.zeros(0))
    if _are_alike(tensors):
        each = torch.stack(_norms_of_alike(tensors, norm_type))
    else:
        each = _norms_of_mixed(tensors, norm_type)
    return GradNorms(torch.linalg.vector_norm(each, norm_type), each)


def _are_alike(tensors: Sequence[Tensor]) -> bool:
    """Return whether one call can serve all; four sets are a quarter of the cost of sorting."""
    return (
        len(set(map(type, tensors)))
        == len({t.dtype for t in tensors})
        == len({t.device for t in tensors})
        == len({t.layout for t in tensors})
        == 1
    )


def _norms_of_mixed(tensors: Sequence[Tensor], norm_type: float) -> Tensor:
    """Return the norms of tensors of several kinds, `(num_tensors,)`, on the first one's device."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for i, t in enumerate(tensors):
        alike.setdefault((type(t), t.layout, t.dtype, t.device), []).append(i)
    norms = list(tensors)
    for places in alike.values():
        found = _norms_of_alike([tensors[i] for i in places], norm_type)
        for i, norm in zip(places, found, strict=True):
            norms[i] = norm
    return torch.stack([norm.to(norms[0].device) for norm in norms])


def _norms_of_alike(tensors: Sequence[Tensor], norm_type: float) -> list[Tensor]:
    """Return one 0-d norm for each of some tensors of one type, layout, dtype and device."""
    first = tensors[0]
    if is_sharded(first):
        return _norms_of_sharded(tensors, norm_type)
    if first.layout != torch.strided:
        tensors = [_values(t) for t in tensors]
    if norm_type == math.inf:  # the largest of no elements is an error in torch
        tensors = [t if t.numel() else t.new_zeros(1) for t in tensors]
    if norm_type == 2 and first.is_cpu and first.dtype in {torch.float32, torch.float64}:
        return _l2_norms_on_cpu(tensors)
    accumulate = torch.float32 if first.dtype in _HALF else None  # bf16 keeps 3 digits
    return list(torch._foreach_norm(list(tensors), norm_type, accumulate))


def _l2_norms_on_cpu(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return L2 norms: dot products for large tensors, one foreach call for all others."""
    large = [t.numel() >= DOT_MIN_ELEMENTS and t.is_contiguous() for t in tensors]
    small = [t for t, is_large in zip(tensors, large, strict=True) if not is_large]
    rest = iter(torch._foreach_norm(small, 2) if small else ())
    flat = (t.view(-1) if is_large else None for t, is_large in zip(tensors, large, strict=True))
    return [next(rest) if v is None else torch.dot(v, v).sqrt_() for v in flat]


def _values(tensor: Tensor) -> Tensor:
    """Return the stored elements of a sparse tensor, each place once."""
    return tensor.coalesce().values() if tensor.layout == torch.sparse_coo else tensor.values()


def is_sharded(tensor: Tensor) -> bool:
    """Return whether the tensor is a `DTensor`, without importing that class, which is slow."""
    return type(tensor) is not Tensor and hasattr(tensor, "full_tensor")


def _norms_of_sharded(tensors: Sequence[Any], norm_type: float) -> list[Tensor]:
    """Return norms of whole tensors; ranks exchange one number for each, all in one call."""
    from torch.distributed.tensor import DTensor, Shard  # takes seconds to import

    alike: dict[tuple[Any, ...], list[int]] = {}
    for i, t in enumerate(tensors):
        alike.setdefault((t.device_mesh, t.placements), []).append(i)
    norms: list[Any] = list(tensors)
    for (mesh, placements), places in alike.items():
        group = [tensors[i] for i in places]
        if any(p.is_partial() for p in placements):
            found = _norms_of_alike([t.full_tensor() for t in group], norm_type)
        else:
            local = torch.stack(_norms_of_alike([t.to_local() for t in group], norm_type))
            shards = [p if p.is_replicate() else Shard(0) for p in placements]
            rows = DTensor.from_local(local[None], mesh, shards, run_check=False)
            whole = rows.full_tensor()  # (num_shards, num_tensors)
            found = list(torch.linalg.vector_norm(whole, norm_type, dim=0).unbind())
        for i, norm in zip(places, found, strict=True):
            norms[i] = norm
    return norms
