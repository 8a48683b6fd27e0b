"""The models of the corpus, written as users write them."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def mlp(
    sizes: Sequence[int],
    activation: Callable[[], nn.Module] = nn.ReLU,
    *,
    norm: Callable[[int], nn.Module] | None = None,
    dropout: float = 0.0,
    out: nn.Module | None = None,
) -> nn.Sequential:
    """Linear layers with an activation between them."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(a, b))
        if i < len(sizes) - 2:
            layers += [norm(b)] if norm else []
            layers.append(activation())
            layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, *([out] if out else []))


def cnn(
    width: int = 16,
    depth: int = 2,
    *,
    norm: bool = True,
    momentum: float = 0.1,
    activation: Callable[[], nn.Module] = nn.ReLU,
    classes: int = 10,
    out: nn.Module | None = None,
) -> nn.Sequential:
    """Convolutions on 8 x 8 images, a mean over places, a linear head."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers.append(nn.Conv2d(1 if i == 0 else width, width, 3, 1, 1))
        layers += [nn.BatchNorm2d(width, momentum=momentum)] if norm else []
        layers.append(activation())
        layers += [nn.MaxPool2d(2)] if i == 0 else []
    layers += [nn.Flatten(), nn.Linear(width * 16, classes)]
    return nn.Sequential(*layers, *([out] if out else []))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int, *, zero: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        if zero:
            nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(x + self.norm2(self.conv2(y)))


class ResNet(nn.Module):
    """A small residual network on 8 x 8 images."""

    def __init__(self, width: int = 16, blocks: int = 2, *, zero: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1)
        self.blocks = nn.Sequential(*(ResidualBlock(width, zero=zero) for _ in range(blocks)))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class ResidualMlp(nn.Module):
    """Residual blocks of two linear layers: with LayerNorm, with a gate at zero, or bare."""

    def __init__(self, width: int, blocks: int, *, style: str = "norm", scale: float = 1.0) -> None:
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.blocks = nn.ModuleList(mlp([width, width, width]) for _ in range(blocks))
        bare = style != "norm"
        self.norms = nn.ModuleList(
            nn.Identity() if bare else nn.LayerNorm(width) for _ in range(blocks)
        )
        gates = torch.zeros(blocks) if style == "rezero" else torch.ones(blocks)
        self.gates = nn.Parameter(gates) if style == "rezero" else gates
        self.head = nn.Linear(width, 10)
        for block in self.blocks:
            for linear in (block[0], block[2]):
                nn.init.kaiming_normal_(linear.weight)
                linear.weight.data.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i, (norm, block) in enumerate(zip(self.norms, self.blocks, strict=True)):
            x = x + self.gates[i] * block(norm(x))
        return self.head(x)


class Recurrent(nn.Module):
    """An RNN of any kind, and a head on its last output, or on all."""

    def __init__(
        self,
        kind: str,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        layers: int = 1,
        every: bool = False,
        tokens: int = 0,
        squeeze: bool = False,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, inputs) if tokens else nn.Identity()
        self.rnn = getattr(nn, kind)(inputs, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, outputs)
        self.every, self.squeeze = every, squeeze

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(self.embed(x))
        out = self.head(y if self.every else y[:, -1])
        return out.squeeze(-1) if self.squeeze else out


class Attention(nn.Module):
    """Causal attention written out, so that its scale can be wrong."""

    def __init__(self, dim: int, heads: int, *, scale: float | None, causal: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.heads, self.causal = heads, causal
        self.scale = (dim // heads) ** -0.5 if scale is None else scale

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-1, -2) * self.scale
        if self.causal:
            future = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
            logits = logits.masked_fill(future, float("-inf"))
        return self.out((logits.softmax(-1) @ v).transpose(1, 2).reshape(b, t, d))


class DecoderBlock(nn.Module):
    """Attention and a feed-forward layer, with the norm before, after, or not at all."""

    def __init__(self, dim: int, heads: int, norm: str, **attention: Any) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, **attention)
        self.feed = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        make = nn.Identity if norm == "none" else nn.LayerNorm
        self.norm1, self.norm2, self.style = make(dim), make(dim), norm
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "post":
            x = self.norm1(x + self.drop(self.attention(x)))
            return self.norm2(x + self.drop(self.feed(x)))
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.feed(self.norm2(x)))


class LanguageModel(nn.Module):
    """A decoder over characters."""

    def __init__(
        self,
        vocabulary: int,
        *,
        dim: int = 32,
        depth: int = 2,
        heads: int = 4,
        length: int = 64,
        norm: str = "pre",
        tied: bool = False,
        std: float = 0.02,
        scale: float | None = None,
        causal: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, dim)
        self.places = nn.Parameter(torch.randn(length, dim) * 0.02)
        self.blocks = nn.ModuleList(
            DecoderBlock(dim, heads, norm, scale=scale, causal=causal) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim) if norm == "pre" else nn.Identity()
        self.head = nn.Linear(dim, vocabulary, bias=False)
        nn.init.normal_(self.embed.weight, std=std)
        nn.init.normal_(self.head.weight, std=0.02)
        if tied:
            self.head.weight = self.embed.weight
        for block in self.blocks:
            block.drop.p = dropout

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.places[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


def token_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy over all places of all sequences."""
    return functional.cross_entropy(logits.flatten(0, 1), y.flatten())


class RowEncoder(nn.Module):
    """A transformer encoder that reads an image as eight rows, from PyTorch's own layers."""

    def __init__(
        self, *, dim: int = 32, depth: int = 2, norm_first: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.rows = nn.Linear(8, dim)
        self.places = nn.Parameter(torch.randn(8, dim) * 0.02)
        layer = nn.TransformerEncoderLayer(
            dim, 4, 2 * dim, dropout, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.rows(x.reshape(-1, 8, 8)) + self.places).mean(1))


class Autoencoder(nn.Module):
    """Digits through a bottleneck."""

    def __init__(self, *, out: nn.Module | None = None, code: int = 16) -> None:
        super().__init__()
        self.encoder = mlp([64, 48, code])
        self.decoder = mlp([code, 48, 64], out=out)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def each_weight(model: nn.Module, init: Callable[[Tensor], Any]) -> nn.Module:
    """Draw all weights of linear and convolution layers anew; biases become zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            init(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
