"""Gradient clipping: by joint norm, by value, and unit by unit."""

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import TypeAlias

import torch
from torch import Tensor, nn

from trimtab.errors import ConfigError
from trimtab.optim._norms import (
    GradNorms,
    Params,
    check_norm_type,
    gradients,
    is_sharded,
    listed,
    norms_of,
)

Excluded: TypeAlias = nn.Module | Tensor | Iterable[nn.Module | Tensor]
"""Modules, with all that is in them, and parameters; one or many."""


@torch.no_grad()
def clip_grad_norm_(params: Params, max_norm: float, norm_type: float = 2.0) -> GradNorms:
    """Scale gradients in place so that their joint norm is at most `max_norm`.

    One factor for all keeps the direction. A non-finite norm changes nothing: skipping the step is
    the caller's choice. Nothing here waits for the device. Differs from
    `torch.nn.utils.clip_grad_norm_` in that: torch divides by the norm plus 1e-6, multiplies NaN
    into all gradients, and returns the joint norm only.

    Args:
        params: Any shapes, types and devices; those without a gradient are passed over.
        max_norm: In gradient units, after unscaling; finite and positive.
        norm_type: The p of the p-norm, above 0; `math.inf` for the largest absolute value.

    Returns:
        Norms before clipping.

    Raises:
        ConfigError: `max_norm` is not finite and positive, or `norm_type` is not above 0.

    Examples:
        >>> weight = nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> float(clip_grad_norm_([weight], max_norm=1.0))
        5.0
        >>> weight.grad
        tensor([0.6000, 0.8000])

    Source: Pascanu et al. 2013, arXiv:1211.5063, Algorithm 1.
    """
    check_threshold("max_norm", max_norm)
    norm_type = check_norm_type(norm_type)
    grads = gradients(params)
    norms = norms_of(grads, norm_type)
    scale_(grads, clip_factor_for(norms.total, max_norm))
    return norms


@torch.no_grad()
def clip_grad_value_(params: Params, max_value: float) -> GradNorms:
    """Limit every element of every gradient to [-max_value, max_value], in place.

    This changes the direction. As in torch, NaN stays NaN and an infinite element becomes
    `max_value`: only the returned norm still tells that there was one. The real and imaginary part
    of a complex gradient are limited each by itself.

    Args:
        params: Any shapes, types and devices; those without a gradient are passed over.
        max_value: In gradient units, after unscaling; finite and positive.

    Returns:
        L2 norms before clipping.

    Raises:
        ConfigError: `max_value` is not finite and positive.
    """
    check_threshold("max_value", max_value)
    params = listed(params)
    grads = gradients(params)
    norms = norms_of(grads)
    for p in params:
        if p.grad is not None and p.grad.is_sparse:
            p.grad = p.grad.coalesce()  # entries of one place are limited together
    dense: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for grad in gradients(params):
        local = _stored(grad)
        dense.setdefault((local.device, local.dtype), []).append(local)
    for group in dense.values():
        torch._foreach_clamp_min_(group, -max_value)
        torch._foreach_clamp_max_(group, max_value)
    return norms


@torch.no_grad()
def adaptive_clip_(
    params: nn.Module | Params,
    clip_factor: float = 0.01,
    eps: float = 1e-3,
    *,
    exclude: Excluded | None = None,
) -> GradNorms:
    """Limit the gradient of every unit to a share of its weights' norm, in place.

    A unit is what makes one output: a row of a linear, embedding or recurrent weight, a filter of a
    convolution, and a whole tensor of one dimension. Of a transposed convolution it is the second
    dimension, which only a module can tell. A unit with a non-finite norm is left as it is.

    The output layer must not be clipped. Given a module, it is taken to be the last `nn.Linear` in
    the order of `module.modules()`, left out with all its parameters. Where that is wrong (a model
    that ends in a convolution, or whose head is registered first) say what to leave out.

    Args:
        params: A module or its parameters; those without a gradient are passed over.
        clip_factor: Largest ratio of a gradient's to a weight's norm; finite and positive.
        eps: Least norm that weights count with; finite and positive. Without it a unit that starts
            at zero could never move.
        exclude: Modules and parameters that are measured but not clipped. None: of a module the
            last `nn.Linear`, of parameters nothing.

    Returns:
        L2 norms before clipping, those of excluded parameters among them.

    Raises:
        ConfigError: A threshold is not finite and positive, or a gradient to be clipped is sparse.

    Source: Brock et al. 2021, arXiv:2102.06171, equation 3.
    """
    check_threshold("clip_factor", clip_factor)
    check_threshold("eps", eps)
    model = params if isinstance(params, nn.Module) else None
    listed_params = listed(params.parameters() if isinstance(params, nn.Module) else params)
    return clip_units_(listed_params, model, clip_factor, eps, exclude)


def clip_units_(
    params: list[Tensor],
    model: nn.Module | None,
    clip_factor: float,
    eps: float,
    exclude: Excluded | None,
) -> GradNorms:
    """Limit the gradients of some parameters of `model`, unit by unit; returns norms before.

    Raises:
        ConfigError: A gradient to be clipped is sparse.
    """
    if exclude is None:
        exclude = () if model is None else find_head(model)
    excluded = ids_of(exclude)
    transposed = set() if model is None else _transposed(model)
    norms = norms_of(gradients(params))
    clipped = [p for p in params if p.grad is not None and id(p) not in excluded]
    if any(p.grad is not None and p.grad.layout != torch.strided for p in clipped):
        raise ConfigError(
            "Adaptive clipping needs dense gradients, got a sparse one. Build the embedding with "
            "sparse=False, or pass it as exclude."
        )
    _limit_units_(clipped, transposed, clip_factor, eps)
    return norms


def _limit_units_(
    params: list[Tensor], transposed: set[int], clip_factor: float, eps: float
) -> None:
    """Limit the gradient of every unit of every parameter."""
    if not params:
        return
    grads = gradients(params)
    sizes = [_unit_norms(g, id(p) in transposed) for p, g in zip(params, grads, strict=True)]
    limits = [_unit_norms(p, id(p) in transposed) for p in params]
    for limit, size, grad in zip(limits, sizes, grads, strict=True):
        factor = limit.clamp(min=eps).mul_(clip_factor).div_(size).clamp_(max=1)
        grad.mul_(factor.masked_fill_(~size.isfinite(), 1))


def _unit_norms(tensor: Tensor, transposed: bool) -> Tensor:  # noqa: FBT001 # read from a table
    """Return L2 norms, `(num_units, 1, ...)` or with the unit in the second place."""
    dims = tuple(d for d in range(tensor.ndim) if d != int(transposed)) if tensor.ndim > 1 else None
    dtype = torch.float32 if tensor.dtype in {torch.float16, torch.bfloat16} else None
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=dims, keepdim=tensor.ndim > 1, dtype=dtype)
    return norms


def find_head(model: nn.Module) -> Sequence[nn.Module]:
    """Return the last linear layer, as a list of one or none."""
    return [m for m in model.modules() if isinstance(m, nn.Linear)][-1:]


def _transposed(model: nn.Module) -> set[int]:
    """Return the ids of weights whose units lie along the second dimension."""
    kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return {id(m.weight) for m in model.modules() if isinstance(m, kinds) and m.groups == 1}


def ids_of(parts: Excluded) -> set[int]:
    """Return the ids of the parameters in `parts`.

    Raises:
        ConfigError: A part is neither a module nor a tensor.
    """
    ids: set[int] = set()
    for part in [parts] if isinstance(parts, nn.Module | Tensor) else parts:
        if isinstance(part, nn.Module):
            ids.update(id(p) for p in part.parameters())
        elif isinstance(part, Tensor):
            ids.add(id(part))
        else:
            raise ConfigError(
                f"exclude must hold modules and parameters, got {type(part).__name__}. For a name, "
                "pass model.get_parameter(name)."
            )
    return ids


def check_threshold(name: str, value: float) -> None:
    """Refuse a threshold that is not a finite, positive number.

    Raises:
        ConfigError: It is not.
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and value > 0):
        raise ConfigError(
            f"{name} must be a finite, positive number, got {value!r}. To measure without "
            "clipping, call grad_norms()."
        )


def clip_factor_for(norm: Tensor, max_norm: float | Tensor) -> Tensor:
    """Return the factor that brings `norm` down to `max_norm`; 1 if it is below or not finite."""
    clips = (norm > max_norm) & (norm < math.inf)  # not for NaN; dividing could round 1 down
    return torch.where(clips, max_norm / norm, 1)


def scale_(grads: Iterable[Tensor], factor: Tensor) -> None:
    """Multiply gradients of any kind by one 0-d factor, in place."""
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for grad in grads:
        if grad.layout != torch.strided:
            grad.mul_(factor.to(grad.device))
            continue
        local = _stored(grad)
        alike.setdefault((local.device, local.dtype), []).append(local)
    for (device, _), group in alike.items():
        torch._foreach_mul_(group, factor.to(device))


def _stored(grad: Tensor) -> Tensor:
    """Return the dense real numbers that this process holds, sharing their memory."""
    if is_sharded(grad):
        grad = grad.to_local()  # type: ignore[attr-defined] # a DTensor
    elif grad.layout != torch.strided:
        grad = grad.values()
    if not grad.is_complex():
        return grad
    # the view refuses a lazy conjugate; a factor and a symmetric limit are the same for it
    return torch.view_as_real(grad.conj() if grad.is_conj() else grad)
