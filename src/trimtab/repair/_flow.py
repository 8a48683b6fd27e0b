"""What comes behind what in a model, seen on a sample: which layer is given another's output."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from trimtab.repair._mixed import look

WEIGHTED: Final = (nn.Linear, nn.modules.conv._ConvNd, nn.Bilinear)
"""Layers that are linear in what they are given."""


@dataclass
class Flow:
    """The layers of a model that were called on a sample.

    What a dropout or an `nn.Identity` passes on in evaluation is still the same tensor; an
    activation, a norm, a sum or a change of shape makes another.
    """

    shapes: dict[str, torch.Size] = field(default_factory=dict)
    """Of the last input of each layer."""
    calls: dict[str, int] = field(default_factory=dict)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    """A layer, and one that was given its very output."""
    _made: dict[int, str] = field(default_factory=dict, repr=False)
    _kept: list[Tensor] = field(default_factory=list, repr=False)  # so that no id comes twice

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Note what the layers without parts of their own are given, and what they return."""
        handles = []
        for name, module in model.named_modules():
            if not any(True for _ in module.children()):
                handles.append(module.register_forward_pre_hook(self._before(name)))
                handles.append(module.register_forward_hook(self._after(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, name: str) -> Any:
        def note(_module: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0] if args else None
            if isinstance(x, Tensor):
                self.shapes[name] = x.shape
                self.calls[name] = self.calls.get(name, 0) + 1
                if id(x) in self._made:
                    self.pairs.append((self._made[id(x)], name))

        return note

    def _after(self, name: str) -> Any:
        def note(_module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and id(output) not in self._made:
                self._made[id(output)] = name
                self._kept.append(output)

        return note


def flow_of(model: nn.Module, sample: Sequence[tuple[Any, Any]]) -> Flow:
    """Return what one pass in evaluation mode shows; the model is left as it was.

    Args:
        model: Any.
        sample: Batches; without one nothing is seen.
    """
    flow = Flow()
    look(model, sample, lambda: flow.watch(model), training=False)
    return flow


def followers(flow: Flow, modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, str]]:
    """Yield each layer, and a layer of weights that was given its very output.

    Args:
        flow: Of a model.
        modules: Its layers by name.
    """
    for pair in dict.fromkeys(flow.pairs):
        if isinstance(modules[pair[1]], WEIGHTED):
            yield pair
