"""Faults that were written without a look at the rules, as a stranger would test with."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop, lr_scheduler

from faults.cases.fresh_healthy import (
    BetaVae,
    Denoiser,
    Elman,
    LeNet,
    Ordinal,
    accumulation_program,
    all_conv,
    bce,
    conv_autoencoder,
    conv_autoencoder_program,
    denoising_program,
    diabetes,
    diabetes_net,
    diabetes_program,
    elman_program,
    factors_program,
    forecast_program,
    fresh,
    gan_program,
    lenet_program,
    linear_data,
    linear_program,
    load,
    loader,
    moons,
    moons_program,
    multilabel_program,
    patches_program,
    pictures,
    policy_program,
    regularised_net,
    reverse_program,
    scaled,
    spirals,
    transfer_program,
    triplet_program,
    two_groups,
    wine_program,
)
from faults.data import binary_score, class_score, regression_score
from faults.registry import Setup
from trimtab.findings import Symptom

STRANGER = "written for this corpus without a look at the rules"
BLOWN = {
    Symptom.DIVERGENCE,
    Symptom.NAN,
    Symptom.OSCILLATING_LOSS,
    Symptom.EXPLODING_GRADIENT,
    Symptom.LOSS_SPIKE,
}
FLAT = {Symptom.NO_LEARNING, Symptom.SLOW_CONVERGENCE, Symptom.SILENT_CONFIG_ERROR}
FADING = FLAT | {Symptom.VANISHING_GRADIENT}
STIFF = FADING | {Symptom.SATURATED_UNITS}
DEAD = FADING | {Symptom.DEAD_UNITS}
HIGH = {"learning-rate-too-high"}
LOW = {"learning-rate-too-low"}
fault = partial(fresh, source=STRANGER)


# Learning rates


@fault(
    "fresh-rate-fifty-moons",
    kind="binary",
    symptoms=BLOWN | DEAD,
    causes=HIGH,
    twin="fresh-moons",
)
def rate_fifty(g: torch.Generator) -> Setup:
    return moons_program(g, partial(SGD, lr=50.0))


@fault(
    "fresh-rate-two-momentum-lenet",
    kind="cnn",
    symptoms=BLOWN | DEAD,
    causes=HIGH,
    twin="fresh-lenet-momentum",
)
def rate_momentum(g: torch.Generator) -> Setup:
    return lenet_program(g, partial(SGD, lr=2.0, momentum=0.9))


@fault(
    "fresh-rate-half-adam-encoder",
    kind="transformer",
    symptoms=BLOWN | STIFF,
    causes=HIGH | {"attention-logits"},
    twin="fresh-reverse-encoder",
)
def rate_adam(g: torch.Generator) -> Setup:
    return reverse_program(g, partial(Adam, lr=0.5))


@fault(
    "fresh-rate-half-rmsprop-lenet",
    kind="cnn",
    symptoms=BLOWN | DEAD,
    causes=HIGH,
    twin="fresh-lenet",
)
def rate_rmsprop(g: torch.Generator) -> Setup:
    return lenet_program(g, partial(RMSprop, lr=0.5))


@fault(
    "fresh-rate-twenty-adagrad-factors",
    kind="regression",
    symptoms=BLOWN | FLAT,
    causes=HIGH,
    twin="fresh-matrix-factors-adagrad",
)
def rate_adagrad(g: torch.Generator) -> Setup:
    return factors_program(g, partial(Adagrad, lr=20.0))


@fault(
    "fresh-rate-unstable-linear",
    kind="regression",
    symptoms={Symptom.DIVERGENCE, Symptom.NAN, Symptom.EXPLODING_GRADIENT},
    causes=HIGH,
    ends_in="divergence",
    twin="fresh-linear-regression",
)
def rate_linear(g: torch.Generator) -> Setup:
    return linear_program(g, partial(SGD, lr=0.9))


@fault(
    "fresh-rate-summed-loss-diabetes",
    kind="regression",
    symptoms=BLOWN | FLAT,
    causes=HIGH | {"summed-loss"},
    twin="fresh-diabetes-huber",
)
def rate_summed(g: torch.Generator) -> Setup:
    loss = nn.HuberLoss(reduction="sum")
    return diabetes_program(g, partial(SGD, lr=0.1, momentum=0.9), loss_fn=loss)


@fault(
    "fresh-rate-tiny-adamw-vit",
    kind="transformer",
    symptoms=FLAT,
    causes=LOW,
    twin="fresh-vision-transformer",
)
def rate_tiny_adamw(g: torch.Generator) -> Setup:
    return patches_program(g, lambda net: AdamW(two_groups(net, 0.05), lr=1e-6))


@fault(
    "fresh-rate-tiny-sgd-linear",
    kind="regression",
    symptoms=FLAT,
    causes=LOW,
    twin="fresh-linear-regression",
)
def rate_tiny_sgd(g: torch.Generator) -> Setup:
    return linear_program(g, partial(SGD, lr=1e-6))


@fault(
    "fresh-rate-tiny-adam-gru",
    kind="rnn",
    symptoms=FLAT,
    causes=LOW,
    twin="fresh-gru-forecast",
)
def rate_tiny_adam(g: torch.Generator) -> Setup:
    return forecast_program(g, partial(Adam, lr=1e-7))


@fault(
    "fresh-rate-tiny-adagrad-factors",
    kind="regression",
    symptoms=FLAT,
    causes=LOW,
    twin="fresh-matrix-factors-adagrad",
)
def rate_tiny_adagrad(g: torch.Generator) -> Setup:
    return factors_program(g, partial(Adagrad, lr=1e-5))


@fault(
    "fresh-rate-spike-lenet",
    kind="cnn",
    symptoms=BLOWN | {Symptom.DEAD_UNITS, Symptom.NO_LEARNING, Symptom.SILENT_CONFIG_ERROR},
    causes=HIGH | {"learning-rate-jump", "loss-spike"},
    twin="fresh-lenet-momentum",
)
def rate_spike(g: torch.Generator) -> Setup:
    x, y = pictures()
    net = LeNet()
    optimizer = SGD(net.parameters(), lr=0.02, momentum=0.9)
    return Setup(
        model=net,
        optimizer=optimizer,
        loss_fn=nn.CrossEntropyLoss(),
        batches=loader(x, y, 64, g),
        scheduler=lr_scheduler.LambdaLR(optimizer, lambda i: 300.0 if 120 <= i < 130 else 1.0),
        score=class_score(x, y),
    )


@fault(
    "fresh-rate-grows-diabetes",
    kind="regression",
    symptoms=BLOWN,
    causes=HIGH | {"exploding-gradient"},
    ends_in="divergence",
    twin="fresh-diabetes-huber",
)
def rate_grows(g: torch.Generator) -> Setup:
    x, y = diabetes()
    net = nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 1))
    optimizer = SGD(net.parameters(), lr=0.01, momentum=0.9)
    return Setup(
        model=net,
        optimizer=optimizer,
        loss_fn=nn.MSELoss(),
        batches=loader(x, y, 32, g),
        scheduler=lr_scheduler.LambdaLR(optimizer, lambda i: 1.05**i),
        score=regression_score(x, y),
    )


@fault(
    "fresh-warmup-without-end",
    kind="cnn",
    symptoms=BLOWN | DEAD,
    causes=HIGH | {"exploding-gradient", "dead-units"},
    twin="fresh-all-conv-cosine",
)
def warmup_endless(g: torch.Generator) -> Setup:
    x, y = pictures()
    net = LeNet()
    optimizer = SGD(net.parameters(), lr=0.05, momentum=0.9)
    return Setup(
        model=net,
        optimizer=optimizer,
        loss_fn=nn.CrossEntropyLoss(),
        batches=loader(x, y, 64, g),
        scheduler=lr_scheduler.LambdaLR(optimizer, lambda i: (i + 1) / 10),
        score=class_score(x, y),
    )


@fault(
    "fresh-finetuning-rate-too-high",
    kind="finetuning",
    symptoms=BLOWN | DEAD,
    causes=HIGH,
    twin="fresh-transfer-two-rates",
)
def rate_finetuning(g: torch.Generator) -> Setup:
    return transfer_program(g, lambda net: SGD(net.parameters(), lr=2.0, momentum=0.9))


# Schedules


@fault(
    "fresh-step-schedule-per-batch",
    kind="classification",
    symptoms=FLAT,
    causes={"schedule-ends-early"} | LOW,
    twin="fresh-wine-rmsprop",
)
def schedule_per_batch(g: torch.Generator) -> Setup:
    x, y = scaled("wine")
    net = nn.Sequential(nn.Linear(13, 24), nn.Softplus(), nn.Linear(24, 3))
    optimizer = RMSprop(net.parameters(), lr=2e-3)
    return Setup(
        model=net,
        optimizer=optimizer,
        loss_fn=nn.CrossEntropyLoss(),
        batches=loader(x, y, 16, g),
        scheduler=lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.3),
        score=class_score(x, y),
    )


@fault(
    "fresh-scheduler-first",
    kind="cnn",
    symptoms={Symptom.SILENT_CONFIG_ERROR},
    causes={"scheduler-before-optimizer"},
    twin="fresh-all-conv-cosine",
    silent=True,
)
def scheduler_first(g: torch.Generator) -> Setup:
    x, y = pictures()
    net = all_conv()
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.99)

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        scheduler.step()
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return Setup(
        model=net,
        optimizer=optimizer,
        loss_fn=nn.CrossEntropyLoss(),
        batches=loader(x, y, 64, g),
        train_step=step,
        score=class_score(x, y),
    )


# Initialisation and depth


def deep(depth: int, act: type[nn.Module], std: float | None = None) -> nn.Sequential:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), act())
    for _ in range(depth):
        net.append(nn.Linear(40, 40)).append(act())
    net.append(nn.Linear(40, 10))
    if std is not None:
        for p in net.parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=std)
    return net


@fault(
    "fresh-deep-tanh-small-weights",
    kind="mlp",
    symptoms=FADING,
    causes={"vanishing-gradient", "unsuited-initialisation"},
    twin="fresh-batchnorm-dropout",
)
def deep_tanh(g: torch.Generator) -> Setup:
    return lenet_program(g, partial(SGD, lr=0.05, momentum=0.9), net=deep(14, nn.Tanh, 0.02))


@fault(
    "fresh-deep-sigmoid",
    kind="mlp",
    symptoms=STIFF,
    causes={"vanishing-gradient", "unsuited-initialisation", "saturated-units"},
    twin="fresh-batchnorm-dropout",
)
def deep_sigmoid(g: torch.Generator) -> Setup:
    return lenet_program(g, partial(SGD, lr=0.1), net=deep(9, nn.Sigmoid))


@fault(
    "fresh-unit-normal-weights-relu",
    kind="mlp",
    symptoms=BLOWN | DEAD,
    causes={"exploding-gradient", "unsuited-initialisation", "initial-loss"} | HIGH,
    twin="fresh-batchnorm-dropout",
)
def unit_normal(g: torch.Generator) -> Setup:
    return lenet_program(g, partial(SGD, lr=0.01), net=deep(5, nn.ReLU, 1.0))


@fault(
    "fresh-uniform-zero-one-weights",
    kind="cnn",
    symptoms=BLOWN | DEAD,
    causes={"exploding-gradient", "unsuited-initialisation", "initial-loss", "dead-units"} | HIGH,
    twin="fresh-lenet",
)
def uniform_weights(g: torch.Generator) -> Setup:
    net = LeNet()
    for p in net.parameters():
        nn.init.uniform_(p)
    return lenet_program(g, partial(SGD, lr=0.05), net=net)


@fault(
    "fresh-constant-weights-autoencoder",
    kind="autoencoder",
    symptoms=FLAT,
    causes={"identical-units", "unsuited-initialisation"},
    twin="fresh-denoising-autoencoder",
)
def constant_weights(g: torch.Generator) -> Setup:
    net = Denoiser()
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.weight, 0.05)
            nn.init.zeros_(layer.bias)
    return denoising_program(g, partial(Adam, lr=3e-3), net=net)


@fault(
    "fresh-zero-weights-spirals",
    kind="mlp",
    symptoms=FADING,
    causes={"identical-units", "unsuited-initialisation", "vanishing-gradient", "no-gradient"},
    twin="fresh-spirals",
)
def zero_weights(g: torch.Generator) -> Setup:
    x, y = spirals(g)
    net = nn.Sequential(nn.Linear(2, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 2))
    for p in net.parameters():
        nn.init.zeros_(p)
    return Setup(
        model=net,
        optimizer=Adam(net.parameters(), lr=1e-2),
        loss_fn=nn.CrossEntropyLoss(),
        batches=loader(x, y, 100, g),
        score=class_score(x, y),
    )


@fault(
    "fresh-dead-relu-bias",
    kind="cnn",
    symptoms=DEAD,
    causes={"dead-units", "unsuited-initialisation"},
    site=r"conv2|fc1",
    twin="fresh-lenet",
)
def dead_bias(g: torch.Generator) -> Setup:
    net = LeNet()
    nn.init.constant_(net.conv2.bias, -8.0)
    nn.init.constant_(net.fc1.bias, -3.0)
    return lenet_program(g, partial(Adam, lr=2e-3), net=net)


@fault(
    "fresh-elman-explodes",
    kind="rnn",
    symptoms=BLOWN | DEAD,
    causes={"exploding-gradient", "unsuited-initialisation", "initial-loss"} | HIGH,
    twin="fresh-elman-clipped",
)
def elman_explodes(g: torch.Generator) -> Setup:
    net = Elman(gain=1.8, relu=True)
    return elman_program(g, net, partial(SGD, lr=0.05), None)


@fault(
    "fresh-elman-forgets",
    kind="rnn",
    symptoms=FADING,
    causes={"vanishing-gradient", "unsuited-initialisation"},
    twin="fresh-elman-clipped",
)
def elman_forgets(g: torch.Generator) -> Setup:
    return elman_program(g, Elman(gain=0.05), partial(SGD, lr=0.05), 1.0)


@fault(
    "fresh-tanh-weights-of-four",
    kind="classification",
    symptoms=STIFF | BLOWN,
    causes={"saturated-units", "unsuited-initialisation", "initial-loss"},
    twin="fresh-batchnorm-dropout",
)
def saturated(g: torch.Generator) -> Setup:
    return lenet_program(g, partial(Adam, lr=2e-3), net=deep(2, nn.Tanh, 4.0))


# Inputs, targets and batches


@fault(
    "fresh-raw-features-cancer-sigmoid",
    kind="binary",
    symptoms=STIFF | BLOWN,
    causes={"inputs-not-normalised", "saturated-units"},
    twin="fresh-slow-steady-logistic",
)
def raw_cancer(g: torch.Generator) -> Setup:
    x, y = (torch.tensor(part, dtype=torch.float32) for part in load("breast_cancer"))
    y = y.view(-1, 1)
    net = nn.Sequential(nn.Linear(30, 16), nn.Sigmoid(), nn.Linear(16, 1))
    return Setup(
        model=net,
        optimizer=SGD(net.parameters(), lr=0.05),
        loss_fn=nn.BCEWithLogitsLoss(),
        batches=loader(x, y, 32, g),
        score=binary_score(x, y),
    )


@fault(
    "fresh-raw-features-wine-sgd",
    kind="classification",
    symptoms=BLOWN | DEAD,
    causes={"inputs-not-normalised", "initial-loss", "dead-units"} | HIGH,
    twin="fresh-wine-rmsprop",
)
def raw_wine(g: torch.Generator) -> Setup:
    x, y = load("wine")
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    net = nn.Sequential(nn.Linear(13, 24), nn.ReLU(), nn.Linear(24, 3))
    return Setup(
        model=net,
        optimizer=SGD(net.parameters(), lr=0.01, momentum=0.9),
        loss_fn=nn.CrossEntropyLoss(),
        batches=loader(x, y, 16, g),
        score=class_score(x, y),
    )


@fault(
    "fresh-raw-targets-diabetes",
    kind="regression",
    symptoms=FLAT | BLOWN,
    causes={"targets-not-scaled", "initial-loss"} | LOW,
    twin="fresh-diabetes-huber",
)
def raw_targets(g: torch.Generator) -> Setup:
    x, y = scaled("diabetes")
    y = y.float().view(-1, 1)
    net = diabetes_net()
    return Setup(
        model=net,
        optimizer=AdamW(net.parameters(), lr=3e-3),
        loss_fn=nn.MSELoss(),
        batches=loader(x, y, 32, g),
        score=regression_score(x, y),
    )


@fault(
    "fresh-targets-in-thousands-sgd",
    kind="regression",
    symptoms=BLOWN | DEAD,
    causes={"targets-not-scaled", "initial-loss", "exploding-gradient"} | HIGH,
    ends_in="nan",
    twin="fresh-linear-regression",
)
def huge_targets(g: torch.Generator) -> Setup:
    x, y = linear_data()
    y = y * 4000
    net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    net.append(nn.Linear(32, 1))
    return Setup(
        model=net,
        optimizer=SGD(net.parameters(), lr=0.01),
        loss_fn=nn.MSELoss(),
        batches=loader(x, y, 32, g),
        score=regression_score(x, y),
    )


@fault(
    "fresh-labels-off-by-one-row",
    kind="cnn",
    symptoms=FLAT,
    causes={"labels-unrelated"},
    twin="fresh-lenet",
)
def labels_rolled(g: torch.Generator) -> Setup:
    x, y = pictures()
    return lenet_program(g, partial(Adam, lr=2e-3), batches=loader(x, y.roll(1), 64, g))


@fault(
    "fresh-labels-shuffled-alone",
    kind="classification",
    symptoms=FLAT,
    causes={"labels-unrelated"},
    twin="fresh-wine-rmsprop",
)
def labels_shuffled(g: torch.Generator) -> Setup:
    x, y = scaled("wine")
    y = y[torch.randperm(len(y), generator=g)]
    return wine_program(g, partial(RMSprop, lr=2e-3), batches=loader(x, y, 16, g))


@fault(
    "fresh-labels-all-equal",
    kind="cnn",
    symptoms=FLAT,
    causes={"constant-labels"},
    twin="fresh-lenet",
)
def labels_equal(g: torch.Generator) -> Setup:
    x, y = pictures()
    return lenet_program(g, partial(Adam, lr=2e-3), batches=loader(x, (y > 10).long(), 64, g))


@fault(
    "fresh-labels-plus-minus-one-moons",
    kind="binary",
    symptoms={
        Symptom.SILENT_CONFIG_ERROR,
        Symptom.DIVERGENCE,
        Symptom.EXPLODING_GRADIENT,
        Symptom.NO_LEARNING,
        Symptom.NAN,
    },
    causes={"labels-out-of-range", "unbounded-loss"},
    ends_in="nan",
    twin="fresh-moons",
)
def labels_signed(g: torch.Generator) -> Setup:
    x, y = moons()
    setup = moons_program(g, partial(SGD, lr=0.1, momentum=0.9))
    return Setup(
        model=setup.model,
        optimizer=setup.optimizer,
        loss_fn=setup.loss_fn,
        batches=loader(x, y * 2 - 1, 50, g),
        score=setup.score,
    )


@fault(
    "fresh-labels-percent-autoencoder",
    kind="autoencoder",
    symptoms={
        Symptom.SILENT_CONFIG_ERROR,
        Symptom.DIVERGENCE,
        Symptom.EXPLODING_GRADIENT,
        Symptom.NO_LEARNING,
    },
    causes={"labels-out-of-range", "unbounded-loss", "targets-not-scaled"},
    twin="fresh-conv-autoencoder",
)
def pixels_unscaled(g: torch.Generator) -> Setup:
    x, _ = pictures()
    net = conv_autoencoder()
    return Setup(
        model=net,
        optimizer=Adam(net.parameters(), lr=3e-3),
        loss_fn=nn.BCEWithLogitsLoss(),
        batches=loader(x, x * 255, 32, g),
    )


@fault(
    "fresh-nan-in-one-row",
    kind="regression",
    symptoms={Symptom.NAN},
    causes={"nonfinite-batch"},
    twin="fresh-diabetes-huber",
)
def nan_row(g: torch.Generator) -> Setup:
    x, y = diabetes()
    x = x.clone()
    x[137, 4] = float("nan")
    return diabetes_program(g, partial(AdamW, lr=3e-3), batches=loader(x, y, 32, g))


class Disturbed:
    """A loader whose batch of a given number is disturbed, once in the program's life."""

    def __init__(self, batches: Any, at: int, factor: float) -> None:
        self.batches, self.at, self.factor, self.count = batches, at, factor, 0

    def __iter__(self) -> Iterator[Any]:
        for x, y in self.batches:
            self.count += 1
            yield (x * self.factor if self.count == self.at else x), y


@fault(
    "fresh-one-garbage-batch",
    kind="regression",
    symptoms=BLOWN | DEAD,
    causes={"loss-spike", "data-shift", "inputs-not-normalised"},
    twin="fresh-linear-regression",
)
def garbage_batch(g: torch.Generator) -> Setup:
    x, y = linear_data()
    batches = Disturbed(loader(x, y, 32, g), 110, 300.0)
    return linear_program(g, partial(SGD, lr=0.03), batches=batches)


class Repeated:
    """The first batch, again and again."""

    def __init__(self, batches: Any) -> None:
        self.first = next(iter(batches))

    def __iter__(self) -> Iterator[Any]:
        for _ in range(50):
            yield self.first


@fault(
    "fresh-next-iter-in-the-loop",
    kind="cnn",
    symptoms={Symptom.SILENT_CONFIG_ERROR},
    causes={"repeated-batch"},
    twin="fresh-lenet",
)
def repeated(g: torch.Generator) -> Setup:
    x, y = pictures()
    return lenet_program(g, partial(Adam, lr=2e-3), batches=Repeated(loader(x, y, 16, g)))


@fault(
    "fresh-sorted-by-class",
    kind="cnn",
    symptoms=FLAT | {Symptom.OSCILLATING_LOSS, Symptom.LOSS_SPIKE},
    causes={"unshuffled-data", "constant-labels", "data-shift"},
    twin="fresh-lenet",
)
def sorted_rows(g: torch.Generator) -> Setup:
    x, y = pictures()
    order = y.argsort(stable=True)
    batches = loader(x[order], y[order], 64, g, shuffle=False)
    return lenet_program(g, partial(Adam, lr=2e-3), batches=batches)


# Outputs and losses


@fault(
    "fresh-softmax-twice-lenet",
    kind="cnn",
    symptoms=FADING | {Symptom.SATURATED_UNITS},
    causes={"output-loss-mismatch"},
    twin="fresh-lenet",
)
def softmax_twice(g: torch.Generator) -> Setup:
    return lenet_program(g, partial(Adam, lr=2e-3), net=LeNet(softmax=True))


@fault(
    "fresh-sigmoid-twice-multilabel",
    kind="multilabel",
    symptoms=FADING | {Symptom.SATURATED_UNITS},
    causes={"output-loss-mismatch"},
    twin="fresh-multilabel-weighted",
)
def sigmoid_twice(g: torch.Generator) -> Setup:
    return multilabel_program(g, partial(Adam, lr=5e-3), sigmoid=True)


@fault(
    "fresh-broadcast-squared-error",
    kind="regression",
    symptoms=FLAT,
    causes={"broadcasting-loss"},
    twin="fresh-linear-regression",
)
def broadcast(g: torch.Generator) -> Setup:
    x, y = linear_data()

    def squared(out: Tensor, y: Tensor) -> Tensor:
        return ((out - y) ** 2).mean()

    batches = loader(x, y.squeeze(1), 32, g)
    return linear_program(g, partial(SGD, lr=0.03), loss_fn=squared, batches=batches)


@fault(
    "fresh-relu-last-regression",
    kind="regression",
    symptoms=DEAD,
    causes={"output-loss-mismatch", "dead-units"},
    twin="fresh-diabetes-huber",
)
def relu_last(g: torch.Generator) -> Setup:
    x, y = diabetes()
    net = diabetes_net().append(nn.ReLU())
    return Setup(
        model=net,
        optimizer=AdamW(net.parameters(), lr=3e-3),
        loss_fn=nn.HuberLoss(),
        batches=loader(x, y, 32, g),
        score=regression_score(x, y),
    )


@fault(
    "fresh-log-of-sigmoid-by-hand",
    kind="binary",
    symptoms={Symptom.NAN},
    causes={"nonfinite", "inputs-not-normalised"},
    twin="fresh-slow-steady-logistic",
)
def log_by_hand(g: torch.Generator) -> Setup:
    x, y = (torch.tensor(part, dtype=torch.float32) for part in load("breast_cancer"))

    def likelihood(out: Tensor, y: Tensor) -> Tensor:
        p = torch.sigmoid(out.squeeze(1))
        return -(y * torch.log(p) + (1 - y) * torch.log(1 - p)).mean()

    net = nn.Linear(30, 1)
    return Setup(
        model=net,
        optimizer=SGD(net.parameters(), lr=0.01),
        loss_fn=likelihood,
        batches=loader(x, y, 32, g),
    )


@fault(
    "fresh-root-of-zero-triplet",
    kind="mlp",
    symptoms={Symptom.NAN},
    causes={"nonfinite"},
    twin="fresh-triplet-hard",
)
def root_of_zero(g: torch.Generator) -> Setup:
    return triplet_program(g, safe=False)


@fault(
    "fresh-wrong-sign-regression",
    kind="regression",
    symptoms=BLOWN | {Symptom.SILENT_CONFIG_ERROR},
    causes={"gradient-ascent", "unbounded-loss"},
    twin="fresh-linear-regression",
)
def wrong_sign(g: torch.Generator) -> Setup:
    def negated(out: Tensor, y: Tensor) -> Tensor:
        return -functional.mse_loss(out, y)

    return linear_program(g, partial(SGD, lr=0.03), loss_fn=negated)


@fault(
    "fresh-vae-divergence-negated",
    kind="autoencoder",
    symptoms=BLOWN | {Symptom.SILENT_CONFIG_ERROR},
    causes={"unbounded-loss", "gradient-ascent", "nonfinite", "weights-grow"},
    twin="fresh-beta-vae",
)
def vae_negated(g: torch.Generator) -> Setup:
    x = pictures()[0].flatten(1)
    net = BetaVae()

    def elbo(out: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
        made, mu, logvar = out
        rebuilt = bce(made, x, reduction="sum") / len(x)
        return rebuilt + 5 * (1 + logvar - mu**2 - logvar.exp()).sum() / len(x)

    return Setup(
        model=net,
        optimizer=Adam(net.parameters(), lr=5e-3),
        loss_fn=elbo,
        batches=loader(x, x, 64, g),
    )


@fault(
    "fresh-policy-wrong-sign",
    kind="rl",
    symptoms=FLAT | BLOWN,
    causes={"gradient-ascent", "unbounded-loss", "weights-grow"},
    twin="fresh-policy-gradient",
)
def policy_wrong_sign(g: torch.Generator) -> Setup:
    return policy_program(g, partial(Adam, lr=5e-3), sign=-1.0)


@fault(
    "fresh-policy-huge-rewards",
    kind="rl",
    symptoms=BLOWN | STIFF,
    causes={"targets-not-scaled", "exploding-gradient", "saturated-units"} | HIGH,
    twin="fresh-policy-gradient",
)
def policy_huge(g: torch.Generator) -> Setup:
    return policy_program(g, partial(SGD, lr=0.1), scale=1e4)


# The loop


@fault(
    "fresh-never-zeroed-autoencoder",
    kind="autoencoder",
    symptoms=BLOWN | FLAT,
    causes={"missing-zero-grad"},
    twin="fresh-conv-autoencoder",
)
def never_zeroed(g: torch.Generator) -> Setup:
    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return conv_autoencoder_program(g, partial(SGD, lr=0.3), train_step=step)


@fault(
    "fresh-step-forgotten-gru",
    kind="rnn",
    symptoms=FLAT,
    causes={"no-step"},
    twin="fresh-gru-forecast",
)
def step_forgotten(g: torch.Generator) -> Setup:
    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        return loss

    return forecast_program(g, partial(Adam, lr=5e-3), train_step=step)


@fault(
    "fresh-zeroed-after-backward",
    kind="transformer",
    symptoms=FLAT,
    causes={"gradients-cleared", "no-gradient"},
    twin="fresh-reverse-encoder",
)
def zeroed_late(g: torch.Generator) -> Setup:
    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.zero_grad()
        optimizer.step()
        return loss

    return reverse_program(g, partial(AdamW, lr=2e-3), train_step=step)


@fault(
    "fresh-accumulation-undivided",
    kind="cnn",
    symptoms=BLOWN | DEAD,
    causes={"undivided-accumulation"} | HIGH,
    twin="fresh-accumulation",
    silent=True,
)
def accumulated(g: torch.Generator) -> Setup:
    return accumulation_program(g, 8, 0.05, divide=False)


@fault(
    "fresh-clip-before-unscale",
    kind="cnn",
    symptoms=FLAT,
    causes={"clip-before-unscale", "clip-always-active"},
    twin="fresh-lenet-momentum",
)
def clip_scaled(g: torch.Generator) -> Setup:
    scaler = torch.amp.GradScaler("cpu")

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.float16):
            loss = loss_fn(model(x), y)
        scaler.scale(loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss

    return lenet_program(g, partial(SGD, lr=0.05, momentum=0.9), train_step=step)


@fault(
    "fresh-clip-to-nothing",
    kind="rnn",
    symptoms=FADING,
    causes={"clip-always-active"},
    twin="fresh-elman-clipped",
)
def clip_tiny(g: torch.Generator) -> Setup:
    return elman_program(g, Elman(), partial(SGD, lr=0.05, momentum=0.9), 1e-5)


@fault(
    "fresh-item-and-back",
    kind="regression",
    symptoms=FLAT,
    causes={"cut-loss", "no-gradient"},
    twin="fresh-diabetes-huber",
)
def item_and_back(g: torch.Generator) -> Setup:
    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        out = torch.tensor(model(x).detach().numpy(), requires_grad=True)
        loss = loss_fn(out, y)
        loss.backward()
        optimizer.step()
        return loss

    return diabetes_program(g, partial(AdamW, lr=3e-3), train_step=step)


@fault(
    "fresh-always-eval",
    kind="mlp",
    symptoms={Symptom.SILENT_CONFIG_ERROR},
    causes={"wrong-mode"},
    twin="fresh-batchnorm-dropout",
    silent=True,
)
def always_eval(g: torch.Generator) -> Setup:
    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        model.eval()
        loss = loss_fn(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return lenet_program(g, partial(Adam, lr=2e-3), net=regularised_net(), train_step=step)


# What is trained


@fault(
    "fresh-model-made-again",
    kind="binary",
    symptoms=FLAT,
    causes={"stale-parameters", "parameters-without-optimizer"},
    twin="fresh-moons",
)
def made_again(g: torch.Generator) -> Setup:
    x, y = moons()

    def make() -> nn.Sequential:
        return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))

    net = make()
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
    net = make()
    return Setup(
        model=net,
        optimizer=optimizer,
        loss_fn=nn.BCEWithLogitsLoss(),
        batches=loader(x, y, 50, g),
        score=binary_score(x, y),
    )


@fault(
    "fresh-head-after-optimizer",
    kind="finetuning",
    symptoms=FLAT,
    causes={"stale-parameters", "parameters-without-optimizer"},
    site=r"fc",
    twin="fresh-transfer-frozen-backbone",
)
def head_late(g: torch.Generator) -> Setup:
    def make(net: Any) -> Any:
        net.backbone.requires_grad_(requires_grad=False)
        optimizer = Adam(net.parameters(), lr=1e-2)
        net.fc = nn.Linear(32, 5)
        return optimizer

    return transfer_program(g, make)


class Listed(nn.Module):
    """Keeps its hidden layers in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 24)
        self.hidden = [nn.Linear(24, 24) for _ in range(3)]
        self.last = nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        for layer in self.hidden:
            x = torch.tanh(layer(x))
        return self.last(x)


@fault(
    "fresh-layers-in-a-list",
    kind="regression",
    symptoms=FLAT,
    causes={"hidden-parameters", "parameters-without-optimizer"},
    twin="fresh-diabetes-huber",
    silent=True,
)
def layers_listed(g: torch.Generator) -> Setup:
    x, y = diabetes()
    net = Listed()
    return Setup(
        model=net,
        optimizer=Adam(net.parameters(), lr=3e-3),
        loss_fn=nn.HuberLoss(),
        batches=loader(x, y, 32, g),
        score=regression_score(x, y),
    )


@fault(
    "fresh-code-detached",
    kind="autoencoder",
    symptoms=FLAT,
    causes={"no-gradient", "cut-loss"},
    site=r"enc",
    twin="fresh-denoising-autoencoder",
)
def code_detached(g: torch.Generator) -> Setup:
    return denoising_program(g, partial(Adam, lr=3e-3), net=Denoiser(cut=True))


@fault(
    "fresh-gan-generator-left-out",
    kind="gan",
    symptoms=FLAT,
    causes={"parameters-without-optimizer"},
    site=r"gen",
    twin="fresh-gan-one-dimension",
)
def generator_left_out(g: torch.Generator) -> Setup:
    return gan_program(g, lambda net: Adam(net["disc"].parameters(), lr=3e-3, betas=(0.5, 0.9)))


@fault(
    "fresh-everything-frozen",
    kind="finetuning",
    symptoms=FLAT,
    causes={"nothing-trains", "frozen-parameters"},
    twin="fresh-transfer-frozen-backbone",
)
def everything_frozen(g: torch.Generator) -> Setup:
    def make(net: Any) -> Any:
        for p in net.parameters():
            p.requires_grad = False
        net.fc.bias.requires_grad = True
        return Adam(net.parameters(), lr=1e-2)

    return transfer_program(g, make)


# Regularisation


@fault(
    "fresh-decay-of-one-sgd",
    kind="cnn",
    symptoms=FADING,
    causes={"decay-too-strong", "decay-on-norms"},
    twin="fresh-lenet-momentum",
)
def decay_sgd(g: torch.Generator) -> Setup:
    return lenet_program(g, partial(SGD, lr=0.05, momentum=0.9, weight_decay=0.5))


@fault(
    "fresh-decay-of-hundred-adamw",
    kind="regression",
    symptoms=FADING,
    causes={"decay-too-strong", "decay-on-norms"},
    twin="fresh-ordinal",
)
def decay_adamw(g: torch.Generator) -> Setup:
    x, y = diabetes()
    edges = torch.quantile(y, torch.tensor([0.2, 0.4, 0.6, 0.8]))
    y = (y > edges).float()
    net = Ordinal()
    return Setup(
        model=net,
        optimizer=AdamW(net.parameters(), lr=5e-3, weight_decay=60.0),
        loss_fn=bce,
        batches=loader(x, y, 26, g),
        score=binary_score(x, y),
    )


@fault(
    "fresh-decay-on-layernorms",
    kind="transformer",
    symptoms={Symptom.SILENT_CONFIG_ERROR, Symptom.SLOW_CONVERGENCE},
    causes={"decay-on-norms"},
    twin="fresh-vision-transformer",
    silent=True,
)
def decay_norms(g: torch.Generator) -> Setup:
    return patches_program(g, lambda net: AdamW(net.parameters(), lr=1e-3, weight_decay=0.3))


@fault(
    "fresh-dropout-of-ninety-five",
    kind="transformer",
    symptoms=FLAT,
    causes={"dropout-too-strong"},
    twin="fresh-reverse-encoder",
)
def dropout_encoder(g: torch.Generator) -> Setup:
    return reverse_program(g, partial(AdamW, lr=2e-3), dropout=0.95)


@fault(
    "fresh-keep-probability-as-dropout",
    kind="mlp",
    symptoms=FLAT,
    causes={"dropout-too-strong"},
    twin="fresh-batchnorm-dropout",
)
def dropout_kept(g: torch.Generator) -> Setup:
    return lenet_program(g, partial(Adam, lr=2e-3), net=regularised_net(0.95))


# Precision


@fault(
    "fresh-bf16-parameters",
    kind="mlp",
    symptoms=FLAT,
    causes={"bf16-updates-lost"},
    twin="fresh-autocast-bf16",
)
def bf16_parameters(g: torch.Generator) -> Setup:
    x, y = pictures()
    x = ((x - x.mean()) / x.std()).flatten(1)
    net = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10)).to(torch.bfloat16)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.where(p < 0, p - 0.13, p + 0.13))

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(out.float(), y)

    return Setup(
        model=net,
        optimizer=Adam(net.parameters(), lr=2e-4),
        loss_fn=loss,
        batches=loader(x.bfloat16(), y, 32, g),
        score=class_score(x.bfloat16(), y),
    )


@fault(
    "fresh-fp16-no-scaler",
    kind="mlp",
    symptoms=FADING,
    causes={"fp16-without-scaler", "fp16-underflow"},
    twin="fresh-autocast-bf16",
)
def fp16_unscaled(g: torch.Generator) -> Setup:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            out = model(x)
        loss = 2e-6 * loss_fn(out.float(), y)
        loss.backward()
        optimizer.step()
        return loss

    return lenet_program(g, partial(Adam, lr=2e-3, eps=1e-12), net=net, train_step=step)


@fault(
    "fresh-fp16-overflow",
    kind="autoencoder",
    symptoms={Symptom.NAN, Symptom.NO_LEARNING, Symptom.SILENT_CONFIG_ERROR},
    causes={"fp16-overflow", "nonfinite", "loss-scale-collapse", "inputs-not-normalised"},
    twin="fresh-denoising-autoencoder",
)
def fp16_overflow(g: torch.Generator) -> Setup:
    x = pictures()[0].flatten(1) * 2e5
    net = Denoiser()

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            out = model(x)
        loss = loss_fn(out.float(), y)
        loss.backward()
        optimizer.step()
        return loss

    return Setup(
        model=net,
        optimizer=Adam(net.parameters(), lr=3e-3),
        loss_fn=nn.MSELoss(),
        batches=loader(x, x, 50, g),
        train_step=step,
    )


@fault(
    "fresh-adam-epsilon-of-one-lenet",
    kind="cnn",
    symptoms=FLAT,
    causes={"epsilon-too-large"} | LOW,
    twin="fresh-lenet",
)
def epsilon_large(g: torch.Generator) -> Setup:
    return lenet_program(g, partial(Adam, lr=2e-3, eps=1.0))


@fault(
    "fresh-momentum-of-one",
    kind="regression",
    symptoms=BLOWN | FLAT,
    causes={"momentum-too-high"} | HIGH,
    ends_in="divergence",
    twin="fresh-linear-regression",
)
def momentum_one(g: torch.Generator) -> Setup:
    return linear_program(g, partial(SGD, lr=0.03, momentum=1.0))
