"""Signals that vanish, explode, die or saturate from the beginning."""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from faults.common import adam, adamw, language, on_digits, program, sgd
from faults.data import adding, diabetes, digits, first_token, vocabulary
from faults.models import (
    LanguageModel,
    Recurrent,
    ResidualMlp,
    cnn,
    each_weight,
    mlp,
)
from faults.registry import Setup, case
from trimtab.findings import Symptom

AUTOTRAINER = "AutoTrainer (Zhang et al., ICSE 2021), Table 1"
STUCK = {Symptom.VANISHING_GRADIENT, Symptom.NO_LEARNING}
VANISHING = {"vanishing-gradient", "unsuited-initialisation"}
EXPLODING = {"exploding-gradient", "unsuited-initialisation"}
BLOWN = {Symptom.EXPLODING_GRADIENT, Symptom.DIVERGENCE, Symptom.NAN, Symptom.OSCILLATING_LOSS}


def normal(std: float) -> Any:
    return partial(nn.init.normal_, std=std)


@case(
    "vanishing-sigmoid-mlp",
    kind="mlp",
    source=f"{AUTOTRAINER}: vanishing gradient; StackOverflow 46270122",
    part="tune",
    symptoms=STUCK,
    causes=VANISHING,
    site=r"^\d+",
    twin="mlp-sigmoid-shallow",
)
def sigmoid_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, *[64] * 9, 10], nn.Sigmoid)
    return on_digits(g, model, sgd(model, 0.1))


@case(
    "vanishing-sigmoid-cnn",
    kind="cnn",
    source="DeepLocalize (Wardat et al., ICSE 2021), StackOverflow 31880720",
    part="report",
    symptoms=STUCK,
    causes=VANISHING,
    site=r"^\d+",
    twin="cnn-plain-adam",
)
def sigmoid_cnn(g: torch.Generator) -> Setup:
    model = cnn(depth=7, norm=False, activation=nn.Sigmoid)
    return on_digits(g, model, sgd(model, 0.05), image=True)


@case(
    "vanishing-deep-tanh",
    kind="mlp",
    source="Glorot & Bengio 2010; Humbatova et al., ICSE 2020: wrong weights initialisation",
    part="report",
    symptoms=STUCK | {Symptom.SLOW_CONVERGENCE},
    causes=VANISHING,
    site=r"^\d+",
    twin="mlp-tanh",
)
def deep_tanh(g: torch.Generator) -> Setup:
    model = each_weight(mlp([64, *[64] * 16, 10], nn.Tanh), normal(0.06))
    return on_digits(g, model, sgd(model, 0.05))


@case(
    "tiny-init-mlp",
    kind="mlp",
    source="He et al. 2015, arXiv:1502.01852: N(0, 0.01) in deep ReLU nets",
    part="tune",
    symptoms=STUCK,
    causes=VANISHING,
    site=r"^\d+",
    twin="mlp-sgd",
)
def tiny_mlp(g: torch.Generator) -> Setup:
    model = each_weight(mlp([64, *[64] * 7, 10]), normal(0.01))
    return on_digits(g, model, sgd(model, 0.05))


@case(
    "tiny-init-cnn",
    kind="cnn",
    source="NeuraLint (Nikanjam et al., TOSEM 2021): inadequate initialisation",
    part="report",
    symptoms=STUCK,
    causes=VANISHING,
    site=r"^\d+",
    twin="cnn-plain-adam",
)
def tiny_cnn(g: torch.Generator) -> Setup:
    model = each_weight(cnn(depth=6, norm=False), normal(0.005))
    return on_digits(g, model, sgd(model, 0.05), image=True)


def _recurrent(model: Recurrent, scale: float) -> Recurrent:
    with torch.no_grad():
        for name, p in model.rnn.named_parameters():
            if "weight_hh" in name:
                nn.init.orthogonal_(p).mul_(scale)
    return model


@case(
    "vanishing-rnn",
    kind="rnn",
    source="Bengio et al. 1994; Pascanu et al. 2013, arXiv:1211.5063: vanishing in an RNN",
    part="tune",
    symptoms=STUCK | {Symptom.SLOW_CONVERGENCE},
    causes=VANISHING,
    twin="rnn-orthogonal",
)
def rnn_vanishes(g: torch.Generator) -> Setup:
    model = _recurrent(Recurrent("RNN", 4, 32, 4), 0.4)
    return program(first_token(g, length=40), g, model, sgd(model, 0.05))


@case(
    "vanishing-rnn-three-layers",
    kind="rnn",
    source="Hochreiter & Schmidhuber 1997: long time lags in a plain RNN",
    part="report",
    symptoms=STUCK | {Symptom.SLOW_CONVERGENCE},
    causes=VANISHING,
    twin="rnn-orthogonal",
)
def rnn_layers_vanish(g: torch.Generator) -> Setup:
    model = _recurrent(Recurrent("RNN", 4, 24, 4, layers=3), 0.5)
    return program(first_token(g, length=30), g, model, sgd(model, 0.02))


@case(
    "large-init-relu-mlp",
    kind="mlp",
    source="DeepLocalize (Wardat et al., ICSE 2021), StackOverflow 48385830: N(0, 1) weights",
    part="tune",
    symptoms=BLOWN,
    causes=EXPLODING,
    ends_in="nan",
    twin="mlp-sgd",
)
def large_mlp(g: torch.Generator) -> Setup:
    model = each_weight(mlp([64, *[64] * 5, 10]), normal(1.0))
    return on_digits(g, model, sgd(model, 0.01))


@case(
    "large-init-cnn",
    kind="cnn",
    source="NeuraLint (Nikanjam et al., TOSEM 2021): inadequate initialisation",
    part="report",
    symptoms=BLOWN | {Symptom.NO_LEARNING, Symptom.DEAD_UNITS},
    causes=EXPLODING,
    ends_in="nan",
    twin="cnn-plain-adam",
)
def large_cnn(g: torch.Generator) -> Setup:
    model = each_weight(cnn(depth=5, norm=False), normal(0.6))
    return on_digits(g, model, sgd(model, 0.01), image=True)


@case(
    "exploding-deep-linear",
    kind="regression",
    source="Saxe et al. 2014, arXiv:1312.6120: deep linear networks; gain above one",
    part="report",
    symptoms=BLOWN,
    causes=EXPLODING,
    ends_in="nan",
    twin="regression-diabetes",
)
def deep_linear(g: torch.Generator) -> Setup:
    model = each_weight(mlp([10, *[32] * 12, 1], nn.Identity), normal(0.21))
    return program(diabetes(), g, model, sgd(model, 0.001, 0.0), functional.mse_loss)


@case(
    "exploding-rnn-no-clipping",
    kind="rnn",
    source="Pascanu et al. 2013, arXiv:1211.5063: exploding gradients of an RNN without clipping",
    part="tune",
    symptoms=BLOWN | {Symptom.SATURATED_UNITS, Symptom.NO_LEARNING},
    causes=EXPLODING | {"saturated-units"},
    twin="rnn-orthogonal",
)
def rnn_explodes(g: torch.Generator) -> Setup:
    model = _recurrent(Recurrent("RNN", 2, 32, 1), 3.0)
    return program(adding(g, length=30), g, model, sgd(model, 0.05), functional.mse_loss)


class ReluRnn(Recurrent):
    """The RNN with ReLU of Le et al. 2015."""

    def __init__(self, scale: float) -> None:
        super().__init__("RNN", 2, 32, 1)
        self.rnn = nn.RNN(2, 32, batch_first=True, nonlinearity="relu")
        with torch.no_grad():
            self.rnn.weight_hh_l0.copy_(torch.eye(32) * scale)


@case(
    "exploding-relu-rnn",
    kind="rnn",
    source="Le et al. 2015, arXiv:1504.00941: ReLU RNN, recurrent weights above the identity",
    part="report",
    symptoms=BLOWN,
    causes=EXPLODING,
    ends_in="divergence",
    twin="rnn-orthogonal",
)
def relu_rnn_explodes(g: torch.Generator) -> Setup:
    model = ReluRnn(1.06)
    return program(adding(g, length=30), g, model, sgd(model, 1e-3, 0.0), functional.mse_loss)


def _constant(value: float) -> Any:
    return partial(nn.init.constant_, val=value)


@case(
    "constant-init-mlp",
    kind="mlp",
    source="NeuraLint (Nikanjam et al., TOSEM 2021), rule: asymmetric weights initialisation",
    part="tune",
    symptoms={Symptom.NO_LEARNING, Symptom.SLOW_CONVERGENCE, Symptom.SILENT_CONFIG_ERROR},
    causes={"identical-units", "unsuited-initialisation"},
    site=r"^\d+",
    twin="mlp-adam",
)
def constant_mlp(g: torch.Generator) -> Setup:
    model = each_weight(mlp([64, 32, 32, 10]), _constant(0.02))
    return on_digits(g, model, adam(model))


@case(
    "zero-init-cnn",
    kind="cnn",
    source="TheDeepChecker (Ben Braiek & Khomh 2023): unbreaking symmetry",
    part="report",
    symptoms={
        Symptom.NO_LEARNING,
        Symptom.SILENT_CONFIG_ERROR,
        Symptom.DEAD_UNITS,
        Symptom.VANISHING_GRADIENT,
    },
    causes={"identical-units", "unsuited-initialisation"},
    site=r"^\d+",
    twin="cnn-plain-adam",
)
def zero_cnn(g: torch.Generator) -> Setup:
    model = each_weight(cnn(norm=False), _constant(0.0))
    return on_digits(g, model, adam(model), image=True)


@case(
    "zero-init-lstm",
    kind="rnn",
    source="DeepDiagnosis (Wardat et al., ICSE 2022): unchanged weights after a bad initialisation",
    part="tune",
    symptoms={
        Symptom.NO_LEARNING,
        Symptom.SILENT_CONFIG_ERROR,
        Symptom.SLOW_CONVERGENCE,
        Symptom.VANISHING_GRADIENT,
    },
    causes={"identical-units", "unsuited-initialisation"},
    twin="lstm-adding",
)
def zero_lstm(g: torch.Generator) -> Setup:
    model = Recurrent("LSTM", 2, 32, 1)
    for p in model.parameters():
        nn.init.zeros_(p)
    return program(adding(g), g, model, adam(model, 5e-3), functional.mse_loss)


def _kill(model: nn.Sequential, bias: float) -> nn.Sequential:
    for layer in list(model)[:-1]:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.constant_(layer.bias, bias)
    return model


@case(
    "dead-relu-negative-bias",
    kind="mlp",
    source=f"{AUTOTRAINER}: dying ReLU",
    part="tune",
    symptoms={Symptom.DEAD_UNITS, Symptom.NO_LEARNING},
    causes={"dead-units", "unsuited-initialisation"},
    site=r"^\d",
    twin="mlp-adam",
)
def dead_mlp(g: torch.Generator) -> Setup:
    model = _kill(mlp([64, 48, 48, 10]), -8.0)
    return on_digits(g, model, adam(model))


@case(
    "dead-relu-most-units-cnn",
    kind="cnn",
    source="Lu et al. 2019, arXiv:1903.06733: dying ReLU",
    part="report",
    symptoms={Symptom.DEAD_UNITS, Symptom.NO_LEARNING},
    causes={"dead-units", "unsuited-initialisation"},
    site=r"^\d",
    twin="cnn-plain-adam",
)
def dead_cnn(g: torch.Generator) -> Setup:
    model = cnn(norm=False)
    conv = model[3]
    assert isinstance(conv, nn.Conv2d)
    nn.init.constant_(conv.bias, -6.0)
    return on_digits(g, model, adam(model), image=True)


@case(
    "saturated-tanh-large-weights",
    kind="mlp",
    source="DeepDiagnosis (Wardat et al., ICSE 2022): saturated activation",
    part="tune",
    symptoms={Symptom.SATURATED_UNITS, Symptom.VANISHING_GRADIENT, Symptom.NO_LEARNING},
    causes={"saturated-units", "unsuited-initialisation"},
    site=r"^\d",
    twin="mlp-tanh",
)
def saturated_tanh(g: torch.Generator) -> Setup:
    model = each_weight(mlp([64, *[64] * 4, 10], nn.Tanh), normal(2.0))
    nn.init.normal_(model[-1].weight, std=0.05)
    return on_digits(g, model, sgd(model, 0.01))


@case(
    "saturated-sigmoid-raw-inputs",
    kind="mlp",
    source="DeepLocalize (Wardat et al., ICSE 2021), StackOverflow 39525358: raw features",
    part="report",
    symptoms={
        Symptom.SATURATED_UNITS,
        Symptom.NO_LEARNING,
        Symptom.SLOW_CONVERGENCE,
        Symptom.SILENT_CONFIG_ERROR,
    },
    causes={"inputs-not-normalised", "saturated-units"},
    twin="mlp-sigmoid-shallow",
)
def saturated_sigmoid(g: torch.Generator) -> Setup:
    model = mlp([64, 32, 32, 10], nn.Sigmoid)
    return program(digits(pixels="raw"), g, model, adam(model))


@case(
    "residual-without-norm",
    kind="mlp",
    source="Zhang et al. 2019, arXiv:1901.09321 (Fixup): residual nets without normalisation",
    part="tune",
    symptoms=BLOWN,
    causes=EXPLODING | {"learning-rate-too-high"},
    ends_in="nan",
    twin="residual-mlp-norm",
)
def bare_residual(g: torch.Generator) -> Setup:
    model = ResidualMlp(48, 16, style="bare", scale=0.6)
    return on_digits(g, model, sgd(model, 0.02))


@case(
    "transformer-without-norm",
    kind="transformer",
    source="Bachlechner et al. 2020, arXiv:2003.04887 (ReZero): depth without normalisation",
    part="report",
    symptoms=BLOWN | {Symptom.NO_LEARNING, Symptom.SLOW_CONVERGENCE, Symptom.LOSS_SPIKE},
    causes=EXPLODING | {"learning-rate-too-high"},
    twin="gpt-adamw",
)
def bare_transformer(g: torch.Generator) -> Setup:
    model = LanguageModel(vocabulary(), depth=6, norm="none", std=1.0)
    each_weight(model.blocks, partial(nn.init.xavier_normal_, gain=2.0))
    return language(g, partial(adamw, lr=2e-3), model=model)


@case(
    "tied-embedding-unit-scale",
    kind="transformer",
    source="Karpathy 2019, a recipe for training neural networks: verify the initial loss",
    part="tune",
    symptoms={
        Symptom.SLOW_CONVERGENCE,
        Symptom.EXPLODING_GRADIENT,
        Symptom.SILENT_CONFIG_ERROR,
        Symptom.NO_LEARNING,
    },
    causes={"initial-loss", "unsuited-initialisation"},
    site=r"embed|head|^$",
    twin="gpt-tied",
    silent=True,
)
def tied_unit(g: torch.Generator) -> Setup:
    return language(g, partial(adamw, lr=2e-3), tied=True, std=1.0)


@case(
    "head-init-too-large",
    kind="mlp",
    source="Karpathy 2019, a recipe for training neural networks: initialise the last layer well",
    part="report",
    symptoms={
        Symptom.SLOW_CONVERGENCE,
        Symptom.EXPLODING_GRADIENT,
        Symptom.SILENT_CONFIG_ERROR,
        Symptom.NO_LEARNING,
    },
    causes={"initial-loss", "unsuited-initialisation"},
    site=r"6|^$",
    twin="mlp-tanh",
)
def large_head(g: torch.Generator) -> Setup:
    model = each_weight(mlp([64, 64, 64, 10], nn.Tanh), nn.init.xavier_uniform_)
    nn.init.normal_(model[-1].weight, std=10.0)
    return on_digits(g, model, adam(model))
