"""Numbers with too few bits."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from faults.common import adam, language, on_digits, program, sgd
from faults.data import Task, digits, vocabulary, waves
from faults.models import LanguageModel, cnn, mlp, token_loss
from faults.registry import Setup, case
from trimtab.findings import Symptom

FLAT = {Symptom.NO_LEARNING, Symptom.SLOW_CONVERGENCE, Symptom.SILENT_CONFIG_ERROR}


def _in(dtype: torch.dtype, task: Task) -> Task:
    """Return a task whose model has its weights in another type."""

    def score(model: nn.Module) -> float:
        return task.score(lambda x: model(x.to(dtype) if x.is_floating_point() else x).float())

    x = task.x.to(dtype) if task.x.is_floating_point() else task.x
    return Task(x, task.y, score)


def float_cross_entropy(out: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(out.float(), y)


@case(
    "bf16-weights-sgd-mlp",
    kind="mlp",
    source="pytorch/ao pull request 1124: updates below bf16's spacing change nothing",
    part="tune",
    symptoms=FLAT,
    causes={"bf16-updates-lost"},
    twin="mlp-small-rate",
)
def bf16_mlp(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10]).bfloat16()
    task = _in(torch.bfloat16, digits())
    return program(task, g, model, adam(model, 5e-5), float_cross_entropy)


@case(
    "bf16-weights-adam-transformer",
    kind="transformer",
    source="meta-pytorch/torchtune issue 2254; Zamirai et al. 2020, arXiv:2010.06192",
    part="report",
    symptoms=FLAT,
    causes={"bf16-updates-lost"},
    twin="gpt-adamw",
)
def bf16_transformer(g: torch.Generator) -> Setup:
    model = LanguageModel(vocabulary()).bfloat16()
    with torch.no_grad():
        model.places.mul_(30)
        for p in model.parameters():
            if p.ndim == 2:
                p.mul_(3)

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return token_loss(out.float(), y)

    return language(g, partial(adam, lr=3e-5), model=model, loss_fn=loss)


def scaled(scaler: Any) -> Any:
    """Return a loop body in fp16 with a scaler."""

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            out = model(x)
        loss = loss_fn(out.float(), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    return step


class Large(nn.Module):
    """A stem whose activations leave the range of fp16."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, 64), mlp([64, 64, 10])
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.relu(self.stem(x)) * self.gain / self.gain)


@case(
    "fp16-activations-overflow",
    kind="mlp",
    source="pytorch/pytorch pull request 101569: the loss scale falls below one and goes on",
    part="tune",
    symptoms=FLAT | {Symptom.NAN, Symptom.EXPLODING_GRADIENT},
    causes={"loss-scale-collapse", "fp16-overflow", "nonfinite"},
    twin="mlp-scaler",
)
def fp16_overflow(g: torch.Generator) -> Setup:
    model = Large(1e6)
    step = scaled(torch.amp.GradScaler("cpu"))
    return on_digits(g, model, sgd(model, 0.05), train_step=step)


@case(
    "fp16-loss-scale-collapse",
    kind="regression",
    source="DeepSpeed issue 5426: current loss scale already at minimum",
    part="report",
    symptoms=FLAT | {Symptom.NAN, Symptom.EXPLODING_GRADIENT},
    causes={"loss-scale-collapse", "fp16-overflow", "nonfinite", "targets-not-scaled"},
    twin="regression-waves",
)
def fp16_collapse(g: torch.Generator) -> Setup:
    model = mlp([4, 64, 64, 1])
    step = scaled(torch.amp.GradScaler("cpu"))
    task = waves(g, scale=1e8)
    return program(task, g, model, sgd(model, 1e-3), functional.mse_loss, train_step=step)


def unscaled(model: Any, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> Tensor:
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.float16):
        out = model(x)
    loss = loss_fn(out.float(), y)
    loss.backward()
    optimizer.step()
    return loss


@case(
    "fp16-underflow-no-scaler-cnn",
    kind="cnn",
    source="Micikevicius et al. 2018, arXiv:1710.03740: gradients below fp16's range become 0",
    part="tune",
    symptoms=FLAT | {Symptom.VANISHING_GRADIENT},
    causes={"fp16-without-scaler", "fp16-underflow"},
    twin="cnn-plain-adam",
)
def fp16_underflow(g: torch.Generator) -> Setup:
    model = cnn(norm=False)

    def loss(out: Tensor, y: Tensor) -> Tensor:
        """A sum of parts with small weights, as in a detector."""
        return 2e-6 * functional.cross_entropy(out, y)

    return on_digits(g, model, adam(model, eps=1e-15), loss, image=True, train_step=unscaled)


@case(
    "fp16-underflow-no-scaler-regression",
    kind="regression",
    source="Micikevicius et al. 2018, arXiv:1710.03740: gradients below fp16's range become 0",
    part="report",
    symptoms=FLAT | {Symptom.VANISHING_GRADIENT},
    causes={"fp16-without-scaler", "fp16-underflow"},
    twin="regression-waves",
)
def fp16_small_targets(g: torch.Generator) -> Setup:
    model = mlp([4, 64, 64, 1])
    nn.init.normal_(model[-1].weight, std=1e-6)
    nn.init.zeros_(model[-1].bias)
    task = waves(g, scale=3e-6)
    optimizer = adam(model, 1e-3, eps=1e-20)
    return program(task, g, model, optimizer, functional.mse_loss, train_step=unscaled)


@case(
    "fp16-weights-adam-epsilon",
    kind="mlp",
    source="Micikevicius et al. 2018, arXiv:1710.03740: Adam's epsilon of 1e-8 is 0 in fp16",
    part="report",
    symptoms={Symptom.NAN},
    causes={"nonfinite", "epsilon-too-small", "fp16-without-scaler"},
    ends_in="nan",
    twin="mlp-adam",
)
def fp16_epsilon(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10]).half()
    task = _in(torch.float16, digits())
    return program(task, g, model, adam(model, 1e-3, foreach=False), float_cross_entropy)
