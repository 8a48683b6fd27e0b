"""Faults that nobody has tuned on: gradients, precision, and the order of a loop."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from faults.cases import heldout_models as models
from faults.cases import heldout_tasks as tasks
from faults.cases.heldout_faults_start import BLOWN, DEAD, FADING, FLAT, STIFF
from faults.cases.heldout_programs import (
    Generator,
    friedman_net,
    heldout,
    on_averages,
    on_both,
    on_customers,
    on_discs,
    on_friedman,
    on_gratings,
    on_histogram,
    on_sensors,
    on_shapes,
    on_signals,
    on_translation,
    taught,
)
from faults.common import clipped
from faults.registry import Setup, plain_step
from trimtab.findings import Symptom

QUIET = {Symptom.NO_LEARNING, Symptom.SLOW_CONVERGENCE, Symptom.SILENT_CONFIG_ERROR}


# Gradients that are missing, cut, summed up, exploding


class CutSignals(nn.Module):
    """A network that goes through NumPy between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = models.signal_net()[:-1]
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x).detach().cpu().numpy()
        return self.head(torch.from_numpy(features))


@heldout(
    "held-through-numpy",
    kind="cnn",
    source="Stack Overflow 63582590: what .detach().numpy() cuts, in the middle of a network",
    symptoms=FADING,
    causes={"no-gradient", "cut-loss"},
    site="body",
    twin="held-signals",
)
def through_numpy(g: Generator) -> Setup:
    return on_signals(g, net=CutSignals())


class CutHeads(models.TwoHeads):
    """Its body works without recording."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = self.body(x)
        return torch.cat([self.value(h), self.kind(h)], 1)


@heldout(
    "held-body-without-recording",
    kind="multilabel",
    source="a common slip: torch.no_grad() around a part that was once pretrained",
    symptoms=FADING,
    causes={"no-gradient", "cut-loss"},
    site="body",
    twin="held-both",
)
def without_recording(g: Generator) -> Setup:
    return on_both(g, net=CutHeads())


@heldout(
    "held-loss-on-thresholded-picture",
    kind="cnn",
    source="a common slip: 'does not require grad', silenced by requires_grad_()",
    symptoms=FADING,
    causes={"no-gradient", "cut-loss", "step-without-backward", "nothing-trains"},
    twin="held-discs",
)
def thresholded(g: Generator) -> Setup:
    def loss(logits: Tensor, y: Tensor) -> Tensor:
        found = (logits.sigmoid() > 0.5).float().requires_grad_()
        overlap = (found * y).sum()
        return 1 - 2 * overlap / (found.sum() + y.sum() + 1)

    return on_discs(g, loss_fn=loss)


@heldout(
    "held-all-but-norms-frozen",
    kind="classification",
    source="a common slip: requires_grad = False in a loop over parameters, one name spared",
    symptoms=FADING,
    causes={"frozen-parameters", "nothing-trains", "no-gradient"},
    twin="held-mixer",
)
def frozen(g: Generator) -> Setup:
    net = models.Mixer()
    for name, p in net.named_parameters():
        p.requires_grad_(requires_grad="norm.bias" in name or "head.bias" in name)
    return on_gratings(g, net=net)


@heldout(
    "held-wrong-part-frozen",
    kind="finetuning",
    source="PyTorch's tutorial of transfer learning, with new head and old body exchanged",
    symptoms=FADING,
    causes={"frozen-parameters", "learning-rate-too-low"},
    twin="held-finetune",
)
def wrong_part(g: Generator) -> Setup:
    net = taught(g)
    net[6:].requires_grad_(requires_grad=False)
    return on_shapes(g, partial(SGD, lr=1e-4), net=net)


@heldout(
    "held-never-cleared-histogram",
    kind="transformer",
    source="Stack Overflow 48001598: why zero_grad has to be called",
    symptoms=BLOWN | STIFF,
    causes={"missing-zero-grad"},
    ends_in="divergence",
    twin="held-histogram",
)
def never_cleared(g: Generator) -> Setup:
    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return on_histogram(g, train_step=step)


@heldout(
    "held-sixteen-batches-summed",
    kind="cnn",
    source="a common slip: accumulation over 16 batches, the loss not divided by 16",
    symptoms=BLOWN | DEAD,
    causes={"undivided-accumulation", "learning-rate-too-high"},
    twin="held-shapes",
)
def summed_batches(g: Generator) -> Setup:
    count = iter(range(10**9))

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        loss = loss_fn(model(x), y)
        loss.backward()
        if next(count) % 16 == 15:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    return on_shapes(g, partial(SGD, lr=0.1, momentum=0.9), train_step=step)


@heldout(
    "held-identity-rnn-unclipped",
    kind="rnn",
    source="Pascanu et al. 2013: recurrent weights of one, and no clipping",
    symptoms=BLOWN,
    causes={"exploding-gradient", "learning-rate-too-high"},
    ends_in="divergence",
    twin="held-identity-rnn",
)
def unclipped(g: Generator) -> Setup:
    return on_averages(g, train_step=plain_step)


@heldout(
    "held-clipped-to-a-thousandth",
    kind="rnn",
    source="clip_grad_norm_(parameters, 1e-3): a threshold far below all norms, with SGD",
    symptoms=QUIET | {Symptom.VANISHING_GRADIENT},
    causes={"clip-always-active", "learning-rate-too-low"},
    twin="held-identity-rnn",
)
def clipped_away(g: Generator) -> Setup:
    return on_averages(g, train_step=clipped(1e-3))


# Precision


class Half(nn.Module):
    """A network whose weights and work are in a small type."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = net.to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.to(self.dtype)).float()


@heldout(
    "held-bf16-small-steps",
    kind="regression",
    source="Zamirai et al. 2020: pure bfloat16 rounds small updates away",
    symptoms=QUIET,
    causes={"bf16-updates-lost", "learning-rate-too-low"},
    twin="held-friedman",
)
def bf16(g: Generator) -> Setup:
    net = Half(friedman_net(), torch.bfloat16)
    return on_friedman(g, partial(Adam, lr=5e-5), net=net)


@heldout(
    "held-fp16-adam-epsilon",
    kind="regression",
    source="PyTorch issue 26218: Adam's epsilon of 1e-8 is zero in half precision",
    symptoms=BLOWN | FADING,
    causes={"epsilon-too-small", "fp16-without-scaler", "nonfinite"},
    twin="held-friedman",
)
def fp16_epsilon(g: Generator) -> Setup:
    return on_friedman(g, partial(Adam, lr=1e-3), net=Half(friedman_net(), torch.float16))


@heldout(
    "held-fp16-small-loss",
    kind="autoencoder",
    source="Micikevicius et al. 2018: small gradients become zero in half precision",
    symptoms=FADING,
    causes={"fp16-underflow", "fp16-without-scaler", "no-gradient"},
    twin="held-sensors",
)
def fp16_underflow(g: Generator) -> Setup:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        return 1e-6 * (out - y).square().mean()

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            found = loss_fn(model(x), y)
        found.backward()
        optimizer.step()
        return found

    return on_sensors(g, loss_fn=loss, train_step=step)


@heldout(
    "held-fp16-activations-too-large",
    kind="multilabel",
    source="a common slip: inputs beyond 65,504 overflow half precision",
    symptoms=BLOWN | FLAT,
    causes={"fp16-overflow", "nonfinite", "inputs-not-normalised"},
    twin="held-both",
)
def fp16_overflow(g: Generator) -> Setup:
    task = tasks.both(g)
    scale = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3e5])
    return on_both(
        g,
        net=Half(models.TwoHeads(), torch.float16),
        task=tasks.altered(task, x=task.x * scale),
    )


# The order of a loop


@heldout(
    "held-cleared-after-backward",
    kind="rnn",
    source="a common slip: zero_grad between backward and step",
    symptoms=FADING,
    causes={"gradients-cleared", "no-gradient"},
    twin="held-translator",
)
def cleared(g: Generator) -> Setup:
    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        loss = loss_fn(model(x), y)
        loss.backward()
        model.zero_grad()
        optimizer.step()
        return loss

    return on_translation(g, train_step=step)


@heldout(
    "held-step-at-end-of-epoch",
    kind="cnn",
    source="indentation: optimizer.step() behind the loop over batches, in a run of few epochs",
    symptoms=QUIET | {Symptom.VANISHING_GRADIENT, Symptom.DIVERGENCE},
    causes={"no-step", "gradients-cleared"},
    twin="held-discs",
)
def step_outside(g: Generator) -> Setup:
    count = iter(range(10**9))

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        if next(count) % 100 == 99:
            optimizer.step()
        return loss

    return on_discs(g, train_step=step)


@heldout(
    "held-loss-of-first-batch-kept",
    kind="regression",
    source="a common slip: next(iter(loader)) in the loop, without shuffling: one batch for ever",
    symptoms=QUIET,
    causes={"repeated-batch"},
    twin="held-friedman",
)
def one_batch(g: Generator) -> Setup:
    setup = on_friedman(g, partial(Adam, lr=3e-3), size=16, shuffle=False)
    return Setup(
        model=setup.model,
        optimizer=setup.optimizer,
        loss_fn=setup.loss_fn,
        batches=[next(iter(setup.batches))],
        score=setup.score,
    )


@heldout(
    "held-optimizer-of-another-copy",
    kind="cnn",
    source="a common slip: model = copy.deepcopy(best) after the optimizer was made",
    symptoms=FADING,
    causes={"stale-parameters", "parameters-without-optimizer", "no-gradient"},
    twin="held-shapes",
)
def another_copy(g: Generator) -> Setup:
    old = models.shapes_net()
    return on_shapes(g, lambda _: SGD(old.parameters(), lr=0.03, momentum=0.9))


@heldout(
    "held-backward-forgotten",
    kind="binary",
    source="DeepLocalize (Wardat et al. 2021), in PyTorch: the loss is never propagated",
    symptoms=FADING,
    causes={"step-without-backward", "no-gradient"},
    twin="held-customers",
)
def no_backward(g: Generator) -> Setup:
    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        optimizer.step()
        return loss

    return on_customers(g, train_step=step)
