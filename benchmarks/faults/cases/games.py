"""Faults of adversarial and reinforcement learning."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from faults.common import adam, sgd
from faults.data import digits
from faults.games import adversarial, bandit, chain
from faults.models import mlp
from faults.registry import Setup, case
from trimtab.findings import Symptom

SLOW = {Symptom.SLOW_CONVERGENCE, Symptom.NO_LEARNING, Symptom.SILENT_CONFIG_ERROR}
BLOWN = {
    Symptom.DIVERGENCE,
    Symptom.NAN,
    Symptom.EXPLODING_GRADIENT,
    Symptom.OSCILLATING_LOSS,
    Symptom.LOSS_SPIKE,
}


@case(
    "gan-discriminator-too-strong",
    kind="gan",
    source="Goodfellow et al. 2014, arXiv:1406.2661, section 3: log(1 - D) saturates",
    part="tune",
    symptoms={
        Symptom.VANISHING_GRADIENT,
        Symptom.NO_LEARNING,
        Symptom.SILENT_CONFIG_ERROR,
        Symptom.SATURATED_UNITS,
    },
    causes={"vanishing-gradient", "saturated-units", "discriminator-too-strong"},
    site=r"generator|critic|discriminator|",
    twin="gan",
)
def strong_discriminator(g: torch.Generator) -> Setup:
    return adversarial(g, saturating=True, rates=(1e-4, 1e-2), generator_bias=4.0)


@case(
    "gan-generator-saturated-tanh",
    kind="gan",
    source="Arjovsky & Bottou 2017, arXiv:1701.04862: a perfect discriminator leaves no gradient",
    part="report",
    symptoms={
        Symptom.VANISHING_GRADIENT,
        Symptom.NO_LEARNING,
        Symptom.SILENT_CONFIG_ERROR,
        Symptom.SATURATED_UNITS,
    },
    causes={"vanishing-gradient", "saturated-units", "discriminator-too-strong"},
    twin="gan",
)
def saturated_generator(g: torch.Generator) -> Setup:
    return adversarial(g, saturating=True, rates=(1e-3, 2e-2), generator_bias=6.0, width=64)


@case(
    "reinforce-huge-returns",
    kind="rl",
    source="Engstrom et al. 2020, arXiv:2005.12729: reward and advantage normalisation matter",
    part="tune",
    symptoms=BLOWN | SLOW | {Symptom.SATURATED_UNITS, Symptom.DEAD_UNITS},
    causes={"targets-not-scaled", "learning-rate-too-high", "exploding-gradient"},
    twin="reinforce",
)
def huge_returns(g: torch.Generator) -> Setup:
    return bandit(g, sgd, 0.05, reward=2000.0)


@case(
    "reinforce-wrong-sign",
    kind="rl",
    source="Humbatova et al., ICSE 2020, taxonomy: wrong sign of the loss",
    part="report",
    symptoms=SLOW | BLOWN,
    causes={"gradient-ascent", "unbounded-loss", "weights-grow"},
    twin="reinforce",
)
def wrong_sign(g: torch.Generator) -> Setup:
    return bandit(g, adam, 3e-3, sign=-1.0)


@case(
    "q-learning-huge-rewards",
    kind="rl",
    source="Mnih et al. 2015: rewards are clipped to [-1, 1]; here they are in the thousands",
    part="report",
    symptoms=BLOWN | SLOW,
    causes={"targets-not-scaled", "learning-rate-too-high", "initial-loss", "exploding-gradient"},
    twin="q-learning",
)
def huge_rewards(g: torch.Generator) -> Setup:
    return chain(g, sgd, 0.01, reward=3000.0)


@case(
    "q-learning-discount-above-one",
    kind="rl",
    source="van Hasselt et al. 2018, arXiv:1812.02648: divergence of bootstrapped values",
    part="tune",
    symptoms=BLOWN,
    causes={"diverging-targets", "targets-not-scaled", "learning-rate-too-high", "data-shift"},
    ends_in="divergence",
    twin="q-learning",
)
def discount(g: torch.Generator) -> Setup:
    return chain(g, adam, 3e-3, discount=1.2, refresh=5)


class Policy(nn.Module):
    """Gives probabilities, and its logarithm is taken without care."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp([64, 64, 10])

    def forward(self, x: Tensor) -> Tensor:
        return functional.softmax(60 * self.body(x), -1)


@case(
    "entropy-of-zero-probability",
    kind="rl",
    source="StackOverflow 33712178: log of a probability that reached 0, here in the entropy",
    part="report",
    symptoms={Symptom.NAN},
    causes={"nonfinite"},
    ends_in="nan",
    twin="reinforce",
)
def zero_probability(g: torch.Generator) -> Setup:
    task = digits()
    model = Policy()

    def loss(p: Tensor, y: Tensor) -> Tensor:
        entropy = -(p * p.log()).sum(-1)
        taken: Any = p.gather(1, y.unsqueeze(1)).squeeze(1)
        return -(taken.log() + 0.01 * entropy).mean()

    return Setup(
        model=model,
        optimizer=adam(model, 1e-2),
        loss_fn=loss,
        batches=task.batches(32, g),
        score=task.score,
    )
