"""Ordinary set-ups that train well draw nothing above advice."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import trimtab.nn
from trimtab.optim import param_groups, warmup_cosine
from trimtab.preflight import Preflight, preflight

Setup = dict[str, Any]


def vectors(n: int, features: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, features)
    return x, (x @ torch.randn(features, classes)).argmax(1)


def images(n: int, channels: int = 3, size: int = 16, classes: int = 10):
    """Pictures with a bright patch whose place is the class."""
    y = torch.randint(classes, (n,))
    x = torch.rand(n, channels, size, size)
    for i, label in enumerate(y.tolist()):
        x[i, :, label, :] += 1.0
    return (x - x.mean()) / x.std(), y


def tokens(n: int, time: int, vocab: int = 50) -> torch.Tensor:
    """Sequences that count upwards from random starts."""
    return (torch.randint(vocab, (n, 1)) + torch.arange(time)) % vocab


def mlp(batch: int = 64) -> Setup:
    model = nn.Sequential(
        nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)
    )
    return {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters(), lr=1e-3),
        "loss_fn": nn.CrossEntropyLoss(),
        "batch": vectors(batch, 20, 5),
    }


def mlp_small_batch() -> Setup:
    return mlp(16)


def mlp_large_batch() -> Setup:
    return mlp(256)


def mlp_six_layers_sgd() -> Setup:
    widths = [20, 64, 64, 64, 64, 64]
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(64, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return mlp() | {"model": model, "optimizer": optimizer}


def mlp_adamw_default_decay() -> Setup:
    setup = mlp()
    return setup | {"optimizer": torch.optim.AdamW(setup["model"].parameters(), lr=3e-3)}


def mlp_dropout_tanh() -> Setup:
    model = nn.Sequential(
        nn.Linear(20, 64),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.Linear(64, 64),
        nn.Tanh(),
        nn.Linear(64, 5),
    )
    return mlp() | {"model": model, "optimizer": torch.optim.RMSprop(model.parameters(), lr=1e-3)}


def mlp_label_smoothing() -> Setup:
    return mlp() | {"loss_fn": nn.CrossEntropyLoss(label_smoothing=0.1)}


def mlp_sum_reduction() -> Setup:
    setup = mlp()
    optimizer = torch.optim.SGD(setup["model"].parameters(), lr=1e-3)
    return setup | {"loss_fn": nn.CrossEntropyLoss(reduction="sum"), "optimizer": optimizer}


def he_initialised() -> Setup:
    setup = mlp()
    trimtab.init.he_(setup["model"])
    return setup


def auto_initialised_deep() -> Setup:
    layers = [m for _ in range(20) for m in (nn.Linear(64, 64), nn.ReLU())]
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), *layers, nn.Linear(64, 5))
    trimtab.init.auto_(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    return mlp() | {"model": model, "optimizer": optimizer}


def cnn_batchnorm_sgd() -> Setup:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    return {
        "model": model,
        "optimizer": optimizer,
        "loss_fn": functional.cross_entropy,
        "batch": images(64),
        "scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500),
    }


def cnn_plain_adam() -> Setup:
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 5 * 5, 64), nn.ReLU(), nn.Linear(64, 10), nn.LogSoftmax(1),
    )  # fmt: skip
    return {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters()),
        "loss_fn": nn.NLLLoss(),
        "batch": images(32, 1),
    }


class Bottleneck(nn.Module):
    """A residual block as torchvision has it; the last norm's weight starts at zero."""

    def __init__(self, width: int, *, zero: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        if zero:
            nn.init.zeros_(self.bn2.weight)

    def forward(self, x):
        return self.relu(x + self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))


def resnet(*, zero: bool = False) -> Setup:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
        *(Bottleneck(16, zero=zero) for _ in range(8)),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    return cnn_batchnorm_sgd() | {"model": model, "optimizer": optimizer, "scheduler": None}


def resnet_zero_init_residual() -> Setup:
    return resnet(zero=True)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]):
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.rnn = kind(32, 64, batch_first=True)
        self.head = nn.Linear(64, 50)

    def forward(self, x):
        return self.head(self.rnn(self.embedding(x))[0])


def sequence_loss(output, y):
    return functional.cross_entropy(output.reshape(-1, output.shape[-1]), y.reshape(-1))


def lstm() -> Setup:
    model, x = Recurrent(nn.LSTM), tokens(16, 21)
    return {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters(), lr=2e-3),
        "loss_fn": sequence_loss,
        "batch": (x[:, :-1], x[:, 1:]),
    }


def gru() -> Setup:
    model = Recurrent(nn.GRU)
    return lstm() | {"model": model, "optimizer": torch.optim.Adam(model.parameters())}


class TimeFirst(nn.Module):
    """Takes (time, batch, features), PyTorch's default for recurrent layers."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 32), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.rnn(x)[0][-1])


def lstm_time_first() -> Setup:
    model, x = TimeFirst(), torch.randn(12, 32, 8)
    return {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters(), lr=1e-2),
        "loss_fn": nn.CrossEntropyLoss(),
        "batch": (x, x[-1, :, :4].argmax(1)),
    }


def gpt() -> Setup:
    model, x = trimtab.nn.GPT(50, dim=64, depth=3, num_heads=4, max_len=32), tokens(8, 33)
    optimizer = torch.optim.AdamW(param_groups(model, 0.1), lr=1e-3, betas=(0.9, 0.95))
    return {
        "model": model,
        "optimizer": optimizer,
        "loss_fn": sequence_loss,
        "batch": (x[:, :-1], x[:, 1:]),
        "scheduler": warmup_cosine(optimizer, 100, 1000),
    }


class Encoder(nn.Module):
    def __init__(self, depth: int, *, norm_first: bool):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            64, 4, 128, batch_first=True, norm_first=norm_first, activation="gelu"
        )
        self.embedding = nn.Embedding(50, 64)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        return self.head(self.layers(self.embedding(x)).mean(1))


def encoder(*, norm_first: bool = True, depth: int = 4) -> Setup:
    model, x = Encoder(depth, norm_first=norm_first), torch.randint(50, (32, 10))
    return {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=3e-4),
        "loss_fn": nn.CrossEntropyLoss(),
        "batch": (x, x[:, 0] % 5),
    }


def encoder_post_norm_two_layers() -> Setup:
    return encoder(norm_first=False, depth=2)


def fine_tuning_frozen_backbone() -> Setup:
    backbone = nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
    backbone.requires_grad_(False)
    model = nn.Sequential(backbone, nn.Linear(128, 5))
    return mlp() | {"model": model, "optimizer": torch.optim.Adam(model[1].parameters(), lr=1e-2)}


def trained_already() -> Setup:
    setup = mlp()
    for _ in range(150):
        x, y = setup["batch"]
        setup["optimizer"].zero_grad()
        functional.cross_entropy(setup["model"](x), y).backward()
        setup["optimizer"].step()
    return setup


def regression() -> Setup:
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 1))
    x = torch.randn(64, 10)
    y = (x @ torch.randn(10, 1)) + 0.1 * torch.randn(64, 1)
    return {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters(), lr=1e-3),
        "loss_fn": nn.MSELoss(),
        "batch": (x, (y - y.mean()) / y.std()),
    }


def regression_by_hand_huber() -> Setup:
    setup = regression()
    x, y = setup["batch"]
    model = nn.Sequential(*setup["model"], nn.Flatten(0))
    return setup | {
        "model": model,
        "loss_fn": lambda output, y: ((output - y) ** 2).mean(),
        "batch": (x, y.squeeze(1)),
        "optimizer": torch.optim.SGD(model.parameters(), lr=1e-2),
    }


def linear_regression() -> Setup:
    model = nn.Linear(10, 1)
    return regression() | {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
    }


def discriminator() -> Setup:
    model = nn.Sequential(
        nn.Linear(32, 128),
        nn.LeakyReLU(0.2),
        nn.Linear(128, 128),
        nn.LeakyReLU(0.2),
        nn.Linear(128, 1),
    )
    return {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters(), lr=2e-4, betas=(0.5, 0.999)),
        "loss_fn": nn.BCEWithLogitsLoss(),
        "batch": (torch.randn(64, 32), torch.ones(64, 1)),
    }


class Gan(nn.Module):
    """A generator's step: noise from the global state through both networks."""

    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 32), nn.Tanh())
        self.critic = nn.Sequential(nn.Linear(32, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))
        self.critic.requires_grad_(False)

    def forward(self, x):
        return self.critic(self.generator(torch.randn(x.shape[0], 8)))


def generator_step() -> Setup:
    model = Gan()
    return discriminator() | {
        "model": model,
        "optimizer": torch.optim.Adam(model.generator.parameters(), lr=2e-4, betas=(0.5, 0.999)),
    }


def binary_multilabel() -> Setup:
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 6), nn.Sigmoid())
    x = torch.randn(64, 20)
    return {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters(), lr=1e-3),
        "loss_fn": nn.BCELoss(),
        "batch": (x, (x[:, :6] > 0).float()),
    }


def imbalanced() -> Setup:
    x = torch.randn(64, 20)
    return mlp() | {"batch": (x, (x[:, 0] > 1.7).long())}


class Vae(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
        self.decoder = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, x):
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        return self.decoder(z), mean, log_var


def vae_loss(output, x):
    made, mean, log_var = output
    kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(1).mean()
    return functional.mse_loss(made, x) + 1e-3 * kl


def vae() -> Setup:
    model = Vae()
    x = torch.randn(64, 4) @ torch.randn(4, 32)
    return {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters(), lr=1e-3),
        "loss_fn": vae_loss,
        "batch": (x, x),
    }


def policy_gradient() -> Setup:
    model = nn.Sequential(
        nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)
    )
    trimtab.init.orthogonal_(model)

    def loss_fn(logits, played):
        actions, advantages = played
        chosen = functional.log_softmax(logits, 1).gather(1, actions[:, None]).squeeze(1)
        return -(chosen * advantages).mean()

    advantages = torch.randn(64)
    return {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters(), lr=3e-4, eps=1e-5),
        "loss_fn": loss_fn,
        "batch": (torch.randn(64, 4), (torch.randint(2, (64,)), advantages)),
    }


def autoencoder_sigmoid_output() -> Setup:
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64), nn.Sigmoid())
    x = (torch.rand(64, 4) @ torch.rand(4, 64) / 2).clamp(max=1)
    return {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters(), lr=1e-3),
        "loss_fn": nn.MSELoss(),
        "batch": (x, x),
    }


def segmentation() -> Setup:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1)
    )
    x, _ = images(8)
    return {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters(), lr=1e-3),
        "loss_fn": nn.CrossEntropyLoss(ignore_index=255),
        "batch": (x, (x.mean(1) > 0.5).long() + (x[:, 0] > 1).long()),
    }


def norm_first_raw_pixels() -> Setup:
    model = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    x = 255 * torch.rand(64, 64)
    return mlp() | {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters()),
        "batch": (x, x[:, :5].argmax(1)),
    }


def stable_net_deep() -> Setup:
    model = trimtab.nn.StableNet(20, 5, width=64, depth=50)
    return mlp() | {"model": model, "optimizer": torch.optim.AdamW(param_groups(model, 0.05))}


def gpt_layer_scale() -> Setup:
    model = trimtab.nn.GPT(50, dim=64, depth=4, num_heads=4, max_len=32, residual="layer_scale")
    optimizer = torch.optim.AdamW(param_groups(model, 0.1), lr=1e-3)
    return gpt() | {"model": model, "optimizer": optimizer, "scheduler": None}


def gpt_rezero() -> Setup:
    model = trimtab.nn.GPT(50, dim=64, depth=4, num_heads=4, max_len=32, residual="rezero")
    optimizer = torch.optim.AdamW(param_groups(model, 0.1), lr=1e-3)
    return gpt() | {"model": model, "optimizer": optimizer, "scheduler": None}


def zero_head() -> Setup:
    setup = mlp()
    nn.init.zeros_(setup["model"][4].weight)
    nn.init.zeros_(setup["model"][4].bias)
    return setup


def warmup_from_zero_large_rate() -> Setup:
    setup = mlp()
    optimizer = torch.optim.SGD(setup["model"].parameters(), lr=0.5, momentum=0.9, nesterov=True)
    return setup | {"optimizer": optimizer, "scheduler": warmup_cosine(optimizer, 50, 500)}


def model_with_own_loss() -> Setup:
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5))

        def forward(self, x, labels):
            logits = self.net(x)
            return {"loss": functional.cross_entropy(logits, labels), "logits": logits}

    model, (x, y) = Own(), vectors(64, 20, 5)
    return {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters()),
        "loss_fn": None,
        "batch": {"x": x, "labels": y},
    }


HEALTHY: list[Callable[[], Setup]] = [
    mlp, mlp_small_batch, mlp_large_batch, mlp_six_layers_sgd, mlp_adamw_default_decay,
    mlp_dropout_tanh, mlp_label_smoothing, mlp_sum_reduction, he_initialised,
    auto_initialised_deep, cnn_batchnorm_sgd, cnn_plain_adam, resnet, resnet_zero_init_residual,
    lstm, gru, lstm_time_first, gpt, encoder, encoder_post_norm_two_layers,
    fine_tuning_frozen_backbone, trained_already, regression, regression_by_hand_huber,
    linear_regression, discriminator, generator_step, binary_multilabel, imbalanced, vae,
    policy_gradient, autoencoder_sigmoid_output, segmentation, norm_first_raw_pixels,
    stable_net_deep, gpt_layer_scale, gpt_rezero, zero_head, warmup_from_zero_large_rate,
    model_with_own_loss,
]  # fmt: skip


def check(build: Callable[[], Setup], seed: int) -> Preflight:
    torch.default_generator.manual_seed(seed)
    setup = build()
    args = [setup.pop(k) for k in ("model", "optimizer", "loss_fn", "batch")]
    return preflight(*args, **setup)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("build", HEALTHY, ids=lambda b: b.__name__)
def test_draws_nothing_above_advice(build, seed):
    result = check(build, seed)

    assert result.ok, str(result)
    assert result.notes == ()
    assert math.isclose(sum(f.severity == "advice" for f in result.findings), len(result.findings))
