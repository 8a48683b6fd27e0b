"""Healthy runs of recurrent networks and transformers."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from faults.cases.loop import accumulating
from faults.common import (
    adam,
    adamw,
    clipped,
    language,
    on_digits,
    program,
    sgd,
    warmup_cosine,
)
from faults.data import Task, adding, characters, class_score, first_token, vocabulary
from faults.models import LanguageModel, Recurrent, RowEncoder, each_weight
from faults.registry import Setup, case

GPT2 = "Radford et al. 2019 (GPT-2) in small: pre-norm, N(0, 0.02), AdamW"


@case(
    "lstm-adding", kind="rnn", part="tune", source="Hochreiter & Schmidhuber 1997: adding problem"
)
def lstm(g: torch.Generator) -> Setup:
    model = Recurrent("LSTM", 2, 32, 1)
    step = clipped(1.0)
    return program(
        adding(g, length=12), g, model, adam(model, 1e-2), functional.mse_loss, train_step=step
    )


@case("gru-first-token", kind="rnn", part="report", source="Cho et al. 2014: a gated network")
def gru(g: torch.Generator) -> Setup:
    model = Recurrent("GRU", 4, 32, 4)
    return program(first_token(g, length=8), g, model, adam(model, 1e-2))


@case("rnn-orthogonal", kind="rnn", part="tune", source="Le et al. 2015: near-identity recurrence")
def rnn(g: torch.Generator) -> Setup:
    model = Recurrent("RNN", 4, 32, 4)
    nn.init.orthogonal_(model.rnn.weight_hh_l0)
    step = clipped(1.0)
    return program(first_token(g, length=10), g, model, adam(model, 3e-3), train_step=step)


@case("gru-language", kind="rnn", part="report", source="Graves 2013: characters by an RNN")
def gru_language(g: torch.Generator) -> Setup:
    model = Recurrent("GRU", 32, 64, vocabulary(), every=True, tokens=vocabulary())
    return language(g, partial(adamw, lr=5e-3), model=model, train_step=clipped(1.0))


@case("lstm-language-two-layers", kind="rnn", part="tune", source="Zaremba et al. 2014, in small")
def lstm_language(g: torch.Generator) -> Setup:
    model = Recurrent("LSTM", 32, 48, vocabulary(), layers=2, every=True, tokens=vocabulary())
    return language(g, partial(adam, lr=5e-3), model=model)


@case("gpt-adamw", kind="transformer", part="report", source=GPT2)
def gpt(g: torch.Generator) -> Setup:
    return language(g, partial(adamw, lr=2e-3))


@case("gpt-warmup-cosine-clip", kind="transformer", part="tune", source=GPT2)
def gpt_recipe(g: torch.Generator) -> Setup:
    model = LanguageModel(vocabulary(), depth=3)
    optimizer = adamw(model, 3e-3, betas=(0.9, 0.95))
    step = clipped(1.0, warmup_cosine()(optimizer))
    return program(characters(g), g, model, optimizer, _tokens, size=16, train_step=step)


def _tokens(logits: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(logits.transpose(1, 2), y)


@case("gpt-tied", kind="transformer", part="report", source="Press & Wolf 2017: tied embeddings")
def gpt_tied(g: torch.Generator) -> Setup:
    return language(g, partial(adamw, lr=2e-3), tied=True)


@case("gpt-accumulation", kind="transformer", part="tune", source=f"{GPT2}, divided accumulation")
def gpt_accumulation(g: torch.Generator) -> Setup:
    return language(g, partial(adamw, lr=3e-3), size=8, train_step=accumulating(4, divide=True))


@case("gpt-bf16-autocast", kind="transformer", part="report", source="PyTorch AMP recipe, bf16")
def gpt_bf16(g: torch.Generator) -> Setup:
    def step(model: Any, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return language(g, partial(adamw, lr=2e-3), train_step=step)


@case("gpt-two-groups", kind="transformer", part="tune", source="nanoGPT: no decay on vectors")
def gpt_groups(g: torch.Generator) -> Setup:
    model = LanguageModel(vocabulary(), dropout=0.1)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": 0.1},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=2e-3, betas=(0.9, 0.95))
    return program(characters(g), g, model, optimizer, _tokens, size=16)


@case("gpt-post-norm-warmup", kind="transformer", part="report", source="Vaswani et al. 2017")
def gpt_post(g: torch.Generator) -> Setup:
    model = LanguageModel(vocabulary(), norm="post", depth=2)
    optimizer = adam(model, 1e-3, betas=(0.9, 0.98))
    step = clipped(1.0, warmup_cosine(warmup=50)(optimizer))
    return program(characters(g), g, model, optimizer, _tokens, size=16, train_step=step)


@case("encoder-rows", kind="transformer", part="tune", source="nn.TransformerEncoder, norm first")
def encoder(g: torch.Generator) -> Setup:
    model = RowEncoder(dropout=0.1)
    return on_digits(g, model, adam(model, 1e-3))


@case(
    "encoder-post-norm-warmup",
    kind="transformer",
    part="report",
    source="Vaswani et al. 2017: post-norm with a warm-up, as nn.TransformerEncoder is by default",
)
def encoder_post(g: torch.Generator) -> Setup:
    model = RowEncoder(depth=3, norm_first=False)
    optimizer = adam(model, 1e-3)
    return on_digits(g, model, optimizer, scheduler=warmup_cosine(warmup=40)(optimizer))


@case("encoder-sgd-warmup-from-zero", kind="transformer", part="tune", source="Goyal et al. 2017")
def encoder_sgd(g: torch.Generator) -> Setup:
    model = RowEncoder()
    optimizer = sgd(model, 0.1)
    ramp = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, s / 25))
    return on_digits(g, model, optimizer, scheduler=ramp)


class Padded(nn.Module):
    """A bag of tokens of which most are rare and some are padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5000, 16, padding_idx=0)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        seen = (x > 0).sum(1, keepdim=True).clamp(min=1)
        return self.head(self.embed(x).sum(1) / seen.sqrt())


@case(
    "rare-embedding-rows", kind="classification", part="report", source="Zipf: most words are rare"
)
def rare(g: torch.Generator) -> Setup:
    y = torch.randint(4, (2048,), generator=g)
    rank = (torch.rand(2048, 12, generator=g) ** 6 * 1200).long()
    x = 1 + rank * 4 + torch.where(torch.rand(2048, 12, generator=g) < 0.6, y[:, None], 0)
    x[:, 8:] = torch.where(torch.rand(2048, 4, generator=g) < 0.5, 0, x[:, 8:])
    model = Padded()
    return program(Task(x, y, class_score(x, y)), g, model, adam(model, 1e-2))


@case("gpt-small-depth-six", kind="transformer", part="tune", source=f"{GPT2}, six blocks")
def gpt_deep(g: torch.Generator) -> Setup:
    model = LanguageModel(vocabulary(), depth=6)
    each_weight(model.blocks, partial(nn.init.normal_, std=0.02))
    return language(g, partial(adamw, lr=3e-3), model=model)
