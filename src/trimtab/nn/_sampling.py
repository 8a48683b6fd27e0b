"""Sampling from a language model, so that a user sees text."""

import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.nn._checks import check_count


@torch.no_grad()
def sample_tokens(
    model: nn.Module,
    tokens: torch.Tensor,
    num_new: int,
    *,
    max_len: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Continue sequences one token at a time.

    Nothing is cached: each token costs one forward pass over the last `max_len` tokens.
    The model samples in eval mode and gets each module's mode back afterwards.

    Args:
        model: Maps tokens (batch, time) to logits (batch, time, vocab).
        tokens: (batch, time), at least one of each.
        num_new: Tokens to add, at least 1.
        max_len: Longest sequence that the model takes.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_k: Sample among so many likeliest tokens, at least 1; None: among all.
        generator: Source of randomness, on the logits' device.

    Returns:
        (batch, time + num_new), the given tokens first.

    Raises:
        ConfigError: A number is out of range or `tokens` is empty or not two-dimensional.
    """
    check_count("num_new", num_new)
    if top_k is not None:
        check_count("top_k", top_k)
    if not 0 <= temperature < float("inf"):
        raise ConfigError(f"temperature must be finite and at least 0, got {temperature!r}.")
    if tokens.ndim != 2 or tokens.numel() == 0:
        raise ConfigError(
            "tokens must have shape (batch, time) with at least one token to start from, "
            f"got {tuple(tokens.shape)}."
        )
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for _ in range(num_new):
            logits = model(tokens[:, -max_len:])[:, -1]  # (batch, vocab)
            new = _pick(logits, temperature, top_k, generator)  # (batch, 1)
            tokens = torch.cat((tokens, new), dim=1)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return tokens


def _pick(
    logits: torch.Tensor,
    temperature: float,
    top_k: int | None,
    generator: torch.Generator | None,
) -> torch.Tensor:
    """Draw one token a row, (batch, 1)."""
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    if top_k is not None and top_k < logits.shape[-1]:
        lowest = logits.topk(top_k, dim=-1).values[:, -1:]  # (batch, 1)
        logits = logits.masked_fill(logits < lowest, -torch.inf)
    return torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator)
