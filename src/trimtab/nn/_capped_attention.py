"""Attention with soft-capped logits, written out because the fused kernels cannot cap."""

import math

import torch
from torch.nn import functional

from trimtab.nn._softcap import softcap


def capped_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    cap: float,
    mask: torch.Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Attend with logits held inside (-cap, cap); the mask is applied after the cap.

    Logits and softmax are float32 whatever the input. The memory is quadratic in the
    length. A query that may look nowhere gets zeros, with a zero gradient.

    Args:
        q: (batch, heads, time, head_dim).
        k: (batch, kv_heads, time, head_dim); `kv_heads` divides `heads`.
        v: The shape of `k`.
        cap: Bound on the logits, finite and positive.
        mask: Boolean, True where a query may look, or float, added to the capped logits;
            broadcast to (batch, heads, time, time).
        causal: Whether to forbid the future as well.
        dropout: Drop probability of weights, in [0, 1]; applied whenever positive.

    Returns:
        (batch, heads, time, head_dim), the dtype of `v`.

    Source: Gemma Team 2024, arXiv:2408.00118, section 2.
    """
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    logits = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)  # (batch, heads, time, time)
    logits = softcap(logits.to(torch.promote_types(logits.dtype, torch.float32)), cap)
    if mask is not None and mask.dtype != torch.bool:
        logits = logits + mask
        mask = mask > -torch.inf
    if causal:
        past = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
        mask = past if mask is None else mask & past
    weights = _masked_softmax(logits, mask)
    if dropout > 0:
        weights = functional.dropout(weights, dropout)
    return weights.to(v.dtype) @ v


def _masked_softmax(logits: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Softmax over the last dimension; a row without a permitted place is all zero."""
    if mask is None:
        return logits.softmax(dim=-1)
    # -inf in a whole row would make NaN there: fill with the lowest finite number, then clear
    weights = logits.masked_fill(~mask, torch.finfo(logits.dtype).min).softmax(dim=-1)
    return weights.masked_fill(~mask, 0)
