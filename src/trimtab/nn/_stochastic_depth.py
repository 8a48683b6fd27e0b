"""Stochastic depth: whole residual branches dropped at random while training."""

import torch
from torch import nn

from trimtab.nn._checks import check_choice, check_count, check_probability


class StochasticDepth(nn.Module):
    """Zero a residual branch with probability `p`, and scale survivors by 1 / (1 - p).

    The expectation is that of the whole network, so evaluation needs no correction: in
    eval mode this is the identity. Like `nn.Dropout` it draws from PyTorch's default
    generator of the tensor's device, which a checkpoint of random state therefore covers.

    Args:
        p: Share of branches dropped, in [0, 1]. With 1 the branch is always dropped while
            training, and its gradient is zero.
        mode: `"row"` drops each sample's branch on its own; `"batch"` drops it for all.

    Raises:
        ConfigError: `p` lies outside [0, 1], or `mode` is unknown.

    Source: Huang et al. 2016, arXiv:1603.09382.
    """

    def __init__(self, p: float, mode: str = "row") -> None:
        check_probability("p", p)
        check_choice("mode", mode, ("batch", "row"))
        super().__init__()
        self.p = p
        self.mode = mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop branches of `x`, (batch, ...), each survivor scaled up."""
        if not self.training or self.p == 0:
            return x
        num = x.shape[0] if self.mode == "row" else 1
        survival = 1 - self.p
        mask = x.new_empty(num, *[1] * (x.ndim - 1)).bernoulli_(survival)  # (batch | 1, 1, ...)
        if survival > 0:
            mask = mask / survival
        return x * mask

    def extra_repr(self) -> str:
        """Show the settings in `print(model)`."""
        return f"p={self.p}, mode={self.mode!r}"


def linear_decay(p: float, num_layers: int) -> list[float]:
    """Spread drop probabilities linearly over depth: first layers matter most.

    Args:
        p: Drop probability of the last layer, in [0, 1].
        num_layers: Number of residual layers, at least 1.

    Returns:
        `p * l / num_layers` for l = 1 ... num_layers.

    Raises:
        ConfigError: `p` lies outside [0, 1] or `num_layers` is below 1.

    Examples:
        >>> linear_decay(0.5, 4)
        [0.125, 0.25, 0.375, 0.5]

    Source: Huang et al. 2016, arXiv:1603.09382, equation 4.
    """
    check_probability("p", p)
    check_count("num_layers", num_layers)
    return [p * layer / num_layers for layer in range(1, num_layers + 1)]
