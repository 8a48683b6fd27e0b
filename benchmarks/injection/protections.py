"""What may protect a run, each used as its own documentation says, behind one interface."""

import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

MAX_NORM: Final = 1.0
"""The norm that everybody clips to who clips; the usual one for language models."""

Closure = Callable[[], Tensor]


@dataclass
class Parts:
    """What a loop trains with."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    half: bool
    left_out: frozenset[int] = frozenset()
    """Batches that the fault hits: only the oracle looks."""
    folder: Path | None = None
    """Where a protection may write to; None for nowhere."""


class Protection(ABC):
    """One training step in two halves, so that a fault can come between them."""

    scale: float
    """Loss scale, to be set by a fault."""

    @abstractmethod
    def backward(self, compute: Closure) -> Tensor:
        """Make the gradients, and return the loss."""

    @abstractmethod
    def step(self, index: int) -> None:
        """Use the gradients, or not, and clear them."""

    @property
    @abstractmethod
    def lost(self) -> int:
        """Updates that were not made or thrown away."""

    @property
    def incidents(self) -> list[dict[str, Any]]:
        """What the protection says of what happened."""
        return []


class Loop(Protection):
    """The usual loop of one's own, with a GradScaler in float16; unprotected.

    A subclass says with `decide` whether a step is made, and may change the gradients first.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.scaler = torch.amp.GradScaler("cpu", enabled=parts.half)
        self.loss = torch.tensor(torch.nan)
        self.skipped = 0

    @property
    def lost(self) -> int:
        return self.skipped

    def set_scale(self, scale: float) -> None:
        """Let the loss scale be what it should not be."""
        self.scaler.update(scale)

    def compute(self, compute: Closure) -> Tensor:
        """Return the loss, in the right precision."""
        with torch.autocast("cpu", torch.float16, enabled=self.parts.half):
            return compute()

    def backward(self, compute: Closure) -> Tensor:
        loss = self.compute(compute)
        self.loss = loss.detach()
        self.scaler.scale(loss).backward()
        return self.loss

    def decide(self, index: int) -> bool:  # noqa: ARG002 -- subclasses look
        """Tell whether the step is made."""
        return True

    def step(self, index: int) -> None:
        self.scaler.unscale_(self.parts.optimizer)
        before = self.scaler.get_scale()
        if self.decide(index):
            self.scaler.step(self.parts.optimizer)
        else:
            self.skipped += 1
        if self.parts.half:
            self.scaler.update()
            self.skipped += self.scaler.get_scale() < before
        self.parts.optimizer.zero_grad()
        self.parts.schedule.step()

    def norm(self) -> Tensor:
        """Clip the gradients and return their norm from before."""
        return nn.utils.clip_grad_norm_(self.parts.model.parameters(), MAX_NORM)


@final
class Clipped(Loop):
    """`clip_grad_norm_` with 1.0."""

    def decide(self, index: int) -> bool:  # noqa: ARG002
        self.norm()
        return True


@final
class Oracle(Loop):
    """Knows which batches are bad and leaves them out: what a perfect skip would give.

    Its distance from the clean run is how much leaving out a few batches changes by chance.
    """

    def decide(self, index: int) -> bool:
        return index not in self.parts.left_out

    def compute(self, compute: Closure) -> Tensor:
        buffers = [b.clone() for b in self.parts.model.buffers()]
        loss = super().compute(compute)
        self.kept = buffers
        return loss

    def step(self, index: int) -> None:
        super().step(index)
        if index in self.parts.left_out:
            for buffer, kept in zip(self.parts.model.buffers(), self.kept, strict=True):
                buffer.copy_(kept)


@final
class Olmo(Loop):
    """The rule of OLMo-core's `SkipStepOptimizer`, with clipping to 1.0 as OLMo trains.

    A step is left out when its loss or norm lies more than six standard deviations from the mean of
    the 128 before it, judged from 64 values on. All values enter the window. The original
    multiplies the update by 0, by which NaN would still reach the weights; here the step is really
    left out, which is kinder to it.

    Source: OLMo et al. 2025, "2 OLMo 2 Furious", arXiv:2501.00656; OLMo-core,
        src/olmo_core/optim/skip_step_optimizer.py.
    """

    window = 128
    sigmas = 6

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []

    def decide(self, index: int) -> bool:  # noqa: ARG002
        self.losses = [*self.losses, self.loss][-self.window - 1 :]
        self.norms = [*self.norms, self.norm()][-self.window - 1 :]
        if len(self.losses) < self.window // 2:
            return True
        return all(self._is_normal(values) for values in (self.losses, self.norms))

    def _is_normal(self, values: list[Tensor]) -> bool:
        std, mean = torch.std_mean(torch.stack(values[:-1]))
        return bool((values[-1] - mean).abs().div(std) <= self.sigmas)


@final
class ZClip(Loop):
    """ZClip's own package with its defaults."""

    def __init__(self, parts: Parts) -> None:
        from zclip import ZClip as Theirs

        super().__init__(parts)
        self.theirs = Theirs()

    def decide(self, index: int) -> bool:  # noqa: ARG002
        self.theirs.step(self.parts.model)
        return True


@final
class StabilityGuard(Loop):
    """StabilityGuard's optimizer with its defaults, as its front page shows it."""

    def __init__(self, parts: Parts) -> None:
        from stabilityguard import GuardedOptimizer

        super().__init__(parts)
        self.folder = tempfile.TemporaryDirectory()
        self.theirs = GuardedOptimizer(
            parts.optimizer, parts.model, log_dir=self.folder.name, verbose=False
        )
        self.theirs._spike_logger.log_spike = lambda _report: None  # prints; nothing depends on it

    def decide(self, index: int) -> bool:  # noqa: ARG002
        self.theirs.step()
        return True

    def step(self, index: int) -> None:
        self.scaler.unscale_(self.parts.optimizer)
        self.decide(index)
        if self.parts.half:
            self.scaler.update()
        self.theirs.zero_grad()
        self.parts.schedule.step()

    @property
    def lost(self) -> int:
        return self.theirs.total_skips


def _told(incidents: Any) -> list[dict[str, Any]]:
    return [
        {
            "kind": i.kind,
            "step": i.step,
            "detected": i.detected,
            "lost_steps": i.lost_steps,
            "code": i.finding.code,
            "name": i.finding.name,
            "site": i.finding.site,
            "what": str(i.finding),
            "experiments": [str(e.change) for e in i.experiments],
            "healed": [str(e.change) for e in i.experiments if e.healed],
        }
        for i in incidents
    ]


def _lost(skipped: int, incidents: list[dict[str, Any]]) -> int:
    # A step that overflowed is in no incident; one that was thrown away later was not skipped.
    return max(skipped, sum(i["lost_steps"] for i in incidents))


def _guard(parts: Parts) -> Any:
    """Return the default guard, which writes its incidents to a folder if there is one."""
    from trimtab.guard import Guard

    return Guard(out=None if parts.folder is None else parts.folder / "incidents")


@final
class TrimtabStepper(Protection):
    """trimtab's Stepper, which owns the step."""

    def __init__(self, parts: Parts) -> None:
        from trimtab import Stepper

        self.parts = parts
        self.stepper: Any = Stepper(
            parts.model,
            parts.optimizer,
            clip=MAX_NORM,
            precision="fp16" if parts.half else "fp32",
            schedule=parts.schedule,
            guard=_guard(parts),
        )

    def set_scale(self, scale: float) -> None:
        self.stepper.scaler.scale.fill_(scale)

    def backward(self, compute: Closure) -> Tensor:
        return self.stepper.backward(compute)

    def step(self, index: int) -> None:  # noqa: ARG002
        self.stepper.step()

    @property
    def lost(self) -> int:
        return _lost(self.stepper.skipped_steps, self.incidents)

    @property
    def incidents(self) -> list[dict[str, Any]]:
        return _told(self.stepper.guard.incidents)


@final
class TrimtabAttach(Loop):
    """trimtab attached to the usual loop."""

    def __init__(self, parts: Parts) -> None:
        from trimtab import attach

        super().__init__(parts)
        folder = None if parts.folder is None else parts.folder / "run"
        self.trim: Any = attach(
            parts.model,
            parts.optimizer,
            clip=MAX_NORM,
            out=folder,
            guard=_guard(parts),
            stateful={"scaler": self.scaler} if parts.half else None,
        )

    def compute(self, compute: Closure) -> Tensor:
        with torch.autocast("cpu", torch.float16, enabled=self.parts.half):
            return self.trim.loss(compute)

    @property
    def lost(self) -> int:
        return _lost(self.trim.skipped_steps, self.incidents)

    @property
    def incidents(self) -> list[dict[str, Any]]:
        return _told(self.trim.guard.incidents)


PROTECTIONS: Final[dict[str, Callable[[Parts], Any]]] = {
    "none": Loop,
    "clip": Clipped,
    "olmo": Olmo,
    "zclip": ZClip,
    "stabilityguard": StabilityGuard,
    "oracle": Oracle,
    "stepper": TrimtabStepper,
    "attach": TrimtabAttach,
}

PEERS: Final = frozenset({"zclip", "stabilityguard"})
"""Protections that need an interpreter which has them installed."""

OURS: Final = frozenset({"stepper", "attach"})


def protect(name: str, parts: Parts) -> Any:
    """Return a protection over a loop's parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PROTECTIONS[name](parts)
