"""Healthy runs of the plainest kind: small networks with ordinary settings."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from faults.common import adam, adamw, on_digits, program, sgd
from faults.data import cancer, diabetes, digits, table, traits, waves
from faults.models import Autoencoder, ResidualMlp, ResNet, cnn, each_weight, mlp
from faults.registry import Setup, case

PLAIN = "PyTorch's own tutorials: default initialisation, ordinary settings"
healthy = partial(case, source=PLAIN)
bce_logits = functional.binary_cross_entropy_with_logits


@healthy("mlp-sgd", kind="mlp", part="tune")
def mlp_sgd(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10])
    return on_digits(g, model, sgd(model, 0.05))


@healthy("mlp-adam", kind="mlp", part="report")
def mlp_adam(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10])
    return on_digits(g, model, adam(model))


@healthy("mlp-small-rate", kind="mlp", part="tune")
def small_rate(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10])
    return on_digits(g, model, adam(model, 1e-4))


@healthy("mlp-tanh", kind="mlp", part="report")
def tanh(g: torch.Generator) -> Setup:
    model = each_weight(mlp([64, 64, 64, 10], nn.Tanh), nn.init.xavier_uniform_)
    return on_digits(g, model, sgd(model, 0.05))


@healthy("mlp-sigmoid-shallow", kind="mlp", part="tune")
def sigmoid(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10], nn.Sigmoid)
    return on_digits(g, model, adam(model, 5e-3))


@healthy("mlp-dropout", kind="mlp", part="report")
def dropout(g: torch.Generator) -> Setup:
    model = mlp([64, 128, 128, 10], dropout=0.5)
    return on_digits(g, model, adam(model))


@healthy("mlp-gelu-layernorm", kind="mlp", part="tune")
def gelu(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 64, 10], nn.GELU, norm=nn.LayerNorm)
    return on_digits(g, model, adamw(model))


@healthy("mlp-wide-leaky", kind="mlp", part="report")
def wide(g: torch.Generator) -> Setup:
    model = mlp([64, 256, 256, 10], nn.LeakyReLU)
    return on_digits(g, model, sgd(model, 0.02, 0.9, nesterov=True), size=64)


@healthy("residual-mlp-norm", kind="mlp", part="tune")
def residual(g: torch.Generator) -> Setup:
    model = ResidualMlp(48, 12, scale=0.3)
    return on_digits(g, model, adamw(model))


@case("residual-mlp-rezero", kind="mlp", part="report", source="Bachlechner et al. 2020 (ReZero)")
def rezero(g: torch.Generator) -> Setup:
    model = ResidualMlp(48, 12, style="rezero")
    return on_digits(g, model, adam(model))


@healthy("cnn-bn-sgd", kind="cnn", part="tune")
def cnn_sgd(g: torch.Generator) -> Setup:
    model = cnn()
    return on_digits(g, model, sgd(model, 0.1), image=True)


@healthy("cnn-plain-adam", kind="cnn", part="report")
def cnn_adam(g: torch.Generator) -> Setup:
    model = cnn(norm=False)
    return on_digits(g, model, adam(model), image=True)


@case("resnet-sgd", kind="cnn", part="tune", source="He et al. 2016: SGD, decay 5e-4 on everything")
def resnet(g: torch.Generator) -> Setup:
    model = ResNet()
    optimizer = sgd(model, 0.1, weight_decay=5e-4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    return on_digits(g, model, optimizer, image=True, scheduler=cosine)


@case("resnet-zero-gamma", kind="cnn", part="report", source="Goyal et al. 2017: last gamma zero")
def zero_gamma(g: torch.Generator) -> Setup:
    model = ResNet(blocks=3, zero=True)
    return on_digits(g, model, sgd(model, 0.05), image=True)


@healthy("cnn-label-smoothing", kind="cnn", part="tune")
def smoothing(g: torch.Generator) -> Setup:
    model = cnn(depth=3)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    return on_digits(g, model, adam(model, 2e-3), loss, image=True)


@healthy("cnn-augmented", kind="cnn", part="report")
def augmented(g: torch.Generator) -> Setup:
    model = cnn(norm=False)

    def alter(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        shift = int(torch.randint(-1, 2, (1,), generator=g))
        return x.roll(shift, 3) + 0.3 * torch.randn(x.shape, generator=g), y

    return on_digits(g, model, adam(model, 2e-3), image=True, alter=alter)


@healthy("cnn-elu-rmsprop", kind="cnn", part="tune")
def elu(g: torch.Generator) -> Setup:
    model = cnn(norm=False, activation=nn.ELU)
    return on_digits(g, model, torch.optim.RMSprop(model.parameters(), 1e-3), image=True)


@healthy("binary-adam", kind="binary", part="report")
def binary(g: torch.Generator) -> Setup:
    model = mlp([30, 32, 32, 1])
    return program(cancer(), g, model, adam(model), bce_logits)


@healthy("binary-probabilities", kind="binary", part="tune")
def probabilities(g: torch.Generator) -> Setup:
    model = mlp([30, 16, 1], out=nn.Sigmoid())
    return program(cancer(), g, model, adam(model, 3e-3), functional.binary_cross_entropy)


@healthy("nll-log-softmax", kind="classification", part="report")
def log_softmax(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10], out=nn.LogSoftmax(dim=1))
    return on_digits(g, model, adam(model), functional.nll_loss)


@healthy("multilabel", kind="multilabel", part="tune")
def multilabel(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 3])
    return program(traits(), g, model, adam(model), bce_logits)


@healthy("regression-diabetes", kind="regression", part="report")
def regression(g: torch.Generator) -> Setup:
    model = mlp([10, 32, 32, 1])
    return program(diabetes(), g, model, adam(model), functional.mse_loss)


@healthy("regression-waves", kind="regression", part="tune")
def regression_waves(g: torch.Generator) -> Setup:
    model = mlp([4, 64, 64, 1], nn.Tanh)
    return program(waves(g), g, model, adam(model, 5e-3), functional.mse_loss)


@healthy("regression-huber-sgd", kind="regression", part="report")
def huber(g: torch.Generator) -> Setup:
    model = mlp([4, 64, 64, 1])
    return program(waves(g, noise=0.5), g, model, sgd(model, 0.05), functional.huber_loss)


@healthy("regression-linear", kind="regression", part="tune")
def linear(g: torch.Generator) -> Setup:
    model = nn.Sequential(nn.Linear(10, 1))
    return program(diabetes(), g, model, sgd(model, 0.01, 0.0), functional.mse_loss)


@healthy("wine-mlp", kind="classification", part="report")
def wine(g: torch.Generator) -> Setup:
    model = mlp([13, 32, 32, 3])
    return program(table("wine"), g, model, sgd(model, 0.02), size=16)


@healthy("autoencoder", kind="autoencoder", part="tune")
def autoencoder(g: torch.Generator) -> Setup:
    task = digits()
    task.y = task.x
    model = Autoencoder()

    def score(trained: nn.Module) -> float:
        return ((trained(task.x) - task.x).square().mean() / task.x.var()).item()

    return program(task, g, model, adam(model), functional.mse_loss, score=score)


@healthy("autoencoder-unit-sigmoid", kind="autoencoder", part="report")
def unit_autoencoder(g: torch.Generator) -> Setup:
    task = digits(pixels="unit")
    task.y = task.x
    model = Autoencoder(out=nn.Sigmoid())
    return program(task, g, model, adam(model, 3e-3), functional.binary_cross_entropy, score=None)
