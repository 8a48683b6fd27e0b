"""Small guarded runs whose data depend on the number of the step alone."""

import copy
import math
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from trimtab import StabilityWarning, Stepper
from trimtab.guard import Change, Limits, MicroStep, TapeStep
from trimtab.guard._investigation import Investigation
from trimtab.optim import warmup_cosine

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr),
    "adam fused": lambda p, lr: torch.optim.Adam(p, lr=lr, fused=True),
    "sgd": lambda p, lr: torch.optim.SGD(p, lr=10 * lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
}


class Job:
    """A regression run, made anew and the same every time."""

    def __init__(
        self,
        *,
        seed: int = 0,
        norm: bool = False,
        dropout: float = 0.0,
        optimizer: str = "adam",
        lr: float = 0.01,
        schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
        at_once: bool = True,
        guard: Any = "spike",
        **options: Any,
    ) -> None:
        self.seed = seed
        with torch.random.fork_rng():
            torch.random.manual_seed(seed)
            layers = [nn.Linear(8, 32), nn.BatchNorm1d(32) if norm else nn.Identity(), nn.Tanh()]
            self.model = nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(32, 1))
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters(), lr)
        self.stepper = Stepper(
            self.model,
            self.optimizer,
            schedule="constant" if schedule is None else schedule(self.optimizer),
            guard=guard,
            **options,
        )
        self.stepper._at_once = self.stepper._updater.at_once = at_once
        if self.stepper.guard is not None:
            self.stepper.guard.replayer.at_once = at_once
        self.results: list[Any] = []

    @property
    def guard(self) -> Any:
        return self.stepper.guard

    @property
    def incidents(self) -> list[Any]:
        self.stepper.sync()
        return self.guard.incidents

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        draw = torch.Generator().manual_seed(1000 * self.seed + step)
        x = torch.randn(64, 8, generator=draw)
        return x, x.sum(1, keepdim=True) + 0.1 * torch.randn(64, 1, generator=draw)

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(self.model(x), y)

    def step(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        """Give the batch in as many parts as the stepper takes."""
        for a, b in zip(
            x.chunk(self.stepper.accumulate), y.chunk(self.stepper.accumulate), strict=True
        ):
            self.stepper.backward(lambda a=a, b=b: self.loss(a, b), weight=len(a))
            result = self.stepper.step()
        self.results.append(result)
        return result

    def run(
        self,
        first: int,
        last: int,
        bad: Callable[[int, Any, Any], tuple[Any, Any]] = lambda _step, x, y: (x, y),
        before: Callable[[int], None] = lambda _step: None,
        without: tuple[int, ...] = (),
    ) -> "Job":
        """Make the steps `first` to `last`.

        Args:
            bad: Returns the batch of a step, spoilt or not.
            before: Called before each step.
            without: Steps that this run never sees; of them, it only draws what dropout draws.
        """
        for step in range(first, last + 1):
            before(step)
            x, y = bad(step, *self.batch(step))
            if step in without:
                self._draw_only(x)
                continue
            self.step(x, y)
        self.stepper.sync()
        return self

    def _draw_only(self, x: torch.Tensor) -> None:
        buffers = copy.deepcopy(dict(self.model.named_buffers()))
        with torch.no_grad():
            for part in x.chunk(self.stepper.accumulate):
                self.model(part)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])

    def state(self) -> dict[str, Any]:
        """Return all that training depends on, copied; the guard's own memory is not in it."""
        self.stepper.sync()
        schedule, scaler = self.stepper.schedule, self.stepper.scaler
        return copy.deepcopy(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": None if schedule is None else schedule.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "steps": self.stepper.steps,
                "random": torch.get_rng_state(),
            }
        )


def assert_same(a: Any, b: Any) -> None:
    """Compare nested states bit for bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        for mine, theirs in zip(a, b, strict=True):
            assert_same(mine, theirs)
    elif isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    else:
        assert a == b


@pytest.fixture
def make_job() -> type[Job]:
    return Job


@pytest.fixture
def same() -> Callable[[Any, Any], None]:
    return assert_same


@pytest.fixture(autouse=True)
def _incidents_may_be_said():
    """Let the guard say what it does in runs that are broken on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"TT\d{3} ", StabilityWarning)
        yield


NAN, HUGE = float("nan"), 1e3

BAD = {
    "nan": lambda x, y: (x * NAN, y),
    "times 1000": lambda x, y: (x * HUGE, y * HUGE),
    "garbage labels": lambda x, y: (x, 50 * y.flip(0)),
}


def spoilt(kind, *steps):
    return lambda step, x, y: BAD[kind](x, y) if step in steps else (x, y)


def once(step, action):
    """Return what does something before one step."""
    return lambda now: action() if now == step else None


def warm(optimizer):
    return warmup_cosine(optimizer, warmup_steps=20, total_steps=200)


@pytest.fixture(autouse=True)
def _random_state():
    with torch.random.fork_rng():
        yield


def reset():
    """Begin with the same random numbers: those that dropout draws."""
    torch.random.manual_seed(7)


def kinds(job):
    """Return the incidents of a run, in short."""
    return [(i.step, i.kind, i.finding.code) for i in job.incidents]


WAYS = {
    "plain": {},
    "batch norm and dropout": {"norm": True, "dropout": 0.2, "optimizer": "momentum"},
    "accumulated": {"norm": True, "dropout": 0.2, "accumulate": 4},
    "fused": {"optimizer": "adam fused", "schedule": warm},
    "as an accelerator": {"norm": True, "dropout": 0.2, "at_once": False},
}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


@pytest.fixture
def compare(make_job, same):
    """Run a guarded job, then a bare one from the same random state, and compare all they left."""

    def check(settings, last=100, *, without=(), bad=None, before=None):
        bad = {} if bad is None else {"bad": bad}
        reset()
        job = make_job(**settings)
        job.run(1, last, **bad, before=(lambda step: None) if before is None else before(job))
        left = job.state()
        reset()
        clean = make_job(**settings | {"guard": None})
        bad = {} if before is not None else bad
        same(left, clean.run(1, last, **bad, without=without).state())
        return job

    return check


def change_weight(job):
    job.model[-1].weight.data[0, 0] *= 2.0**14  # as a flipped bit of the exponent does


def change_moment(job):
    state = job.optimizer.state[job.model[-1].weight]
    state["exp_avg" if "exp_avg" in state else "momentum_buffer"][0, 0] += 1e4


def change_gradient(job):
    hook = job.model[-1].weight.register_hook(lambda grad: (hook.remove(), grad * 2.0**20)[1])


def jump(job, *, factor=300):
    job.optimizer.param_groups[0]["lr"] *= factor


class FakeRing:
    """A snapshot ring that only notes what it was asked for."""

    def __init__(self) -> None:
        self.restored: list[int] = []

    def take(self, step: int) -> Any:
        return SimpleNamespace(step=step)

    def restore(self, snapshot: Any) -> None:
        self.restored.append(snapshot.step)


class FakeReplayer:
    """Makes steps again as a function says, and is sound afterwards where none of them was bad.

    Args:
        heals: Whether a change, None for none, removes the incident.
    """

    max_norm = math.inf

    def __init__(self, heals: Callable[[Change], bool], *, caps_attention: bool = False) -> None:
        self.heals, self.caps_attention = heals, caps_attention
        self.broken = True
        self.changes: list[Change] = []

    def run(self, steps, change=None, *, decide=None, after_step=None) -> Any:
        change = change or Change()
        self.changes.append(change)
        self.broken = not self.heals(change)
        replay = SimpleNamespace(losses=[], norms=[], skipped=[], first_difference=None)
        if change.is_none and not self.broken:
            replay.first_difference = steps[0].number
        for step in steps:
            if step.number not in change.without:
                bad = self.broken and step.number >= FIRST_BAD
                replay.losses.append(90.0 if bad else 1.0)
                replay.norms.append(70.0 if bad else 2.0)
                replay.skipped.append(step.skipped if decide is None else bad)
            if after_step is not None:
                after_step(step)
        return replay

    def measure(self, steps, change=None) -> tuple[list[float], list[float]]:
        healed = change is not None and self.heals(change)
        loss = 90.0 if self.broken and not healed else 1.0
        return [loss] * len(steps), [2.0] * len(steps)


FIRST_BAD = 61


def investigation_of(
    heals: Callable[[Change], bool],
    *,
    rates: Callable[[int], float] = lambda _step: 0.1,
    precision: Any = "fp32",
    budget_s: float = 60.0,
    sound: bool = False,
    **replayer: Any,
) -> Investigation:
    """Return an investigation of an incident at step 61, with a snapshot of step 40.

    Args:
        heals: Which changes remove it.
        rates: Learning rate of each step.
        sound: Whether the state is sound before any replay.
    """
    steps = [
        TapeStep(
            number=number,
            micro_steps=[MicroStep(lambda: torch.zeros(()), 1.0, 1.0, None, precision=precision)],
            settings=[{"lr": rates(number)}],
            divisor=1.0,
            loss=90.0 if number >= FIRST_BAD else 1.0 + 0.01 * (number % 3),
            norm=70.0 if number >= FIRST_BAD else 2.0,
            skipped=number >= FIRST_BAD,
            flagged=number >= FIRST_BAD,
        )
        for number in range(41, FIRST_BAD + 3)
    ]
    fake = FakeReplayer(heals, **replayer)
    fake.broken = not sound
    return Investigation(
        ring=FakeRing(),
        scratch=FakeRing,
        replayer=fake,
        limits=[Limits(loss=3.0, norm=5.0, loss_level=1.0, norm_level=2.0)],
        clean=[s for s in steps if s.number < FIRST_BAD],
        bad=[s for s in steps if s.number >= FIRST_BAD],
        steps=steps,
        base=SimpleNamespace(step=40),
        first_bad=FIRST_BAD,
        budget_s=budget_s,
        agree=lambda yes: yes,
    )


@pytest.fixture
def investigate() -> Callable[..., Investigation]:
    return investigation_of


@pytest.fixture
def findings_of() -> Callable[[str], list[Any]]:
    """Run a rule's example, on a model that is drawn the same every time."""

    def run(source: str) -> list[Any]:
        namespace: dict[str, Any] = {}
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # examples are faulty on purpose
            torch.random.manual_seed(0)
            exec(source, namespace)
        return namespace["findings"]

    return run
