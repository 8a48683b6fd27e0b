"""Faults that nobody has tuned on: initialisation, activations, dead units, norms, dropout."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from faults.cases import heldout_models as models
from faults.cases.heldout_programs import (
    Generator,
    friedman_net,
    heldout,
    on_averages,
    on_customers,
    on_friedman,
    on_gratings,
    on_histogram,
    on_majority,
    on_pairs,
    on_rings,
    on_shapes,
)
from faults.models import each_weight
from faults.registry import Setup
from trimtab.findings import Symptom

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
BEGUN = {"unsuited-initialisation"}


# Initialisation


@heldout(
    "held-init-unit-normal-convs",
    kind="cnn",
    source="Humbatova et al. 2020: wrong weights initialisation; nn.init.normal_ with its defaults",
    symptoms=BLOWN | DEAD,
    causes=BEGUN | {"initial-loss", "exploding-gradient", "dead-units"},
    twin="held-shapes",
)
def init_unit_normal(g: Generator) -> Setup:
    return on_shapes(g, net=each_weight(models.shapes_net(), nn.init.normal_))


@heldout(
    "held-init-hundredth-normal-tower",
    kind="mlp",
    source="He et al. 2015, section 2.2: a deviation of 0.01 stalls a deep network",
    symptoms=FADING,
    causes=BEGUN | {"vanishing-gradient"},
    twin="held-deep-relu",
)
def init_hundredth(g: Generator) -> Setup:
    return on_rings(g, net=each_weight(models.tower(8, 3), partial(nn.init.normal_, std=0.01)))


@heldout(
    "held-init-zeros-siamese",
    kind="mlp",
    source="NeuraLint (Nikanjam et al. 2021): weights must not be the same; zeros as for biases",
    symptoms=DEAD,
    causes=BEGUN | {"identical-units", "vanishing-gradient", "constant-output", "no-gradient"},
    twin="held-pairs",
)
def init_zeros(g: Generator) -> Setup:
    return on_pairs(g, net=each_weight(models.Siamese(), nn.init.zeros_))


@heldout(
    "held-init-ones-mixer",
    kind="classification",
    source="NeuraLint (Nikanjam et al. 2021): weights must not be the same; Keras's 'ones'",
    symptoms=BLOWN | STIFF,
    causes=BEGUN | {"identical-units", "initial-loss", "constant-output"},
    twin="held-mixer",
)
def init_ones(g: Generator) -> Setup:
    return on_gratings(g, net=each_weight(models.Mixer(), nn.init.ones_))


@heldout(
    "held-init-normal-all-gru",
    kind="rnn",
    source="a common slip: for p in model.parameters(): nn.init.normal_(p, std=5), recurrent too",
    symptoms=BLOWN | STIFF,
    causes=BEGUN | {"saturated-units", "initial-loss", "constant-output", "vanishing-gradient"},
    twin="held-majority-gru",
)
def init_all(g: Generator) -> Setup:
    net = models.Reader()
    for p in net.parameters():
        nn.init.normal_(p, std=5.0)
    return on_majority(g, net=net)


@heldout(
    "held-init-bare-residual-explodes",
    kind="mlp",
    source="Zhang et al. 2019 (Fixup): without norms, the variance doubles with each block",
    symptoms=BLOWN | DEAD,
    causes=BEGUN | {"exploding-gradient", "initial-loss"},
    twin="held-deep-residual",
)
def init_residual(g: Generator) -> Setup:
    net = models.Highway(norm=False)
    for block in net.blocks:
        nn.init.kaiming_normal_(block[1].weight)
        nn.init.kaiming_normal_(block[3].weight)
    return on_rings(g, net=net)


@heldout(
    "held-init-embeddings-of-hundred",
    kind="binary",
    source="Humbatova et al. 2020: wrong weights initialisation; embeddings drawn as if features",
    symptoms=BLOWN | DEAD,
    causes=BEGUN | {"initial-loss", "inputs-not-normalised", "exploding-gradient"},
    twin="held-customers",
)
def init_embeddings(g: Generator) -> Setup:
    net = models.Buyer()
    for table in net.tables:
        nn.init.normal_(table.weight, std=100.0)
    return on_customers(g, net=net)


# Activations and units that are dead or saturated


@heldout(
    "held-dying-relu-negative-weights",
    kind="mlp",
    source="AutoTrainer (Zhang et al. 2021): dying ReLU by weights that are mostly negative",
    symptoms=DEAD,
    causes=BEGUN | {"dead-units", "vanishing-gradient", "constant-output", "no-gradient"},
    twin="held-deep-relu",
)
def dying_negative(g: Generator) -> Setup:
    net = each_weight(models.tower(8, 3), partial(nn.init.normal_, mean=-0.3, std=0.1))
    return on_rings(g, net=net)


@heldout(
    "held-dead-relu-after-large-rate",
    kind="cnn",
    source="Lu et al. 2019; CS231n: with a high rate, a large share of the units dies at once",
    symptoms=BLOWN | DEAD,
    causes={"learning-rate-too-high", "dead-units"},
    twin="held-shapes",
)
def dead_after_rate(g: Generator) -> Setup:
    return on_shapes(g, partial(Adam, lr=0.5))


@heldout(
    "held-sigmoid-tower",
    kind="mlp",
    source="AutoTrainer (Zhang et al. 2021): vanishing gradient by a deep stack of sigmoids",
    symptoms=STIFF,
    causes={"vanishing-gradient", "saturated-units"},
    twin="held-deep-relu",
)
def sigmoid_tower(g: Generator) -> Setup:
    return on_rings(g, net=models.tower(8, 3, activation=nn.Sigmoid))


@heldout(
    "held-relu-on-logit",
    kind="binary",
    source="DeepLocalize (Wardat et al. 2021): ReLU as last activation of a classifier",
    symptoms=DEAD,
    causes={"output-loss-mismatch", "dead-units"},
    twin="held-customers",
)
def relu_on_logit(g: Generator) -> Setup:
    net = models.Buyer()
    net.head = nn.Sequential(nn.Linear(24, 1), nn.ReLU())
    return on_customers(g, net=net)


@heldout(
    "held-softmax-in-hidden-layers",
    kind="regression",
    source="Stack Overflow 37588632: softmax in the hidden layers",
    symptoms=STIFF,
    causes={"vanishing-gradient", "saturated-units", "output-loss-mismatch"},
    twin="held-friedman",
)
def softmax_hidden(g: Generator) -> Setup:
    soft = partial(nn.Softmax, dim=1)
    net = nn.Sequential(
        nn.Linear(10, 64), soft(), nn.Linear(64, 32), soft(), nn.Linear(32, 32), soft(),
        nn.Linear(32, 1),
    )  # fmt: skip
    return on_friedman(g, net=net)


@heldout(
    "held-no-activation-tower",
    kind="mlp",
    source="Humbatova et al. 2020: missing activation; UMLAUT (Schoop et al. 2021) checks for it",
    symptoms=FLAT,
    causes={"no-nonlinearity"},
    twin="held-deep-relu",
)
def no_activation(g: Generator) -> Setup:
    return on_rings(g, net=models.tower(8, 3, activation=nn.Identity))


@heldout(
    "held-tanh-rnn-forgets",
    kind="rnn",
    source="Pascanu et al. 2013: recurrent weights well below one let the gradient vanish in time",
    symptoms=STIFF,
    causes={"vanishing-gradient"} | BEGUN,
    twin="held-identity-rnn",
)
def rnn_forgets(g: Generator) -> Setup:
    return on_averages(g, net=models.Averager(nonlinearity="tanh", recurrent=0.02))


# Norms, modes, dropout


class Forecast(nn.Module):
    """A regression whose norm is taken over one number at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(1)
        self.net = friedman_net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.norm(x.unsqueeze(-1)).squeeze(-1))


@heldout(
    "held-layernorm-over-one-feature",
    kind="regression",
    source="a common slip: nn.LayerNorm(1) on (batch, time, 1) gives its bias, whatever the input",
    symptoms=DEAD,
    causes={"constant-output"},
    twin="held-friedman",
)
def layernorm_one(g: Generator) -> Setup:
    return on_friedman(g, net=Forecast())


@heldout(
    "held-batchnorm-frozen-statistics",
    kind="cnn",
    source="pytorch/examples issue 289: TensorFlow's momentum of 0.9999 is 0.0001 here",
    symptoms={Symptom.SILENT_CONFIG_ERROR},
    causes={"batchnorm-momentum"},
    twin="held-shapes-large-rate",
)
def batchnorm_momentum(g: Generator) -> Setup:
    return on_shapes(g, net=models.shapes_vgg(momentum=1e-4))


@heldout(
    "held-batchnorm-batch-of-two",
    kind="cnn",
    source="Wu & He 2018: batch norm with two images a step",
    symptoms=BLOWN | FLAT,
    causes={"batchnorm-tiny-batch", "learning-rate-too-high"},
    twin="held-shapes-large-rate",
)
def batchnorm_two(g: Generator) -> Setup:
    make = partial(SGD, lr=0.4, momentum=0.9, weight_decay=1e-4)
    return on_shapes(g, make, net=models.shapes_vgg(), size=2)


@heldout(
    "held-dropout-keep-probability",
    kind="transformer",
    source="a common slip: TensorFlow 1's keep_prob of 0.95 as PyTorch's p",
    symptoms=FLAT | {Symptom.OSCILLATING_LOSS},
    causes={"dropout-too-strong"},
    twin="held-histogram",
)
def dropout_keep(g: Generator) -> Setup:
    return on_histogram(g, net=models.Tallier(dropout=0.95))


@heldout(
    "held-dropout-never-off",
    kind="binary",
    source="a common slip: F.dropout(x) without training=self.training",
    symptoms=FLAT | BLOWN,
    causes={"dropout-too-strong", "wrong-mode"},
    twin="held-customers",
)
def dropout_always(g: Generator) -> Setup:
    class Always(models.Buyer):
        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.dropout(self.embedded(x), 0.7)
            h = nn.functional.dropout(self.body(x), 0.7)
            return self.head(h)

    return on_customers(g, net=Always())


@heldout(
    "held-trained-in-eval-mode",
    kind="mlp",
    source="a common slip: model.eval() in the validation, and no model.train() after it",
    symptoms={Symptom.SILENT_CONFIG_ERROR},
    causes={"wrong-mode"},
    twin="held-dropout-heavy",
    silent=True,
)
def eval_mode(g: Generator) -> Setup:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn, x, y) -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            loss_fn(model(x), y)
        return loss

    net = nn.Sequential(
        nn.Flatten(), nn.Linear(144, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(128, 5),
    )  # fmt: skip
    return on_shapes(g, partial(Adam, lr=2e-3), net=net, train_step=step)
