"""Fixup: residual networks that train without norms."""

import math
from collections.abc import Collection
from typing import TypeVar

import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.init._draw import draw_normal_
from trimtab.init._weights import Weight, find_weights

M = TypeVar("M", bound=nn.Module)


def fixup_(
    module: M,
    *,
    branches: Collection[nn.Module] | None = None,
    classifier: nn.Module | None = None,
    generator: torch.Generator | None = None,
) -> M:
    """Scale residual branches by their number, and end each in zeros; biases become zero.

    With L branches the weights of a branch of m layers are He's times L^(-1/(2m-2)), its
    last layer is zero, and so is the classifier; all others are He's. Every block starts as
    the identity, and one step changes the output by an amount that does not grow with L.
    The scalar biases and multipliers that Fixup puts into a block are the block's own. It
    acts on the layers that `xavier_` acts on.

    Args:
        module: Changed in place; the whole model.
        branches: The branches, without the sum, each with its layers in order of
            execution. None: every `.branch` of a residual wrapper, such as those of
            `trimtab.nn`. One inside another belongs to that.
        classifier: The output layer. None: the last linear layer outside the branches, if
            it is registered after them.
        generator: Source of randomness. None: PyTorch's own.

    Returns:
        The same module.

    Raises:
        ConfigError: There are no branches with layers, one is not part of `module`, or a
            layer has no shape yet; before anything is changed.

    Source: Zhang et al. 2019, arXiv:1901.09321, section 3.2.
    """
    weights = find_weights(module)
    grouped = _group(weights, _find_branches(module, branches))
    factors: dict[int, float] = {}
    for group in grouped:
        layers = list(dict.fromkeys(id(w.layer) for w in group))
        shrink = len(grouped) ** (-1 / (2 * len(layers) - 2)) if len(layers) > 1 else 0.0
        factors |= {id(w): 0.0 if id(w.layer) == layers[-1] else shrink for w in group}
    last = _find_classifier(weights, factors) if classifier is None else classifier
    parts = set() if last is None else {id(m) for m in last.modules()}
    factors |= {id(w): 0.0 for w in weights if id(w.layer) in parts}

    def std(weight: Weight) -> float:
        return factors.get(id(weight), 1.0) * math.sqrt(2 / max(1, weight.fan_in))

    draw_normal_(weights, std, generator)
    return module


def _find_branches(module: nn.Module, given: Collection[nn.Module] | None) -> list[nn.Module]:
    """Return the outermost branches, in order.

    Raises:
        ConfigError: There is none, or one does not belong to the module.
    """
    tree = {id(m) for m in module.modules()}
    if given is None:
        owned = (getattr(m, "branch", None) for m in module.modules())
        found = [b for b in owned if isinstance(b, nn.Module)]
    else:
        found = list(given)
    foreign = [type(b).__name__ for b in found if id(b) not in tree]
    if not found or foreign:
        raise ConfigError(
            f"fixup_ needs the residual branches of {type(module).__name__}, got "
            f"{foreign or 'none'}. Pass branches=[...] with modules inside it, or build the "
            "blocks from trimtab.nn, whose wrappers keep their branch in .branch."
        )
    inner = {id(m) for b in found for m in b.modules() if m is not b}
    return [b for b in found if id(b) not in inner]


def _group(weights: list[Weight], branches: list[nn.Module]) -> list[list[Weight]]:
    """Sort weights by branch; branches without a layer are dropped.

    Raises:
        ConfigError: No branch has a layer.
    """
    grouped = []
    for branch in branches:
        parts = {id(m) for m in branch.modules()}
        group = [w for w in weights if id(w.layer) in parts]
        if group:
            grouped.append(group)
    if not grouped:
        raise ConfigError(
            f"None of the {len(branches)} residual branches has a layer that can be "
            "initialised. Pass the modules that hold linear or convolution layers."
        )
    return grouped


def _find_classifier(weights: list[Weight], factors: dict[int, float]) -> nn.Module | None:
    """Return the last linear layer, if no branch comes after it."""
    last = weights[-1]
    return last.layer if last.kind == "linear" and id(last) not in factors else None
