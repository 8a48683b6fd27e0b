"""The output layer: logits in float32, ready for a z-loss."""

import torch
from torch import nn
from torch.nn import functional

from trimtab.errors import ConfigError
from trimtab.nn._checks import check_count, check_positive
from trimtab.nn._softcap import softcap as apply_softcap


class Head(nn.Module):
    """Map features to float32 logits, soft-capped on request.

    float32 because log Z, which cross-entropy and `trimtab.losses.z_loss` need, loses
    itself in 8 bits. Initialise it as an output, small and with zero bias, not as a
    hidden layer.

    Args:
        dim: Number of features, at least 1.
        num_classes: Number of logits, at least 1.
        bias: Whether there is a bias.
        softcap: Bound on the logits, finite and positive; 30 in Gemma 2. None: no bound.

    Raises:
        ConfigError: A number is out of range.

    Source: z-loss: Chowdhery et al. 2022, arXiv:2204.02311, section 5; soft-capping:
        arXiv:2408.00118.
    """

    def __init__(
        self, dim: int, num_classes: int, *, bias: bool = False, softcap: float | None = None
    ) -> None:
        check_count("dim", dim)
        check_count("num_classes", num_classes)
        if softcap is not None:
            check_positive("softcap", softcap)
        super().__init__()
        self.proj = nn.Linear(dim, num_classes, bias=bias)
        self.softcap = softcap

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `x`, (..., dim), to logits, (..., num_classes), float32; float64 stays."""
        return _finish(self.proj(x), self.softcap)


class TiedHead(nn.Module):
    """Map features to float32 logits with the token embedding's own weight.

    The weight is passed to `forward`, not shared, so it stays tied through meta devices
    and copies, and is in the state dict once.

    At the start a residual stream is mostly the input token's embedding, so a plain tied
    head gives that token a logit of about std * dim: 5 at width 256 and 15 at 768 with
    GPT-2's 0.02, and a loss far above that of guessing. Here every second feature changes
    sign first. The token's own logit then has mean zero, and nothing else changes, since
    the network can learn either sign as well as the other.

    Args:
        dim: Number of features, at least 1.
        softcap: Bound on the logits, finite and positive. None: no bound.

    Raises:
        ConfigError: A number is out of range.

    Source: tying: Press & Wolf 2017, arXiv:1608.05859.
    """

    signs: torch.Tensor

    def __init__(self, dim: int, *, softcap: float | None = None) -> None:
        check_count("dim", dim)
        if softcap is not None:
            check_positive("softcap", softcap)
        super().__init__()
        self.softcap = softcap
        self.register_buffer("signs", torch.empty(dim), persistent=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fill the signs, +1 and -1 in turn; needed after `to_empty`."""
        self.signs.fill_(1)
        self.signs[1::2] = -1

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Compute logits.

        Args:
            x: (..., dim).
            weight: The embedding's, (num_classes, dim).

        Returns:
            (..., num_classes), float32; float64 stays.

        Raises:
            ConfigError: The two differ in `dim`.
        """
        if weight.shape[-1] != self.signs.shape[0]:
            raise ConfigError(
                f"TiedHead was built for dim={self.signs.shape[0]}, got a weight of shape "
                f"{tuple(weight.shape)}. Pass the embedding's weight, (num_classes, dim)."
            )
        return _finish(functional.linear(x * self.signs, weight), self.softcap)


def _finish(logits: torch.Tensor, cap: float | None) -> torch.Tensor:
    """Widen the logits, and cap them on request."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits if cap is None else apply_softcap(logits, cap)
