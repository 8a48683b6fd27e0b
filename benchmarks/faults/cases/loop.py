"""Loop bodies in which a line is missing, doubled or out of order."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from faults.common import adam, adamw, clipped, language, on_digits, program, sgd
from faults.data import adding, diabetes
from faults.models import Recurrent, RowEncoder, cnn, mlp
from faults.registry import Setup, case
from trimtab.findings import Symptom

KARPATHY = "Karpathy 2018, most common neural net mistakes, number 3"
FLAT = {Symptom.NO_LEARNING, Symptom.SILENT_CONFIG_ERROR, Symptom.SLOW_CONVERGENCE}
SILENT = {Symptom.SILENT_CONFIG_ERROR}
BLOWN = {
    Symptom.DIVERGENCE,
    Symptom.OSCILLATING_LOSS,
    Symptom.EXPLODING_GRADIENT,
    Symptom.NAN,
    Symptom.LOSS_SPIKE,
}


def never_zeroed(model: Any, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> Tensor:
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


@case(
    "missing-zero-grad-mlp",
    kind="mlp",
    source=f"{KARPATHY}; StackOverflow 60335387 (in TrainCheck, OSDI 2025)",
    part="tune",
    symptoms=BLOWN | SILENT | {Symptom.NO_LEARNING},
    causes={"missing-zero-grad"},
    twin="mlp-sgd",
)
def unzeroed_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10])
    return on_digits(g, model, sgd(model, 0.05, 0.0), train_step=never_zeroed)


@case(
    "missing-zero-grad-lstm",
    kind="rnn",
    source=f"{KARPATHY}; StackOverflow 48001598",
    part="report",
    symptoms=BLOWN | SILENT | {Symptom.NO_LEARNING, Symptom.SLOW_CONVERGENCE},
    causes={"missing-zero-grad"},
    twin="lstm-adding",
)
def unzeroed_lstm(g: torch.Generator) -> Setup:
    model = Recurrent("LSTM", 2, 32, 1)
    return program(
        adding(g), g, model, adam(model, 5e-3), functional.mse_loss, train_step=never_zeroed
    )


@case(
    "missing-zero-grad-transformer",
    kind="transformer",
    source="TrainCheck (Jiang et al., OSDI 2025): zero_grad left out",
    part="report",
    symptoms=BLOWN | SILENT | {Symptom.NO_LEARNING, Symptom.SLOW_CONVERGENCE},
    causes={"missing-zero-grad"},
    twin="gpt-adamw",
)
def unzeroed_transformer(g: torch.Generator) -> Setup:
    return language(g, partial(adamw, lr=3e-3), train_step=never_zeroed)


def zeroed_too_late(model: Any, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> Tensor:
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    return loss


def zeroed_by_model(model: Any, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> Tensor:
    loss = loss_fn(model(x), y)
    loss.backward()
    model.zero_grad(set_to_none=False)
    optimizer.step()
    return loss


@case(
    "zero-grad-before-step-mlp",
    kind="mlp",
    source="Islam et al., ESEC/FSE 2019: wrong order of API calls",
    part="tune",
    symptoms=FLAT,
    causes={"gradients-cleared", "no-gradient"},
    twin="mlp-adam",
)
def late_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10])
    return on_digits(g, model, adam(model), train_step=zeroed_too_late)


@case(
    "zero-grad-before-step-cnn",
    kind="cnn",
    source="Islam et al., ESEC/FSE 2019: wrong order of API calls",
    part="report",
    symptoms=FLAT | {Symptom.VANISHING_GRADIENT},
    causes={"gradients-cleared", "no-gradient"},
    twin="cnn-bn-sgd",
)
def late_cnn(g: torch.Generator) -> Setup:
    model = cnn()
    return on_digits(g, model, sgd(model, 0.05), image=True, train_step=zeroed_by_model)


def no_backward(model: Any, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> Tensor:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    optimizer.step()
    return loss


@case(
    "no-backward-regression",
    kind="regression",
    source="Islam et al., ESEC/FSE 2019: missing API call",
    part="tune",
    symptoms=FLAT,
    causes={"no-gradient", "step-without-backward"},
    twin="regression-diabetes",
)
def unpropagated(g: torch.Generator) -> Setup:
    model = mlp([10, 32, 1])
    return program(diabetes(), g, model, adam(model), functional.mse_loss, train_step=no_backward)


@case(
    "no-backward-encoder",
    kind="transformer",
    source="Islam et al., ESEC/FSE 2019: missing API call",
    part="report",
    symptoms=FLAT,
    causes={"no-gradient", "step-without-backward"},
    twin="encoder-rows",
)
def unpropagated_encoder(g: torch.Generator) -> Setup:
    model = RowEncoder()
    return on_digits(g, model, adam(model), train_step=no_backward)


def no_step(model: Any, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> Tensor:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    return loss


@case(
    "no-step-cnn",
    kind="cnn",
    source="DeepDiagnosis (Wardat et al., ICSE 2022): unchanged weights",
    part="tune",
    symptoms=FLAT,
    causes={"no-step"},
    twin="cnn-bn-sgd",
)
def unstepped_cnn(g: torch.Generator) -> Setup:
    model = cnn()
    return on_digits(g, model, sgd(model, 0.05), image=True, train_step=no_step)


@case(
    "no-step-lstm",
    kind="rnn",
    source="TrainCheck (Jiang et al., OSDI 2025): gradients that are never applied",
    part="report",
    symptoms=FLAT,
    causes={"no-step"},
    twin="lstm-adding",
)
def unstepped_lstm(g: torch.Generator) -> Setup:
    model = Recurrent("LSTM", 2, 32, 1)
    return program(adding(g), g, model, adam(model, 5e-3), functional.mse_loss, train_step=no_step)


def accumulating(every: int, *, divide: bool) -> Any:
    """Return a loop body that steps once in so many calls."""
    calls = iter(range(10**9))

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> Tensor:
        loss = loss_fn(model(x), y)
        (loss / every if divide else loss).backward()
        if next(calls) % every == every - 1:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    return step


@case(
    "undivided-accumulation-transformer",
    kind="transformer",
    source="axolotl issue 2262: loss and gradient norm grow with the accumulation steps",
    part="tune",
    symptoms=SILENT | BLOWN,
    causes={"undivided-accumulation"},
    twin="gpt-accumulation",
    silent=True,
)
def undivided_transformer(g: torch.Generator) -> Setup:
    return language(g, partial(adamw, lr=2e-3), size=8, train_step=accumulating(4, divide=False))


@case(
    "undivided-accumulation-cnn",
    kind="cnn",
    source="unslothai/unsloth pull request 1146 and the accumulation bug of 2024",
    part="report",
    symptoms=SILENT | BLOWN,
    causes={"undivided-accumulation", "learning-rate-too-high"},
    twin="cnn-bn-sgd",
    silent=True,
)
def undivided_cnn(g: torch.Generator) -> Setup:
    model = cnn()
    step = accumulating(8, divide=False)
    return on_digits(g, model, sgd(model, 0.05), image=True, size=16, train_step=step)


def scaled_and_clipped(max_norm: float, *, unscale: bool) -> Any:
    """Return a loop body with a loss scaler and clipping, in the right or the wrong order."""
    scaler = torch.amp.GradScaler("cpu")

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        scaler.scale(loss).backward()
        if unscale:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        scaler.step(optimizer)
        scaler.update()
        return loss

    return step


@case(
    "clip-before-unscale-mlp",
    kind="mlp",
    source="pytorch/examples issue 1196; milesial/Pytorch-UNet issue 468",
    part="tune",
    symptoms=FLAT,
    causes={"clip-before-unscale", "clip-always-active"},
    twin="mlp-scaler",
)
def clip_scaled_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10])
    step = scaled_and_clipped(1.0, unscale=False)
    return on_digits(g, model, sgd(model, 0.05), train_step=step)


@case(
    "clip-before-unscale-transformer",
    kind="transformer",
    source="victorchall/EveryDream2trainer pull request 175: clipping of scaled gradients",
    part="report",
    symptoms=FLAT,
    causes={"clip-before-unscale", "clip-always-active"},
    twin="gpt-adamw",
    silent=True,
)
def clip_scaled_transformer(g: torch.Generator) -> Setup:
    return language(g, partial(adamw, lr=2e-3), train_step=scaled_and_clipped(1.0, unscale=False))


@case(
    "clip-threshold-tiny-mlp",
    kind="mlp",
    source="TheDeepChecker (Ben Braiek & Khomh 2023): updates far too small",
    part="tune",
    symptoms=FLAT,
    causes={"clip-always-active"},
    twin="mlp-sgd",
)
def tiny_clip_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10])
    return on_digits(g, model, sgd(model, 0.05), train_step=clipped(1e-4))


@case(
    "clip-threshold-tiny-rnn",
    kind="rnn",
    source="Pascanu et al. 2013, arXiv:1211.5063: the threshold is set from the average norm",
    part="report",
    symptoms=FLAT,
    causes={"clip-always-active"},
    twin="rnn-orthogonal",
)
def tiny_clip_rnn(g: torch.Generator) -> Setup:
    model = Recurrent("GRU", 2, 32, 1)
    return program(
        adding(g), g, model, sgd(model, 0.1), functional.mse_loss, train_step=clipped(1e-3)
    )


def clipped_by_value(limit: float) -> Any:
    def step(model: Any, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), limit)
        optimizer.step()
        return loss

    return step


@case(
    "clip-by-value-tiny-cnn",
    kind="cnn",
    source="Humbatova et al., ICSE 2020, taxonomy: wrong gradient clipping",
    part="tune",
    symptoms=FLAT | {Symptom.VANISHING_GRADIENT},
    causes={"clip-always-active"},
    twin="cnn-plain-adam",
)
def value_cnn(g: torch.Generator) -> Setup:
    model = cnn(norm=False)
    step = clipped_by_value(1e-6)
    return on_digits(g, model, sgd(model, 0.05), image=True, train_step=step)


@case(
    "clip-by-value-tiny-encoder",
    kind="transformer",
    source="Humbatova et al., ICSE 2020, taxonomy: wrong gradient clipping",
    part="report",
    symptoms=FLAT | {Symptom.VANISHING_GRADIENT},
    causes={"clip-always-active"},
    twin="encoder-rows",
)
def value_encoder(g: torch.Generator) -> Setup:
    model = RowEncoder()
    return on_digits(g, model, sgd(model, 0.05), train_step=clipped_by_value(1e-5))


def rewrapped(model: Any, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> Tensor:
    optimizer.zero_grad()
    loss = torch.tensor(loss_fn(model(x), y).item(), requires_grad=True)
    loss.backward()
    optimizer.step()
    return loss


def of_detached(model: Any, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> Tensor:
    optimizer.zero_grad()
    out = model(x).detach().requires_grad_()
    loss = loss_fn(out, y)
    loss.backward()
    optimizer.step()
    return loss


@case(
    "loss-rewrapped-mlp",
    kind="mlp",
    source="Islam et al., ESEC/FSE 2019: the loss is cut from the graph",
    part="tune",
    symptoms=FLAT,
    causes={"no-gradient", "cut-loss"},
    twin="mlp-adam",
)
def rewrapped_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10])
    return on_digits(g, model, adam(model), train_step=rewrapped)


@case(
    "output-detached-gru",
    kind="rnn",
    source="Humbatova et al., ICSE 2020, taxonomy: wrong tensor in the backward pass",
    part="report",
    symptoms=FLAT,
    causes={"no-gradient", "cut-loss"},
    twin="gru-first-token",
)
def detached_gru(g: torch.Generator) -> Setup:
    model = Recurrent("GRU", 2, 32, 1)
    return program(
        adding(g), g, model, adam(model, 5e-3), functional.mse_loss, train_step=of_detached
    )
