"""Learning rates that are too high, too low, or scheduled wrongly."""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.optim import lr_scheduler

from faults.common import adam, adamw, language, on_digits, program, sgd
from faults.data import adding, diabetes, vocabulary, waves
from faults.models import LanguageModel, Recurrent, RowEncoder, cnn, mlp
from faults.registry import Setup, case
from trimtab.findings import Symptom

HIGH = {"learning-rate-too-high"}
LOW = {"learning-rate-too-low"}
BLOWN = {Symptom.DIVERGENCE, Symptom.NAN, Symptom.OSCILLATING_LOSS, Symptom.EXPLODING_GRADIENT}
STALE = {Symptom.NO_LEARNING, Symptom.SLOW_CONVERGENCE, Symptom.SILENT_CONFIG_ERROR}
AUTOTRAINER = "AutoTrainer (Zhang et al., ICSE 2021), Table 1"
DEEPDIAGNOSIS = "DeepDiagnosis (Wardat et al., ICSE 2022)"


@case(
    "rate-too-high-sgd-mlp",
    kind="mlp",
    source="DeepLocalize (Wardat et al., ICSE 2021), StackOverflow 48385830: SGD with rate 3.0",
    part="tune",
    symptoms=BLOWN | {Symptom.NO_LEARNING},
    causes=HIGH,
    twin="mlp-sgd",
)
def sgd_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10])
    return on_digits(g, model, sgd(model, 3.0, 0.0))


@case(
    "rate-too-high-adam-mlp",
    kind="mlp",
    source="Humbatova et al., ICSE 2020, taxonomy: suboptimal learning rate",
    part="report",
    symptoms=BLOWN | {Symptom.NO_LEARNING},
    causes=HIGH,
    twin="mlp-gelu-layernorm",
)
def adam_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 64, 10], nn.GELU)
    return on_digits(g, model, adam(model, 0.3))


@case(
    "rate-too-high-adam-cnn",
    kind="cnn",
    source=f"{AUTOTRAINER}: oscillating loss, dying ReLU",
    part="tune",
    symptoms=BLOWN | {Symptom.NO_LEARNING, Symptom.DEAD_UNITS},
    causes=HIGH,
    twin="cnn-plain-adam",
)
def adam_cnn(g: torch.Generator) -> Setup:
    model = cnn(norm=False)
    return on_digits(g, model, adam(model, 0.2), image=True)


@case(
    "rate-too-high-sgd-regression",
    kind="regression",
    source="StackOverflow 37232782, NaN loss when training regression network",
    part="report",
    symptoms={Symptom.DIVERGENCE, Symptom.NAN, Symptom.EXPLODING_GRADIENT},
    causes=HIGH,
    ends_in="nan",
    twin="regression-diabetes",
)
def sgd_regression(g: torch.Generator) -> Setup:
    model = mlp([10, 32, 32, 1])
    return program(diabetes(), g, model, sgd(model, 3.0), functional.mse_loss)


@case(
    "rate-too-high-sgd-waves",
    kind="regression",
    source="StackOverflow 40050397, common causes of NaNs during training",
    part="tune",
    symptoms={Symptom.DIVERGENCE, Symptom.NAN, Symptom.EXPLODING_GRADIENT},
    causes=HIGH,
    ends_in="nan",
    twin="regression-waves",
)
def sgd_waves(g: torch.Generator) -> Setup:
    model = mlp([4, 64, 64, 1], nn.GELU)
    return program(waves(g), g, model, sgd(model, 0.8), functional.mse_loss)


@case(
    "rate-too-high-transformer",
    kind="transformer",
    source="Wortsman et al. 2023, arXiv:2309.14322: sensitivity to the learning rate",
    part="tune",
    symptoms=BLOWN | {Symptom.NO_LEARNING, Symptom.SLOW_CONVERGENCE},
    causes=HIGH,
    twin="gpt-adamw",
)
def adam_transformer(g: torch.Generator) -> Setup:
    return language(g, partial(adamw, lr=0.1))


@case(
    "rate-too-high-encoder",
    kind="transformer",
    source="UMLAUT (Schoop et al., CHI 2021): high learning rate",
    part="report",
    symptoms=BLOWN | {Symptom.NO_LEARNING, Symptom.SLOW_CONVERGENCE},
    causes=HIGH,
    twin="encoder-rows",
)
def adam_encoder(g: torch.Generator) -> Setup:
    model = RowEncoder()
    return on_digits(g, model, adam(model, 0.2))


@case(
    "rate-too-high-lstm",
    kind="rnn",
    source="StackOverflow 43436966, gradient exploding when using RMSprop",
    part="report",
    symptoms=BLOWN | {Symptom.NO_LEARNING, Symptom.SATURATED_UNITS},
    causes=HIGH,
    twin="lstm-adding",
)
def rmsprop_lstm(g: torch.Generator) -> Setup:
    model = Recurrent("LSTM", 2, 32, 1)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.5)
    return program(adding(g), g, model, optimizer, functional.mse_loss)


@case(
    "rate-too-low-mlp",
    kind="mlp",
    source=f"{AUTOTRAINER}: slow convergence",
    part="tune",
    symptoms=STALE,
    causes=LOW,
    twin="mlp-sgd",
)
def low_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10])
    return on_digits(g, model, sgd(model, 1e-6))


@case(
    "rate-too-low-transformer",
    kind="transformer",
    source="UMLAUT (Schoop et al., CHI 2021): low learning rate",
    part="report",
    symptoms=STALE,
    causes=LOW,
    twin="gpt-adamw",
)
def low_transformer(g: torch.Generator) -> Setup:
    return language(g, partial(adamw, lr=1e-7))


@case(
    "rate-too-low-cnn",
    kind="cnn",
    source="DeepLocalize (Wardat et al., ICSE 2021), StackOverflow 55328966: rate 1e-4 with SGD",
    part="report",
    symptoms=STALE,
    causes=LOW,
    twin="cnn-plain-adam",
)
def low_cnn(g: torch.Generator) -> Setup:
    model = cnn(norm=False)
    return on_digits(g, model, adam(model, 1e-6), image=True)


@case(
    "rate-too-low-lstm",
    kind="rnn",
    source="DeepLocalize (Wardat et al., ICSE 2021), StackOverflow 34311586: SGD at 0.001",
    part="tune",
    symptoms=STALE,
    causes=LOW,
    twin="lstm-adding",
)
def low_lstm(g: torch.Generator) -> Setup:
    model = Recurrent("LSTM", 2, 32, 1)
    return program(adding(g), g, model, sgd(model, 1e-5, 0.0), functional.mse_loss)


@case(
    "zero-rate-mlp",
    kind="mlp",
    source="TrainCheck (Jiang et al., OSDI 2025): an optimizer step that changes no parameter",
    part="tune",
    symptoms=STALE,
    causes={"zero-learning-rate"},
    twin="mlp-sgd",
)
def zero_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10])
    return on_digits(g, model, sgd(model, 0.0))


@case(
    "zero-rate-integer-division",
    kind="rnn",
    source="Humbatova et al., ICSE 2020, taxonomy: wrong learning rate (an integer division)",
    part="report",
    symptoms=STALE,
    causes={"zero-learning-rate", "schedule-ends-early"},
    twin="lstm-adding",
)
def zero_lstm(g: torch.Generator) -> Setup:
    model = Recurrent("LSTM", 2, 32, 1)
    optimizer = adam(model, 5e-3)
    decay = lr_scheduler.LambdaLR(optimizer, lambda step: 1 // (step + 1))
    return program(adding(g), g, model, optimizer, functional.mse_loss, scheduler=decay)


@case(
    "schedule-per-batch-cnn",
    kind="cnn",
    source="TheDeepChecker (Ben Braiek & Khomh 2023): parameter updates too small",
    part="tune",
    symptoms=STALE,
    causes={"schedule-ends-early"},
    twin="cnn-bn-sgd",
)
def per_batch_cnn(g: torch.Generator) -> Setup:
    model = cnn()
    optimizer = sgd(model, 0.01)
    decay = lr_scheduler.StepLR(optimizer, 3, 0.1)
    return on_digits(g, model, optimizer, image=True, scheduler=decay)


@case(
    "schedule-per-batch-transformer",
    kind="transformer",
    source="Humbatova et al., ICSE 2020, taxonomy: learning rate schedule per batch, not epoch",
    part="report",
    symptoms=STALE,
    causes={"schedule-ends-early"},
    twin="gpt-adamw",
)
def per_batch_transformer(g: torch.Generator) -> Setup:
    decay = partial(lr_scheduler.ExponentialLR, gamma=0.8)
    return language(g, partial(adamw, lr=1e-3), scheduler=decay)


def _ramp(step: int) -> float:
    return min(1.0, (step + 1) / 1000)


@case(
    "schedule-never-stepped-transformer",
    kind="transformer",
    source="Islam et al., ESEC/FSE 2019: missing API call in the training loop",
    part="tune",
    symptoms=STALE,
    causes=LOW | {"schedule-not-stepped"},
    twin="gpt-adamw",
)
def never_stepped(g: torch.Generator) -> Setup:
    def unstepped(optimizer: torch.optim.Optimizer) -> None:
        lr_scheduler.LambdaLR(optimizer, _ramp)

    return language(g, partial(adamw, lr=1e-3), scheduler=unstepped)


@case(
    "schedule-never-stepped-mlp",
    kind="mlp",
    source="Islam et al., ESEC/FSE 2019: missing API call in the training loop",
    part="report",
    symptoms=STALE,
    causes=LOW | {"schedule-not-stepped"},
    twin="mlp-adam",
)
def never_stepped_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10])
    optimizer = adam(model, 1e-3)
    lr_scheduler.LambdaLR(optimizer, _ramp)
    return on_digits(g, model, optimizer)


def _schedule_first(scheduler: Any) -> Any:
    def step(model: Any, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> torch.Tensor:
        scheduler.step()
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


@case(
    "scheduler-before-optimizer-mlp",
    kind="mlp",
    source="PyTorch's own UserWarning since 1.1; michuanhaohao/reid-strong-baseline issue 190",
    part="tune",
    symptoms={Symptom.SILENT_CONFIG_ERROR},
    causes={"scheduler-before-optimizer"},
    twin="mlp-adam",
    silent=True,
)
def first_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10])
    optimizer = adam(model, 1e-3)
    step = _schedule_first(lr_scheduler.CosineAnnealingLR(optimizer, 200))
    return on_digits(g, model, optimizer, train_step=step)


@case(
    "scheduler-before-optimizer-cnn",
    kind="cnn",
    source="PyTorch's own UserWarning since 1.1; DeepSpeed issue 1120",
    part="report",
    symptoms={Symptom.SILENT_CONFIG_ERROR},
    causes={"scheduler-before-optimizer"},
    twin="cnn-bn-sgd",
    silent=True,
)
def first_cnn(g: torch.Generator) -> Setup:
    model = cnn()
    optimizer = sgd(model, 0.05)
    step = _schedule_first(lr_scheduler.LambdaLR(optimizer, lambda s: 0.99**s))
    return on_digits(g, model, optimizer, image=True, train_step=step)


def _jump(at: int, factor: float) -> Any:
    return partial(lr_scheduler.LambdaLR, lr_lambda=lambda s: factor if s >= at else 1.0)


@case(
    "rate-jump-mlp",
    kind="mlp",
    source=f"{DEEPDIAGNOSIS}: unchanged weights and exploding tensors after a wrong rate",
    part="tune",
    symptoms=BLOWN | {Symptom.LOSS_SPIKE},
    causes=HIGH | {"learning-rate-jump"},
    ends_in="divergence",
    twin="mlp-sgd",
)
def jump_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10])
    optimizer = sgd(model, 0.05)
    return on_digits(g, model, optimizer, scheduler=_jump(100, 100.0)(optimizer))


@case(
    "rate-jump-transformer",
    kind="transformer",
    source="PaLM (Chowdhery et al. 2022, arXiv:2204.02311), loss spikes; a rate set too high",
    part="report",
    symptoms=BLOWN | {Symptom.LOSS_SPIKE},
    causes=HIGH | {"learning-rate-jump"},
    twin="gpt-adamw",
)
def jump_transformer(g: torch.Generator) -> Setup:
    return language(g, partial(adamw, lr=1e-3), scheduler=_jump(120, 300.0))


@case(
    "no-warmup-post-norm-encoder",
    kind="transformer",
    source="Xiong et al. 2020, arXiv:2002.04745: post-norm without warm-up",
    part="tune",
    symptoms=BLOWN | {Symptom.NO_LEARNING, Symptom.SLOW_CONVERGENCE, Symptom.VANISHING_GRADIENT},
    causes=HIGH | {"no-warmup", "vanishing-gradient"},
    twin="encoder-post-norm-warmup",
)
def no_warmup_encoder(g: torch.Generator) -> Setup:
    model = RowEncoder(depth=6, norm_first=False)
    return on_digits(g, model, adam(model, 1e-2))


@case(
    "no-warmup-post-norm-decoder",
    kind="transformer",
    source="Liu et al. 2020, arXiv:2004.08249: difficulty of training post-norm transformers",
    part="report",
    symptoms=BLOWN | {Symptom.NO_LEARNING, Symptom.SLOW_CONVERGENCE, Symptom.VANISHING_GRADIENT},
    causes=HIGH | {"no-warmup", "vanishing-gradient"},
    twin="gpt-post-norm-warmup",
)
def no_warmup_decoder(g: torch.Generator) -> Setup:
    model = LanguageModel(vocabulary(), depth=6, norm="post")
    return language(g, partial(adam, lr=5e-3), model=model)


def _rising(factor: float) -> Any:
    return partial(lr_scheduler.LambdaLR, lr_lambda=lambda s: factor**s)


@case(
    "rate-rises-mlp",
    kind="mlp",
    source="Smith 2017, arXiv:1506.01186: a range test of the rate, left running",
    part="tune",
    symptoms=BLOWN | {Symptom.LOSS_SPIKE},
    causes=HIGH | {"learning-rate-jump"},
    ends_in="divergence",
    twin="mlp-gelu-layernorm",
)
def rises_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10], nn.GELU)
    optimizer = sgd(model, 1e-3)
    return on_digits(g, model, optimizer, scheduler=_rising(1.06)(optimizer))


@case(
    "rate-rises-regression",
    kind="regression",
    source="Smith 2017, arXiv:1506.01186: a range test of the rate, left running",
    part="report",
    symptoms=BLOWN | {Symptom.LOSS_SPIKE},
    causes=HIGH | {"learning-rate-jump"},
    ends_in="nan",
    twin="regression-waves",
)
def rises_regression(g: torch.Generator) -> Setup:
    model = mlp([4, 64, 64, 1], nn.Tanh)
    optimizer = sgd(model, 1e-3)
    return program(
        waves(g), g, model, optimizer, functional.mse_loss, scheduler=_rising(1.05)(optimizer)
    )


@case(
    "rate-rises-cnn",
    kind="cnn",
    source="Smith 2017, arXiv:1506.01186: a range test of the rate, left running",
    part="report",
    symptoms=BLOWN | {Symptom.LOSS_SPIKE},
    causes=HIGH | {"learning-rate-jump"},
    ends_in="divergence",
    twin="cnn-plain-adam",
)
def rises_cnn(g: torch.Generator) -> Setup:
    model = cnn(norm=False, activation=nn.Tanh)
    optimizer = adam(model, 1e-4)
    return on_digits(g, model, optimizer, image=True, scheduler=_rising(1.06)(optimizer))
