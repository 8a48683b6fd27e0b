"""What is injected, when, and which named causes are right for it.

A fault of the data or of the schedule is a function of the batch's index or of the schedule's step:
whoever goes back in time meets it again. A fault of the state happens once, at a moment of the run:
whoever replays the steps from a good state does not meet it again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from injection.tasks import generator, mark

START: Final = 150
"""Batch at which the first seed's fault begins."""

Batch = tuple[Tensor, Tensor, float]
"""Inputs, targets, and what the loss is multiplied with."""


def start_of(seed: int) -> int:
    """Return the batch at which a seed's fault begins: 150, and others up to 40 away."""
    return START + (0, 17, -23, 31, -38)[seed % 5]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault; whatever it leaves at None stays as it is."""

    name: str
    causes: frozenset[str] = frozenset()
    """Names of findings that are right."""
    models: tuple[str, ...] = ("gpt", "cnn")
    steps: int = 1
    """Batches in a row that are hit."""
    data: Callable[[Batch, torch.Generator], Batch] | None = None
    lr: float = 1.0
    """Factor of the learning rate while it lasts."""
    before: Callable[[nn.Module, torch.optim.Optimizer, torch.Generator], None] | None = None
    """Done once, before the forward pass."""
    after: Callable[[nn.Module, torch.optim.Optimizer, torch.Generator], None] | None = None
    """Done once, between the backward pass and the step."""
    scale: float | None = None
    """Loss scale that is set once."""
    half: bool = False
    """Whether the run is in float16."""
    garbage: Callable[[Tensor, torch.Generator], None] | None = None
    """What the second of two ranks does once to its gradients before they are averaged."""
    full_disk: bool = False
    """Whether nothing can be written from the fault on."""

    def alter(self, seed: int, index: int, batch: Batch) -> Batch:
        """Return a batch as the fault leaves it."""
        if self.data is None or not self.hits(seed, index):
            return batch
        return self.data(batch, generator(seed, index, 11))

    def hits(self, seed: int, index: int) -> bool:
        """Tell whether a batch, or a step of the schedule, is in the fault."""
        begin = start_of(seed)
        return begin <= index < begin + self.steps

    @property
    def spoils_loss(self) -> bool:
        """Whether the loss of a batch that it hits says nothing of the model."""
        return self.data is not None


LASTING: Final = 10_000


def _nan_batch(batch: Batch, _random: torch.Generator) -> Batch:
    x, y, scale = batch
    if x.is_floating_point():
        x = x.clone()
        x[0] = torch.nan
        return x, y, scale
    return x, torch.full_like(y, -100), scale  # no token counts


def _times_1000(batch: Batch, _random: torch.Generator) -> Batch:
    x, y, scale = batch
    return (x * 1000, y, scale) if x.is_floating_point() else (x, y, scale * 1000)


def _loss_times_1000(batch: Batch, _random: torch.Generator) -> Batch:
    x, y, scale = batch
    return x, y, scale * 1000


def _garbage_labels(batch: Batch, random: torch.Generator) -> Batch:
    x, y, scale = batch
    classes = 10 if x.is_floating_point() else 256
    return x, torch.randint(classes, y.shape, generator=random), scale


def _marked(batch: Batch, _random: torch.Generator) -> Batch:
    x, y, scale = batch
    return mark(x), y, scale


def flip(values: Tensor, random: torch.Generator, *, bit: int | None = None) -> None:
    """Flip one exponent bit of one element in place.

    Args:
        values: float32, contiguous.
        random: Chooses the element.
        bit: 30 is the top bit of the exponent: the element is multiplied by 2**128. None takes the
            highest that is set: the element is divided, by up to 2**64.
    """
    words = values.detach().view(-1).view(torch.int32)
    at = int(torch.randint(words.numel(), (), generator=random))
    word = int(words[at])
    if bit is None:
        bit = next((b for b in range(30, 22, -1) if word >> b & 1), 30)
    words[at] = word ^ (1 << bit)


def _chosen(model: nn.Module, random: torch.Generator) -> nn.Parameter:
    """Return one of the matrices, the larger the likelier."""
    params = [p for p in model.parameters() if p.dim() >= 2]
    sizes = torch.tensor([float(p.numel()) for p in params])
    return params[int(torch.multinomial(sizes, 1, generator=random))]


def _flip_weight(model: nn.Module, _optimizer: Any, random: torch.Generator) -> None:
    flip(_chosen(model, random), random, bit=30)


def _flip_gradient(model: nn.Module, _optimizer: Any, random: torch.Generator) -> None:
    gradient = _chosen(model, random).grad
    assert gradient is not None
    flip(gradient, random, bit=30)


def _flip_state(*names: str, bit: int | None) -> Callable[..., None]:
    def flip_state(
        model: nn.Module, optimizer: torch.optim.Optimizer, random: torch.Generator
    ) -> None:
        state = optimizer.state[_chosen(model, random)]
        flip(next(state[name] for name in names if name in state), random, bit=bit)

    return flip_state


def _send_1e4(gradient: Tensor, _random: torch.Generator) -> None:
    gradient.mul_(1e4)


def _send_noise(gradient: Tensor, random: torch.Generator) -> None:
    gradient.copy_(torch.randn(gradient.shape, generator=random))


_CORRUPTED: Final = frozenset({"state-corrupted"})
_BATCH: Final = frozenset({"bad-batch"})
_JUMP: Final = frozenset({"rate-jump", "learning-rate-jump"})
_OVERFLOW: Final = frozenset({"precision-overflow"})

FAULTS: Final[dict[str, Fault]] = {
    f.name: f
    for f in (
        Fault(name="clean"),
        Fault(name="clean-fp16", half=True),
        Fault(name="clean-2-ranks"),
        Fault(name="nan-batch", causes=_BATCH, data=_nan_batch),
        Fault(name="batch-x1000", causes=_BATCH, data=_times_1000),
        Fault(name="loss-x1000", causes=_BATCH, data=_loss_times_1000, models=("cnn",)),
        Fault(name="garbage-labels-1", causes=_BATCH, data=_garbage_labels),
        Fault(name="garbage-labels-5", causes=_BATCH, data=_garbage_labels, steps=5),
        Fault(name="lr-jump-20", causes=_JUMP, lr=100, steps=20),
        Fault(name="lr-jump-lasting", causes=_JUMP, lr=100, steps=LASTING),
        Fault(name="flipped-weight", causes=_CORRUPTED, before=_flip_weight),
        Fault(name="flipped-gradient", causes=_CORRUPTED, after=_flip_gradient),
        Fault(
            name="flipped-first-moment",
            causes=_CORRUPTED,
            before=_flip_state("exp_avg", "momentum_buffer", bit=30),
        ),
        Fault(
            name="flipped-second-moment",
            causes=_CORRUPTED,
            before=_flip_state("exp_avg_sq", bit=None),
            models=("gpt",),
        ),
        # One sequence overflows: leaving it out is as right an answer as a wider precision.
        Fault(name="fp16-overflow", causes=_OVERFLOW | _BATCH, data=_marked, half=True),
        Fault(
            name="fp16-overflow-lasting", causes=_OVERFLOW, data=_marked, steps=LASTING, half=True
        ),
        Fault(name="loss-scale-jump", causes=_OVERFLOW, scale=2.0**40, half=True),
        Fault(name="rank-sends-x1e4", causes=_CORRUPTED, garbage=_send_1e4),
        Fault(name="rank-sends-noise", causes=_CORRUPTED, garbage=_send_noise),
        Fault(name="disk-full", causes=_BATCH, data=_nan_batch, full_disk=True),
    )
}


def is_on_two_ranks(fault: Fault) -> bool:
    """Tell whether a fault needs two processes."""
    return fault.garbage is not None or fault.name == "clean-2-ranks"


def baseline_of(fault: Fault) -> str:
    """Return the run that one with a fault is compared with."""
    if is_on_two_ranks(fault):
        return "clean-2-ranks"
    return "clean-fp16" if fault.half else "clean"
