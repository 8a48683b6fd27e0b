"""DeepNorm's initialisation and its two constants."""

from typing import TypeVar

import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.init._checks import check_count
from trimtab.init._draw import draw_normal_
from trimtab.init._gpt2 import RESIDUAL_ENDS, matches
from trimtab.init._weights import Weight, find_weights, is_conv1d
from trimtab.init._xavier import xavier_std

M = TypeVar("M", bound=nn.Module)

_UNIT = ("k_proj", "key", "q_proj", "query", "wk", "wq")
_SMALL = (
    *RESIDUAL_ENDS,
    "c_fc",
    "dense_h_to_4h",
    "fc1",
    "fc_in",
    "gate_proj",
    "intermediate.dense",
    "linear1",
    "up_proj",
    "v_proj",
    "value",
    "w1",
    "w3",
    "wv",
)
_FUSED = ("c_attn", "in_proj", "qkv", "qkv_proj", "to_qkv", "wqkv")
_FEED_FORWARDS = {"feed_forward", "ff", "ffn", "mlp"}


def deepnorm_constants(num_layers: int) -> tuple[float, float]:
    """Compute DeepNorm's constants for one stack of layers, encoder or decoder.

    Args:
        num_layers: Layers M of the stack, at least 1.

    Returns:
        `(alpha, beta)`: the factor (2 M)^(1/4) on the residual stream, and the gain
        (8 M)^(-1/4) of the branches' weights.

    Raises:
        ConfigError: `num_layers` is below 1.

    Examples:
        >>> deepnorm_constants(8)
        (2.0, 0.3535533905932738)

    Source: Wang et al. 2022, arXiv:2203.00555, figure 2.
    """
    check_count("num_layers", num_layers)
    return (2 * num_layers) ** 0.25, (8 * num_layers) ** -0.25


def deepnorm_(module: M, *, num_layers: int, generator: torch.Generator | None = None) -> M:
    """Draw linear weights as DeepNorm needs them; biases become zero.

    Xavier normal, with gain (8 num_layers)^(-1/4) for the feed-forward, value and output
    projections, told by their well-known names, by lying in a module named ffn or mlp, or
    by lying in the `.branch` of a residual wrapper. Query and key projections, and linear
    layers with none of these names, get gain 1. The three projections of
    `nn.MultiheadAttention` are told apart, and so are those of a linear layer named qkv or
    alike that is three times as wide as its input, in this order. Embeddings, convolutions
    and recurrent layers stay as they are; what `xavier_` says of frozen, parametrised, tied
    and meta weights holds here too.

    Args:
        module: Changed in place; the stack of layers, or the whole model.
        num_layers: Layers of the stack, at least 1: as for `trimtab.nn.DeepNorm`.
        generator: Source of randomness. None: PyTorch's own.

    Returns:
        The same module.

    Raises:
        ConfigError: `num_layers` is below 1, no projection was recognised, or a fused one
            cannot be cut in three; before anything is changed.

    Source: Wang et al. 2022, arXiv:2203.00555, figure 2.
    """
    _, beta = deepnorm_constants(num_layers)
    weights = [part for w in find_weights(module, {"attention", "linear"}) for part in _unfuse(w)]
    small = {id(w) for w in weights if _is_small(w)}
    if not small:
        raise ConfigError(
            f"No feed-forward, value or output projection was recognised in "
            f"{type(module).__name__}. Known names are {', '.join(sorted(_SMALL))}. Rename the "
            "layers, or put each branch into trimtab.nn.DeepNorm."
        )
    draw_normal_(weights, lambda w: xavier_std(w) * (beta if id(w) in small else 1.0), generator)
    return module


def _unfuse(weight: Weight) -> list[Weight]:
    """Cut a linear layer that holds query, key and value at once.

    Raises:
        ConfigError: It does not fall into three equal parts.
    """
    if weight.kind != "linear" or not matches(weight, _FUSED):
        return [weight]
    if weight.fan_out != 3 * weight.fan_in:
        raise ConfigError(
            f"The fused projection {weight.path!r} maps {weight.fan_in:.0f} to "
            f"{weight.fan_out:.0f} features, so its query, key and value cannot be told apart. "
            "Use three linear layers named q_proj, k_proj and v_proj."
        )
    return weight.split(("query", "key", "value"), dim=1 if is_conv1d(weight.layer) else 0)


def _is_small(weight: Weight) -> bool:
    if weight.role:
        return weight.role == "value"
    if matches(weight, _UNIT):
        return False
    steps = set(weight.path.split("."))
    return matches(weight, _SMALL) or "branch" in steps or bool(steps & _FEED_FORWARDS)
