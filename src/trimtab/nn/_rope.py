"""Rotary position embedding: positions as rotations of queries and keys."""

import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.nn._checks import check_count, check_positive


class RotaryEmbedding(nn.Module):
    """Rotate pairs of features by angles that grow with the position.

    The inner product of a rotated query and key depends on their distance alone. Feature
    `i` is paired with `i + head_dim / 2`, as LLaMA checkpoints in Transformers have it.

    The tables of cosines and sines are computed once, in float64, and kept as float32
    buffers outside the state dict; the rotation runs in float32 or wider whatever the
    input. `model.to(torch.bfloat16)` rounds the tables too (error up to 0.004); autocast
    leaves them exact.

    Args:
        head_dim: Features a head, even and at least 2.
        max_len: Longest sequence, in positions, at least 1.
        base: Slowest pair's wavelength over 2 pi, in positions; finite and positive.

    Raises:
        ConfigError: `head_dim` is odd or one of these out of range.

    Source: Su et al. 2021, arXiv:2104.09864, equation 34.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, head_dim: int, max_len: int = 2048, *, base: float = 10_000.0) -> None:
        check_count("head_dim", head_dim)
        if head_dim % 2:
            raise ConfigError(
                f"head_dim must be even for rotary positions, which turn pairs; got {head_dim}. "
                "Change dim or num_heads so that dim / num_heads is even, or learn the positions."
            )
        check_count("max_len", max_len)
        check_positive("base", base)
        super().__init__()
        self.head_dim = head_dim
        self.max_len = max_len
        self.base = base
        self.register_buffer("cos", torch.empty(max_len, 1, head_dim), persistent=False)
        self.register_buffer("sin", torch.empty(max_len, 1, head_dim), persistent=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fill the tables, on whatever device they are; needed after `to_empty`."""
        half = torch.arange(self.head_dim // 2, dtype=torch.float64, device="cpu")
        position = torch.arange(self.max_len, dtype=torch.float64, device="cpu")
        frequency = self.base ** (-2 * half / self.head_dim)  # (head_dim / 2), radians a position
        angle = torch.outer(position, frequency)[:, None]  # (max_len, 1, head_dim / 2)
        sin = angle.sin()
        self.cos.copy_(angle.cos().repeat(1, 1, 2))
        self.sin.copy_(torch.cat((-sin, sin), dim=-1))  # the rotation's minus sign, put in once

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate queries or keys; position 0 comes first.

        Args:
            x: (batch, time, heads, head_dim).

        Returns:
            Same shape and dtype.

        Raises:
            ConfigError: The sequence is longer than `max_len`.
        """
        time = x.shape[1]
        if time > self.max_len:
            raise ConfigError(
                f"A sequence of {time} positions is longer than max_len={self.max_len}. "
                "Build the model with a larger max_len, or shorten the sequence."
            )
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        swapped = wide.roll(self.head_dim // 2, dims=-1)  # both halves change places
        turned = torch.addcmul(wide * self.cos[:time], swapped, self.sin[:time])
        return turned.to(x.dtype)

    def extra_repr(self) -> str:
        """Show the settings in `print(model)`."""
        return f"head_dim={self.head_dim}, max_len={self.max_len}, base={self.base}"
