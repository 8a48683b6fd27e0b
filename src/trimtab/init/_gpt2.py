"""GPT-2's initialisation: small normal weights, smaller where a residual branch ends."""

import math
from collections.abc import Collection
from typing import TypeVar

import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.init._checks import check_count, check_positive
from trimtab.init._draw import draw_normal_
from trimtab.init._weights import Weight, find_weights

M = TypeVar("M", bound=nn.Module)

RESIDUAL_ENDS = (
    "attention.dense",
    "c_proj",
    "dense_4h_to_h",
    "down_proj",
    "fc2",
    "fc_out",
    "linear2",
    "o_proj",
    "out_proj",
    "output.dense",
    "self_attention.dense",
    "w2",
    "wo",
)


def gpt2_(
    module: M,
    *,
    num_layers: int | None = None,
    std: float = 0.02,
    residual: Collection[str] | None = None,
    generator: torch.Generator | None = None,
) -> M:
    """Draw linear and embedding weights from N(0, std^2); biases become zero.

    Two projections in each layer add to the residual stream. They are divided by
    sqrt(2 num_layers), so that the stream's variance does not grow with depth. It acts on
    linear layers (the projections of `nn.MultiheadAttention` and Hugging Face's `Conv1D`
    are such) and embeddings, whose padding row stays zero. A frozen or parametrised weight
    stays as it is, a tied one is drawn once, and on the meta device nothing happens.

    Args:
        module: Changed in place; layers at any depth.
        num_layers: Transformer layers of the whole model. Without it they are counted,
            which takes one stack of numbered layers.
        std: Standard deviation, finite and positive.
        residual: Names or dotted ends of paths of the projections that end a branch, such
            as `("attn.proj", "mlp.fc2")`; empty for none. None: the well-known names, like
            out_proj, c_proj, o_proj, down_proj, fc2.
        generator: Source of randomness. None: PyTorch's own.

    Returns:
        The same module.

    Raises:
        ConfigError: A number is out of range, no projection has such a name, the layers
            cannot be counted, or a layer has no shape yet; before anything is changed.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners",
        section 2.3; the 0.02: Radford et al. 2018, "Improving Language Understanding by
        Generative Pre-Training", section 4.1.
    """
    check_positive("std", std)
    if num_layers is not None:
        check_count("num_layers", num_layers)
    weights = find_weights(module, {"attention", "embedding", "linear"})
    names = RESIDUAL_ENDS if residual is None else tuple(residual)
    ends = {id(w.param): w.path for w in weights if w.kind == "linear" and matches(w, names)}
    if names and not ends:
        raise ConfigError(
            f"No linear layer of {type(module).__name__} is named as the end of a residual "
            f"branch ({', '.join(names)}). Pass residual=(...) with the names used here, or "
            "residual=() if there is no such branch."
        )
    if ends and num_layers is None:
        num_layers = _count_layers(list(ends.values()))
    small = std / math.sqrt(2 * (num_layers or 1))
    draw_normal_(weights, lambda w: small if id(w.param) in ends else std, generator)
    return module


def matches(weight: Weight, names: Collection[str]) -> bool:
    """Tell whether a weight's path is, or ends in, one of these names."""
    return any(f".{weight.path}".endswith(f".{name}") for name in names)


def _count_layers(paths: list[str]) -> int:
    """Count the numbers in paths like blocks.3.mlp.c_proj, if all belong to one stack.

    Raises:
        ConfigError: They do not.
    """
    stacks: set[str] = set()
    layers: set[str] = set()
    for path in paths:
        steps = path.split(".")
        numbered = [i for i, step in enumerate(steps) if step.isdecimal()]
        stacks.add(".".join(steps[: numbered[0]]) if len(numbered) == 1 else path)
        layers.update(steps[i] for i in numbered)
    if len(stacks) > 1 or not layers:
        raise ConfigError(
            "num_layers cannot be told: the ends of residual branches are not in one stack of "
            f"numbered layers, but at {', '.join(sorted(stacks)[:4])}. Pass num_layers."
        )
    return len(layers)
