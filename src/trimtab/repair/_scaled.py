"""A model that standardises its inputs, and gives its outputs in the units of the targets."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Scaled(nn.Module):
    """Calls a model on standardised inputs, and scales what it returns.

    Attributes that it does not have are those of the model within.

    Args:
        model: What is called; `model.model` afterwards.
        inputs: Mean and spread to take off the first input; shapes of one example, or 0-d.
        outputs: Mean and spread to give to outputs; broadcast.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        inputs: tuple[Tensor, Tensor] | None = None,
        outputs: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        zero, one = torch.zeros(()), torch.ones(())
        for name, pair in (("input", inputs), ("output", outputs)):
            mean, spread = (zero, one) if pair is None else pair
            self.register_buffer(f"{name}_mean", mean.detach().clone())
            self.register_buffer(f"{name}_spread", spread.detach().clone())
        self.has_inputs, self.has_outputs = inputs is not None, outputs is not None
        self.model = model  # last: its attributes would be taken for those of this module
        self.train(model.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the scaled answer of the model within."""
        if self.has_inputs and args:
            args = (self._standard(args[0]), *args[1:])
        elif self.has_inputs and kwargs:
            first = next(iter(kwargs))
            kwargs = {**kwargs, first: self._standard(kwargs[first])}
        output = self.model(*args, **kwargs)
        return output * self.output_spread + self.output_mean if self.has_outputs else output

    def _standard(self, x: Any) -> Any:
        if not (isinstance(x, Tensor) and x.is_floating_point()):
            return x
        return ((x - self.input_mean) / self.input_spread).to(x.dtype)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)


def first_tensor(value: Any) -> Tensor | None:
    """Return the first tensor of a batch's inputs or targets; None if there is none."""
    if isinstance(value, Tensor):
        return value
    parts = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping | list | tuple):
        return None
    return next((t for t in map(first_tensor, parts) if t is not None), None)
