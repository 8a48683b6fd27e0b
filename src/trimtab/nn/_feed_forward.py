"""Feed-forward blocks: plain, and gated (GLU, SwiGLU, GEGLU)."""

from abc import ABC, abstractmethod

import torch
from torch import nn
from torch.nn import functional

from trimtab.nn._activation import activation as build_activation
from trimtab.nn._checks import check_count


class FeedForward(nn.Module):
    """`down(activation(up(x)))`: the plain two-layer block.

    Args:
        dim: Number of features, at least 1.
        hidden: Width inside, at least 1; without it `4 * dim`.
        activation: `"elu"`, `"gelu"`, `"leaky_relu"`, `"relu"`, `"silu"` or `"tanh"`.
        bias: Whether both layers have a bias.

    Raises:
        ConfigError: A size is below 1 or the activation is unknown.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.3.
    """

    def __init__(
        self, dim: int, hidden: int | None = None, activation: str = "gelu", *, bias: bool = True
    ) -> None:
        check_count("dim", dim)
        hidden = 4 * dim if hidden is None else hidden
        check_count("hidden", hidden)
        act = build_activation(activation)
        super().__init__()
        self.up_proj = nn.Linear(dim, hidden, bias=bias)
        self.activation = act
        self.down_proj = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `x`, (..., dim), to the same shape."""
        y: torch.Tensor = self.down_proj(self.activation(self.up_proj(x)))
        return y


class GatedFeedForward(nn.Module, ABC):
    """`down(activate(gate(x)) * up(x))`; each subclass is one activation of the gate.

    Args:
        dim: Number of features, at least 1.
        hidden: Width inside, at least 1; without it `gated_hidden(dim)`, which gives the
            three matrices as many weights as the two of a plain block of `4 * dim`.
        bias: Whether the layers have a bias.

    Raises:
        ConfigError: A size is below 1.

    Source: Shazeer 2020, arXiv:2002.05202, equation 6.
    """

    def __init__(self, dim: int, hidden: int | None = None, *, bias: bool = False) -> None:
        check_count("dim", dim)
        hidden = gated_hidden(dim) if hidden is None else hidden
        check_count("hidden", hidden)
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=bias)
        self.up_proj = nn.Linear(dim, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, dim, bias=bias)

    @staticmethod
    @abstractmethod
    def activate(gate: torch.Tensor) -> torch.Tensor:
        """Turn the gate's projection, (..., hidden), into factors of the same shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `x`, (..., dim), to the same shape."""
        inner = self.activate(self.gate_proj(x)) * self.up_proj(x)  # (..., hidden)
        y: torch.Tensor = self.down_proj(inner)
        return y


class GLU(GatedFeedForward):
    """Gated by a sigmoid: the first of the family. Arguments as in `GatedFeedForward`.

    Source: Dauphin et al. 2017, arXiv:1612.08083; Shazeer 2020, arXiv:2002.05202.
    """

    @staticmethod
    def activate(gate: torch.Tensor) -> torch.Tensor:
        """Apply the sigmoid."""
        return torch.sigmoid(gate)


class SwiGLU(GatedFeedForward):
    """Gated by SiLU (Swish): LLaMA's and PaLM's choice. Arguments as in `GatedFeedForward`.

    Source: Shazeer 2020, arXiv:2002.05202.
    """

    @staticmethod
    def activate(gate: torch.Tensor) -> torch.Tensor:
        """Apply SiLU."""
        return functional.silu(gate)


class GEGLU(GatedFeedForward):
    """Gated by GELU: Gemma's choice. Arguments as in `GatedFeedForward`.

    Source: Shazeer 2020, arXiv:2002.05202.
    """

    @staticmethod
    def activate(gate: torch.Tensor) -> torch.Tensor:
        """Apply GELU."""
        return functional.gelu(gate)


def gated_hidden(dim: int, *, multiple_of: int = 8) -> int:
    """Choose the width inside a gated block so that it costs what a plain 4x block costs.

    Three matrices of `dim * hidden` against two of `dim * 4 * dim` gives 8 / 3 of `dim`,
    rounded up because tensor cores want multiples of 8 values of 16 bits.

    Args:
        dim: Number of features, at least 1.
        multiple_of: What to round up to, at least 1.

    Returns:
        The smallest multiple that is at least `8 * dim / 3`.

    Raises:
        ConfigError: One of the two is below 1.

    Examples:
        >>> gated_hidden(768), gated_hidden(256), gated_hidden(256, multiple_of=64)
        (2048, 688, 704)

    Source: Shazeer 2020, arXiv:2002.05202, section 3.
    """
    check_count("dim", dim)
    check_count("multiple_of", multiple_of)
    return -(-8 * dim // (3 * multiple_of)) * multiple_of
