"""Healthy programs that were written without a look at the rules, as a stranger would test with."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop, lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from faults.data import binary_score, class_score, regression_score
from faults.registry import Setup, case

Make = Callable[..., torch.optim.Optimizer]
fresh = partial(case, part="fresh")
bce: Callable[..., Tensor] = functional.binary_cross_entropy_with_logits


def loader(
    x: Tensor, y: Tensor, size: int, g: torch.Generator, *, shuffle: bool = True
) -> DataLoader[Any]:
    data = TensorDataset(x, y)
    return DataLoader(data, batch_size=size, shuffle=shuffle, drop_last=True, generator=g)


@cache
def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    return getattr(datasets, f"load_{name}")(return_X_y=True)


def scaled(name: str) -> tuple[Tensor, Tensor]:
    """Standardised features of one of scikit-learn's tables, and its targets."""
    x, y = load(name)
    return torch.tensor(StandardScaler().fit_transform(x), dtype=torch.float32), torch.tensor(y)


def pictures() -> tuple[Tensor, Tensor]:
    """Digits as images of 0 to 1."""
    x, y = load("digits")
    return torch.tensor(x / 16.0, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(y).long()


def moons() -> tuple[Tensor, Tensor]:
    x, y = datasets.make_moons(600, noise=0.2, random_state=0)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32).view(-1, 1)


def spirals(g: torch.Generator) -> tuple[Tensor, Tensor]:
    t = torch.rand(800, generator=g) * 7 + 0.5
    y = (torch.arange(800) % 2).long()
    angle = t + y * torch.pi
    x = torch.stack([t * angle.cos(), t * angle.sin()], 1) / 4
    return x + 0.02 * torch.randn(800, 2, generator=g), y


def linear_data() -> tuple[Tensor, Tensor]:
    x, y = datasets.make_regression(600, 12, n_informative=8, noise=5.0, random_state=0)
    y = (y - y.mean()) / y.std()
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32).view(-1, 1)


def diabetes() -> tuple[Tensor, Tensor]:
    x, y = scaled("diabetes")
    y = ((y - y.mean()) / y.std()).float().view(-1, 1)
    return x, y


def moons_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)
    )


def moons_program(g: torch.Generator, make: Make, **options: Any) -> Setup:
    x, y = moons()
    net = moons_net()
    return Setup(
        model=net,
        optimizer=make(net.parameters()),
        loss_fn=nn.BCEWithLogitsLoss(),
        batches=loader(x, y, 50, g),
        score=binary_score(x, y),
        **options,
    )


@fresh("fresh-moons", kind="binary", source="scikit-learn's make_moons and a small network")
def two_moons(g: torch.Generator) -> Setup:
    return moons_program(g, partial(SGD, lr=0.1, momentum=0.9))


@fresh("fresh-spirals", kind="mlp", source="two spirals (Lang & Witbrock 1988)")
def two_spirals(g: torch.Generator) -> Setup:
    x, y = spirals(g)
    net = nn.Sequential(nn.Linear(2, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 2))
    optimizer = Adam(net.parameters(), lr=1e-2)
    return Setup(
        model=net,
        optimizer=optimizer,
        loss_fn=nn.CrossEntropyLoss(),
        batches=loader(x, y, 100, g),
        score=class_score(x, y),
    )


class LeNet(nn.Module):
    def __init__(self, *, softmax: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.fc1 = nn.Linear(64, 48)
        self.fc2 = nn.Linear(48, 10)
        self.softmax = softmax

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = self.fc2(functional.relu(self.fc1(x.flatten(1))))
        return functional.softmax(x, dim=1) if self.softmax else x


def lenet_program(
    g: torch.Generator, make: Make, *, net: nn.Module | None = None, **options: Any
) -> Setup:
    x, y = pictures()
    net = net or LeNet()
    given: dict[str, Any] = {
        "batches": loader(x, y, 64, g),
        "loss_fn": nn.CrossEntropyLoss(),
        "score": class_score(x, y),
    }
    return Setup(model=net, optimizer=make(net.parameters()), **(given | options))


@fresh("fresh-lenet", kind="cnn", source="LeCun et al. 1998, in small")
def lenet(g: torch.Generator) -> Setup:
    return lenet_program(g, partial(Adam, lr=2e-3))


@fresh("fresh-lenet-momentum", kind="cnn", source="LeCun et al. 1998, in small")
def lenet_momentum(g: torch.Generator) -> Setup:
    return lenet_program(g, partial(SGD, lr=0.05, momentum=0.9, nesterov=True))


def conv_bn(a: int, b: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)
    )


def all_conv() -> nn.Sequential:
    return nn.Sequential(
        conv_bn(1, 12),
        conv_bn(12, 24, 2),
        conv_bn(24, 24, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


@fresh("fresh-all-conv-cosine", kind="cnn", source="Springenberg et al. 2015; cosine schedule")
def all_conv_cosine(g: torch.Generator) -> Setup:
    x, y = pictures()
    net = all_conv()
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    return Setup(
        model=net,
        optimizer=optimizer,
        loss_fn=nn.CrossEntropyLoss(),
        batches=loader(x, y, 64, g),
        scheduler=lr_scheduler.CosineAnnealingLR(optimizer, T_max=200),
        score=class_score(x, y),
    )


def wine_program(g: torch.Generator, make: Make, **options: Any) -> Setup:
    x, y = scaled("wine")
    net = nn.Sequential(nn.Linear(13, 24), nn.Softplus(), nn.Linear(24, 3))
    given: dict[str, Any] = {"batches": loader(x, y, 16, g), "score": class_score(x, y)}
    return Setup(
        model=net,
        optimizer=make(net.parameters()),
        loss_fn=nn.CrossEntropyLoss(),
        **(given | options),
    )


@fresh("fresh-wine-rmsprop", kind="classification", source="scikit-learn's wine, RMSprop")
def wine_rmsprop(g: torch.Generator) -> Setup:
    return wine_program(g, partial(RMSprop, lr=2e-3))


def diabetes_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 24), nn.SiLU(), nn.Linear(24, 1))


def diabetes_program(g: torch.Generator, make: Make, **options: Any) -> Setup:
    x, y = diabetes()
    net = diabetes_net()
    given: dict[str, Any] = {
        "batches": loader(x, y, 32, g),
        "loss_fn": nn.HuberLoss(),
        "score": regression_score(x, y),
    }
    return Setup(model=net, optimizer=make(net.parameters()), **(given | options))


@fresh("fresh-diabetes-huber", kind="regression", source="scikit-learn's diabetes, Huber loss")
def diabetes_huber(g: torch.Generator) -> Setup:
    return diabetes_program(g, partial(AdamW, lr=3e-3, weight_decay=0.01))


def linear_program(g: torch.Generator, make: Make, **options: Any) -> Setup:
    x, y = linear_data()
    net = nn.Linear(12, 1)
    given: dict[str, Any] = {"batches": loader(x, y, 32, g), "loss_fn": nn.MSELoss()}
    return Setup(
        model=net,
        optimizer=make(net.parameters()),
        score=regression_score(x, y),
        **(given | options),
    )


@fresh("fresh-linear-regression", kind="regression", source="make_regression and one layer")
def linear_regression(g: torch.Generator) -> Setup:
    return linear_program(g, partial(SGD, lr=0.03))


class Forecaster(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(1, 24, batch_first=True)
        self.out = nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gru(x)[0][:, -1])


def forecast_program(g: torch.Generator, make: Make, **options: Any) -> Setup:
    phase = torch.rand(512, 1, generator=g) * 6.28
    speed = 0.2 + 0.3 * torch.rand(512, 1, generator=g)
    wave = torch.sin(phase + speed * torch.arange(25))
    x, y = wave[:, :24, None], wave[:, 24:]
    net = Forecaster()
    return Setup(
        model=net,
        optimizer=make(net.parameters()),
        loss_fn=nn.MSELoss(),
        batches=loader(x, y, 32, g),
        score=regression_score(x, y),
        **options,
    )


@fresh("fresh-gru-forecast", kind="rnn", source="the next value of a sine wave")
def gru_forecast(g: torch.Generator) -> Setup:
    return forecast_program(g, partial(Adam, lr=5e-3))


class Elman(nn.Module):
    """A plain recurrence written out."""

    def __init__(self, width: int = 24, *, gain: float = 0.9, relu: bool = False) -> None:
        super().__init__()
        self.enter = nn.Linear(4, width)
        self.again = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, 2)
        self.act = torch.relu if relu else torch.tanh
        with torch.no_grad():
            self.again.weight.copy_(gain * torch.eye(width))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), self.again.in_features)
        for t in range(x.shape[1]):
            h = self.act(self.enter(x[:, t]) + self.again(h))
        return self.out(h)


def trend(g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Whether the first channel's mean over the sequence is positive."""
    x = torch.randn(512, 16, 4, generator=g)
    return x, (x[:, :, 0].mean(1) > 0).long()


def elman_program(g: torch.Generator, net: nn.Module, make: Make, clip: float | None) -> Setup:
    x, y = trend(g)

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_fn(model(x), y)
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        return loss

    return Setup(
        model=net,
        optimizer=make(net.parameters()),
        loss_fn=nn.CrossEntropyLoss(),
        batches=loader(x, y, 32, g),
        train_step=step,
        score=class_score(x, y),
    )


@fresh("fresh-elman-clipped", kind="rnn", source="Elman 1990; clipping as in Pascanu et al. 2013")
def elman_clipped(g: torch.Generator) -> Setup:
    return elman_program(g, Elman(), partial(Adam, lr=5e-3), 1.0)


class Reverser(nn.Module):
    """Reads eight symbols, names them in reverse order."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.symbols = nn.Embedding(6, 32)
        self.places = nn.Embedding(8, 32)
        layer = nn.TransformerEncoderLayer(
            32, 2, 64, dropout=dropout, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(32)
        self.out = nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.symbols(x) + self.places(torch.arange(x.shape[1]))
        return self.out(self.norm(self.encoder(h)))


def sequence_loss(logits: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(logits.transpose(1, 2), y)


def reverse_program(g: torch.Generator, make: Make, **options: Any) -> Setup:
    x = torch.randint(6, (1024, 8), generator=g)
    y = x.flip(1)
    net = Reverser(options.pop("dropout", 0.1))
    return Setup(
        model=net,
        optimizer=make(net.parameters()),
        loss_fn=sequence_loss,
        batches=loader(x, y, 32, g),
        score=class_score(x, y),
        **options,
    )


@fresh("fresh-reverse-encoder", kind="transformer", source="a toy task: reverse a sequence")
def reverse_encoder(g: torch.Generator) -> Setup:
    return reverse_program(g, partial(AdamW, lr=2e-3))


class Counter(nn.Module):
    """A causal model of sequences that count on in steps, with tied embeddings."""

    def __init__(self, size: int = 17, dim: int = 32) -> None:
        super().__init__()
        self.wte = nn.Embedding(size, dim)
        self.wpe = nn.Parameter(torch.zeros(12, dim))
        nn.init.normal_(self.wte.weight, std=0.02)
        nn.init.normal_(self.wpe, std=0.02)
        self.ln1, self.ln2, self.ln3 = (nn.LayerNorm(dim) for _ in range(3))
        self.attend = nn.MultiheadAttention(dim, 4, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.head = nn.Linear(dim, size, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        h = self.wte(x) + self.wpe[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        z = self.ln1(h)
        h = h + self.attend(z, z, z, attn_mask=mask, need_weights=False)[0]
        return self.head(self.ln3(h + self.feed(self.ln2(h))))


def counting(g: torch.Generator) -> tuple[Tensor, Tensor]:
    start, pace = torch.randint(17, (2, 1024, 1), generator=g)
    tokens = (start + pace * torch.arange(13)) % 17
    return tokens[:, :-1], tokens[:, 1:]


def two_groups(net: nn.Module, decay: float = 0.1) -> list[dict[str, Any]]:
    """Weight decay on matrices only."""
    decayed = [p for p in net.parameters() if p.ndim >= 2]
    rest = [p for p in net.parameters() if p.ndim < 2]
    return [{"params": decayed, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]


@fresh("fresh-counting-decoder-tied", kind="transformer", source="Press & Wolf 2017: weight tying")
def counting_decoder(g: torch.Generator) -> Setup:
    x, y = counting(g)
    net = Counter()
    optimizer = AdamW(two_groups(net), lr=3e-3, betas=(0.9, 0.95))
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, (i + 1) / 20))

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        loss = loss_fn(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        return loss

    return Setup(
        model=net,
        optimizer=optimizer,
        loss_fn=sequence_loss,
        batches=loader(x, y, 32, g),
        train_step=step,
        score=class_score(x, y),
    )


class Patches(nn.Module):
    """A vision transformer on sixteen patches of two by two."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, dim, 2, 2)
        self.first = nn.Parameter(torch.zeros(1, 1, dim))
        self.place = nn.Parameter(0.02 * torch.randn(1, 17, dim))
        layer = nn.TransformerEncoderLayer(
            dim, 4, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        z = self.patch(x).flatten(2).transpose(1, 2)
        z = torch.cat([self.first.expand(len(x), -1, -1), z], 1) + self.place
        return self.head(self.norm(self.body(z)[:, 0]))


def patches_program(g: torch.Generator, make: Callable[[nn.Module], Any]) -> Setup:
    x, y = pictures()
    x = (x - x.mean()) / x.std()
    net = Patches()
    return Setup(
        model=net,
        optimizer=make(net),
        loss_fn=nn.CrossEntropyLoss(),
        batches=loader(x, y, 32, g),
        score=class_score(x, y),
    )


@fresh("fresh-vision-transformer", kind="transformer", source="Dosovitskiy et al. 2021, in small")
def vision_transformer(g: torch.Generator) -> Setup:
    return patches_program(g, lambda net: AdamW(two_groups(net, 0.05), lr=1e-3))


class Denoiser(nn.Module):
    def __init__(self, *, cut: bool = False) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(64, 40), nn.LeakyReLU(), nn.Linear(40, 12))
        self.dec = nn.Sequential(nn.Linear(12, 40), nn.LeakyReLU(), nn.Linear(40, 64))
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        code = self.enc(x + 0.1 * torch.randn_like(x) if self.training else x)
        return self.dec(code.detach() if self.cut else code)


def denoising_program(g: torch.Generator, make: Make, **options: Any) -> Setup:
    x = pictures()[0].flatten(1)
    net = options.pop("net", None) or Denoiser()
    return Setup(
        model=net,
        optimizer=make(net.parameters()),
        loss_fn=nn.MSELoss(),
        batches=loader(x, x, 50, g),
        score=regression_score(x, x),
        **options,
    )


@fresh("fresh-denoising-autoencoder", kind="autoencoder", source="Vincent et al. 2008")
def denoising(g: torch.Generator) -> Setup:
    return denoising_program(g, partial(Adam, lr=3e-3))


def conv_autoencoder() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 8, 2, 2),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 1, 2, 2),
    )


def conv_autoencoder_program(g: torch.Generator, make: Make, **options: Any) -> Setup:
    x, _ = pictures()
    net = conv_autoencoder()
    return Setup(
        model=net,
        optimizer=make(net.parameters()),
        loss_fn=nn.BCEWithLogitsLoss(),
        batches=loader(x, x, 32, g),
        score=None,
        **options,
    )


@fresh("fresh-conv-autoencoder", kind="autoencoder", source="pixels as probabilities")
def convolutional_autoencoder(g: torch.Generator) -> Setup:
    return conv_autoencoder_program(g, partial(Adam, lr=3e-3))


class BetaVae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 48), nn.ELU())
        self.mu, self.logvar = nn.Linear(48, 6), nn.Linear(48, 6)
        self.dec = nn.Sequential(nn.Linear(6, 48), nn.ELU(), nn.Linear(48, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.body(x)
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return self.dec(z), mu, logvar


def vae_program(g: torch.Generator, make: Make, *, beta: float = 0.5) -> Setup:
    x = pictures()[0].flatten(1)
    net = BetaVae()

    def elbo(out: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
        made, mu, logvar = out
        rebuilt = bce(made, x, reduction="sum") / len(x)
        kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum() / len(x)
        return rebuilt + beta * kl

    return Setup(
        model=net,
        optimizer=make(net.parameters()),
        loss_fn=elbo,
        batches=loader(x, x, 64, g),
    )


@fresh("fresh-beta-vae", kind="autoencoder", source="Higgins et al. 2017")
def beta_vae(g: torch.Generator) -> Setup:
    return vae_program(g, partial(Adam, lr=2e-3))


class Transfer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU()
        )
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.backbone(x))


def transferred(g: torch.Generator) -> tuple[Transfer, Tensor, Tensor]:
    """A network that knows digits below five, and those from five on to learn."""
    x, y = pictures()
    net = Transfer()
    optimizer = Adam(net.parameters(), lr=3e-3)
    low = y < 5
    for _ in range(2):
        for a, b in loader(x[low], y[low], 32, g):
            optimizer.zero_grad()
            functional.cross_entropy(net(a), b).backward()
            optimizer.step()
    net.fc = nn.Linear(32, 5)
    return net, x[~low], y[~low] - 5


def transfer_program(g: torch.Generator, make: Callable[[Transfer], Any]) -> Setup:
    net, x, y = transferred(g)
    return Setup(
        model=net,
        optimizer=make(net),
        loss_fn=nn.CrossEntropyLoss(),
        batches=loader(x, y, 32, g),
        score=class_score(x, y),
    )


@fresh("fresh-transfer-frozen-backbone", kind="finetuning", source="features kept, a new head")
def transfer_frozen(g: torch.Generator) -> Setup:
    def make(net: Transfer) -> Any:
        net.backbone.requires_grad_(requires_grad=False)
        return Adam((p for p in net.parameters() if p.requires_grad), lr=1e-2)

    return transfer_program(g, make)


@fresh("fresh-transfer-two-rates", kind="finetuning", source="Howard & Ruder 2018: own rates")
def transfer_rates(g: torch.Generator) -> Setup:
    def make(net: Transfer) -> Any:
        groups = [
            {"params": net.backbone.parameters(), "lr": 1e-3},
            {"params": net.fc.parameters(), "lr": 1e-2},
        ]
        return SGD(groups, lr=1e-2, momentum=0.9)

    return transfer_program(g, make)


def multilabel_program(g: torch.Generator, make: Make, **options: Any) -> Setup:
    x, y = datasets.make_multilabel_classification(
        800, n_features=16, n_classes=5, n_labels=2, random_state=0
    )
    x = torch.tensor(StandardScaler().fit_transform(x), dtype=torch.float32)
    y = torch.tensor(y, dtype=torch.float32)
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5))
    if options.pop("sigmoid", False):
        net.append(nn.Sigmoid())
    weight = (len(y) - y.sum(0)) / y.sum(0).clamp(min=1)
    return Setup(
        model=net,
        optimizer=make(net.parameters()),
        loss_fn=nn.BCEWithLogitsLoss(pos_weight=weight),
        batches=loader(x, y, 40, g),
        score=binary_score(x, y),
        **options,
    )


@fresh("fresh-multilabel-weighted", kind="multilabel", source="make_multilabel_classification")
def multilabel_weighted(g: torch.Generator) -> Setup:
    return multilabel_program(g, partial(Adam, lr=5e-3))


class Ordinal(nn.Module):
    """One score and four ordered thresholds (McCullagh 1980)."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 1))
        self.cuts = nn.Parameter(torch.tensor([-1.5, -0.5, 0.5, 1.5]))

    def forward(self, x: Tensor) -> Tensor:
        return self.score(x) - self.cuts


@fresh("fresh-ordinal", kind="regression", source="McCullagh 1980: ordered classes")
def ordinal(g: torch.Generator) -> Setup:
    x, y = diabetes()
    edges = torch.quantile(y, torch.tensor([0.2, 0.4, 0.6, 0.8]))
    y = (y > edges).float()
    net = Ordinal()
    return Setup(
        model=net,
        optimizer=Adam(net.parameters(), lr=5e-3),
        loss_fn=bce,
        batches=loader(x, y, 26, g),
        score=binary_score(x, y),
    )


def gan_program(
    g: torch.Generator, groups: Callable[[nn.ModuleDict], Any], *, least_squares: bool = False
) -> Setup:
    real = torch.randn(1024, 1, generator=g) * 0.5 + 2
    net = nn.ModuleDict(
        {
            "gen": nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 1)),
            "disc": nn.Sequential(nn.Linear(1, 24), nn.LeakyReLU(0.2), nn.Linear(24, 1)),
        }
    )
    aim = functional.mse_loss if least_squares else bce

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        gen, disc = model["gen"], model["disc"]
        made = gen(torch.randn(len(x), 4))
        on_real, on_made = disc(x), disc(made.detach())
        of_disc = loss_fn(on_real, y) + loss_fn(on_made, torch.zeros_like(y))
        of_gen = loss_fn(disc(made), y)
        for part, loss in ((disc, of_disc), (gen, of_gen)):
            params = list(part.parameters())
            grads = torch.autograd.grad(loss, params, retain_graph=part is disc)
            for p, grad in zip(params, grads, strict=True):
                p.grad = grad
        optimizer.step()
        return of_disc.detach()

    def score(model: Any) -> float:
        noise = torch.randn(512, 4, generator=torch.Generator().manual_seed(0))
        return abs(model["gen"](noise).mean().item() - 2) / 2

    return Setup(
        model=net,
        optimizer=groups(net),
        loss_fn=aim,
        batches=loader(real, torch.ones(1024, 1), 64, g),
        train_step=step,
        score=score,
    )


@fresh("fresh-gan-one-dimension", kind="gan", source="Goodfellow et al. 2014, a normal variable")
def gan_one(g: torch.Generator) -> Setup:
    return gan_program(g, lambda net: Adam(net.parameters(), lr=3e-3, betas=(0.5, 0.9)))


@fresh("fresh-gan-least-squares", kind="gan", source="Mao et al. 2017")
def gan_squares(g: torch.Generator) -> Setup:
    def make(net: Any) -> Any:
        return RMSprop(net.parameters(), lr=1e-3)

    return gan_program(g, make, least_squares=True)


def policy_program(
    g: torch.Generator, make: Make, *, sign: float = 1.0, scale: float = 1.0
) -> Setup:
    """A contextual bandit with four arms."""
    x = torch.randn(1024, 6, generator=g)
    best = (x @ torch.randn(6, 4, generator=g)).argmax(1)
    net = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 4))

    def surrogate(chosen: Tensor, advantage: Tensor) -> Tensor:
        return -(advantage * chosen).mean()

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        log_prob = functional.log_softmax(model(x), 1)
        action = torch.multinomial(log_prob.exp(), 1)
        reward = scale * (action.squeeze(1) == y).float()
        advantage = sign * (reward - reward.mean())
        entropy = -(log_prob.exp() * log_prob).sum(1).mean()
        chosen = log_prob.gather(1, action).squeeze(1)
        loss = loss_fn(chosen, advantage) - 0.01 * entropy
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return Setup(
        model=net,
        optimizer=make(net.parameters()),
        loss_fn=surrogate,
        batches=loader(x, best, 64, g),
        train_step=step,
        score=class_score(x, best),
    )


@fresh("fresh-policy-gradient", kind="rl", source="Williams 1992, with entropy and a baseline")
def policy_gradient(g: torch.Generator) -> Setup:
    return policy_program(g, partial(Adam, lr=5e-3))


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 32), nn.Tanh())
        self.actor, self.critic = nn.Linear(32, 3), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.actor(h), self.critic(h).squeeze(1)


@fresh("fresh-actor-critic", kind="rl", source="Mnih et al. 2016, one step long")
def actor_critic(g: torch.Generator) -> Setup:
    x = torch.randn(1024, 6, generator=g)
    best = x[:, :3].argmax(1)
    net = ActorCritic()

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        logits, value = model(x)
        policy = torch.distributions.Categorical(logits=logits)
        action = policy.sample()
        reward = (action == y).float() + 0.1 * torch.randn(len(x))
        advantage = reward - value.detach()
        loss = (
            -(policy.log_prob(action) * advantage).mean()
            + 0.5 * loss_fn(value, reward)
            - 0.01 * policy.entropy().mean()
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        return loss

    return Setup(
        model=net,
        optimizer=Adam(net.parameters(), lr=7e-3),
        loss_fn=nn.MSELoss(),
        batches=loader(x, best, 64, g),
        train_step=step,
    )


@fresh("fresh-logistic-lbfgs", kind="binary", source="logistic regression by L-BFGS")
def logistic_lbfgs(g: torch.Generator) -> Setup:
    x, y = scaled("breast_cancer")
    kept = torch.randperm(len(x), generator=g)[:500]
    x, y = x[kept], y[kept].float().view(-1, 1)
    net = nn.Linear(30, 1)

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        def closure() -> Tensor:
            optimizer.zero_grad()
            penalty = 1e-2 * model.weight.square().sum()
            loss = loss_fn(model(x), y) + penalty
            loss.backward()
            return loss

        return optimizer.step(closure)

    return Setup(
        model=net,
        optimizer=torch.optim.LBFGS(net.parameters(), max_iter=3, line_search_fn="strong_wolfe"),
        loss_fn=bce,
        batches=[(x, y)],
        train_step=step,
        score=binary_score(x, y),
    )


@fresh("fresh-imbalanced-weighted", kind="binary", source="one in twenty, a weight for the rare")
def imbalanced_weighted(g: torch.Generator) -> Setup:
    x, y = datasets.make_classification(1000, 12, weights=[0.95], random_state=0)
    x = torch.tensor(x, dtype=torch.float32)
    y = torch.tensor(y, dtype=torch.float32).view(-1, 1)
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 1))
    return Setup(
        model=net,
        optimizer=Adam(net.parameters(), lr=2e-3),
        loss_fn=nn.BCEWithLogitsLoss(pos_weight=torch.tensor(8.0)),
        batches=loader(x, y, 50, g),
    )


@fresh("fresh-smoothing-mixup", kind="classification", source="Zhang et al. 2018 (mixup)")
def smoothing_mixup(g: torch.Generator) -> Setup:
    x, y = pictures()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        share = torch.distributions.Beta(0.4, 0.4).sample().item()
        order = torch.randperm(len(x))
        out = model(share * x + (1 - share) * x[order])
        loss = share * loss_fn(out, y) + (1 - share) * loss_fn(out, y[order])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return Setup(
        model=net,
        optimizer=Adam(net.parameters(), lr=2e-3),
        loss_fn=nn.CrossEntropyLoss(label_smoothing=0.1),
        batches=loader(x, y, 32, g),
        train_step=step,
        score=class_score(x, y),
    )


def regularised_net(rate: float = 0.3) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 96),
        nn.BatchNorm1d(96),
        nn.ReLU(),
        nn.Dropout(rate),
        nn.Linear(96, 96),
        nn.BatchNorm1d(96),
        nn.ReLU(),
        nn.Dropout(rate),
        nn.Linear(96, 10),
    )


@fresh("fresh-batchnorm-dropout", kind="mlp", source="BatchNorm and dropout together")
def batchnorm_dropout(g: torch.Generator) -> Setup:
    return lenet_program(g, partial(Adam, lr=2e-3), net=regularised_net())


@fresh("fresh-batch-of-two-groupnorm", kind="cnn", source="Wu & He 2018: two images a step")
def batch_of_two(g: torch.Generator) -> Setup:
    x, y = pictures()
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    return lenet_program(g, partial(SGD, lr=5e-3), net=net, batches=loader(x, y, 2, g))


@fresh("fresh-mostly-noise", kind="regression", source="a tenth of the variance can be explained")
def mostly_noise(g: torch.Generator) -> Setup:
    x = torch.randn(800, 5, generator=g)
    y = x[:, :1] * 0.33 + torch.randn(800, 1, generator=g)
    net = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 1))
    return Setup(
        model=net,
        optimizer=SGD(net.parameters(), lr=0.02, momentum=0.5),
        loss_fn=nn.MSELoss(),
        batches=loader(x, y, 16, g),
    )


@fresh("fresh-gaussian-likelihood", kind="regression", source="Nix & Weigend 1994: own variance")
def gaussian_likelihood(g: torch.Generator) -> Setup:
    x = torch.rand(800, 1, generator=g) * 4 - 2
    y = 0.3 * torch.sin(2 * x) + 0.03 * torch.randn(800, 1, generator=g)
    net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 2))
    nll = nn.GaussianNLLLoss()

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return nll(out[:, :1], y, functional.softplus(out[:, 1:]) + 1e-4)

    return Setup(
        model=net,
        optimizer=Adam(net.parameters(), lr=5e-3),
        loss_fn=loss,
        batches=loader(x, y, 40, g),
    )


def accumulation_program(g: torch.Generator, every: int, lr: float, *, divide: bool) -> Setup:
    x, y = pictures()
    net = LeNet()
    seen = 0

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        nonlocal seen
        loss = loss_fn(model(x), y)
        (loss / every if divide else loss).backward()
        seen += 1
        if seen % every == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()

    return lenet_program(
        g, partial(SGD, lr=lr, momentum=0.9), net=net, batches=loader(x, y, 16, g), train_step=step
    )


@fresh("fresh-accumulation", kind="cnn", source="two batches a step, divided")
def accumulation(g: torch.Generator) -> Setup:
    return accumulation_program(g, 2, 0.05, divide=True)


@fresh("fresh-slow-steady-logistic", kind="binary", source="logistic regression, plain SGD")
def slow_logistic(g: torch.Generator) -> Setup:
    x, y = scaled("breast_cancer")
    y = y.float().view(-1, 1)
    net = nn.Linear(30, 1)
    return Setup(
        model=net,
        optimizer=SGD(net.parameters(), lr=0.01),
        loss_fn=bce,
        batches=loader(x, y, 32, g),
        score=binary_score(x, y),
    )


class Factors(nn.Module):
    """Users times films."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.film = nn.Embedding(60, 6), nn.Embedding(40, 6)
        self.user_bias, self.film_bias = nn.Embedding(60, 1), nn.Embedding(40, 1)
        nn.init.normal_(self.user.weight, std=0.3)
        nn.init.normal_(self.film.weight, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        u, f = x[:, 0], x[:, 1]
        return (
            (self.user(u) * self.film(f)).sum(1)
            + self.user_bias(u).squeeze(1)
            + self.film_bias(f).squeeze(1)
        )


def factors_program(g: torch.Generator, make: Make) -> Setup:
    a, b = torch.randn(60, 3, generator=g), torch.randn(40, 3, generator=g)
    x = torch.stack([torch.randint(n, (2000,), generator=g) for n in (60, 40)], 1)
    y = (a[x[:, 0]] * b[x[:, 1]]).sum(1) / 3**0.5 + 0.1 * torch.randn(2000, generator=g)
    net = Factors()
    return Setup(
        model=net,
        optimizer=make(net.parameters()),
        loss_fn=nn.MSELoss(),
        batches=loader(x, y, 100, g),
        score=regression_score(x, y),
    )


@fresh("fresh-matrix-factors-adagrad", kind="regression", source="Koren et al. 2009; Adagrad")
def matrix_factors(g: torch.Generator) -> Setup:
    return factors_program(g, partial(Adagrad, lr=0.2))


def triplet_program(g: torch.Generator, *, safe: bool) -> Setup:
    x, y = pictures()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 8))
    small = 1e-6 if safe else 0.0

    def loss(z: Tensor, y: Tensor) -> Tensor:
        z = functional.normalize(z)
        far = ((z[:, None] - z[None]).square().sum(-1) + small).sqrt()
        same = y[:, None] == y[None]
        hardest = far.masked_fill(~same, -1.0).amax(1)
        nearest = far.masked_fill(same, 1e4).amin(1)
        return functional.relu(hardest - nearest + 0.3).mean()

    return Setup(
        model=net,
        optimizer=Adam(net.parameters(), lr=1e-3),
        loss_fn=loss,
        batches=loader(x, y, 48, g),
    )


@fresh("fresh-triplet-hard", kind="mlp", source="Hermans et al. 2017: batch-hard triplets")
def triplet_hard(g: torch.Generator) -> Setup:
    return triplet_program(g, safe=True)


class Skip(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.f = nn.Sequential(conv_bn(width, width), nn.Conv2d(width, width, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


@fresh("fresh-residual-one-cycle", kind="cnn", source="Smith & Topin 2018: one cycle")
def one_cycle(g: torch.Generator) -> Setup:
    x, y = pictures()
    net = nn.Sequential(
        conv_bn(1, 16), Skip(16), nn.MaxPool2d(2), Skip(16), nn.Flatten(), nn.Linear(256, 10)
    )
    optimizer = AdamW(net.parameters(), lr=1e-3)
    return Setup(
        model=net,
        optimizer=optimizer,
        loss_fn=nn.CrossEntropyLoss(),
        batches=loader(x, y, 32, g),
        scheduler=lr_scheduler.OneCycleLR(optimizer, max_lr=8e-3, total_steps=1000),
        score=class_score(x, y),
    )


@fresh("fresh-averaged-weights", kind="mlp", source="Izmailov et al. 2018: an average is kept")
def averaged(g: torch.Generator) -> Setup:
    x, y = spirals(g)
    net = nn.Sequential(nn.Linear(2, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 2))
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.98))

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        loss = loss_fn(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(model)
        return loss

    return Setup(
        model=net,
        optimizer=Adam(net.parameters(), lr=5e-3),
        loss_fn=nn.CrossEntropyLoss(),
        batches=loader(x, y, 80, g),
        train_step=step,
        score=class_score(x, y),
    )


@fresh("fresh-autocast-bf16", kind="mlp", source="torch.autocast's manual page")
def autocast_bf16(g: torch.Generator) -> Setup:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return lenet_program(g, partial(Adam, lr=2e-3), net=net, train_step=step)


@fresh("fresh-poisson-counts", kind="regression", source="counts and a log link")
def poisson(g: torch.Generator) -> Setup:
    x = torch.randn(800, 6, generator=g)
    y = torch.poisson((0.6 * x[:, :1] - 0.4 * x[:, 1:2] + 0.5).exp(), generator=g)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    return Setup(
        model=net,
        optimizer=Adam(net.parameters(), lr=5e-3),
        loss_fn=nn.PoissonNLLLoss(log_input=True),
        batches=loader(x, y, 40, g),
    )


@fresh("fresh-physics-informed", kind="regression", source="Raissi et al. 2019: y' = -2 y, y(0)=1")
def physics(g: torch.Generator) -> Setup:
    t = torch.rand(640, 1, generator=g) * 2
    net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, _: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        u = model(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        loss = loss_fn(slope, -2 * u) + loss_fn(model(torch.zeros(1, 1)), torch.ones(1, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    y = (-2 * t).exp()
    return Setup(
        model=net,
        optimizer=Adam(net.parameters(), lr=3e-3),
        loss_fn=nn.MSELoss(),
        batches=loader(t, y, 64, g),
        train_step=step,
        score=regression_score(t, y),
    )


@fresh("fresh-quantiles", kind="regression", source="Koenker & Bassett 1978: pinball loss")
def quantiles(g: torch.Generator) -> Setup:
    levels = torch.tensor([0.1, 0.5, 0.9])

    def pinball(out: Tensor, y: Tensor) -> Tensor:
        error = y - out
        return torch.maximum(levels * error, (levels - 1) * error).mean()

    x, y = diabetes()
    net = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 3))
    return Setup(
        model=net,
        optimizer=Adam(net.parameters(), lr=3e-3),
        loss_fn=pinball,
        batches=loader(x, y, 32, g),
    )
