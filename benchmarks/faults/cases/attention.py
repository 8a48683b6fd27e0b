"""Faults of attention and of language models."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from faults.common import adamw, language
from faults.data import vocabulary
from faults.models import LanguageModel
from faults.registry import Setup, case
from trimtab.findings import Symptom

SLOW = {Symptom.SLOW_CONVERGENCE, Symptom.NO_LEARNING, Symptom.SILENT_CONFIG_ERROR}
SATURATED = SLOW | {
    Symptom.SATURATED_UNITS,
    Symptom.EXPLODING_GRADIENT,
    Symptom.OSCILLATING_LOSS,
    Symptom.DIVERGENCE,
}


def _sharp(model: LanguageModel, factor: float) -> LanguageModel:
    with torch.no_grad():
        for block in model.blocks:
            width = block.attention.qkv.weight.shape[1]
            block.attention.qkv.weight[: 2 * width].mul_(factor)
    return model


@case(
    "attention-logits-unscaled",
    kind="transformer",
    source="Vaswani et al. 2017, arXiv:1706.03762: dot products not divided by the root of d",
    part="tune",
    symptoms=SATURATED,
    causes={"attention-logits", "saturated-units", "unsuited-initialisation"},
    site=r"attention|blocks",
    twin="gpt-adamw",
)
def unscaled(g: torch.Generator) -> Setup:
    model = _sharp(LanguageModel(vocabulary(), scale=1.0), 9.0)
    return language(g, partial(adamw, lr=1e-3), model=model)


@case(
    "attention-logits-grow",
    kind="transformer",
    source="Wortsman et al. 2023, arXiv:2309.14322: growth of attention logits at a high rate",
    part="report",
    symptoms=SATURATED | {Symptom.LOSS_SPIKE},
    causes={"attention-logits", "learning-rate-too-high", "saturated-units"},
    twin="gpt-adamw",
)
def growing(g: torch.Generator) -> Setup:
    model = LanguageModel(vocabulary(), scale=4.0, depth=3)
    return language(g, partial(adamw, lr=3e-2), model=model)


@case(
    "no-causal-mask",
    kind="transformer",
    source="Karpathy 2019, a recipe for training neural networks: chart dependencies by backprop",
    part="tune",
    symptoms={Symptom.SILENT_CONFIG_ERROR},
    causes={"leak-from-future"},
    twin="gpt-adamw",
    silent=True,
)
def no_mask(g: torch.Generator) -> Setup:
    return language(g, partial(adamw, lr=2e-3), causal=False, depth=2)


class Bidirectional(nn.Module):
    """A language model that reads from both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary(), 32)
        self.rnn = nn.GRU(32, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, vocabulary())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(x))[0])


@case(
    "bidirectional-language-model",
    kind="rnn",
    source="Karpathy 2019, a recipe for training neural networks: chart dependencies by backprop",
    part="report",
    symptoms={Symptom.SILENT_CONFIG_ERROR},
    causes={"leak-from-future"},
    twin="gru-language",
    silent=True,
)
def bidirectional(g: torch.Generator) -> Setup:
    return language(g, partial(adamw, lr=5e-3), model=Bidirectional())


@case(
    "targets-not-shifted",
    kind="transformer",
    source="Islam et al., ESEC/FSE 2019: wrong labels; the next token is the present one",
    part="report",
    symptoms={Symptom.SILENT_CONFIG_ERROR},
    causes={"leak-from-future", "targets-equal-inputs"},
    twin="gpt-adamw",
    silent=True,
)
def unshifted(g: torch.Generator) -> Setup:
    def alter(_: int, x: Tensor, __: Tensor) -> tuple[Tensor, Tensor]:
        return x, x

    return language(g, partial(adamw, lr=2e-3), alter=alter)


class Leaky(LanguageModel):
    """Flattens batch and time in the wrong order: view for permute."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x.t().reshape(x.shape))


@case(
    "examples-mixed-by-view",
    kind="transformer",
    source="Karpathy 2018, most common neural net mistakes, number 6: view is not permute",
    part="tune",
    symptoms=SLOW,
    causes={"leak-across-examples", "leak-from-future", "labels-unrelated"},
    twin="gpt-adamw",
)
def mixed(g: torch.Generator) -> Setup:
    model = Leaky(vocabulary())
    return language(g, partial(adamw, lr=2e-3), model=model)
