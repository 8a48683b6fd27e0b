"""Settings of the optimizer that do harm: decay, epsilon, moments, momentum."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from faults.common import adam, adamw, language, on_digits, program, sgd
from faults.data import adding, cancer, waves
from faults.models import Recurrent, ResidualMlp, RowEncoder, cnn, mlp
from faults.registry import Setup, case
from trimtab.findings import Symptom

HUMBATOVA = "Humbatova et al., ICSE 2020, taxonomy: wrong optimiser parameter"
SLOW = {Symptom.SLOW_CONVERGENCE, Symptom.NO_LEARNING, Symptom.SILENT_CONFIG_ERROR}
SHAKY = {
    Symptom.OSCILLATING_LOSS,
    Symptom.DIVERGENCE,
    Symptom.NAN,
    Symptom.EXPLODING_GRADIENT,
    Symptom.LOSS_SPIKE,
}


@case(
    "decay-too-strong-sgd",
    kind="mlp",
    source="TheDeepChecker (Ben Braiek & Khomh 2023): over-regularised training",
    part="tune",
    symptoms=SLOW | {Symptom.VANISHING_GRADIENT},
    causes={"decay-too-strong"},
    twin="mlp-sgd",
)
def decay_sgd(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10])
    return on_digits(g, model, sgd(model, 0.05, weight_decay=0.5))


@case(
    "decay-too-strong-adamw",
    kind="transformer",
    source="Loshchilov & Hutter 2019, arXiv:1711.05101: decoupled decay is multiplied by the rate",
    part="report",
    symptoms=SLOW | {Symptom.VANISHING_GRADIENT},
    causes={"decay-too-strong", "decay-on-norms"},
    twin="gpt-adamw",
)
def decay_adamw(g: torch.Generator) -> Setup:
    return language(g, partial(adamw, lr=3e-3, weight_decay=20.0))


@case(
    "decay-coupled-adam",
    kind="binary",
    source=f"{HUMBATOVA}: L2 of 1.0 in Adam",
    part="tune",
    symptoms=SLOW | {Symptom.VANISHING_GRADIENT},
    causes={"decay-too-strong"},
    twin="binary-adam",
)
def decay_adam(g: torch.Generator) -> Setup:
    model = mlp([30, 32, 32, 1])
    optimizer = adam(model, 3e-3, weight_decay=1.0)
    return program(cancer(), g, model, optimizer, functional.binary_cross_entropy_with_logits)


@case(
    "decay-too-strong-cnn",
    kind="cnn",
    source=f"{HUMBATOVA}: decay of 0.3 for 3e-4",
    part="report",
    symptoms=SLOW | {Symptom.VANISHING_GRADIENT},
    causes={"decay-too-strong", "decay-on-norms"},
    twin="cnn-plain-adam",
)
def decay_cnn(g: torch.Generator) -> Setup:
    model = cnn(norm=False)
    return on_digits(g, model, sgd(model, 0.05, weight_decay=0.3), image=True)


@case(
    "decay-on-norms-transformer",
    kind="transformer",
    source="mmcdermott/MEDS_EIC_AR issue 30; lit-llama issue 254: decay of norms and biases",
    part="tune",
    symptoms={Symptom.SILENT_CONFIG_ERROR},
    causes={"decay-on-norms"},
    twin="gpt-adamw",
    silent=True,
)
def norms_transformer(g: torch.Generator) -> Setup:
    return language(g, partial(adamw, lr=1e-3, weight_decay=0.1))


@case(
    "decay-on-norms-residual-mlp",
    kind="mlp",
    source="CyberZHG/keras-bert issue 60; Swin-Transformer issue 176: decay of norms and biases",
    part="report",
    symptoms={Symptom.SILENT_CONFIG_ERROR},
    causes={"decay-on-norms"},
    twin="residual-mlp-norm",
    silent=True,
)
def norms_mlp(g: torch.Generator) -> Setup:
    model = ResidualMlp(48, 6)
    return on_digits(g, model, adamw(model, 1e-3, weight_decay=0.3))


@case(
    "adam-epsilon-one-mlp",
    kind="mlp",
    source=f"{HUMBATOVA}: epsilon far above the gradients",
    part="tune",
    symptoms=SLOW,
    causes={"epsilon-too-large", "learning-rate-too-low"},
    twin="mlp-adam",
)
def epsilon_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10])
    return on_digits(g, model, adam(model, 1e-3, eps=1.0))


@case(
    "adam-epsilon-large-lstm",
    kind="rnn",
    source=f"{HUMBATOVA}: epsilon far above the gradients",
    part="report",
    symptoms=SLOW,
    causes={"epsilon-too-large", "learning-rate-too-low"},
    twin="lstm-adding",
)
def epsilon_lstm(g: torch.Generator) -> Setup:
    model = Recurrent("LSTM", 2, 32, 1)
    return program(adding(g), g, model, adam(model, 5e-3, eps=3.0), functional.mse_loss)


@case(
    "adam-betas-swapped-mlp",
    kind="mlp",
    source="Reddi et al. 2018, arXiv:1904.09237: short memory of the second moment",
    part="tune",
    symptoms=SLOW | SHAKY,
    causes={"betas-out-of-range"},
    twin="mlp-adam",
)
def betas_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10])
    return on_digits(g, model, adam(model, 3e-3, betas=(0.999, 0.5)))


@case(
    "adam-first-moment-too-long-transformer",
    kind="transformer",
    source=f"{HUMBATOVA}: betas swapped, 0.999 and 0.9",
    part="report",
    symptoms=SLOW | SHAKY,
    causes={"betas-out-of-range"},
    twin="gpt-adamw",
)
def betas_transformer(g: torch.Generator) -> Setup:
    return language(g, partial(adamw, lr=3e-3, betas=(0.999, 0.9)))


@case(
    "momentum-too-high-mlp",
    kind="mlp",
    source=f"{HUMBATOVA}: momentum of 0.999",
    part="tune",
    symptoms=SLOW | SHAKY,
    causes={"momentum-too-high", "learning-rate-too-high"},
    twin="mlp-sgd",
)
def momentum_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10])
    return on_digits(g, model, sgd(model, 0.05, 0.999))


@case(
    "momentum-too-high-regression",
    kind="regression",
    source=f"{HUMBATOVA}: momentum of 0.9995",
    part="report",
    symptoms=SLOW | SHAKY,
    causes={"momentum-too-high", "learning-rate-too-high"},
    twin="regression-waves",
)
def momentum_regression(g: torch.Generator) -> Setup:
    model = mlp([4, 64, 64, 1], nn.GELU)
    return program(waves(g), g, model, sgd(model, 0.02, 0.9995), functional.mse_loss)


@case(
    "weights-grow-without-bound",
    kind="mlp",
    source="Arjovsky et al. 2017, arXiv:1701.07875: a critic without a Lipschitz constraint",
    part="tune",
    symptoms={Symptom.DIVERGENCE, Symptom.EXPLODING_GRADIENT},
    causes={"weights-grow", "unbounded-loss", "learning-rate-too-high"},
    twin="critic-gradient-penalty",
)
def critic_mlp(g: torch.Generator) -> Setup:
    model = mlp([30, 32, 32, 1])

    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (out * (1 - 2 * y)).mean()

    return program(cancer(), g, model, adam(model, 5e-3), loss)


@case(
    "critic-without-constraint-cnn",
    kind="cnn",
    source="Gulrajani et al. 2017, arXiv:1704.00028: a critic without its penalty",
    part="report",
    symptoms={Symptom.DIVERGENCE, Symptom.EXPLODING_GRADIENT},
    causes={"weights-grow", "unbounded-loss", "learning-rate-too-high"},
    ends_in="nan",
    twin="critic-gradient-penalty",
)
def critic_cnn(g: torch.Generator) -> Setup:
    model = cnn(norm=False, classes=1)

    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (out.squeeze(1) * (1 - 2 * (y % 2))).mean()

    return on_digits(g, model, sgd(model, 0.1), loss, image=True, score=None)


@case(
    "rmsprop-no-smoothing-encoder",
    kind="transformer",
    source="Reddi et al. 2018, arXiv:1904.09237; StackOverflow 43436966",
    part="report",
    symptoms=SLOW | SHAKY,
    causes={"betas-out-of-range", "learning-rate-too-high"},
    twin="encoder-rows",
)
def rmsprop_encoder(g: torch.Generator) -> Setup:
    model = RowEncoder()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.03, alpha=0.1, momentum=0.9)
    return on_digits(g, model, optimizer)
