"""Attention logits and entropy, from a few queries of one sequence."""

import math
from typing import Final

import torch
from torch import Tensor

NUM_QUERIES: Final = 8
"""Queries of one sequence that stand for all."""


def attention_gauges(q: Tensor, k: Tensor, *, causal: bool, softcap: float | None) -> Tensor:
    """Measure the largest logit and the mean entropy of the attention weights.

    Masks other than the causal one are not seen here, so padding counts.

    Args:
        q: Queries, `(batch, time, heads, head_dim)`.
        k: Keys, `(batch, time, kv_heads, head_dim)`; `kv_heads` divides `heads`.
        causal: Whether a query sees only itself and earlier keys.
        softcap: Bound on the logits, if there is one.

    Returns:
        Largest logit and entropy in nats, `(2,)`, float32.
    """
    with torch.autocast(q.device.type, enabled=False):  # which would make float32 half again
        time = q.shape[1]
        step = max(1, time // NUM_QUERIES)
        rows = torch.arange(time - 1, -1, -step, device=q.device)[:NUM_QUERIES]
        few = q[0, rows].float().transpose(0, 1)  # (heads, rows, head_dim)
        keys = k[0].float().transpose(0, 1)  # (kv_heads, time, head_dim)
        keys = keys.repeat_interleave(few.shape[0] // keys.shape[0], dim=0)
        logits = few @ keys.transpose(1, 2) / math.sqrt(q.shape[-1])  # (heads, rows, time)
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        if causal:
            future = torch.arange(keys.shape[1], device=q.device) > rows[:, None]
            logits = logits.masked_fill(future, -math.inf)
        log_weights = logits.log_softmax(dim=-1)
        entropy = -(log_weights.exp() * log_weights.clamp(min=-1e9)).sum(dim=-1).mean()
        return torch.stack([logits.amax(), entropy])
