"""Which steps the guard's policies leave out: of healthy runs, and of faults put into them.

Claims: of trainings that are sound, the default policy leaves out at most 0.1 % of the steps. Of
bursts of bad batches that stand out, it sees more to their last than OLMo's rule. Beside it: that
rule as published, ZClip's z-score, the z-score over moving averages that many trainers have, and
median and deviation of a window. All see the same numbers: runs are recorded once, without a guard,
and a faulty batch is measured at the weights of its step, as a policy sees it that has left out
those before. Seeds 0 and 1 served to choose the default policy's thresholds, and are not used here.

    python benchmarks/policies.py
"""

import copy
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from measure import arguments, save
from torch import Tensor, nn

from trimtab.guard import Policy, Spike, as_policy
from trimtab.nn import GPT
from trimtab.recipes._text import TextData, python_topics

Point = tuple[float, float]
"""Loss and gradient norm of a step."""
Batch = tuple[Tensor, Tensor]
FAULT_STEPS = (60, 150, 400, 700)
"""Steps at which faulty batches are measured; the first falls into the early descent."""
BURST = 5
AFTER_JUMP = 12
"""Batches measured after a jump of the learning rate; fewer than make a new level."""


@dataclass
class Trace:
    """A recorded run."""

    points: list[Point] = field(default_factory=list)
    faults: dict[tuple[str, int], list[Point]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A short training."""

    model: Callable[[torch.Generator], nn.Module]
    batch: Callable[[int, torch.Generator], Batch]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    loss: Callable[[Tensor, Tensor], Tensor] = lambda out, y: nn.functional.cross_entropy(
        out.flatten(0, -2), y.flatten()
    )
    rate: Callable[[int], float] = lambda _: 1.0
    steps: int = 1000
    garbage: bool = True
    """Whether random targets are worse than the true ones; not where nothing has been learnt."""


def record(run: Run, seed: int) -> Trace:
    """Train, and measure each step and what faults at some steps would look like."""
    g = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        model = run.model(g)
    optimizer = run.optimizer(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, run.rate)
    trace = Trace()
    for step in range(run.steps):
        if step in FAULT_STEPS:
            trace.faults |= measure_faults(run, model, optimizer, step, seed)
        trace.points.append(measure(run, model, run.batch(step, g)))
        optimizer.step()
        schedule.step()
    return trace


def measure(run: Run, model: nn.Module, batch: Batch, *, scale: float = 1) -> Point:
    """Return loss and gradient norm, and leave the gradients."""
    model.zero_grad()
    loss = run.loss(model(batch[0]), batch[1]) * scale
    loss.backward()
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters()])
    return loss.item(), norm.item()


def measure_faults(
    run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, seed: int
) -> dict[tuple[str, int], list[Point]]:
    """Return what a policy would see of faults at this step, if it left them all out."""
    g = torch.Generator().manual_seed(seed * 1000 + step)
    twin = copy.deepcopy(model)
    batches = [run.batch(step + k, g) for k in range(AFTER_JUMP + 1)]
    found = {("x1000 batch", step): [measure(run, twin, batches[0], scale=1000)]}
    if run.garbage:
        bad = [(x, spoil(y, g)) for x, y in batches[:BURST]]
        found["garbage labels", step] = [measure(run, twin, b) for b in bad]
    measure(run, twin, batches[-1])
    states = copy.deepcopy(optimizer.state_dict())
    for group in states["param_groups"]:
        group["lr"] *= 100
    other = run.optimizer(twin)
    other.load_state_dict(states)
    other.step()
    found["after lr x100", step] = [measure(run, twin, b) for b in batches[:AFTER_JUMP]]
    return found


def spoil(targets: Tensor, g: torch.Generator) -> Tensor:
    """Return targets drawn at random from the range of the true ones."""
    if targets.is_floating_point():
        return torch.randn(targets.shape, generator=g) * 4
    return torch.randint(int(targets.max()) + 1, targets.shape, generator=g)


# The runs


@cache
def digits() -> Batch:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images / 16, dtype=torch.float32), torch.tensor(data.target)


@cache
def diabetes() -> Batch:
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    x, y = (torch.tensor(v, dtype=torch.float32) for v in (data.data, data.target))
    return x / x.std(0), ((y - y.mean()) / y.std())[:, None]


@cache
def text() -> TextData:
    return TextData.split(python_topics(), context=64, seed=0)


def pictures(size: int, *, first: int = 1797, noise: float = 0.0) -> Callable[..., Batch]:
    def batch(_step: int, g: torch.Generator) -> Batch:
        x, y = digits()
        index = torch.randint(first, (size,), generator=g)
        wrong = torch.rand(size, generator=g) < noise
        return x[index], torch.where(wrong, torch.randint(10, (size,), generator=g), y[index])

    return batch


def harder_later(step: int, g: torch.Generator) -> Batch:
    """Pictures; half of the labels are wrong from step 500 on: a lasting change of level."""
    return pictures(32, noise=0.5 if step >= 500 else 0.0)(step, g)


def two_tasks(step: int, g: torch.Generator) -> Batch:
    """Pictures, and every 20th batch or so pictures upside down with other labels: harder."""
    x, y = pictures(32)(step, g)
    return (x.flip(1), 9 - y) if float(torch.rand((), generator=g)) < 0.05 else (x, y)


def rows(_step: int, g: torch.Generator) -> Batch:
    x, y = diabetes()
    index = torch.randint(len(x), (8,), generator=g)
    return x[index], y[index]


def mlp(_g: torch.Generator, inputs: int = 64, outputs: int = 10, width: int = 64) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, outputs),
    )  # fmt: skip


def cnn(_g: torch.Generator) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


class LSTM(nn.Module):
    """Reads a picture row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


def gpt(g: torch.Generator) -> nn.Module:
    return GPT(256, dim=48, depth=2, num_heads=4, max_len=64, generator=g)


def adamw(lr: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)


def sgd(lr: float, momentum: float = 0.9) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)


def warm(steps: int, total: int = 1000) -> Callable[[int], float]:
    def rate(step: int) -> float:
        cosine = 0.55 + 0.45 * math.cos(math.pi * min(step / total, 1))
        return min((step + 1) / steps, 1.0) * cosine

    return rate


def restarts(step: int) -> float:
    return 0.51 + 0.49 * math.cos(math.pi * (step % 250) / 250)


RUNS: Mapping[str, Run] = {
    "GPT, warm-up": Run(
        model=gpt, batch=lambda s, _: text().batch(s, 8), optimizer=adamw(3e-3), rate=warm(100)
    ),
    "GPT, batch 2, no warm-up": Run(
        model=gpt, batch=lambda s, _: text().batch(s, 2), optimizer=adamw(1e-3)
    ),
    "CNN": Run(model=cnn, batch=pictures(32), optimizer=adamw(3e-3), rate=warm(50)),
    "CNN, batch 4": Run(model=cnn, batch=pictures(4), optimizer=adamw(1e-3)),
    "CNN, restarts": Run(model=cnn, batch=pictures(32), optimizer=sgd(0.05), rate=restarts),
    "MLP, SGD, high rate": Run(model=mlp, batch=pictures(32), optimizer=sgd(0.1)),
    "MLP, batch 4": Run(model=mlp, batch=pictures(4), optimizer=sgd(0.02)),
    "MLP, learnt by heart": Run(
        model=mlp, batch=pictures(4, first=200), optimizer=adamw(1e-3), steps=2000
    ),
    "MLP, a fifth of labels wrong": Run(
        model=mlp, batch=pictures(32, noise=0.2), optimizer=adamw(1e-3), garbage=False
    ),
    "MLP, harder from 500": Run(
        model=mlp, batch=harder_later, optimizer=adamw(1e-3), garbage=False
    ),
    "MLP, two tasks": Run(model=mlp, batch=two_tasks, optimizer=adamw(1e-3), steps=2000),
    "LSTM": Run(model=lambda _: LSTM(), batch=pictures(16), optimizer=adamw(1e-2)),
    "regression": Run(
        model=lambda g: mlp(g, 10, 1), batch=rows, optimizer=adamw(1e-3),
        loss=nn.functional.mse_loss, garbage=False,
    ),
}  # fmt: skip


# The contenders. Each says of a step whether it is left out, and remembers it.


class OfTrimtab:
    """One of trimtab's policies."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __call__(self, loss: float, norm: float) -> bool:
        return bool(self.policy.judge(torch.tensor(loss), torch.tensor(norm)).item())


class PublishedOlmo:
    """OLMo-core's `SkipStepOptimizer`: every value enters the window."""

    def __init__(self, window: int = 128, sigma_factor: float = 6.0) -> None:
        self.window, self.sigma_factor = window, sigma_factor
        self.steps: list[Point] = []

    def __call__(self, loss: float, norm: float) -> bool:
        before = self.steps[-self.window :]
        self.steps = [*before, (loss, norm)]
        if len(self.steps) < self.window // 2:
            return False
        std, mean = torch.std_mean(torch.tensor(before), dim=0)
        near = torch.tensor((loss, norm)) - mean <= self.sigma_factor * std
        return not near.all().item()


class MovingAverages:
    """A z-score over exponential averages of each value and its square."""

    def __init__(self, decay: float = 0.99, z: float = 6.0, start: int = 32) -> None:
        self.decay, self.z, self.start = decay, z, start
        self.number, self.mean, self.square = 0, [0.0, 0.0], [0.0, 0.0]

    def __call__(self, loss: float, norm: float) -> bool:
        far = False
        correction = 1 - self.decay**self.number
        for i, value in enumerate((loss, norm)):
            if self.number >= self.start:
                mean, square = self.mean[i] / correction, self.square[i] / correction
                std = math.sqrt(max(square - mean * mean, 0.0))
                far |= not value - mean <= self.z * std
            self.mean[i] += (1 - self.decay) * (value - self.mean[i])
            self.square[i] += (1 - self.decay) * (value * value - self.square[i])
        self.number += 1
        return far


class WindowMedian:
    """Median and 1.4826 MAD of the last accepted losses and logarithms of norms."""

    def __init__(self, window: int = 128, z: float = 6.0, start: int = 32) -> None:
        self.window, self.z, self.start = window, z, start
        self.kept: list[Point] = []

    def __call__(self, loss: float, norm: float) -> bool:
        if not math.isfinite(loss + norm):
            return True
        point = (loss, math.log(max(norm, 1e-30)))
        if len(self.kept) >= self.start:
            values = torch.tensor(self.kept)
            middle = values.median(dim=0).values
            spread = 1.4826 * (values - middle).abs().median(dim=0).values
            if ((torch.tensor(point) - middle) > self.z * spread).any().item():
                return True
        self.kept = [*self.kept[1 - self.window :], point]
        return False


Contender = Callable[[float, float], bool]
CONTENDERS: Mapping[str, Callable[[], Contender]] = {
    "trimtab spike": lambda: OfTrimtab(as_policy("spike")),
    "trimtab olmo": lambda: OfTrimtab(as_policy("olmo")),
    "trimtab zclip": lambda: OfTrimtab(as_policy("zclip")),
    "OLMo as published": PublishedOlmo,
    "moving averages, z 6": MovingAverages,
    "window median, z 6": WindowMedian,
}


# What is measured


def judge_run(make: Callable[[], Contender], trace: Trace) -> dict[str, Any]:
    """Return which steps of a run are flagged, and which of the faults that are put into it."""
    policy = make()
    flags, faults = [], []
    for step, point in enumerate(trace.points):
        for kind in ("x1000 batch", "garbage labels", "after lr x100"):
            if points := trace.faults.get((kind, step)):
                other = copy.deepcopy(policy)
                seen = [other(*p) for p in points]
                faults.append((kind, stands_out(points, trace.points[:step]), seen))
        flags.append(policy(*point))
    return {"flags": flags, "faults": faults}


def stands_out(points: Sequence[Point], before: Sequence[Point]) -> bool:
    """Return whether most of the points exceed all of the last 128 steps by half, in one value."""
    highest = [max(step[i] for step in before[-128:]) for i in (0, 1)]
    far = [any(p[i] > 1.5 * highest[i] for i in (0, 1)) for p in points]
    return statistics.fmean(far) > 0.5


def synthetic(name: str, number: int, g: torch.Generator) -> list[Point]:
    """Return steps of a made-up run that is sound."""
    normal = torch.randn(number, 4, generator=g, dtype=torch.float64)
    uniform = torch.rand(number, generator=g, dtype=torch.float64)
    calm = torch.stack([2 * (0.05 * normal[:, 0]).exp(), (0.15 * normal[:, 1]).exp()], dim=1)
    time_ = torch.arange(number, dtype=torch.float64)[:, None]
    tails = {
        "calm": lambda: calm,
        "t, 3 degrees": lambda: 2 + _t(normal, 3)[:, None].abs().expand(-1, 2),
        "log-normal, sigma 1": lambda: 1 + normal[:, :2].exp(),
        "Pareto, 1.5": lambda: 1 + uniform[:, None].pow(-1 / 1.5).expand(-1, 2),
        "1 step in 50 ten times as high": lambda: (
            torch.where(uniform[:, None] < 0.02, 10, 1) * calm
        ),
        "slow change to four times": lambda: calm * 4 ** ((time_ - 500) / 500).clamp(0, 1),
        "change to four times at step 500": lambda: torch.where(time_ < 500, 1, 4) * calm,
    }
    return [(a, b) for a, b in tails[name]().tolist()]


def _t(normal: Tensor, degrees: int) -> Tensor:
    """Return draws of Student's t distribution."""
    return normal[:, 0] / (normal[:, 1 : 1 + degrees].square().mean(dim=1)).sqrt()


SYNTHETIC = (
    "calm", "t, 3 degrees", "log-normal, sigma 1", "Pareto, 1.5",
    "1 step in 50 ten times as high", "slow change to four times",
    "change to four times at step 500",
)  # fmt: skip


def aftermath(make: Callable[[], Contender], bad: Sequence[Point], seed: int) -> dict[str, float]:
    """Return how many of some bad steps are flagged, and of 200 sound ones that follow them."""
    steps = synthetic("calm", 500, torch.Generator().manual_seed(seed))
    policy = make()
    for point in steps[:300]:
        policy(*point)
    seen = [policy(*point) for point in bad]
    return {"flagged": sum(seen), "sound flagged": sum(policy(*point) for point in steps[300:])}


def half_sizes(make: Callable[[], Contender]) -> int:
    """Return how many of ten spikes are flagged, 4 steps apart, at half the size of a first one."""
    steps = synthetic("calm", 341, torch.Generator().manual_seed(1))
    policy = make()
    for point in steps[:300]:
        policy(*point)
    policy(2000.0, 1000.0)
    return sum(
        policy(1000.0, 500.0) for i, p in enumerate(steps[300:340]) if policy(*p) or i % 4 == 0
    )


def summarise(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return, for each kind of fault that stands out, how it was found."""
    by_kind: dict[str, list[list[bool]]] = defaultdict(list)
    for result in results:
        for kind, clear, seen in result["faults"]:
            if clear:
                by_kind[kind].append(seen)
    return {
        kind: {
            "number": len(found),
            "first step": round(statistics.fmean(s[0] for s in found), 3),
            "all steps": round(statistics.fmean(statistics.fmean(s) for s in found), 3),
            "missed altogether": round(statistics.fmean(not any(s) for s in found), 3),
        }
        for kind, found in by_kind.items()
    }


def evaluate(make: Callable[[], Contender], traces: Mapping[tuple[str, int], Trace]) -> Any:
    """Return all that is measured of a policy."""
    judged = {key: judge_run(make, trace) for key, trace in traces.items()}
    by_run: dict[str, list[bool]] = defaultdict(list)
    for (name, _), result in judged.items():
        by_run[name] += result["flags"]
    steady = [flag for name, flags in by_run.items() if name not in CHANGING for flag in flags]
    made_up = {}
    for name in SYNTHETIC:
        policy = make()
        points = synthetic(name, 5000, torch.Generator().manual_seed(0))
        made_up[name] = statistics.fmean(policy(*point) for point in points)
    return {
        "flagged of sound steps": statistics.fmean(steady),
        "flagged by run": {name: statistics.fmean(flags) for name, flags in by_run.items()},
        "flagged of made-up steps": made_up,
        "faults that stand out": summarise(list(judged.values())),
        "five NaN": aftermath(make, [(math.nan, math.nan)] * 5, 1),
        "one x1000": aftermath(make, [(2000.0, 1000.0)], 2),
        "five at four times": aftermath(make, [(8.0, 4.0)] * 5, 3),
        "flagged of ten spikes at half the size of one before": half_sizes(make),
    }


CHANGING = {"MLP, harder from 500"}
"""Runs that change for good, where a policy has to flag some steps before it can know."""


def microseconds(policy: Policy) -> float:
    """Return the time of a call."""
    points = synthetic("calm", 500, torch.Generator().manual_seed(0))
    pairs = [(torch.tensor(a), torch.tensor(b)) for a, b in points]
    times = []
    for _ in range(7):
        began = time.perf_counter()
        for pair in pairs:
            policy.judge(*pair)
        times.append((time.perf_counter() - began) / len(pairs))
    return round(min(times) * 1e6, 1)


def show(results: Mapping[str, Any]) -> None:
    """Print a row for each policy."""
    print(
        f"\n{'':24}{'sound':>9}{'two':>9}{'level':>7}{'x1000':>7}{'garbage labels':>16}{'after':>8}"
        f"{'NaN':>6}{'half':>6}\n{'':24}{'flagged':>9}{'tasks':>9}{'change':>7}{'':7}{'first':>8}"
        f"{'all':>8}{'lr jump':>8}{'after':>6}{'size':>6}"
    )
    for name, result in results.items():
        faults = result["faults that stand out"]
        print(
            f"{name:24}{result['flagged of sound steps']:9.3%}"
            f"{result['flagged by run']['MLP, two tasks']:9.2%}"
            f"{1000 * result['flagged by run']['MLP, harder from 500']:7.0f}"
            f"{faults['x1000 batch']['first step']:7.0%}"
            f"{faults['garbage labels']['first step']:8.0%}"
            f"{faults['garbage labels']['all steps']:8.0%}"
            f"{faults['after lr x100']['first step']:8.0%}"
            f"{result['five NaN']['sound flagged']:6d}"
            f"{result['flagged of ten spikes at half the size of one before']:6d}"
        )


def main() -> None:
    parser = arguments(__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads or 1)
    seeds = range(2, 2 + options.seeds)
    traces = {(name, seed): record(run, seed) for name, run in RUNS.items() for seed in seeds}
    results = {name: evaluate(make, traces) for name, make in CONTENDERS.items()}
    show(results)
    each = {
        "spike, on the host": microseconds(Spike()),
        "spike, as on a device": microseconds(Spike(at_once=False)),
        "olmo": microseconds(as_policy("olmo")),
        "zclip": microseconds(as_policy("zclip")),
        "nonfinite": microseconds(as_policy("nonfinite")),
    }
    print("\nmicroseconds a call, on a CPU")
    for name, value in each.items():
        print(f"  {name:24}{value:8.1f}")
    if not options.no_save:
        settings = {"seeds": list(seeds), "steps": sum(len(t.points) for t in traces.values())}
        measured = {"settings": settings, "policies": results, "microseconds a call": each}
        save("policies", torch.device("cpu"), measured)


if __name__ == "__main__":
    main()
