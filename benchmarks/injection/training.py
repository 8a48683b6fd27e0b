"""One run: a task, a fault, a protection and a seed, and everything that can be said of its end."""

import errno
import hashlib
import math
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from injection.faults import FAULTS, Fault, start_of
from injection.protections import Parts, Protection, protect
from injection.tasks import STEPS, Outliers, Task, find_task, generator


@dataclass(frozen=True)
class Job:
    """What is to be run."""

    model: str
    fault: str
    protection: str
    seed: int
    variant: str = "plain"
    steps: int = STEPS


@dataclass
class Outcome:
    """What came of a run."""

    losses: list[float] = field(default_factory=list)
    """Training loss of each batch, as the loop saw it."""
    validation: float = math.nan
    lost: int = 0
    finite: bool = False
    """Whether all parameters are."""
    buffers_finite: bool = False
    checksum: str = ""
    """Of all parameters, bit for bit."""
    incidents: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0
    written: list[str] = field(default_factory=list)
    """Files that the protection left behind, with their sizes, if it could write to a folder."""
    warnings: list[str] = field(default_factory=list)
    """What was said in Python's warnings, once each."""


def run(job: Job, rank: int | None = None) -> Outcome:
    """Train, inject, measure.

    What the protection raises ends the training, not the measurement: that a run is stopped with a
    clear error is a result, and the model is judged as it was left.

    Args:
        job: What to run.
        rank: Of two, whose process group is there already; None runs alone.
    """
    fault = FAULTS[job.fault]
    task = find_task(job.model, job.variant, half=fault.half)
    parts = _build(task, fault, job.seed, rank)
    folder = tempfile.TemporaryDirectory()
    parts.folder = Path(folder.name) if fault.full_disk else None
    plain = parts.model.module if rank is not None else parts.model
    outcome = Outcome()
    began = time.perf_counter()
    try:
        with _Disk(full=fault.full_disk) as disk:
            protection = protect(job.protection, parts)
            injector = _Injector(fault, job.seed, plain, parts.optimizer, disk)
            _train(job, task, parts, protection, injector, outcome.losses, rank)
    except Exception as error:  # noqa: BLE001 -- whatever ends a run is its result
        outcome.error = f"{type(error).__name__}: {error}"[:400]
    outcome.seconds = time.perf_counter() - began
    files = sorted(p for p in Path(folder.name).rglob("*") if p.is_file())
    outcome.written = [f"{p.relative_to(folder.name)}: {p.stat().st_size}" for p in files]
    folder.cleanup()
    try:
        outcome.lost, outcome.incidents = protection.lost, protection.incidents
    except UnboundLocalError:  # it could not even be made
        return outcome
    outcome.checksum = _checksum(plain)
    outcome.finite = all(bool(p.isfinite().all()) for p in plain.parameters())
    outcome.buffers_finite = all(bool(b.isfinite().all()) for b in plain.buffers())
    outcome.validation = task.validate(plain)
    return outcome


def _checksum(model: nn.Module) -> str:
    found = hashlib.sha256()
    for p in model.parameters():
        found.update(p.detach().numpy().tobytes())
    return found.hexdigest()[:16]


def _build(task: Task, fault: Fault, seed: int, rank: int | None) -> Parts:
    model = task.model(seed)
    if fault.half:
        model = Outliers(model)
    if rank is not None:
        model = DistributedDataParallel(model)
        random = generator(seed, start_of(seed), 17)
        state = _Garbage(fault, start_of(seed) if rank == 1 else -1, random)
        model.register_comm_hook(state, _Garbage.exchange)
    optimizer = task.build_optimizer(model)

    def factor(step: int) -> float:
        return task.lr_factor(step) * (fault.lr if fault.hits(seed, step) else 1.0)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    spoilt = range(STEPS) if fault.data or fault.half else ()
    hit = frozenset(i for i in spoilt if fault.hits(seed, i))
    return Parts(model, optimizer, schedule, fault.half, hit)


def _train(
    job: Job,
    task: Task,
    parts: Parts,
    protection: Protection,
    injector: "_Injector",
    losses: list[float],
    rank: int | None,
) -> None:
    for index in range(job.steps):
        x, y = task.batch(job.seed, index)
        x, y, scale = injector.fault.alter(job.seed, index, (x, y, 1.0))
        if rank is not None:
            x, y = x.chunk(2)[rank], y.chunk(2)[rank]
        injector.before(index, protection)
        compute = _closure(task.loss, parts.model, x, y, scale)
        losses.append(float(protection.backward(compute)))
        injector.after(index)
        protection.step(index)


def _closure(
    loss: Callable[[Tensor, Tensor], Tensor], model: nn.Module, x: Tensor, y: Tensor, scale: float
) -> Callable[[], Tensor]:
    """Return what computes the loss, again and again if somebody wants to replay it."""
    return lambda: loss(model(x), y) * scale


class _Disk:
    """A disk that is full from some moment on: the kernel refuses what makes a file longer.

    A limit on the size of files reaches every writer of the process, those in C and Rust too. It
    says EFBIG where a full disk says ENOSPC; both are the same OSError to who writes.
    """

    def __init__(self, *, full: bool) -> None:
        self.full = full
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self) -> None:
        """Refuse everything from now on, and make sure that it is refused.

        Raises:
            OSError: Of another kind than was meant.
            RuntimeError: It is not.
        """
        if not self.full:
            return
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, self.before[1]))
        try:
            with tempfile.TemporaryFile() as file:
                file.write(b"x")
                file.flush()
        except OSError as error:
            if error.errno == errno.EFBIG:
                return
            raise
        raise RuntimeError("The limit on the size of files has no effect here.")

    def __enter__(self) -> "_Disk":
        return self

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


class _Injector:
    """Does to a run what its fault says, each thing once."""

    def __init__(
        self,
        fault: Fault,
        seed: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        disk: _Disk,
    ) -> None:
        self.fault, self.model, self.optimizer, self.disk = fault, model, optimizer, disk
        self.start = start_of(seed)
        self.random = generator(seed, 13)

    def before(self, index: int, protection: Any) -> None:
        """Act before a forward pass."""
        if index != self.start:
            return
        self.disk.fill()
        if self.fault.before is not None:
            self.fault.before(self.model, self.optimizer, self.random)
        if self.fault.scale is not None:
            protection.set_scale(self.fault.scale)

    def after(self, index: int) -> None:
        """Act between a backward pass and the step."""
        if index == self.start and self.fault.after is not None:
            self.fault.after(self.model, self.optimizer, self.random)


class _Garbage:
    """What one rank does to its gradients before they are averaged, in one step."""

    def __init__(self, fault: Fault, at: int, random: torch.Generator) -> None:
        self.fault, self.at, self.random = fault, at, random
        self.exchanges = 0

    def exchange(self, bucket: torch.distributed.GradBucket) -> torch.futures.Future[Tensor]:
        """Average a bucket of gradients over the ranks, as DDP does without a hook."""
        buffer = bucket.buffer()
        if self.exchanges == self.at and self.fault.garbage is not None:
            self.fault.garbage(buffer, self.random)
        self.exchanges += bucket.is_last()
        buffer.div_(torch.distributed.get_world_size())
        sent = torch.distributed.all_reduce(buffer, async_op=True).get_future()
        return sent.then(lambda future: future.value()[0])


def to_dict(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as what JSON can hold."""
    return asdict(outcome)
