"""Taking a batch apart: how a model is called on it, and how a few of its examples are picked."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.errors import ConfigError

LossFunction = Callable[..., Any]


@dataclass(frozen=True)
class Batch:
    """What the model reads and what the loss compares its output with."""

    inputs: Any
    """A tensor, a tuple of arguments, or a mapping of keyword arguments."""
    target: Any
    """None where the model computes the loss by itself."""

    @property
    def size(self) -> int:
        """Number of examples: the first dimension of the first tensor."""
        first = next(find_tensors(self.inputs), None)
        return 0 if first is None or first.ndim == 0 else first.shape[0]

    @property
    def tensors(self) -> list[Tensor]:
        """Return all tensors, inputs first."""
        return [*find_tensors(self.inputs), *find_tensors(self.target)]

    def first(self, num: int) -> "Batch":
        """Return the first examples only; tensors of another first dimension stay whole."""
        return self.part(0, num)

    def part(self, start: int, end: int) -> "Batch":
        """Return some of the examples, from `start` to before `end`."""
        size = self.size

        def cut(t: Tensor) -> Tensor:
            return t[start:end] if t.ndim and t.shape[0] == size else t

        return self.map(cut)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with each tensor changed."""
        return Batch(map_tensors(self.inputs, change), map_tensors(self.target, change))


def as_batch(batch: Any, loss_fn: LossFunction | None) -> Batch:
    """Take a batch as the user has it.

    Args:
        batch: `(x, y)`; or with no loss function whatever the model is called with.
        loss_fn: None if the model's own output holds the loss.

    Raises:
        ConfigError: It is neither, or holds no tensor.
    """
    pair = isinstance(batch, tuple | list) and len(batch) == 2
    if loss_fn is not None and not pair and not isinstance(batch, Mapping):
        raise ConfigError(
            f"batch must be a pair (inputs, target), got {_describe(batch)}. A model that computes "
            "its own loss takes its whole input as the batch, with loss_fn=None."
        )
    if loss_fn is None or not pair:
        found = Batch(tuple(batch) if isinstance(batch, list) else batch, None)
        if loss_fn is not None:
            found = Batch(batch, batch)
    else:
        found = Batch(tuple(batch[0]) if isinstance(batch[0], list) else batch[0], batch[1])
    if next(find_tensors(found.inputs), None) is None:
        raise ConfigError(
            f"There is no tensor among the inputs of the batch, only {_describe(found.inputs)}. "
            "Pass one batch as your data loader yields it."
        )
    return found


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model: a tuple gives its arguments, a mapping its keyword arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def loss_of(output: Any, target: Any, loss_fn: LossFunction | None) -> Tensor:
    """Compute the loss, or find it in what the model returned; of several values the mean.

    Raises:
        ConfigError: There is none.
    """
    loss = _own_loss(output) if loss_fn is None else loss_fn(output, target)
    if isinstance(loss, tuple | list) and loss:
        loss = loss[0]
    if isinstance(loss, Mapping):
        loss = sum(v for v in loss.values() if isinstance(v, Tensor) and v.requires_grad)
    if not isinstance(loss, Tensor):
        raise ConfigError(
            f"The loss is {_describe(loss)}, not a tensor, so nothing can be learnt from it. "
            "Return the tensor itself, without .item() or float()."
            if loss_fn is not None
            else "The model's output holds no loss. Pass loss_fn(output, target)."
        )
    return loss if loss.ndim == 0 else loss.mean()


def _own_loss(output: Any) -> Tensor | None:
    named = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(named, Tensor):
        return named
    scalars = [t for t in find_tensors(output) if t.numel() == 1 and t.is_floating_point()]
    return scalars[0] if scalars else None


def main_output(output: Any) -> Tensor | None:
    """Return the first floating tensor of some size in what a model returned."""
    for name in ("logits", "prediction", "sample"):
        found = getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    floats = [t for t in find_tensors(output) if t.is_floating_point() and t.numel()]
    return next((t for t in floats if t.ndim), floats[0] if floats else None)


def find_tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from find_tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from find_tensors(part)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from find_tensors(getattr(value, field.name))


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return the same structure with each tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {k: map_tensors(v, change) for k, v in value.items()}
    if isinstance(value, tuple | list):
        parts = [map_tensors(v, change) for v in value]
        return tuple(parts) if type(value) is tuple else parts
    return value


def rms(tensor: Tensor) -> float:
    """Return the root mean square of a tensor; 0 for an empty one."""
    wide = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
    return float(wide.square().mean().sqrt()) if wide.numel() else 0.0


def _describe(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
