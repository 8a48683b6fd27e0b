"""Faults in the data: labels, scales, order, and values that are no numbers."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from faults.common import adam, adamw, language, on_digits, program, sgd
from faults.data import Batches, adding, cancer, diabetes, digits, table, traits, waves
from faults.models import Recurrent, RowEncoder, cnn, mlp
from faults.registry import Setup, case
from trimtab.findings import Symptom

Pair = tuple[Tensor, Tensor]
bce_logits = functional.binary_cross_entropy_with_logits
FLAT = {Symptom.NO_LEARNING, Symptom.SLOW_CONVERGENCE, Symptom.SILENT_CONFIG_ERROR}
DEEPLOCALIZE = "DeepLocalize (Wardat et al., ICSE 2021)"


def _misaligned(y: Tensor, g: torch.Generator) -> Tensor:
    return y[torch.randperm(len(y), generator=g)]


@case(
    "misaligned-labels-mlp",
    kind="mlp",
    source="stats.stackexchange 352036: inputs shuffled without their labels",
    part="tune",
    symptoms=FLAT | {Symptom.OSCILLATING_LOSS},
    causes={"labels-unrelated"},
    twin="mlp-adam",
)
def misaligned_mlp(g: torch.Generator) -> Setup:
    task = digits()
    task.y = _misaligned(task.y, g)
    model = mlp([64, 64, 10])
    return program(task, g, model, adam(model))


@case(
    "misaligned-labels-encoder",
    kind="transformer",
    source="Humbatova et al., ICSE 2020, taxonomy: wrong labels for training data",
    part="report",
    symptoms=FLAT | {Symptom.OSCILLATING_LOSS},
    causes={"labels-unrelated"},
    twin="encoder-rows",
)
def misaligned_encoder(g: torch.Generator) -> Setup:
    task = digits()
    task.y = _misaligned(task.y, g)
    model = RowEncoder()
    return program(task, g, model, adam(model))


@case(
    "constant-labels-mlp",
    kind="mlp",
    source="StackOverflow 41488279, neural network always predicts the same class",
    part="tune",
    symptoms=FLAT,
    causes={"constant-labels"},
    twin="mlp-adam",
)
def constant_labels(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10])
    return on_digits(g, model, adam(model), alter=lambda _, x, y: (x, torch.full_like(y, 3)))


@case(
    "labels-divided-by-255",
    kind="cnn",
    source=f"{DEEPLOCALIZE}, StackOverflow 59325381: labels divided by 255",
    part="report",
    symptoms=FLAT,
    causes={"constant-labels"},
    twin="cnn-plain-adam",
)
def divided_labels(g: torch.Generator) -> Setup:
    model = cnn(norm=False)

    def alter(_: int, x: Tensor, y: Tensor) -> Pair:
        return x, (y / 255).long()

    return on_digits(g, model, adam(model), image=True, alter=alter)


@case(
    "nan-feature-binary",
    kind="binary",
    source="StackOverflow 37232782, NaN loss when training: missing values in a table",
    part="tune",
    symptoms={Symptom.NAN},
    causes={"nonfinite-batch"},
    twin="binary-adam",
)
def nan_feature(g: torch.Generator) -> Setup:
    task = cancer()
    task.x = task.x.clone()
    task.x[400, 7] = float("nan")
    model = mlp([30, 32, 1])
    return program(task, g, model, adam(model), bce_logits)


@case(
    "infinite-target-regression",
    kind="regression",
    source="StackOverflow 40050397, common causes of NaNs during training: faulty input",
    part="report",
    symptoms={Symptom.NAN, Symptom.DIVERGENCE},
    causes={"nonfinite-batch", "nonfinite-targets"},
    twin="regression-waves",
)
def infinite_target(g: torch.Generator) -> Setup:
    model = mlp([4, 64, 64, 1])

    def alter(step: int, x: Tensor, y: Tensor) -> Pair:
        return (x, torch.cat([y[:-1], y[-1:] / 0.0])) if step == 70 else (x, y)

    return program(waves(g), g, model, adam(model), functional.mse_loss, alter=alter)


@case(
    "log-of-zero-in-preprocessing",
    kind="regression",
    source="StackOverflow 33712178 and 40050397: log of 0 in the data of one batch",
    part="report",
    symptoms={Symptom.NAN},
    causes={"nonfinite-batch"},
    twin="regression-waves",
)
def log_zero(g: torch.Generator) -> Setup:
    model = mlp([4, 64, 64, 1])

    def alter(step: int, x: Tensor, y: Tensor) -> Pair:
        amount = x.abs() * (0.0 if step == 50 else 1.0)
        return amount.log(), y

    return program(waves(g), g, model, adam(model), functional.mse_loss, alter=alter)


@case(
    "raw-pixels-mlp",
    kind="mlp",
    source=f"{DEEPLOCALIZE}, StackOverflow 55328966: inputs of 0 to 255",
    part="tune",
    symptoms={
        Symptom.SILENT_CONFIG_ERROR,
        Symptom.DIVERGENCE,
        Symptom.NO_LEARNING,
        Symptom.DEAD_UNITS,
    }
    | {Symptom.EXPLODING_GRADIENT, Symptom.OSCILLATING_LOSS, Symptom.NAN, Symptom.LOSS_SPIKE},
    causes={"inputs-not-normalised"},
    twin="mlp-sgd",
)
def raw_pixels(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10])
    return program(digits(pixels="raw"), g, model, sgd(model, 0.01))


@case(
    "raw-features-wine",
    kind="classification",
    source=f"{DEEPLOCALIZE}, StackOverflow 33969059 and 39525358: raw features",
    part="report",
    symptoms={
        Symptom.SILENT_CONFIG_ERROR,
        Symptom.OSCILLATING_LOSS,
        Symptom.NO_LEARNING,
        Symptom.EXPLODING_GRADIENT,
    }
    | {Symptom.SLOW_CONVERGENCE, Symptom.LOSS_SPIKE, Symptom.DEAD_UNITS, Symptom.DIVERGENCE},
    causes={"inputs-not-normalised"},
    twin="wine-mlp",
)
def raw_wine(g: torch.Generator) -> Setup:
    model = mlp([13, 32, 32, 3])
    return program(table("wine", raw=True), g, model, sgd(model, 1e-3), size=16)


@case(
    "raw-features-cancer",
    kind="binary",
    source="UMLAUT (Schoop et al., CHI 2021): input data exceeds typical limits",
    part="tune",
    symptoms={
        Symptom.SILENT_CONFIG_ERROR,
        Symptom.OSCILLATING_LOSS,
        Symptom.NO_LEARNING,
        Symptom.EXPLODING_GRADIENT,
    }
    | {Symptom.SLOW_CONVERGENCE, Symptom.LOSS_SPIKE, Symptom.DIVERGENCE, Symptom.DEAD_UNITS},
    causes={"inputs-not-normalised"},
    twin="binary-adam",
)
def raw_cancer(g: torch.Generator) -> Setup:
    model = mlp([30, 32, 32, 1])
    return program(cancer(raw=True), g, model, adam(model), bce_logits)


@case(
    "unscaled-targets-mlp",
    kind="regression",
    source=f"{DEEPLOCALIZE}, StackOverflow 48934338: large targets, SGD at 0.1",
    part="tune",
    symptoms={
        Symptom.SILENT_CONFIG_ERROR,
        Symptom.DIVERGENCE,
        Symptom.NAN,
        Symptom.EXPLODING_GRADIENT,
    },
    causes={"targets-not-scaled", "learning-rate-too-high", "initial-loss"},
    ends_in="nan",
    twin="regression-diabetes",
)
def unscaled_mlp(g: torch.Generator) -> Setup:
    model = mlp([10, 32, 32, 1])
    task = diabetes(scale=5000.0, shift=10000.0)
    return program(task, g, model, sgd(model, 0.05), functional.mse_loss)


@case(
    "unscaled-targets-lstm",
    kind="rnn",
    source="StackOverflow 37232782, NaN loss when training regression network: unscaled output",
    part="report",
    symptoms={
        Symptom.SILENT_CONFIG_ERROR,
        Symptom.SLOW_CONVERGENCE,
        Symptom.NO_LEARNING,
        Symptom.EXPLODING_GRADIENT,
    },
    causes={"targets-not-scaled", "initial-loss"},
    twin="lstm-adding",
)
def unscaled_lstm(g: torch.Generator) -> Setup:
    model = Recurrent("LSTM", 2, 32, 1)
    return program(adding(g, scale=1e4), g, model, adam(model, 5e-3), functional.mse_loss)


@case(
    "binary-labels-one-and-two",
    kind="binary",
    source="Islam et al., ESEC/FSE 2019: data of the wrong range; classes named 1 and 2",
    part="tune",
    symptoms=FLAT | {Symptom.DIVERGENCE, Symptom.EXPLODING_GRADIENT},
    causes={"labels-out-of-range"},
    twin="binary-adam",
)
def one_and_two(g: torch.Generator) -> Setup:
    model = mlp([30, 32, 1])
    return program(cancer(), g, model, adam(model), bce_logits, alter=lambda _, x, y: (x, y + 1))


@case(
    "labels-plus-minus-one",
    kind="multilabel",
    source="Islam et al., ESEC/FSE 2019: data of the wrong range for a loss",
    part="report",
    symptoms=FLAT | {Symptom.DIVERGENCE, Symptom.EXPLODING_GRADIENT},
    causes={"labels-out-of-range"},
    twin="multilabel",
)
def plus_minus(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 3])
    alter = lambda _, x, y: (x, 2 * y - 1)  # noqa: E731
    return program(traits(), g, model, adam(model), bce_logits, alter=alter)


@case(
    "garbage-batches-mlp",
    kind="mlp",
    source="PaLM (Chowdhery et al. 2022, arXiv:2204.02311), section 5.1: particular batches",
    part="tune",
    symptoms={Symptom.LOSS_SPIKE, Symptom.DIVERGENCE, Symptom.EXPLODING_GRADIENT},
    causes={"loss-spike", "data-shift", "inputs-not-normalised"},
    twin="mlp-sgd",
)
def garbage_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10])

    def alter(step: int, x: Tensor, y: Tensor) -> Pair:
        return (x * 200, y) if step in {120, 121} else (x, y)

    return on_digits(g, model, sgd(model, 0.02), alter=alter)


@case(
    "garbage-batches-regression",
    kind="regression",
    source="OPT-175B logbook (Zhang et al. 2022, arXiv:2205.01068): a run spoilt mid-way",
    part="report",
    symptoms={Symptom.LOSS_SPIKE, Symptom.DIVERGENCE, Symptom.EXPLODING_GRADIENT},
    causes={"loss-spike", "data-shift", "targets-not-scaled", "inputs-not-normalised"},
    twin="regression-waves",
)
def garbage_regression(g: torch.Generator) -> Setup:
    model = mlp([4, 64, 64, 1])

    def alter(step: int, x: Tensor, y: Tensor) -> Pair:
        return (x, y * 300) if 110 <= step < 113 else (x, y)

    return program(waves(g), g, model, adam(model), functional.mse_loss, alter=alter)


class Stuck(Batches):
    """A loader whose iterator is made anew for every batch: always the first one."""

    def __iter__(self) -> Any:
        pair = next(super().__iter__())
        for _ in range(10**6):
            yield pair[0].clone(), pair[1].clone()


@case(
    "same-batch-mlp",
    kind="mlp",
    source="TrainCheck (Jiang et al., OSDI 2025): workers of the same seed repeat their data",
    part="tune",
    symptoms={Symptom.SILENT_CONFIG_ERROR},
    causes={"repeated-batch"},
    twin="mlp-adam",
)
def same_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10])
    task = digits()
    batches = Stuck(task.x, task.y, 32, g, shuffle=False)
    return Setup(
        model=model,
        optimizer=adam(model),
        loss_fn=functional.cross_entropy,
        batches=batches,
        score=task.score,
    )


@case(
    "same-batch-cnn",
    kind="cnn",
    source="Islam et al., ESEC/FSE 2019: next(iter(loader)) inside the loop",
    part="report",
    symptoms={Symptom.SILENT_CONFIG_ERROR},
    causes={"repeated-batch"},
    twin="cnn-bn-sgd",
)
def same_cnn(g: torch.Generator) -> Setup:
    model = cnn()
    task = digits(image=True)
    batches = Stuck(task.x, task.y, 64, g, shuffle=False)
    return Setup(
        model=model,
        optimizer=sgd(model, 0.02),
        loss_fn=functional.cross_entropy,
        batches=batches,
        score=task.score,
    )


@case(
    "sorted-labels-mlp",
    kind="mlp",
    source="stats.stackexchange 352036: data in the order of their classes",
    part="tune",
    symptoms={
        Symptom.OSCILLATING_LOSS,
        Symptom.LOSS_SPIKE,
        Symptom.SILENT_CONFIG_ERROR,
        Symptom.NO_LEARNING,
    },
    causes={"unshuffled-data", "constant-labels"},
    twin="mlp-sgd",
)
def sorted_mlp(g: torch.Generator) -> Setup:
    task = digits()
    order = task.y.argsort(stable=True)
    task.x, task.y = task.x[order], task.y[order]
    model = mlp([64, 64, 10])
    return program(task, g, model, sgd(model, 0.05), shuffle=False)


@case(
    "sorted-labels-cnn",
    kind="cnn",
    source="Humbatova et al., ICSE 2020, taxonomy: missing shuffling",
    part="report",
    symptoms={
        Symptom.OSCILLATING_LOSS,
        Symptom.LOSS_SPIKE,
        Symptom.SILENT_CONFIG_ERROR,
        Symptom.NO_LEARNING,
    },
    causes={"unshuffled-data", "constant-labels"},
    twin="cnn-plain-adam",
)
def sorted_cnn(g: torch.Generator) -> Setup:
    task = digits(image=True)
    order = task.y.argsort(stable=True)
    task.x, task.y = task.x[order], task.y[order]
    model = cnn(norm=False)
    return program(task, g, model, adam(model, 2e-3), shuffle=False, size=48)


@case(
    "data-shift-mlp",
    kind="mlp",
    source="Humbatova et al., ICSE 2020, taxonomy: training data of different preprocessing",
    part="tune",
    symptoms={
        Symptom.LOSS_SPIKE,
        Symptom.DIVERGENCE,
        Symptom.EXPLODING_GRADIENT,
        Symptom.SILENT_CONFIG_ERROR,
    },
    causes={"data-shift", "loss-spike", "inputs-not-normalised"},
    twin="mlp-adam",
)
def shift_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10])

    def alter(step: int, x: Tensor, y: Tensor) -> Pair:
        return (x * 16 + 30, y) if step >= 100 else (x, y)

    return on_digits(g, model, adam(model), alter=alter)


@case(
    "data-shift-transformer",
    kind="transformer",
    source="PaLM (Chowdhery et al. 2022, arXiv:2204.02311): another source of data mid-run",
    part="report",
    symptoms={Symptom.LOSS_SPIKE, Symptom.DIVERGENCE, Symptom.SILENT_CONFIG_ERROR},
    causes={"data-shift", "loss-spike"},
    twin="gpt-adamw",
)
def shift_transformer(g: torch.Generator) -> Setup:
    noise = torch.Generator().manual_seed(g.initial_seed())

    def alter(step: int, x: Tensor, y: Tensor) -> Pair:
        if step < 130:
            return x, y
        tokens = torch.randint(x.max().item() + 1, (*x.shape,), generator=noise)
        return tokens, tokens.roll(-1, 1)

    return language(g, partial(adamw, lr=2e-3), alter=alter)
