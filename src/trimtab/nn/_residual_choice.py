"""Residual wrappers by name."""

import warnings
from collections.abc import Callable

from torch import nn

from trimtab.errors import StabilityWarning
from trimtab.nn._checks import check_choice, check_count
from trimtab.nn._residual import DeepNorm, PostNorm, PreNorm, Residual
from trimtab.nn._scaled_residual import (
    Highway,
    LayerScale,
    ReZero,
    highway_gate_bias,
    layer_scale_init,
)

RESIDUALS = ("deep_norm", "highway", "layer_scale", "post_norm", "pre_norm", "rezero")
_DEEP_POST_NORM = 18  # a post-norm Transformer that deep diverged: arXiv:2203.00555, table 1


def residual(
    kind: str,
    branch: nn.Module,
    dim: int,
    *,
    num_layers: int,
    norm: str = "layer",
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> Residual:
    """Wrap one branch of a stack, with the settings that suit the stack's depth.

    Args:
        kind: `"deep_norm"`, `"highway"`, `"layer_scale"`, `"post_norm"`, `"pre_norm"` or
            `"rezero"`.
        branch: Maps (..., dim) to the same shape.
        dim: Number of features, at least 1.
        num_layers: Layers of the whole stack, at least 1: DeepNorm's alpha, LayerScale's
            first value and the highway's gate bias come from it.
        norm: `"layer"`, `"rms"`, or for all but post-norm and DeepNorm `"none"`.
        dropout: Drop probability of single values of the branch's output, in [0, 1].
        drop_path: Drop probability of a sample's whole branch, in [0, 1].

    Returns:
        The wrapper, a `PreNorm`, `PostNorm`, `DeepNorm`, `ReZero`, `LayerScale` or
        `Highway`.

    Raises:
        ConfigError: A name is unknown or a number out of range.
    """
    check_choice("residual", kind, RESIDUALS)
    check_count("num_layers", num_layers)
    shared = {"dropout": dropout, "drop_path": drop_path}
    builders: dict[str, Callable[[], Residual]] = {
        "deep_norm": lambda: DeepNorm(branch, dim, num_layers=num_layers, norm=norm, **shared),
        "highway": lambda: Highway(
            branch, dim, gate_bias=highway_gate_bias(num_layers), norm=norm, **shared
        ),
        "layer_scale": lambda: LayerScale(
            branch, dim, init=layer_scale_init(num_layers), norm=norm, **shared
        ),
        "post_norm": lambda: PostNorm(branch, dim, norm=norm, **shared),
        "pre_norm": lambda: PreNorm(branch, dim, norm=norm, **shared),
        "rezero": lambda: ReZero(branch, dim, norm=norm, **shared),
    }
    return builders[kind]()


def warn_if_unstable(kind: str, num_layers: int) -> None:
    """Warn of a stack that is known not to train: deep post-norm.

    Args:
        kind: The residual's name.
        num_layers: Layers of the stack.
    """
    if kind == "post_norm" and num_layers >= _DEEP_POST_NORM:
        warnings.warn(
            f"post_norm with {num_layers} layers: its gradients grow or vanish exponentially "
            f"with depth, and from {_DEEP_POST_NORM} layers on training mostly diverges. Use "
            "residual='deep_norm', which differs in one constant, or 'pre_norm'.",
            StabilityWarning,
            stacklevel=3,
        )
