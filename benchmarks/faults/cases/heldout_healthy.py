"""Healthy programs that nobody has tuned on: twins of the faults, and some that look ill."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop, lr_scheduler

from faults.cases import heldout_models as models
from faults.cases import heldout_tasks as tasks
from faults.cases.heldout_programs import (
    heldout,
    on_averages,
    on_both,
    on_customers,
    on_discs,
    on_friedman,
    on_graph,
    on_gratings,
    on_histogram,
    on_majority,
    on_pairs,
    on_rings,
    on_sensors,
    on_shapes,
    on_signals,
    on_translation,
    put_together,
    taught,
)
from faults.common import clipped, warmup_cosine
from faults.registry import Setup

Generator = torch.Generator


@heldout("held-shapes", kind="cnn", source="a plain convolutional network, SGD with momentum")
def shapes(g: Generator) -> Setup:
    return on_shapes(g)


@heldout("held-shapes-large-rate", kind="cnn", source="Ioffe & Szegedy 2015: norms bear it")
def large_rate(g: Generator) -> Setup:
    make = partial(SGD, lr=0.4, momentum=0.9, weight_decay=1e-4)
    schedule = partial(lr_scheduler.CosineAnnealingLR, T_max=200)
    return on_shapes(g, make, net=models.shapes_vgg(), schedule=schedule)


@heldout("held-mixer", kind="classification", source="Tolstikhin et al. 2021, in small")
def mixer(g: Generator) -> Setup:
    return on_gratings(g)


@heldout("held-signals", kind="cnn", source="convolutions in time with group norm (Wu & He 2018)")
def signals(g: Generator) -> Setup:
    return on_signals(g)


@heldout("held-deep-relu", kind="mlp", source="He et al. 2015: six hidden layers begun as they say")
def deep_relu(g: Generator) -> Setup:
    return on_rings(g)


@heldout("held-deep-residual", kind="mlp", source="Xiong et al. 2020: 24 blocks, norms in front")
def deep_residual(g: Generator) -> Setup:
    return on_rings(g, net=models.Highway())


@heldout("held-customers", kind="binary", source="Guo & Berkhahn 2016: embeddings of categories")
def customers(g: Generator) -> Setup:
    schedule = partial(lr_scheduler.OneCycleLR, max_lr=2e-2, total_steps=201)
    return on_customers(g, schedule=schedule)


@heldout("held-majority-gru", kind="rnn", source="Cho et al. 2014: a GRU over tokens, RMSprop")
def majority(g: Generator) -> Setup:
    return on_majority(g)


@heldout("held-opinions-lstm", kind="binary", source="words that turn others; a plateau")
def opinions(g: Generator) -> Setup:
    net = models.Reader("LSTM", 40, 1, dropout=0.2)
    loss = functional.binary_cross_entropy_with_logits
    return put_together(g, tasks.opinions(g), net, partial(Adam, lr=1e-2), loss)


@heldout("held-identity-rnn", kind="rnn", source="Le et al. 2015: clipped as Pascanu et al. 2013")
def identity_rnn(g: Generator) -> Setup:
    return on_averages(g)


@heldout("held-translator", kind="rnn", source="Luong et al. 2015: attention and teacher forcing")
def translator(g: Generator) -> Setup:
    return on_translation(g)


@heldout("held-transformer", kind="transformer", source="Vaswani et al. 2017, with a warm-up")
def transformer(g: Generator) -> Setup:
    make = partial(AdamW, lr=5e-3, betas=(0.9, 0.98))
    return on_translation(g, make, net=models.Transformer(), schedule=warmup_cosine(warmup=40))


@heldout("held-histogram", kind="transformer", source="Weiss et al. 2021: tokens that are counted")
def histogram(g: Generator) -> Setup:
    return on_histogram(g)


@heldout("held-histogram-clipped", kind="transformer", source="SGD, clipped nearly each step")
def histogram_clipped(g: Generator) -> Setup:
    make = partial(SGD, lr=0.3, momentum=0.9)
    net = models.Tallier(dropout=0.05)
    return on_histogram(g, make, net=net, train_step=clipped(0.25))


@heldout("held-friedman", kind="regression", source="Friedman 1991, SGD with momentum")
def friedman(g: Generator) -> Setup:
    return on_friedman(g)


@heldout("held-friedman-four", kind="regression", source="batches of four: noise")
def friedman_four(g: Generator) -> Setup:
    return on_friedman(g, partial(SGD, lr=0.01, momentum=0.5), size=4)


@heldout("held-sensors", kind="autoencoder", source="Vincent et al. 2008; summed over what is read")
def sensors(g: Generator) -> Setup:
    return on_sensors(g)


@heldout("held-both", kind="multilabel", source="Caruana 1997: two tasks share a body")
def both(g: Generator) -> Setup:
    return on_both(g)


@heldout("held-discs", kind="cnn", source="Ronneberger et al. 2015, in small; one pixel in ten")
def discs(g: Generator) -> Setup:
    return on_discs(g)


@heldout("held-pairs", kind="mlp", source="Hadsell et al. 2006: most pairs soon have no loss")
def pairs(g: Generator) -> Setup:
    return on_pairs(g)


@heldout("held-graph", kind="classification", source="Kipf & Welling 2017: one batch in all")
def graph(g: Generator) -> Setup:
    return on_graph(g)


@heldout("held-dropout-heavy", kind="mlp", source="Srivastava et al. 2014: two in three go")
def dropout_heavy(g: Generator) -> Setup:
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(144, 256), nn.ReLU(), nn.Dropout(0.65),
        nn.Linear(256, 128), nn.ReLU(), nn.Dropout(0.65), nn.Linear(128, 5),
    )  # fmt: skip
    return on_shapes(g, partial(RMSprop, lr=2e-3), net=net)


@heldout("held-finetune", kind="finetuning", source="all but the last layers frozen, a low rate")
def finetune(g: Generator) -> Setup:
    net = taught(g)
    nn.init.zeros_(net[-1].weight)  # a new head that begins by saying nothing
    net[:6].requires_grad_(requires_grad=False)
    return on_shapes(g, partial(Adagrad, lr=5e-2), net=net)


@heldout("held-gratings-sine", kind="cnn", source="Sitzmann et al. 2020: sines, and no other bend")
def sines(g: Generator) -> Setup:
    class Sine(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(x)

    net = nn.Sequential(
        nn.Conv2d(1, 12, 5, 2, 2), Sine(), nn.Conv2d(12, 24, 3, 2, 1), Sine(),
        nn.Flatten(), nn.Linear(384, 6),
    )  # fmt: skip
    return on_gratings(g, partial(SGD, lr=0.1, momentum=0.9, nesterov=True), net=net)
