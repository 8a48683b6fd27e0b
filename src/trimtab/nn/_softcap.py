"""Soft-capping: logits that cannot pass a bound, with a gradient everywhere."""

import torch

from trimtab.nn._checks import check_positive


def softcap(x: torch.Tensor, cap: float) -> torch.Tensor:
    """Squash values smoothly into (-cap, cap).

    Small values pass almost unchanged (at `cap / 10` the loss is 0.3 %), and unlike with
    a clamp the gradient never becomes exactly zero before the format's precision ends it.

    Args:
        x: Any shape; usually logits.
        cap: The bound, in the unit of `x`; finite and positive. Gemma 2 uses 50 for
            attention logits and 30 for final ones.

    Returns:
        `cap * tanh(x / cap)`, same shape and dtype.

    Raises:
        ConfigError: `cap` is not finite and positive.

    Examples:
        >>> softcap(torch.tensor([1.0, 30.0, 1000.0]), 30.0)
        tensor([ 0.9996, 22.8478, 30.0000])

    Source: Bello et al. 2017, arXiv:1611.09940; Gemma Team 2024, arXiv:2408.00118, section 2.
    """
    check_positive("cap", cap)
    return cap * torch.tanh(x / cap)
