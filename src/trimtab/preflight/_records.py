"""What each module did in one forward and one backward pass, in the order of the calls."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from trimtab.preflight._batch import find_tensors, rms

BOUNDS: Final[dict[type[nn.Module], tuple[float, float]]] = {
    nn.Tanh: (-1.0, 1.0),
    nn.Sigmoid: (0.0, 1.0),
    nn.Hardtanh: (-1.0, 1.0),
    nn.Hardsigmoid: (0.0, 1.0),
}
"""Activations that saturate."""

FLAT: Final = 0.05
"""Share of its range from either end at which a bounded activation counts as saturated: the slope
of a tanh is below 0.19 there, that of a sigmoid below 0.05."""


@dataclass
class Record:
    """One module's first call in a pass."""

    name: str
    module: nn.Module
    weighted: bool
    """Whether it multiplies by a matrix or kernel of its own."""
    shape: tuple[int, ...]
    """Of the output."""
    input_rms: float
    input_variation: float
    rms: float
    variation: float
    """How much the output depends on the input: RMS over units of the deviation over rows."""
    saturated: float = math.nan
    """Share of a bounded activation's outputs in its flat ends; NaN for others."""
    dead: float = math.nan
    """Share of units that are zero on every row; NaN without an activation that can be."""
    calls: int = 1
    gradient: float | None = None
    """Norm of the loss's gradient with respect to the output; None if none came."""
    given_node: Any = None
    """Of a norm: autograd's node of its input, as long as the graph is alive."""
    made_node: Any = None
    """Of a norm: autograd's node of its output."""

    @property
    def finite(self) -> bool:
        """Whether all outputs were finite."""
        return math.isfinite(self.rms)


@contextmanager
def recording(
    model: nn.Module, unrecorded: dict[str, nn.Module] | None = None
) -> Iterator[list[Record]]:
    """Record every leaf module's first call inside; gradients follow in the backward pass.

    Args:
        model: That is called inside.
        unrecorded: Takes in those that were called under `torch.no_grad()`, by name.
    """
    records: list[Record] = []
    seen: dict[nn.Module, Record] = {}

    def note(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        if module in seen:
            seen[module].calls += 1
            return
        made = _floating(result)
        if not torch.is_grad_enabled() and unrecorded is not None:
            unrecorded[names[module]] = module
        if made is None or not torch.is_grad_enabled():
            return
        given = _floating((args, kwargs))
        record = _record(names[module], module, given, made.detach())
        if is_norm(module):
            record.given_node = getattr(given, "grad_fn", None)
            record.made_node = made.grad_fn
        seen[module] = record
        records.append(record)
        if made.requires_grad:
            made.register_hook(  # type: ignore[no-untyped-call] # untyped in torch
                lambda grad: _note_gradient(record, grad)
            )

    names = {m: n for n, m in model.named_modules() if _is_recorded(m)}
    hooks = [m.register_forward_hook(note, with_kwargs=True) for m in names]
    try:
        yield records
    finally:
        for hook in hooks:
            hook.remove()


def is_weighted(module: nn.Module) -> bool:
    """Return whether a module multiplies by a matrix or kernel; looking one up is not enough."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return False
    return any(p.ndim >= 2 for p in module.parameters(recurse=False))


def is_norm(module: nn.Module) -> bool:
    """Return whether a module normalises: torch's own, or one of another library by its name."""
    name = type(module).__name__.lower().rstrip("123d_")
    return name.endswith(("norm", "normalization")) or isinstance(
        module, nn.modules.batchnorm._BatchNorm
    )


def _is_recorded(module: nn.Module) -> bool:
    composite = isinstance(module, nn.MultiheadAttention | nn.RNNBase | nn.RNNCellBase)
    return composite or not any(module.children())


def _floating(value: Any) -> Tensor | None:
    found = (t for t in find_tensors(value) if t.is_floating_point() and t.numel())
    return next(found, None)


@torch.no_grad()
def _record(name: str, module: nn.Module, given: Tensor | None, made: Tensor) -> Record:
    record = Record(
        name=name,
        module=module,
        weighted=is_weighted(module),
        shape=tuple(made.shape),
        input_rms=math.nan if given is None else rms(given),
        input_variation=math.nan if given is None else variation(given),
        rms=rms(made),
        variation=variation(made),
    )
    bounds = BOUNDS.get(type(module))
    if bounds is not None:
        margin = FLAT * (bounds[1] - bounds[0])
        flat = (made < bounds[0] + margin) | (made > bounds[1] - margin)
        record.saturated = float(flat.float().mean())
    if isinstance(module, nn.ReLU | nn.ReLU6):
        record.dead = float((rows_of(made) == 0).all(0).float().mean())
    return record


def _note_gradient(record: Record, grad: Tensor) -> None:
    norm = float(torch.linalg.vector_norm(grad.detach().float()))
    record.gradient = norm if record.gradient is None else math.hypot(record.gradient, norm)


def rows_of(tensor: Tensor) -> Tensor:
    """Return a tensor as `(num_rows, num_units)`; units are an image's channels, else the last."""
    if tensor.ndim >= 4:
        tensor = tensor.movedim(1, -1)
    return tensor.reshape(-1, tensor.shape[-1]) if tensor.ndim else tensor.reshape(1, 1)


def variation(tensor: Tensor) -> float:
    """Return how much a tensor varies over its rows: RMS over units of the deviation; 0 for one."""
    rows = rows_of(tensor.detach())
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return rms(rows - rows.mean(0)) if rows.shape[0] > 1 else 0.0
