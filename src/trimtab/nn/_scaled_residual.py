"""Residual wrappers that learn how much of the branch to let in: ReZero, LayerScale, Highway."""

import math
from typing import Any

import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.nn._checks import check_count, check_positive
from trimtab.nn._residual import Residual


class ReZero(Residual):
    """`x + a * f(x)` with one learned scalar `a`, zero at the start.

    Every block begins as the identity, so any depth is trainable from step 0. The first
    step moves only `a`; the branch learns from the second on.

    Args:
        branch: Maps (..., dim) to the same shape.
        dim: Number of features, at least 1.
        norm: `"none"` as in the paper; `"layer"` or `"rms"` before the branch.
        dropout: Drop probability of single values of the branch's output, in [0, 1].
        drop_path: Drop probability of a sample's whole branch, in [0, 1].

    Raises:
        ConfigError: One of these is out of range or unknown.

    Source: Bachlechner et al. 2020, arXiv:2003.04887.
    """

    def __init__(
        self,
        branch: nn.Module,
        dim: int,
        *,
        norm: str = "none",
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(branch, dim, norm=norm, dropout=dropout, drop_path=drop_path)
        self.scale = nn.Parameter(torch.empty(1))  # not 0-d: FSDP2 cannot shard a scalar
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the scalar to zero."""
        nn.init.zeros_(self.scale)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Join `x`, (..., dim), with the branch's output; same shape."""
        y: torch.Tensor = self.regularize(self.run_branch(self.norm(x), *args, **kwargs))
        return x + self.scale * y


class LayerScale(Residual):
    """`x + gamma * f(norm(x))` with a small learned factor for each feature.

    Args:
        branch: Maps (..., dim) to the same shape.
        dim: Number of features, at least 1.
        init: First value of gamma, finite and positive; take it from `layer_scale_init`.
        norm: `"layer"` or `"rms"`, before the branch; `"none"` leaves it out.
        dropout: Drop probability of single values of the branch's output, in [0, 1].
        drop_path: Drop probability of a sample's whole branch, in [0, 1].

    Raises:
        ConfigError: One of these is out of range or unknown.

    Source: Touvron et al. 2021, arXiv:2103.17239, equation 5.
    """

    def __init__(
        self,
        branch: nn.Module,
        dim: int,
        *,
        init: float,
        norm: str = "layer",
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        check_positive("init", init)
        super().__init__(branch, dim, norm=norm, dropout=dropout, drop_path=drop_path)
        self.init = init
        self.gamma = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every factor to `init`."""
        nn.init.constant_(self.gamma, self.init)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Join `x`, (..., dim), with the branch's output; same shape."""
        y: torch.Tensor = self.regularize(self.run_branch(self.norm(x), *args, **kwargs))
        return x + self.gamma * y


class Highway(Residual):
    """`T * f(norm(x)) + (1 - T) * x` with a learned gate T = sigmoid(W x + b).

    A negative bias starts near the identity. The gate's bias belongs to this module, not
    to the gate's linear layer, so that an initialiser which zeroes biases leaves it alone.

    Args:
        branch: Maps (..., dim) to the same shape.
        dim: Number of features, at least 1.
        gate_bias: First value of b, negative. Each layer keeps 1 - sigmoid(b) of its
            input: take `highway_gate_bias` for a stack.
        norm: `"none"` as in the paper; `"layer"` or `"rms"` before the branch.
        dropout: Drop probability of single values of the update T * (f - x), in [0, 1]; a
            dropped value keeps the input's.
        drop_path: Drop probability of a sample's whole update, in [0, 1].

    Raises:
        ConfigError: One of these is out of range or unknown.

    Source: Srivastava et al. 2015, arXiv:1505.00387, equation 3.
    """

    def __init__(
        self,
        branch: nn.Module,
        dim: int,
        *,
        gate_bias: float = -2.0,
        norm: str = "none",
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        if not (math.isfinite(gate_bias) and gate_bias < 0):
            raise ConfigError(
                f"gate_bias must be finite and negative, got {gate_bias!r}: a gate that starts "
                "open lets no layer begin near the identity. Use -1 to -3."
            )
        super().__init__(branch, dim, norm=norm, dropout=dropout, drop_path=drop_path)
        self.initial_gate_bias = gate_bias
        self.gate = nn.Linear(dim, dim, bias=False)
        self.gate_bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the gate's bias to its first value."""
        nn.init.constant_(self.gate_bias, self.initial_gate_bias)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Join `x`, (..., dim), with the branch's output; same shape."""
        y = self.run_branch(self.norm(x), *args, **kwargs)
        gate = torch.sigmoid(self.gate(x) + self.gate_bias)  # (..., dim)
        update: torch.Tensor = self.regularize(gate * (y - x))
        return x + update


def layer_scale_init(num_layers: int) -> float:
    """Choose LayerScale's first value from the depth.

    Args:
        num_layers: Blocks of the network, at least 1.

    Returns:
        0.1 up to 18 blocks, 1e-5 up to 24, 1e-6 beyond.

    Raises:
        ConfigError: `num_layers` is below 1.

    Examples:
        >>> layer_scale_init(12), layer_scale_init(24), layer_scale_init(36)
        (0.1, 1e-05, 1e-06)

    Source: Touvron et al. 2021, arXiv:2103.17239, section 2.
    """
    check_count("num_layers", num_layers)
    if num_layers <= 18:
        return 0.1
    return 1e-5 if num_layers <= 24 else 1e-6


def highway_gate_bias(num_layers: int) -> float:
    """Choose Highway's gate bias from the depth, so that a stack passes its input on.

    With -2 each layer keeps 88 % of its input: 28 % is left after 10 layers, and nothing
    after 1,000. A gate of about 1 / (num_layers + 1) leaves 37 % at any depth.

    Args:
        num_layers: Layers of the stack, at least 1.

    Returns:
        -2, or the negative logarithm of `num_layers` where that is lower.

    Raises:
        ConfigError: `num_layers` is below 1.

    Examples:
        >>> highway_gate_bias(5)
        -2.0

    Source: the same argument for recurrent gates: Tallec & Ollivier 2018, arXiv:1804.11188.
    """
    check_count("num_layers", num_layers)
    return min(-2.0, -math.log(num_layers))
