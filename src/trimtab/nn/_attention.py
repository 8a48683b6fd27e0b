"""Multi-head self-attention with the known remedies against growing logits."""

import torch
from torch import nn
from torch.nn import functional

from trimtab.errors import ConfigError
from trimtab.nn._capped_attention import capped_attention
from trimtab.nn._checks import check_count, check_positive, check_probability
from trimtab.nn._norms import RMS_EPS
from trimtab.nn._rope import RotaryEmbedding


class QueriesKeys(nn.Module):
    """Passes queries and keys on as the dot product meets them: a place for a forward hook.

    Attention logits are never stored by the fast kernels; from here they can be sampled.
    """

    def forward(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `q`, (batch, time, heads, head_dim), and `k` unchanged."""
        return q, k


class Attention(nn.Module):
    """Self-attention over (batch, time, dim).

    Attention logits that grow without bound are a chief cause of diverging Transformers.
    `qk_norm` bounds them at no loss in speed on an accelerator and is on by default;
    `softcap` bounds them more tightly, but leaves PyTorch's fused kernels.

    Args:
        dim: Number of features; a multiple of `num_heads`.
        num_heads: Query heads, at least 1.
        num_kv_heads: Key and value heads, a divisor of `num_heads`; without it as many.
            Fewer means grouped queries: a smaller model, a smaller cache.
        causal: Whether a position sees only itself and earlier ones.
        qk_norm: Whether queries and keys pass an RMSNorm over each head's features.
        softcap: Bound on the logits, finite and positive; 50 in Gemma 2. None: no bound.
        rope: Rotates queries and keys; may be shared between layers.
        dropout: Drop probability of attention weights, in [0, 1].
        bias: Whether the four projections have a bias.

    Raises:
        ConfigError: The heads do not divide as they must, or a number is out of range.

    Source: Vaswani et al. 2017, arXiv:1706.03762; QK-norm: Henry et al. 2020,
        arXiv:2010.04245, and Dehghani et al. 2023, arXiv:2302.05442; grouped queries:
        Ainslie et al. 2023, arXiv:2305.13245; soft-capping: arXiv:2408.00118.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        causal: bool = False,
        qk_norm: bool = True,
        softcap: float | None = None,
        rope: RotaryEmbedding | None = None,
        dropout: float = 0.0,
        bias: bool = False,
    ) -> None:
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        check_heads(dim, num_heads, num_kv_heads, rope)
        check_probability("dropout", dropout)
        if softcap is not None:
            check_positive("softcap", softcap)
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = dim // num_heads
        self.causal = causal
        self.softcap = softcap
        self.dropout = dropout
        self.q_proj = nn.Linear(dim, dim, bias=bias)
        self.k_proj = nn.Linear(dim, num_kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(dim, num_kv_heads * self.head_dim, bias=bias)
        self.out_proj = nn.Linear(dim, dim, bias=bias)
        self.q_norm = nn.RMSNorm(self.head_dim, eps=RMS_EPS) if qk_norm else None
        self.k_norm = nn.RMSNorm(self.head_dim, eps=RMS_EPS) if qk_norm else None
        self.rope = rope
        self.queries_keys = QueriesKeys()

    def forward(
        self,
        x: torch.Tensor,
        *,
        attn_mask: torch.Tensor | None = None,
        key_padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend. A position that may see nothing outputs the projection of zero.

        Args:
            x: (batch, time, dim).
            attn_mask: As in `F.scaled_dot_product_attention`: boolean, True where a query
                may look, or float, added to the logits; broadcast to
                (batch, heads, time, time).
            key_padding_mask: As in `nn.MultiheadAttention`: boolean (batch, time), True
                at padding.

        Returns:
            (batch, time, dim).
        """
        q = self.q_proj(x).unflatten(-1, (self.num_heads, -1))  # (batch, time, heads, head_dim)
        k = self.k_proj(x).unflatten(-1, (self.num_kv_heads, -1))
        v = self.v_proj(x).unflatten(-1, (self.num_kv_heads, -1))
        if self.q_norm is not None and self.k_norm is not None:
            wide = self.q_norm.weight.dtype  # float32 under autocast, where q and k are not
            q, k = self.q_norm(q.to(wide)), self.k_norm(k.to(wide))
        if self.rope is not None:
            q, k = self.rope(q), self.rope(k)
        q, k = self.queries_keys(q.to(v.dtype), k.to(v.dtype))
        mask = _merge_masks(attn_mask, key_padding_mask)
        y = self._attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask)
        out: torch.Tensor = self.out_proj(y.transpose(1, 2).flatten(2))
        return out

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Weigh `v` by the match of `q` and `k`, all (batch, heads, time, head_dim)."""
        causal = self.causal
        if causal and mask is not None:  # PyTorch's kernel takes one or the other
            mask, causal = _add_causal(mask, q.shape[-2]), False
        dropout = self.dropout if self.training else 0.0
        if self.softcap is not None:
            return capped_attention(
                q, k, v, cap=self.softcap, mask=mask, causal=causal, dropout=dropout
            )
        return functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=causal,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )


def check_heads(
    dim: int, num_heads: int, num_kv_heads: int = 1, rope: RotaryEmbedding | None = None
) -> None:
    """Refuse head counts that do not divide.

    Args:
        dim: Number of features.
        num_heads: Query heads.
        num_kv_heads: Key and value heads.
        rope: Rotary positions, which are built for one head size.

    Raises:
        ConfigError: Heads or features do not divide, or `rope` is of another head size.
    """
    check_count("dim", dim)
    check_count("num_heads", num_heads)
    check_count("num_kv_heads", num_kv_heads)
    if dim % num_heads:
        raise ConfigError(
            f"dim must be a multiple of num_heads, got dim={dim} and num_heads={num_heads}. "
            f"The next dim that fits is {-(-dim // num_heads) * num_heads}."
        )
    if num_heads % num_kv_heads:
        raise ConfigError(
            f"num_heads must be a multiple of num_kv_heads, got num_heads={num_heads} and "
            f"num_kv_heads={num_kv_heads}. Choose a divisor of num_heads."
        )
    if rope is not None and rope.head_dim != dim // num_heads:
        raise ConfigError(
            f"rope was built for head_dim={rope.head_dim}, but dim={dim} over "
            f"num_heads={num_heads} gives {dim // num_heads}. Build it with that head_dim."
        )


def _merge_masks(
    attn_mask: torch.Tensor | None, key_padding_mask: torch.Tensor | None
) -> torch.Tensor | None:
    """Join both masks in the convention of `attn_mask`."""
    if key_padding_mask is None:
        return attn_mask
    allowed = ~key_padding_mask[:, None, None, :]  # (batch, 1, 1, time)
    if attn_mask is None:
        return allowed
    if attn_mask.dtype == torch.bool:
        return attn_mask & allowed
    return attn_mask.masked_fill(~allowed, -torch.inf)


def _add_causal(mask: torch.Tensor, time: int) -> torch.Tensor:
    """Forbid the future in `mask` as well."""
    past = torch.ones(time, time, dtype=torch.bool, device=mask.device).tril()
    return mask & past if mask.dtype == torch.bool else mask.masked_fill(~past, -torch.inf)
