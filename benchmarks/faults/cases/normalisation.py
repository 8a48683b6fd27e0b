"""BatchNorm and dropout in the wrong mode or strength."""

from typing import Any

import torch
from torch import nn

from faults.common import adam, language, on_digits, program, sgd
from faults.data import cancer
from faults.models import ResNet, RowEncoder, cnn, mlp
from faults.registry import Setup, case
from trimtab.findings import Symptom

KARPATHY = "Karpathy 2018, most common neural net mistakes, number 2"
SILENT = {Symptom.SILENT_CONFIG_ERROR}
SLOW = SILENT | {Symptom.SLOW_CONVERGENCE, Symptom.NO_LEARNING, Symptom.OSCILLATING_LOSS}
bce_logits = nn.functional.binary_cross_entropy_with_logits


@case(
    "eval-mode-batchnorm-cnn",
    kind="cnn",
    source=KARPATHY,
    part="tune",
    symptoms=SILENT,
    causes={"wrong-mode"},
    twin="cnn-bn-sgd",
    silent=True,
)
def eval_cnn(g: torch.Generator) -> Setup:
    model = cnn().eval()
    return on_digits(g, model, sgd(model, 0.05), image=True)


def _evaluates(model: Any, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> torch.Tensor:
    """Validates before each step, and never goes back to training mode."""
    model.eval()
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


@case(
    "eval-mode-dropout-encoder",
    kind="transformer",
    source=f"{KARPATHY}: train mode not restored after evaluation",
    part="report",
    symptoms=SILENT,
    causes={"wrong-mode"},
    twin="encoder-rows",
    silent=True,
)
def eval_encoder(g: torch.Generator) -> Setup:
    model = RowEncoder(dropout=0.2)
    return on_digits(g, model, adam(model), train_step=_evaluates)


@case(
    "eval-mode-resnet",
    kind="cnn",
    source="pytorch/pytorch issue 51800 (in TrainCheck, OSDI 2025): eval() before training",
    part="report",
    symptoms=SILENT,
    causes={"wrong-mode"},
    twin="resnet-sgd",
    silent=True,
)
def eval_resnet(g: torch.Generator) -> Setup:
    model = ResNet()
    return on_digits(g, model, sgd(model, 0.02), image=True, train_step=_evaluates)


@case(
    "batchnorm-batch-of-two-mlp",
    kind="mlp",
    source="pytorch/pytorch issue 4534; Wu & He 2018, arXiv:1803.08494: small batches",
    part="tune",
    symptoms=SLOW,
    causes={"batchnorm-tiny-batch"},
    site=r"^1$|^4$|\d|",
    twin="cnn-bn-sgd",
)
def two_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10], norm=nn.BatchNorm1d)
    return on_digits(g, model, adam(model), size=2)


@case(
    "batchnorm-batch-of-two-binary",
    kind="binary",
    source="Wu & He 2018, arXiv:1803.08494: BatchNorm's error rises with a batch of two",
    part="report",
    symptoms=SLOW,
    causes={"batchnorm-tiny-batch"},
    twin="binary-adam",
)
def two_binary(g: torch.Generator) -> Setup:
    model = mlp([30, 32, 32, 1], norm=nn.BatchNorm1d)
    return program(cancer(), g, model, adam(model), bce_logits, size=2)


@case(
    "batchnorm-momentum-zero",
    kind="cnn",
    source="Islam et al., ESEC/FSE 2019: momentum as in another framework; running averages stay",
    part="tune",
    symptoms=SILENT,
    causes={"batchnorm-momentum"},
    twin="resnet-sgd",
)
def momentum_zero(g: torch.Generator) -> Setup:
    model = ResNet()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    return on_digits(g, model, sgd(model, 0.05), image=True)


@case(
    "batchnorm-momentum-keras",
    kind="cnn",
    source="Keras' momentum of 0.99 is PyTorch's 0.01: here 0.999 was taken over as it was",
    part="report",
    symptoms=SILENT,
    causes={"batchnorm-momentum"},
    twin="cnn-bn-sgd",
    silent=True,
)
def momentum_keras(g: torch.Generator) -> Setup:
    model = cnn(momentum=0.999)
    return on_digits(g, model, sgd(model, 0.05), image=True, size=16)


@case(
    "dropout-too-strong-mlp",
    kind="mlp",
    source="UMLAUT (Schoop et al., CHI 2021): high dropout rate (keep and drop mixed up)",
    part="tune",
    symptoms=SLOW,
    causes={"dropout-too-strong"},
    twin="mlp-dropout",
)
def dropout_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10], dropout=0.95)
    return on_digits(g, model, adam(model))


@case(
    "dropout-too-strong-encoder",
    kind="transformer",
    source="UMLAUT (Schoop et al., CHI 2021): high dropout rate",
    part="report",
    symptoms=SLOW,
    causes={"dropout-too-strong"},
    twin="encoder-rows",
)
def dropout_encoder(g: torch.Generator) -> Setup:
    model = RowEncoder(dropout=0.93)
    return on_digits(g, model, adam(model))


@case(
    "dropout-too-strong-gpt",
    kind="transformer",
    source="UMLAUT (Schoop et al., CHI 2021): high dropout rate",
    part="tune",
    symptoms=SLOW,
    causes={"dropout-too-strong"},
    twin="gpt-adamw",
)
def dropout_gpt(g: torch.Generator) -> Setup:
    return language(g, dropout=0.95, depth=3)
