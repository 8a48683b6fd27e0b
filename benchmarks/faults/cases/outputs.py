"""Outputs and losses that do not fit each other."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from faults.common import adam, adamw, language, on_digits, program, sgd
from faults.data import adding, cancer, diabetes, digits, traits, waves
from faults.models import Autoencoder, Recurrent, RowEncoder, cnn, mlp
from faults.registry import Setup, case
from trimtab.findings import Symptom

KARPATHY = "Karpathy 2018, most common neural net mistakes, number 4"
SLOW = {Symptom.SILENT_CONFIG_ERROR, Symptom.SLOW_CONVERGENCE, Symptom.NO_LEARNING}
MISMATCH = {"output-loss-mismatch"}
bce_logits = functional.binary_cross_entropy_with_logits


@case(
    "softmax-before-cross-entropy-mlp",
    kind="mlp",
    source=KARPATHY,
    part="tune",
    symptoms=SLOW,
    causes=MISMATCH,
    twin="mlp-sgd",
)
def softmax_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10], out=nn.Softmax(dim=1))
    return on_digits(g, model, sgd(model, 0.05, 0.0))


@case(
    "softmax-before-cross-entropy-cnn",
    kind="cnn",
    source="NeuraLint (Nikanjam et al., TOSEM 2021): wrong last layer for the loss",
    part="report",
    symptoms=SLOW,
    causes=MISMATCH,
    twin="cnn-plain-adam",
)
def softmax_cnn(g: torch.Generator) -> Setup:
    model = cnn(norm=False, out=nn.Softmax(dim=-1))
    return on_digits(g, model, adam(model), image=True)


class SoftmaxEncoder(RowEncoder):
    """Applies the softmax in forward, not as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.softmax(super().forward(x), dim=-1)


@case(
    "softmax-before-cross-entropy-encoder",
    kind="transformer",
    source="UMLAUT (Schoop et al., CHI 2021): missing or doubled softmax",
    part="report",
    symptoms=SLOW,
    causes=MISMATCH,
    twin="encoder-rows",
)
def softmax_encoder(g: torch.Generator) -> Setup:
    model = SoftmaxEncoder()
    return on_digits(g, model, adam(model, 1e-3))


@case(
    "sigmoid-before-logits-loss-binary",
    kind="binary",
    source="yudi-mars/daisyRec pull request 15; cvg/glue-factory issue 89",
    part="tune",
    symptoms=SLOW,
    causes=MISMATCH,
    twin="binary-adam",
)
def sigmoid_binary(g: torch.Generator) -> Setup:
    model = mlp([30, 32, 1], out=nn.Sigmoid())
    return program(cancer(), g, model, adam(model), bce_logits)


@case(
    "sigmoid-before-logits-loss-multilabel",
    kind="multilabel",
    source="itakurah/focal-loss-pytorch pull request 5; lopuhin/kaggle-imet-2019 issue 3",
    part="report",
    symptoms=SLOW,
    causes=MISMATCH,
    twin="multilabel",
)
def sigmoid_multilabel(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 3], out=nn.Sigmoid())
    return program(traits(), g, model, adam(model), bce_logits)


@case(
    "missing-sigmoid-clamped",
    kind="binary",
    source="yunlongdong/FCN-pytorch issue 7; NeuraLint: missing sigmoid (TF_lenet_bin)",
    part="tune",
    symptoms=SLOW
    | {
        Symptom.DEAD_UNITS,
        Symptom.DIVERGENCE,
        Symptom.OSCILLATING_LOSS,
        Symptom.EXPLODING_GRADIENT,
    },
    causes=MISMATCH | {"missing-sigmoid"},
    twin="binary-adam",
)
def clamped(g: torch.Generator) -> Setup:
    model = mlp([30, 32, 32, 1])

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return functional.binary_cross_entropy(out.clamp(0, 1), y)

    return program(cancer(), g, model, adam(model), loss)


@case(
    "softmax-over-one-output",
    kind="binary",
    source="DeepLocalize (Wardat et al., ICSE 2021), StackOverflow 45442843 and 34311586",
    part="report",
    symptoms=SLOW | {Symptom.VANISHING_GRADIENT},
    causes=MISMATCH | {"constant-output"},
    twin="binary-adam",
)
def one_softmax(g: torch.Generator) -> Setup:
    model = mlp([30, 32, 32, 1], out=nn.Softmax(dim=1))
    return program(cancer(), g, model, adam(model), functional.binary_cross_entropy)


@case(
    "relu-output-regression",
    kind="regression",
    source="DeepLocalize (Wardat et al., ICSE 2021), StackOverflow 48251943: ReLU on the output",
    part="tune",
    symptoms=SLOW | {Symptom.DEAD_UNITS},
    causes=MISMATCH | {"dead-units"},
    twin="regression-diabetes",
)
def relu_regression(g: torch.Generator) -> Setup:
    model = mlp([10, 32, 1], out=nn.ReLU())
    return program(diabetes(), g, model, adam(model, 3e-3), functional.mse_loss)


@case(
    "relu-output-classifier",
    kind="cnn",
    source="DeepLocalize (Wardat et al., ICSE 2021), StackOverflow 47352366: ReLU before the loss",
    part="report",
    symptoms=SLOW | {Symptom.DEAD_UNITS},
    causes=MISMATCH | {"dead-units"},
    twin="cnn-plain-adam",
)
def relu_classifier(g: torch.Generator) -> Setup:
    model = cnn(norm=False, out=nn.ReLU())
    return on_digits(g, model, adam(model, 1e-2), image=True)


@case(
    "sigmoid-output-autoencoder",
    kind="autoencoder",
    source="TheDeepChecker (Ben Braiek & Khomh 2023): output range does not cover the targets",
    part="tune",
    symptoms=SLOW | {Symptom.SATURATED_UNITS},
    causes=MISMATCH,
    twin="autoencoder",
)
def sigmoid_autoencoder(g: torch.Generator) -> Setup:
    task = digits()
    task.y = task.x
    model = Autoencoder(out=nn.Sigmoid())
    score = _reconstruction(task.x)
    return program(task, g, model, adam(model), functional.mse_loss, score=score)


@case(
    "tanh-output-regression",
    kind="regression",
    source="TheDeepChecker (Ben Braiek & Khomh 2023): output range does not cover the targets",
    part="report",
    symptoms=SLOW | {Symptom.SATURATED_UNITS},
    causes=MISMATCH | {"targets-not-scaled", "saturated-units"},
    twin="regression-waves",
)
def tanh_regression(g: torch.Generator) -> Setup:
    task = waves(g, scale=6.0)
    model = mlp([4, 64, 64, 1], out=nn.Tanh())
    return program(task, g, model, adam(model), functional.mse_loss)


def _reconstruction(x: Tensor) -> Any:
    return lambda model: ((model(x) - x).square().mean() / x.var()).item()


def log_of_softmax(out: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy as written by hand: 0 * log 0 is not a number."""
    return -(functional.one_hot(y, out.shape[-1]) * torch.log(out.softmax(-1))).sum(-1).mean()


class Cosine(nn.Module):
    """Compares features with a direction for each class, sharply, as contrastive models do."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.body = mlp([64, 64, 32])
        self.classes = nn.Parameter(torch.randn(10, 32))
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        features = functional.normalize(self.body(x), dim=1)
        return features @ functional.normalize(self.classes, dim=1).T / self.temperature


@case(
    "log-of-softmax-mlp",
    kind="mlp",
    source="StackOverflow 33712178, TensorFlow NaN bug: log of a softmax of 0",
    part="tune",
    symptoms={Symptom.NAN},
    causes={"nonfinite"},
    twin="mlp-sgd",
)
def log_softmax_mlp(g: torch.Generator) -> Setup:
    model = Cosine(temperature=0.005)
    return on_digits(g, model, adam(model), log_of_softmax)


@case(
    "log-of-sigmoid-binary",
    kind="binary",
    source="StackOverflow 40050397, common causes of NaNs during training: faulty loss function",
    part="report",
    symptoms={Symptom.NAN},
    causes={"nonfinite"},
    ends_in="nan",
    twin="binary-adam",
)
def log_sigmoid(g: torch.Generator) -> Setup:
    model = mlp([30, 64, 64, 1])

    def loss(out: Tensor, y: Tensor) -> Tensor:
        p = out.sigmoid()
        return -(y * p.log() + (1 - y) * (1 - p).log()).mean()

    return program(cancer(), g, model, adam(model, 1e-2), loss)


@case(
    "norm-at-zero",
    kind="mlp",
    source="pytorch/pytorch issues 2421 and 4320: gradient of a root at zero",
    part="tune",
    symptoms={Symptom.NAN},
    causes={"nonfinite"},
    twin="contrastive",
)
def norm_at_zero(g: torch.Generator) -> Setup:
    model = mlp([64, 48, 16])

    def loss(out: Tensor, y: Tensor) -> Tensor:
        """Contrastive: some pairs of a batch are a row and itself."""
        other = torch.randperm(len(y))
        distance = (out - out[other]).square().sum(1).sqrt()
        same = (y == y[other]).float()
        return (same * distance**2 + (1 - same) * functional.relu(2 - distance) ** 2).mean()

    return program(digits(), g, model, adam(model), loss, score=None)


class Standardised(nn.Module):
    """Divides each image by its deviation, without an epsilon."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)


@case(
    "division-by-zero-deviation",
    kind="mlp",
    source="StackOverflow 40050397, causes of NaNs: a layer that divides by a deviation of 0",
    part="report",
    symptoms={Symptom.NAN},
    causes={"nonfinite", "nonfinite-batch"},
    site=r"^0$|^$",
    twin="mlp-adam",
)
def zero_deviation(g: torch.Generator) -> Setup:
    model = nn.Sequential(Standardised(), *mlp([64, 64, 10]))

    def alter(step: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Among the images is a blank one."""
        return (torch.cat([x[:-1], torch.full_like(x[:1], 0.5)]), y) if step == 60 else (x, y)

    return on_digits(g, model, adam(model), alter=alter)


@case(
    "broadcast-regression-mlp",
    kind="regression",
    source="pytorch/pytorch issue 16045 and pull request 18349: (n, 1) against (n,)",
    part="tune",
    symptoms=SLOW,
    causes={"broadcasting-loss"},
    twin="regression-diabetes",
)
def broadcast_mlp(g: torch.Generator) -> Setup:
    task = diabetes()
    task.y = task.y.squeeze(1)
    model = mlp([10, 32, 32, 1])
    return program(task, g, model, adam(model), functional.mse_loss)


@case(
    "broadcast-regression-lstm",
    kind="rnn",
    source="deepset-ai/FARM issue 229: target (32, 1), input (32,)",
    part="report",
    symptoms=SLOW,
    causes={"broadcasting-loss"},
    twin="lstm-adding",
)
def broadcast_lstm(g: torch.Generator) -> Setup:
    model = Recurrent("LSTM", 2, 32, 1, squeeze=True)
    return program(adding(g), g, model, adam(model, 5e-3), functional.mse_loss)


@case(
    "summed-loss-mlp",
    kind="mlp",
    source="UMLAUT (Schoop et al., CHI 2021): high learning rate, here for a summed loss",
    part="tune",
    symptoms={
        Symptom.DIVERGENCE,
        Symptom.NAN,
        Symptom.OSCILLATING_LOSS,
        Symptom.EXPLODING_GRADIENT,
        Symptom.NO_LEARNING,
    },
    causes={"learning-rate-too-high", "summed-loss"},
    twin="mlp-sgd",
)
def summed_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10])
    return on_digits(g, model, sgd(model, 0.1), nn.CrossEntropyLoss(reduction="sum"), size=64)


@case(
    "summed-loss-regression",
    kind="regression",
    source="Humbatova et al., ICSE 2020, taxonomy: wrong loss function calculation",
    part="report",
    symptoms={
        Symptom.DIVERGENCE,
        Symptom.NAN,
        Symptom.OSCILLATING_LOSS,
        Symptom.EXPLODING_GRADIENT,
    },
    causes={"learning-rate-too-high", "summed-loss"},
    ends_in="nan",
    twin="regression-waves",
)
def summed_regression(g: torch.Generator) -> Setup:
    model = mlp([4, 64, 64, 1], nn.GELU)
    return program(waves(g), g, model, sgd(model, 0.05), nn.MSELoss(reduction="sum"), size=64)


@case(
    "ascent-mlp",
    kind="mlp",
    source="Humbatova et al., ICSE 2020, taxonomy: wrong sign of the loss",
    part="tune",
    symptoms={Symptom.DIVERGENCE, Symptom.NAN},
    causes={"gradient-ascent"},
    ends_in="divergence",
    twin="mlp-sgd",
)
def ascent_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10])

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        (-loss).backward()
        optimizer.step()
        return loss

    return on_digits(g, model, sgd(model, 0.02), train_step=step)


@case(
    "ascent-regression",
    kind="regression",
    source="TheDeepChecker (Ben Braiek & Khomh 2023): loss minimised in the wrong direction",
    part="report",
    symptoms={Symptom.DIVERGENCE, Symptom.NAN, Symptom.EXPLODING_GRADIENT},
    causes={"gradient-ascent"},
    ends_in="divergence",
    twin="regression-waves",
)
def ascent_regression(g: torch.Generator) -> Setup:
    model = mlp([4, 32, 1], nn.Tanh)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, maximize=True)
    return program(waves(g), g, model, optimizer, functional.mse_loss)


@case(
    "softmax-over-batch-mlp",
    kind="mlp",
    source="Islam et al., ESEC/FSE 2019: wrong parameter of an API (dim)",
    part="tune",
    symptoms=SLOW,
    causes=MISMATCH | {"wrong-softmax-dim"},
    twin="mlp-adam",
    silent=True,
)
def batch_softmax(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10], out=nn.LogSoftmax(dim=0))
    return on_digits(g, model, adam(model), functional.nll_loss)


@case(
    "softmax-over-time-transformer",
    kind="transformer",
    source="Islam et al., ESEC/FSE 2019: wrong parameter of an API (dim)",
    part="report",
    symptoms=SLOW,
    causes=MISMATCH | {"wrong-softmax-dim"},
    twin="gpt-adamw",
)
def time_softmax(g: torch.Generator) -> Setup:
    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return functional.nll_loss(logits.log_softmax(1).flatten(0, 1), y.flatten())

    return language(g, partial(adamw, lr=1e-3), loss_fn=loss)


@case(
    "loss-on-argmax-mlp",
    kind="mlp",
    source="Islam et al., ESEC/FSE 2019: the loss does not depend on the parameters",
    part="tune",
    symptoms=SLOW,
    causes={"no-gradient", "cut-loss"},
    twin="mlp-adam",
)
def argmax_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10])

    def loss(out: Tensor, y: Tensor) -> Tensor:
        predicted = out.argmax(1).float().requires_grad_()
        return functional.mse_loss(predicted, y.float())

    return on_digits(g, model, adam(model), loss)


@case(
    "loss-on-rounded-output",
    kind="regression",
    source="Humbatova et al., ICSE 2020, taxonomy: non-differentiable operation",
    part="report",
    symptoms=SLOW | {Symptom.VANISHING_GRADIENT},
    causes={"no-gradient", "cut-loss", "vanishing-gradient"},
    twin="regression-diabetes",
)
def rounded(g: torch.Generator) -> Setup:
    model = mlp([10, 32, 32, 1])

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return functional.mse_loss(torch.round(out), y)

    return program(diabetes(), g, model, adam(model), loss)
