"""A small GPT on text, byte by byte, with every stabilising technique on."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor, nn

from trimtab.errors import ConfigError
from trimtab.losses import cross_entropy
from trimtab.nn import GPT
from trimtab.recipes._text import VOCAB_SIZE, TextData, python_topics, read_text
from trimtab.train import Batch, OptimizerConfig, Recipe, RunConfig, Scope, Task, require

QUICK_WINDOWS: Final = 64
"""Validation windows while training."""
ALL_WINDOWS: Final = 4096
"""Validation windows at the end, at most: half a million tokens at context 128."""


@dataclass(frozen=True, kw_only=True)
class GPTModelConfig:
    """Shape of the network and what keeps its signals in bounds."""

    depth: int = 4
    """Transformer blocks."""
    dim: int = 256
    """Width of the residual stream."""
    heads: int = 4
    """Attention heads; dim must be a multiple."""
    context: int = 128
    """Tokens (bytes) in a sequence."""
    feed_forward: Literal["swiglu", "geglu", "glu", "gelu"] = "swiglu"
    """Feed-forward network."""
    norm: Literal["rms", "layer"] = "rms"
    """Normalisation before every branch and at the end."""
    positions: Literal["rope", "learned"] = "rope"
    """Positions: rotated queries and keys, or learned vectors."""
    qk_norm: bool = True
    """Normalise queries and keys, so that attention logits cannot grow."""
    attention_softcap: float = 0.0
    """Soft bound on attention logits; 0 for none. It cannot use the fast attention kernels."""
    final_softcap: float = 0.0
    """Soft bound on the output logits; 0 for none."""
    dropout: float = 0.0
    """Share of activations dropped in each branch."""

    def __post_init__(self) -> None:
        for name in ("depth", "dim", "heads", "context"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        if self.dim % self.heads:
            raise ConfigError(
                f"dim {self.dim} cannot be divided among {self.heads} heads. Pass a multiple of "
                f"heads."
            )
        require(0 <= self.dropout < 1, "dropout", "at least 0 and below 1", self.dropout)
        for name in ("attention_softcap", "final_softcap"):
            require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class GPTLossConfig:
    """Data and loss."""

    data: Path | None = None
    """Text file, or folder of text files, to train on. Default: Python's own documentation."""
    z_loss: float = 1e-4
    """Weight of the z-loss, which keeps the output logits from drifting; 0 for none."""
    label_smoothing: float = 0.0
    """Share of the target probability spread over all tokens."""

    def __post_init__(self) -> None:
        require(self.z_loss >= 0, "z_loss", "0 or more", self.z_loss)
        smoothing = self.label_smoothing
        require(0 <= smoothing < 1, "label_smoothing", "at least 0 and below 1", smoothing)


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Train a small GPT on text, byte by byte."""

    run: RunConfig = field(default_factory=RunConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    model: GPTModelConfig = field(default_factory=GPTModelConfig)
    task: GPTLossConfig = field(default_factory=GPTLossConfig)


def build(config: GPTConfig, generator: torch.Generator) -> Task:
    """Return model, data and loss.

    Raises:
        ConfigError: The data is missing, empty, binary or too short.
    """
    text = read_text(config.task.data) if config.task.data else python_topics()
    data = TextData.split(text, context=config.model.context, seed=config.run.seed)
    shape = config.model
    model = GPT(
        VOCAB_SIZE,
        dim=shape.dim,
        depth=shape.depth,
        num_heads=shape.heads,
        max_len=shape.context,
        feed_forward=shape.feed_forward,
        norm=shape.norm,
        positions=shape.positions,
        qk_norm=shape.qk_norm,
        attention_softcap=shape.attention_softcap or None,
        final_softcap=shape.final_softcap or None,
        dropout=shape.dropout,
        generator=generator,
    )
    loss = partial(_loss, z_loss=config.task.z_loss, label_smoothing=config.task.label_smoothing)
    return Task(
        model=model,
        batch=partial(data.batch, batch_size=config.optimizer.batch_size),
        loss=loss,
        weight=lambda batch: batch[1].numel(),
        evaluate=partial(_evaluate, data=data),
        unit="tokens",
        loss_unit="nats a byte",
    )


def _loss(model: nn.Module, batch: Batch, *, z_loss: float, label_smoothing: float) -> Tensor:
    inputs, targets = batch
    logits: Tensor = model(inputs)
    return cross_entropy(logits, targets, z_loss=z_loss, label_smoothing=label_smoothing)


def _evaluate(model: nn.Module, scope: Scope, *, data: TextData) -> dict[str, float]:
    """Return the plain cross-entropy on text that was never trained on."""
    device = next(model.parameters()).device
    windows = data.validation_windows(ALL_WINDOWS if scope == "full" else QUICK_WINDOWS)
    total = torch.zeros((), device=device)
    for part in torch.split(windows.to(device), 32):
        total += cross_entropy(model(part[:, :-1]), part[:, 1:]) * len(part)
    return {"val_loss": float(total / len(windows))}


GPT_RECIPE: Final = Recipe(name="gpt", default=GPTConfig(), build=build)
