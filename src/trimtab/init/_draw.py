"""Filling weights with random numbers, whatever their precision and device."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from trimtab.init._weights import EMBEDDINGS, Weight, find_biases

Fill = Callable[[torch.Tensor, Weight], object]


@torch.no_grad()
def draw_(weights: Iterable[Weight], fill: Fill, generator: torch.Generator | None) -> None:
    """Fill each weight and set the biases of its layer to zero.

    Half-precision weights are drawn in float32 and rounded, since a matrix decomposition
    and a truncated normal need it. With a generator on another device the numbers are
    drawn there, so that a CPU generator gives the same weights everywhere. On the meta
    device there is nothing to fill.

    Args:
        weights: From `find_weights`.
        fill: Fills a tensor in place; gets the weight too.
        generator: Where `fill` takes its numbers from.
    """
    for weight in weights:
        values = weight.values
        if not values.is_meta and values.numel():
            _fill(values, weight, fill, generator)
        for bias in find_biases(weight.layer):
            nn.init.zeros_(bias)


def draw_normal_(
    weights: Iterable[Weight], std: Callable[[Weight], float], generator: torch.Generator | None
) -> None:
    """Draw each weight from a normal distribution around zero.

    Args:
        weights: From `find_weights`.
        std: Standard deviation of a weight; 0 makes it zero.
        generator: Source of randomness. None: PyTorch's own.
    """
    draw_(weights, lambda x, w: nn.init.normal_(x, std=std(w), generator=generator), generator)


def _fill(
    values: torch.Tensor, weight: Weight, fill: Fill, generator: torch.Generator | None
) -> None:
    device = values.device if generator is None else generator.device
    dtype = torch.promote_types(values.dtype, torch.float32)
    if (device, dtype) == (values.device, values.dtype):
        fill(values, weight)
    else:
        drawn = torch.empty(values.shape, dtype=dtype, device=device)
        fill(drawn, weight)
        values.copy_(drawn)
    padding = getattr(weight.layer, "padding_idx", None)
    if isinstance(weight.layer, EMBEDDINGS) and padding is not None:
        values[padding] = 0  # as nn.Embedding promises
