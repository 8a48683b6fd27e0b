"""Faults that nobody has tuned on: outputs that do not suit the loss, and data."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW

from faults.cases import heldout_models as models
from faults.cases import heldout_tasks as tasks
from faults.cases.heldout_faults_start import BLOWN, DEAD, FLAT, STIFF
from faults.cases.heldout_programs import (
    Generator,
    friedman_net,
    heldout,
    on_both,
    on_customers,
    on_friedman,
    on_gratings,
    on_pairs,
    on_sensors,
    on_shapes,
    on_signals,
    on_translation,
    word_loss,
)
from faults.registry import Setup
from trimtab.findings import Symptom

MISFIT = {"output-loss-mismatch"}


# Outputs and losses


@heldout(
    "held-probabilities-into-nll",
    kind="cnn",
    source="PyTorch's manual of NLLLoss wants logarithms; given the softmax",
    symptoms=STIFF | BLOWN,
    causes=MISFIT | {"unbounded-loss"},
    twin="held-shapes",
)
def probabilities(g: Generator) -> Setup:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        return functional.nll_loss(out.softmax(1), y)

    return on_shapes(g, loss_fn=loss)


@heldout(
    "held-divergence-of-probabilities",
    kind="classification",
    source="PyTorch issue 5282: kl_div is given probabilities, not their logarithms",
    symptoms=STIFF | BLOWN,
    causes=MISFIT | {"unbounded-loss"},
    twin="held-mixer",
    silent=True,
)
def divergence(g: Generator) -> Setup:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        wanted = functional.one_hot(y, 6) * 0.9 + 0.1 / 6
        return functional.kl_div(out.softmax(1), wanted, reduction="batchmean")

    return on_gratings(g, loss_fn=loss)


@heldout(
    "held-sigmoid-twice-customers",
    kind="binary",
    source="a common slip: nn.Sigmoid in the model and BCEWithLogitsLoss",
    symptoms=STIFF,
    causes=MISFIT,
    twin="held-customers",
)
def sigmoid_twice(g: Generator) -> Setup:
    class Twice(models.Buyer):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).sigmoid()

    return on_customers(g, net=Twice())


@heldout(
    "held-sentences-and-words-transposed",
    kind="transformer",
    source="a common slip of seq2seq: targets (time, batch) flattened with outputs (batch, time)",
    symptoms=FLAT,
    causes={"labels-unrelated"},
    twin="held-transformer",
)
def transposed(g: Generator) -> Setup:
    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return word_loss(logits, y.T)

    return on_translation(g, partial(AdamW, lr=5e-3), net=models.Transformer(), loss_fn=loss)


@heldout(
    "held-value-against-row-of-values",
    kind="regression",
    source="PyTorch issue 16045: a loss between (batch, 1) and (batch,) is that of all with all",
    symptoms=FLAT,
    causes={"broadcasting-loss"},
    twin="held-friedman",
)
def broadcast(g: Generator) -> Setup:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        return (out - y.squeeze(1)).abs().mean()

    return on_friedman(g, partial(Adam, lr=3e-3), loss_fn=loss)


@heldout(
    "held-contrast-without-margin",
    kind="mlp",
    source="Hadsell et al. 2006, without the margin: the distance of different things has no bound",
    symptoms=BLOWN,
    causes={"unbounded-loss", "weights-grow", "exploding-gradient", "gradient-ascent"},
    twin="held-pairs",
)
def marginless(g: Generator) -> Setup:
    def loss(distance: Tensor, y: Tensor) -> Tensor:
        return ((1 - 2 * y) * distance.square()).mean()

    return on_pairs(g, partial(Adam, lr=3e-2), loss_fn=loss)


@heldout(
    "held-sigmoid-for-standardised-targets",
    kind="regression",
    source="DeepLocalize (Wardat et al. 2021): sigmoid at the end of a regression",
    symptoms=STIFF,
    causes=MISFIT | {"saturated-units"},
    twin="held-friedman",
)
def sigmoid_regression(g: Generator) -> Setup:
    return on_friedman(g, net=friedman_net().append(nn.Sigmoid()))


@heldout(
    "held-normalised-by-missing-reading",
    kind="autoencoder",
    source="a common slip: division by a norm that is zero for an empty row",
    symptoms={Symptom.NAN, Symptom.DIVERGENCE},
    causes={"nonfinite", "nonfinite-batch"},
    twin="held-sensors",
)
def zero_norm(g: Generator) -> Setup:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = models.filler()

        def forward(self, x: Tensor) -> Tensor:
            size = x.norm(dim=1, keepdim=True)
            return self.net(x / size) * size

    def alter(i: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        lost = torch.zeros(len(x), 1)
        lost[0] = float(i % 20 == 19)
        return x * (1 - lost), y

    return on_sensors(g, net=Normalised(), alter=alter)


# Data


@heldout(
    "held-features-of-any-scale",
    kind="regression",
    source="UMLAUT (Schoop et al. 2021): input data exceeds the usual limits",
    symptoms=BLOWN | DEAD,
    causes={"inputs-not-normalised", "learning-rate-too-high", "initial-loss"},
    twin="held-friedman",
)
def any_scale(g: Generator) -> Setup:
    task = tasks.friedman(g)
    scale = torch.tensor([1.0, 300.0, 0.01, 40.0, 1.0, 2000.0, 1.0, 0.1, 70.0, 1.0])
    return on_friedman(g, task=tasks.seen_as(task, lambda x: x * scale + 3 * scale))


@heldout(
    "held-missing-measurement",
    kind="binary",
    source="DeepFD (Cao et al. 2022), UMLAUT (Schoop et al. 2021): empty cells, read as NaN",
    symptoms={Symptom.NAN, Symptom.DIVERGENCE},
    causes={"nonfinite-batch", "nonfinite"},
    twin="held-customers",
)
def missing(g: Generator) -> Setup:
    task = tasks.customers(g)
    x = task.x.clone()
    x[::97, 4] = float("nan")
    return on_customers(g, task=tasks.altered(task, x=x))


@heldout(
    "held-gain-changes-on-the-way",
    kind="cnn",
    source="Sculley et al. 2015: data that change; a sensor's gain and offset from step 100 on",
    symptoms=BLOWN | DEAD,
    causes={"data-shift", "loss-spike"},
    twin="held-signals",
)
def gain(g: Generator) -> Setup:
    def alter(i: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return (x * 0.02 + 30.0, y) if i >= 100 else (x, y)

    return on_signals(g, alter=alter)


@heldout(
    "held-labels-shuffled-alone",
    kind="classification",
    source="Zhang et al. 2017: random labels; two loaders that shuffle on their own",
    symptoms=FLAT,
    causes={"labels-unrelated"},
    twin="held-mixer",
)
def shuffled(g: Generator) -> Setup:
    task = tasks.gratings(g)
    order = torch.randperm(len(task.y), generator=g)
    return on_gratings(g, task=tasks.altered(task, y=task.y[order]))


@heldout(
    "held-pixels-divided-to-zero",
    kind="cnn",
    source="Humbatova et al. 2020: wrong preprocessing; uint8 pixels // 255 are all zero",
    symptoms=DEAD,
    causes={"repeated-batch", "inputs-not-normalised", "constant-output"},
    twin="held-shapes",
)
def divided(g: Generator) -> Setup:
    return on_shapes(g, task=tasks.seen_as(tasks.shapes(g), torch.zeros_like))


@heldout(
    "held-sorted-by-figure",
    kind="cnn",
    source="Bengio 2012: examples in the order of their classes, read from folders",
    symptoms=BLOWN | FLAT,
    causes={"unshuffled-data", "constant-labels"},
    twin="held-shapes",
)
def in_order(g: Generator) -> Setup:
    task = tasks.shapes(g, count=4096)
    order = task.y.argsort(stable=True)
    sorted_task = tasks.altered(task, x=task.x[order], y=task.y[order])
    return on_shapes(g, task=sorted_task, shuffle=False)


@heldout(
    "held-value-in-thousands",
    kind="multilabel",
    source="Humbatova et al. 2020: missing preprocessing; one of two targets is in currency",
    symptoms=BLOWN | FLAT,
    causes={"targets-not-scaled", "initial-loss", "exploding-gradient"},
    twin="held-both",
)
def thousands(g: Generator) -> Setup:
    return on_both(g, task=tasks.both(g, scale=3000.0))


@heldout(
    "held-all-of-one-folder",
    kind="cnn",
    source="Humbatova et al. 2020: wrong labels; the loader takes the parent's folder as class",
    symptoms=FLAT,
    causes={"constant-labels"},
    twin="held-signals",
)
def one_folder(g: Generator) -> Setup:
    task = tasks.signals(g)
    return on_signals(g, task=tasks.altered(task, y=torch.zeros_like(task.y)))


@heldout(
    "held-raw-bytes-mixer",
    kind="classification",
    source="UMLAUT (Schoop et al. 2021): images as bytes of 0 to 255, without division or mean",
    symptoms=BLOWN | FLAT,
    causes={"inputs-not-normalised"},
    twin="held-mixer",
)
def raw_bytes(g: Generator) -> Setup:
    task = tasks.gratings(g)
    net = models.Mixer()
    return on_gratings(
        g,
        partial(SGD, lr=0.05, momentum=0.9),
        net=net,
        task=tasks.seen_as(task, lambda x: 127 + 40 * x),
    )


@heldout(
    "held-one-garbage-record",
    kind="regression",
    source="one record with a value of -1e6 where a reading is missing, as in old tables",
    symptoms=BLOWN | {Symptom.DEAD_UNITS},
    causes={"data-shift", "loss-spike", "inputs-not-normalised"},
    twin="held-friedman",
)
def garbage(g: Generator) -> Setup:
    def alter(i: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if i % 25 == 24:
            x = x.clone()
            x[0, 3] = -1e6
        return x, y

    return on_friedman(g, alter=alter)
