"""The models of the part `heldout`, written as a stranger writes them."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from faults.cases.heldout_tasks import LEVELS

Activation = Callable[[], nn.Module]


def shapes_net(activation: Activation = nn.ReLU) -> nn.Sequential:
    """Two convolutions and two linear layers, without any norm."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), activation(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), activation(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(144, 32), activation(), nn.Linear(32, 5),
    )  # fmt: skip


def shapes_vgg(momentum: float = 0.1) -> nn.Sequential:
    """Convolutions with a batch norm each, and a mean over places."""
    layers: list[nn.Module] = []
    for a, b in ((1, 8), (8, 16), (16, 16), (16, 16), (16, 16)):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(b, momentum=momentum), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if a == 8 else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


class MixerBlock(nn.Module):
    def __init__(self, patches: int, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.tokens = nn.Sequential(nn.Linear(patches, 32), nn.GELU(), nn.Linear(32, patches))
        self.channels = nn.Sequential(nn.Linear(dim, 64), nn.GELU(), nn.Linear(64, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """Tolstikhin et al. 2021, on patches of 4 x 4."""

    def __init__(self, dim: int = 32, depth: int = 3, classes: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, dim, 4, 4)
        self.blocks = nn.ModuleList(MixerBlock(16, dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def signal_net(last: nn.Module | None = None) -> nn.Sequential:
    """Convolutions along time with group norm."""
    return nn.Sequential(
        nn.Conv1d(1, 16, 7, 2, 3), nn.GroupNorm(4, 16), nn.ReLU(),
        nn.Conv1d(16, 32, 5, 2, 2), nn.GroupNorm(4, 32), nn.ReLU(),
        nn.Conv1d(32, 32, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 4), *([last] if last else []),
    )  # fmt: skip


def tower(
    inputs: int, outputs: int, *, depth: int = 6, width: int = 48, activation: Activation = nn.ReLU
) -> nn.Sequential:
    """A deep stack of linear layers; each begins as He et al. 2015 say."""
    sizes = [inputs] + [width] * depth
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        linear = nn.Linear(a, b)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, activation()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


class Highway(nn.Module):
    """Two dozen residual blocks, with a norm in front of each."""

    def __init__(self, *, depth: int = 24, dim: int = 32, norm: bool = True) -> None:
        super().__init__()
        self.stem = nn.Linear(8, dim)
        make = nn.LayerNorm if norm else nn.Identity
        self.blocks = nn.ModuleList(
            nn.Sequential(make(dim), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
            for _ in range(depth)
        )
        self.norm = make(dim)
        self.head = nn.Linear(dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm(x))


class Buyer(nn.Module):
    """Embeddings of categories beside measurements."""

    def __init__(self, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, 6) for n in LEVELS)
        self.body = nn.Sequential(
            nn.Linear(22, 48), nn.ReLU(), nn.Dropout(dropout), nn.Linear(48, 24), nn.ReLU()
        )
        self.head = nn.Linear(24, 1)

    def embedded(self, x: Tensor) -> Tensor:
        ids = [table(x[:, i].long()) for i, table in enumerate(self.tables)]
        return torch.cat([*ids, x[:, len(LEVELS) :]], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embedded(x)))


class Reader(nn.Module):
    """A GRU, or another, over embedded tokens, and a head on its last state."""

    def __init__(
        self, kind: str = "GRU", tokens: int = 7, outputs: int = 4, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, 16)
        self.rnn = getattr(nn, kind)(16, 32, batch_first=True)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.rnn(self.embed(x))[0][:, -1]))


class Averager(nn.Module):
    """A ReLU network that begins as an identity over time (Le et al. 2015), or otherwise."""

    def __init__(self, *, nonlinearity: str = "relu", recurrent: float = 1.0) -> None:
        super().__init__()
        self.rnn = nn.RNN(1, 24, nonlinearity=nonlinearity, batch_first=True)
        self.head = nn.Linear(24, 1)
        nn.init.normal_(self.rnn.weight_ih_l0, std=0.1)
        nn.init.eye_(self.rnn.weight_hh_l0)
        self.rnn.weight_hh_l0.data.mul_(recurrent)
        nn.init.zeros_(self.rnn.bias_ih_l0)
        nn.init.zeros_(self.rnn.bias_hh_l0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Translator(nn.Module):
    """A GRU reads, another writes, with one look at all that was read (Luong et al. 2015)."""

    def __init__(self, words: int = 10, dim: int = 48, length: int = 6) -> None:
        super().__init__()
        self.length = length
        self.embed = nn.Embedding(words + 1, dim)
        self.encoder = nn.GRU(dim, dim, batch_first=True)
        self.decoder = nn.GRU(dim, dim, batch_first=True)
        self.out = nn.Linear(2 * dim, words)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(self.embed(x))

    def forward(self, x: Tensor) -> Tensor:
        read, state = self.encode(x[:, : self.length])
        written, _ = self.decoder(self.embed(x[:, self.length :]), state)
        look = (written @ read.transpose(1, 2)).softmax(-1) @ read
        return self.out(torch.cat([written, look], -1))


class Transformer(nn.Module):
    """PyTorch's own encoder and decoder."""

    def __init__(
        self, words: int = 10, dim: int = 32, length: int = 6, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.length = length
        self.embed = nn.Embedding(words + 1, dim)
        self.places = nn.Parameter(torch.randn(length, dim) * 0.1)
        self.body = nn.Transformer(dim, 4, 2, 2, 64, dropout, batch_first=True, norm_first=True)
        self.out = nn.Linear(dim, words)

    def forward(self, x: Tensor) -> Tensor:
        source = self.embed(x[:, : self.length]) + self.places
        target = self.embed(x[:, self.length :]) + self.places
        mask = nn.Transformer.generate_square_subsequent_mask(self.length)
        return self.out(self.body(source, target, tgt_mask=mask, tgt_is_causal=True))


class Tallier(nn.Module):
    """An encoder that says something of each token."""

    def __init__(self, *, dim: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, dim)
        layer = nn.TransformerEncoderLayer(
            dim, 2, 64, dropout, batch_first=True, norm_first=True, activation="gelu"
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)))


class TwoHeads(nn.Module):
    """One body, a value and three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.value = nn.Linear(64, 1)
        self.kind = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return torch.cat([self.value(h), self.kind(h)], 1)


class UNet(nn.Module):
    """Down once, up once, with the fine picture kept beside."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
        self.coarse = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.last = nn.Conv2d(2 * width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        up = self.up(self.coarse(functional.max_pool2d(fine, 2)))
        return self.last(torch.cat([fine, up], 1))


class Siamese(nn.Module):
    """The distance of two things after the same network."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 8))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.body(x[:, 0]), self.body(x[:, 1])
        return ((a - b).square().sum(1) + 1e-6).sqrt()


class GraphNet(nn.Module):
    """Kipf & Welling 2017."""

    adjacency: Tensor

    def __init__(self, adjacency: Tensor, *, width: int = 24) -> None:
        super().__init__()
        self.register_buffer("adjacency", adjacency)
        self.one, self.two = nn.Linear(16, width), nn.Linear(width, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.adjacency @ self.one(self.drop(x)))
        return self.adjacency @ self.two(self.drop(h))


def filler(out: nn.Module | None = None) -> nn.Sequential:
    """An autoencoder for readings with gaps."""
    return nn.Sequential(
        nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8), nn.Linear(8, 64), nn.ReLU(),
        nn.Linear(64, 32), *([out] if out else []),
    )  # fmt: skip
