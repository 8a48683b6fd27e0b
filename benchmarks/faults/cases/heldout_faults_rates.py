"""Faults that nobody has tuned on: learning rates, settings of optimizers, schedules."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop, lr_scheduler

from faults.cases import heldout_models as models
from faults.cases.heldout_faults_start import BLOWN, DEAD, FLAT, STIFF
from faults.cases.heldout_programs import (
    Generator,
    heldout,
    on_both,
    on_customers,
    on_discs,
    on_friedman,
    on_gratings,
    on_histogram,
    on_majority,
    on_sensors,
    on_shapes,
    on_signals,
    on_translation,
    pixel_loss,
)
from faults.registry import Setup, plain_step
from trimtab.findings import Symptom

HIGH = {"learning-rate-too-high"}
LOW = {"learning-rate-too-low"}


# Learning rates


@heldout(
    "held-rate-twenty-gru",
    kind="rnn",
    source="Humbatova et al. 2020: suboptimal learning rate; a rate of 20 for SGD",
    symptoms=BLOWN | STIFF,
    causes=HIGH | {"saturated-units"},
    twin="held-majority-gru",
)
def rate_gru(g: Generator) -> Setup:
    return on_majority(g, partial(SGD, lr=20.0, momentum=0.9))


@heldout(
    "held-rate-one-adam-sensors",
    kind="autoencoder",
    source="DeepFD (Cao et al. 2022): improper learning rate; Adam at 1, as if it were SGD",
    symptoms=BLOWN | DEAD,
    causes=HIGH | {"dead-units"},
    twin="held-sensors",
)
def rate_sensors(g: Generator) -> Setup:
    return on_sensors(g, partial(Adam, lr=1.0))


@heldout(
    "held-rate-tenth-transformer",
    kind="transformer",
    source="Popel & Bojar 2018: a transformer's rate too high, and no warm-up",
    symptoms=BLOWN | STIFF,
    causes=HIGH | {"no-warmup", "attention-logits", "dead-units"},
    twin="held-transformer",
)
def rate_transformer(g: Generator) -> Setup:
    return on_translation(g, partial(AdamW, lr=0.2), net=models.Transformer())


@heldout(
    "held-rate-oscillating-friedman",
    kind="regression",
    source="AutoTrainer (Zhang et al. 2021): oscillating loss",
    symptoms=BLOWN | DEAD,
    causes=HIGH,
    twin="held-friedman",
)
def rate_friedman(g: Generator) -> Setup:
    return on_friedman(g, partial(SGD, lr=0.6))


@heldout(
    "held-rate-tiny-shapes",
    kind="cnn",
    source="AutoTrainer (Zhang et al. 2021): slow convergence",
    symptoms=FLAT,
    causes=LOW,
    twin="held-shapes",
)
def rate_shapes(g: Generator) -> Setup:
    return on_shapes(g, partial(SGD, lr=1e-5, momentum=0.9))


@heldout(
    "held-rate-tiny-translator",
    kind="rnn",
    source="DeepFD (Cao et al. 2022): improper learning rate; 1e-6 for Adam, as for fine-tuning",
    symptoms=FLAT,
    causes=LOW,
    twin="held-translator",
)
def rate_translator(g: Generator) -> Setup:
    return on_translation(g, partial(Adam, lr=1e-6))


@heldout(
    "held-rate-small-adagrad",
    kind="autoencoder",
    source="Adagrad with Adam's habitual rate of 1e-3: its steps shrink from there",
    symptoms=FLAT,
    causes=LOW,
    twin="held-sensors",
)
def rate_adagrad(g: Generator) -> Setup:
    return on_sensors(g, partial(Adagrad, lr=1e-4))


@heldout(
    "held-rate-for-mean-but-sum",
    kind="cnn",
    source="a common slip: reduction='sum' over pixels, with the rate that suited the mean",
    symptoms=BLOWN | DEAD,
    causes=HIGH | {"summed-loss", "exploding-gradient", "dead-units"},
    twin="held-discs",
)
def rate_summed(g: Generator) -> Setup:
    def summed(logits: Tensor, y: Tensor) -> Tensor:
        return pixel_loss(logits, y) * y.numel()

    return on_discs(g, partial(SGD, lr=0.05, momentum=0.9), loss_fn=summed)


# Settings of optimizers


@heldout(
    "held-maximize-left-on",
    kind="regression",
    source="torch.optim: maximize=True, left from a program of reinforcement learning",
    symptoms=BLOWN | FLAT,
    causes={"gradient-ascent", "unbounded-loss"},
    ends_in="divergence",
    twin="held-friedman",
)
def maximize(g: Generator) -> Setup:
    return on_friedman(g, partial(Adam, lr=1e-3, maximize=True))


@heldout(
    "held-momentum-of-three-nines",
    kind="cnn",
    source="Goh 2017: why momentum really works; 0.999 where 0.9 was meant",
    symptoms=BLOWN | DEAD,
    causes={"momentum-too-high"} | HIGH,
    twin="held-shapes",
)
def momentum_nines(g: Generator) -> Setup:
    return on_shapes(g, partial(SGD, lr=0.03, momentum=0.999))


@heldout(
    "held-decay-of-one-in-adam",
    kind="multilabel",
    source="Loshchilov & Hutter 2019: decay as a gradient; 1 where 1e-4 is usual",
    symptoms=FLAT | {Symptom.VANISHING_GRADIENT},
    causes={"decay-too-strong"},
    twin="held-both",
)
def decay_adam(g: Generator) -> Setup:
    return on_both(g, partial(Adam, lr=5e-3, weight_decay=1.0))


@heldout(
    "held-decay-half-sgd-shapes",
    kind="cnn",
    source="Humbatova et al. 2020: suboptimal regularisation; 0.5 where 5e-4 was meant",
    symptoms=FLAT | {Symptom.VANISHING_GRADIENT, Symptom.DEAD_UNITS},
    causes={"decay-too-strong"},
    twin="held-shapes",
)
def decay_sgd(g: Generator) -> Setup:
    return on_shapes(g, partial(SGD, lr=0.03, momentum=0.9, weight_decay=0.5))


@heldout(
    "held-epsilon-of-ten-rmsprop",
    kind="rnn",
    source="Choi et al. 2019: epsilon is a setting like others; 10 in place of 1e-10",
    symptoms=FLAT,
    causes={"epsilon-too-large"} | LOW,
    twin="held-majority-gru",
)
def epsilon_rmsprop(g: Generator) -> Setup:
    return on_majority(g, partial(RMSprop, lr=3e-3, eps=10.0))


@heldout(
    "held-optimizer-has-head-only",
    kind="rnn",
    source="a common slip of seq2seq: of encoder, decoder and head, only one is optimized",
    symptoms=FLAT,
    causes={"parameters-without-optimizer", "stale-parameters", "no-gradient"},
    twin="held-translator",
)
def head_only(g: Generator) -> Setup:
    net = models.Translator()

    def make(_: object) -> torch.optim.Optimizer:
        return Adam(net.out.parameters(), lr=5e-3)

    return on_translation(g, make, net=net)


# Schedules


@heldout(
    "held-exponential-per-batch",
    kind="cnn",
    source="a common slip: ExponentialLR(gamma=0.8) stepped each batch, not each epoch",
    symptoms=FLAT,
    causes={"schedule-ends-early"} | LOW,
    twin="held-signals",
)
def exponential(g: Generator) -> Setup:
    schedule = partial(lr_scheduler.ExponentialLR, gamma=0.8)
    return on_signals(g, schedule=schedule)


@heldout(
    "held-warmup-longer-than-run",
    kind="transformer",
    source="Mosbach et al. 2021; BERT's 10,000 steps of warm-up kept for a run of 200",
    symptoms=FLAT,
    causes=LOW | {"schedule-not-stepped", "schedule-ends-early"},
    twin="held-histogram",
)
def warmup_long(g: Generator) -> Setup:
    schedule = partial(lr_scheduler.LinearLR, start_factor=1e-4, total_iters=10_000)
    return on_histogram(g, schedule=schedule)


@heldout(
    "held-plateau-per-batch",
    kind="classification",
    source="a common slip: ReduceLROnPlateau(patience=0) on the loss of each batch",
    symptoms=FLAT,
    causes={"schedule-ends-early", "zero-learning-rate"} | LOW,
    twin="held-mixer",
)
def plateau(g: Generator) -> Setup:
    schedulers: list[Any] = []

    def make(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = AdamW(parameters, lr=3e-3)
        schedulers.append(lr_scheduler.ReduceLROnPlateau(optimizer, patience=0))
        return optimizer

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        loss = plain_step(model, optimizer, loss_fn, x, y)
        schedulers[0].step(loss.item())
        return loss

    return on_gratings(g, make, train_step=step)


@heldout(
    "held-range-test-left-in",
    kind="binary",
    source="Smith 2017: a range test's rates up to ten, kept for training",
    symptoms=BLOWN | DEAD,
    causes=HIGH | {"learning-rate-jump", "dead-units", "loss-spike"},
    twin="held-customers",
)
def range_test(g: Generator) -> Setup:
    def schedule(optimizer: torch.optim.Optimizer) -> Any:
        return lr_scheduler.CyclicLR(optimizer, 1e-4, 10.0, step_size_up=90, cycle_momentum=False)

    return on_customers(g, schedule=schedule)
