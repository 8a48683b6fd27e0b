"""A compact GPT whose every stabiliser is an option."""

from functools import partial

import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.init import deepnorm_, gpt2_
from trimtab.nn._attention import Attention, check_heads
from trimtab.nn._checks import check_choice, check_count, check_positive, check_probability
from trimtab.nn._feed_forward import GEGLU, GLU, FeedForward, SwiGLU
from trimtab.nn._head import Head, TiedHead
from trimtab.nn._norms import norm as build_norm
from trimtab.nn._residual_choice import residual as build_residual
from trimtab.nn._residual_choice import warn_if_unstable
from trimtab.nn._rope import RotaryEmbedding
from trimtab.nn._sampling import sample_tokens
from trimtab.nn._stochastic_depth import linear_decay

FEED_FORWARDS = {"geglu": GEGLU, "gelu": FeedForward, "glu": GLU, "swiglu": SwiGLU}
GPT_RESIDUALS = ("deep_norm", "layer_scale", "post_norm", "pre_norm", "rezero")
_ENDS_IN_NORM = ("deep_norm", "post_norm")  # their last block normalises already


class Block(nn.Module):
    """One Transformer layer: attention, then feed-forward, each in its residual wrapper.

    Args:
        attention: Wrapped self-attention.
        feed_forward: Wrapped feed-forward block.
    """

    def __init__(self, attention: nn.Module, feed_forward: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.feed_forward = feed_forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `x`, (batch, time, dim), to the same shape."""
        y: torch.Tensor = self.feed_forward(self.attention(x))
        return y


class GPT(nn.Module):
    """A decoder-only Transformer language model, stable by default.

    The defaults are pre-norm with RMSNorm, SwiGLU, rotary positions and QK-norm. Weights
    start as in GPT-2, or with DeepNorm's gains, so that the first loss is near
    ln(vocab_size) for every combination of options.

    Args:
        vocab_size: Number of tokens, at least 1; 256 for bytes.
        dim: Width of the residual stream, a multiple of `num_heads`.
        depth: Number of blocks, at least 1.
        num_heads: Attention heads, at least 1.
        max_len: Longest sequence, in tokens.
        feed_forward: `"swiglu"`, `"geglu"`, `"glu"`, or plain `"gelu"`.
        hidden: Width inside the feed-forward; without it `4 * dim`, or for the gated
            kinds `gated_hidden(dim)`, which costs the same.
        norm: `"rms"` or `"layer"`.
        positions: `"rope"` (rotary) or `"learned"`.
        qk_norm: Whether queries and keys are normalised, which bounds attention logits.
        attention_softcap: Bound on attention logits; 50 in Gemma 2. None: no bound. It
            leaves PyTorch's fused attention, so memory grows with the length squared.
        final_softcap: Bound on the output logits; 30 in Gemma 2. None: no bound.
        residual: `"pre_norm"`, `"post_norm"`, `"deep_norm"`, `"rezero"` or
            `"layer_scale"`.
        dropout: Drop probability of embeddings, attention weights and branches' outputs.
        drop_path: Drop probability of the last block's branches; grows linearly to it.
        tie_embeddings: Whether the output layer uses the embedding's weight.
        generator: Source of the first weights, on their device. None: PyTorch's own.

    Raises:
        ConfigError: A name is unknown, a number out of range, or `dim` does not fit the
            heads; before anything is built.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; the
        options' sources stand with their modules.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        dim: int = 256,
        depth: int = 4,
        num_heads: int = 4,
        max_len: int = 256,
        feed_forward: str = "swiglu",
        hidden: int | None = None,
        norm: str = "rms",
        positions: str = "rope",
        qk_norm: bool = True,
        attention_softcap: float | None = None,
        final_softcap: float | None = None,
        residual: str = "pre_norm",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        tie_embeddings: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        check_heads(dim, num_heads)
        _check_counts(vocab_size=vocab_size, depth=depth, max_len=max_len, hidden=hidden)
        _check_caps(attention_softcap=attention_softcap, final_softcap=final_softcap)
        check_probability("dropout", dropout)
        check_probability("drop_path", drop_path)
        check_choice("feed_forward", feed_forward, FEED_FORWARDS)
        check_choice("norm", norm, ("layer", "rms"))
        check_choice("positions", positions, ("learned", "rope"))
        check_choice("residual", residual, GPT_RESIDUALS)
        warn_if_unstable(residual, depth)
        rope = RotaryEmbedding(dim // num_heads, max_len) if positions == "rope" else None
        attend = partial(Attention, dim, num_heads, causal=True, qk_norm=qk_norm)
        attend = partial(attend, softcap=attention_softcap, rope=rope, dropout=dropout)
        feed = partial(FEED_FORWARDS[feed_forward], dim, hidden)
        wrap = partial(build_residual, residual, dim=dim, num_layers=depth, norm=norm)
        wrap = partial(wrap, dropout=dropout)
        super().__init__()
        self.max_len = max_len
        self.residual = residual
        self.embedding = nn.Embedding(vocab_size, dim)
        self.positions = nn.Embedding(max_len, dim) if positions == "learned" else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(wrap(attend(), drop_path=rate), wrap(feed(), drop_path=rate))
            for rate in linear_decay(drop_path, depth)
        )
        self.norm = build_norm("none" if residual in _ENDS_IN_NORM else norm, dim)
        self.head: Head | TiedHead
        if tie_embeddings:
            self.head = TiedHead(dim, softcap=final_softcap)
        else:
            self.head = Head(dim, vocab_size, softcap=final_softcap)
        self.initialize_(generator)

    def initialize_(self, generator: torch.Generator | None = None) -> None:
        """Draw all linear and embedding weights anew, as the constructor does.

        Args:
            generator: Source of randomness, on the weights' device. None: PyTorch's own.

        Source: Radford et al. 2019; for DeepNorm Wang et al. 2022, arXiv:2203.00555.
        """
        depth = len(self.blocks)
        gpt2_(self, num_layers=depth, generator=generator)
        if self.residual == "deep_norm":
            deepnorm_(self.blocks, num_layers=depth, generator=generator)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Predict each position's next token.

        Args:
            tokens: (batch, time), integers below `vocab_size`; time at most `max_len`.

        Returns:
            Logits, (batch, time, vocab_size), float32.

        Raises:
            ConfigError: The sequence is longer than `max_len`.
        """
        time = tokens.shape[1]
        if time > self.max_len:
            raise ConfigError(
                f"A sequence of {time} positions is longer than max_len={self.max_len}. "
                "Build the model with a larger max_len, or shorten the sequence."
            )
        x = self.embedding(tokens)  # (batch, time, dim)
        if self.positions is not None:
            x = x + self.positions(torch.arange(time, device=tokens.device))
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        tied = isinstance(self.head, TiedHead)
        logits: torch.Tensor = self.head(x, self.embedding.weight) if tied else self.head(x)
        return logits

    def generate(
        self,
        tokens: torch.Tensor,
        num_new: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Continue sequences one token at a time, in eval mode and without gradients.

        Nothing is cached, so each token costs one forward pass. Past `max_len` the model
        sees the last `max_len` tokens.

        Args:
            tokens: (batch, time), at least one of each.
            num_new: Tokens to add, at least 1.
            temperature: Divides the logits; 0 takes the likeliest token.
            top_k: Sample among so many likeliest tokens, at least 1. None: among all.
            generator: Source of randomness, on the model's device. None: PyTorch's own.

        Returns:
            (batch, time + num_new), the given tokens first.

        Raises:
            ConfigError: A number is out of range or `tokens` is empty.
        """
        return sample_tokens(
            self,
            tokens,
            num_new,
            max_len=self.max_len,
            temperature=temperature,
            top_k=top_k,
            generator=generator,
        )


def _check_counts(*, hidden: int | None, **counts: int) -> None:
    for name, value in counts.items():
        check_count(name, value)
    if hidden is not None:
        check_count("hidden", hidden)


def _check_caps(**caps: float | None) -> None:
    for name, cap in caps.items():
        if cap is not None:
            check_positive(name, cap)
