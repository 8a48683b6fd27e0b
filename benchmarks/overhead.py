"""What watching every layer costs: attach beside no watching, its peers, and full-tensor hooks.

Claims: with default watching a step takes at most 1.01x (median) and 1.02x (mean) of the same step
with `clip_grad_norm_`, and less than 1.00x with a fused optimizer; the cost grows linearly with the
layers and not with the batch.

    pip install -c constraints.txt -r benchmarks/peers.txt
    python benchmarks/overhead.py
"""

import contextlib
import importlib
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import arguments, interleave, print_table, ratios, save, timed
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from trimtab import Stepper, attach
from trimtab.engine._optimizer_hooks import OptimizerHooks
from trimtab.nn import GPT
from trimtab.signals._taps import Taps

BARE = "clip_grad_norm_ + AdamW"
BARE_FUSED = "clip_grad_norm_ + fused AdamW"
EVERY = 10
"""Steps between two records of `attach`; a round is as many, so that each holds one."""


class ConvBlock(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.act2 = nn.ReLU(inplace=True)
        self.shortcut = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        return self.act2(y + self.shortcut(x))


def conv_net(generator: torch.Generator) -> nn.Module:
    blocks = [ConvBlock(32, stride) for stride in (1, 2, 1, 2, 1, 1)]
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, 1, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    )
    for p in model.parameters():
        if p.ndim > 1:
            nn.init.kaiming_normal_(p, generator=generator)
    return model


@dataclass
class Problem:
    """A model and a batch, the same for every contender."""

    model: nn.Module
    inputs: Tensor
    targets: Tensor

    def loss(self) -> Tensor:
        logits = self.model(self.inputs)
        return nn.functional.cross_entropy(logits.flatten(0, -2), self.targets.flatten())


def gpt_problem(device: torch.device, depth: int = 4, batch: int = 8) -> Problem:
    g = torch.Generator().manual_seed(0)
    model = GPT(256, dim=256, depth=depth, num_heads=4, max_len=128, generator=g).to(device)
    tokens = torch.randint(256, (batch, 129), generator=g).to(device)
    return Problem(model, tokens[:, :-1], tokens[:, 1:])


def conv_problem(device: torch.device) -> Problem:
    g = torch.Generator().manual_seed(0)
    images, labels = torch.randn(32, 3, 32, 32, generator=g), torch.randint(10, (32,), generator=g)
    return Problem(conv_net(g).to(device), images.to(device), labels.to(device))


@dataclass
class Contender:
    """One way to train, and how it ends."""

    step: Callable[[], None]
    close: Callable[[], Any] = field(default=lambda: None)


def adamw(problem: Problem, *, fused: bool = False) -> torch.optim.AdamW:
    return torch.optim.AdamW(problem.model.parameters(), lr=1e-4, fused=fused)


def bare(problem: Problem, *, fused: bool = False, clip: bool = True) -> Contender:
    optimizer = adamw(problem, fused=fused)

    def step() -> None:
        problem.loss().backward()
        if clip:
            nn.utils.clip_grad_norm_(problem.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return Contender(step)


def attached(
    problem: Problem, folder: Path, *, fused: bool = False, watch: Any = True
) -> Contender:
    optimizer = adamw(problem, fused=fused)
    trim = attach(problem.model, optimizer, watch=watch, out=folder)

    def step() -> None:
        trim.loss(problem.loss()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return Contender(step, trim.detach)


def stepper(problem: Problem) -> Contender:
    stepper = Stepper(problem.model, adamw(problem, fused=True), schedule="constant")

    def step() -> None:
        stepper.backward(problem.loss)
        stepper.step()

    return Contender(step)


def full_hooks(problem: Problem) -> Contender:
    """Mean, RMS, largest magnitude and zero fraction of whole outputs, each read at once."""
    optimizer = adamw(problem)
    seen: dict[str, list[float]] = {}

    def hook(name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            x = output.detach().float()
            values = (x.mean(), x.square().mean().sqrt(), x.abs().max(), (x == 0).float().mean())
            seen[name] = [v.item() for v in values]

    for name, module in problem.model.named_modules():
        module.register_forward_hook(partial(hook, name))

    def step() -> None:
        problem.loss().backward()
        nn.utils.clip_grad_norm_(problem.model.parameters(), 1.0)
        for p in problem.model.parameters():
            if p.grad is not None:
                p.grad.norm().item()
        optimizer.step()
        optimizer.zero_grad()

    return Contender(step)


def trainscope(problem: Problem, folder: Path) -> Contender:
    from trainscope import TrainScope
    from trainscope.core.config import TrainScopeConfig

    optimizer = adamw(problem)
    scope = TrainScope(
        problem.model, optimizer, config=TrainScopeConfig(run_dir=str(folder))
    ).attach()
    steps = iter(range(10**9))

    def step() -> None:
        loss = problem.loss()
        loss.backward()
        nn.utils.clip_grad_norm_(problem.model.parameters(), 1.0)
        scope.step(loss.item(), batch_index=next(steps))
        optimizer.step()
        optimizer.zero_grad()

    return Contender(step, scope.detach)


def torchmortem(problem: Problem) -> Contender:
    from torchmortem import Autopsy

    optimizer = adamw(problem)
    autopsy = Autopsy(problem.model, optimizer=optimizer)
    autopsy.__enter__()

    def step() -> None:
        loss = problem.loss()
        loss.backward()
        nn.utils.clip_grad_norm_(problem.model.parameters(), 1.0)
        optimizer.step()
        autopsy.step(loss=loss.item())
        optimizer.zero_grad()

    return Contender(step, lambda: autopsy.__exit__(None, None, None))


def stabilityguard(problem: Problem) -> Contender:
    from stabilityguard import GuardedOptimizer

    optimizer = GuardedOptimizer(adamw(problem), problem.model)

    def step() -> None:
        problem.loss().backward()
        nn.utils.clip_grad_norm_(problem.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return Contender(step)


def trainpulse(problem: Problem) -> Contender:
    from trainpulse import Monitor

    optimizer, monitor = adamw(problem), Monitor()
    steps = iter(range(10**9))

    def step() -> None:
        index = next(steps)
        monitor.step_start()
        loss = problem.loss()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(problem.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        monitor.log("loss", index, loss.item())
        monitor.log("grad_norm", index, norm.item())
        monitor.step_end(index)

    return Contender(step)


class _Reads(TorchDispatchMode):
    """Counts values that are read back to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def reads_per_step(contender: Contender, steps: int = 2 * EVERY) -> float:
    with _Reads() as reads:
        for _ in range(steps):
            contender.step()
    return reads.count / steps


def contenders(make: Callable[[], Problem], folder: Path) -> dict[str, Contender]:
    """Return all that work here; a peer that is missing, or crashes on the model, is left out."""
    builders: dict[str, Callable[[], Contender]] = {
        BARE: lambda: bare(make()),
        "the same again": lambda: bare(make()),
        "attach": lambda: attached(make(), folder / "attach"),
        "attach, watch=False": lambda: attached(make(), folder / "numbers", watch=False),
        BARE_FUSED: lambda: bare(make(), fused=True),
        "attach, fused AdamW": lambda: attached(make(), folder / "fused", fused=True),
        "Stepper, fused AdamW": lambda: stepper(make()),
        "fused AdamW, no clipping": lambda: bare(make(), fused=True, clip=False),
        "full-tensor hooks": lambda: full_hooks(make()),
        "trainscope 1.8.1": lambda: trainscope(make(), folder / "trainscope"),
        "torchmortem 0.1.1": lambda: torchmortem(make()),
        "stabilityguard 0.3.0": lambda: stabilityguard(make()),
        "trainpulse 0.4.0": lambda: trainpulse(make()),
    }
    found = {}
    for name, build in builders.items():
        try:
            contender = build()
            contender.step()
        except ImportError:
            print(f"  {name} is not installed, left out")
        except RuntimeError as error:
            print(f"  {name} crashes and is left out: {str(error).splitlines()[0][:120]}")
        else:
            found[name] = contender
    return found


def compare(
    title: str, make: Callable[[], Problem], device: torch.device, rounds: int
) -> dict[str, Any]:
    """Measure one model with every contender, `EVERY` steps a round."""
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()) as said:
        found = contenders(make, Path(name))

        def run(contender: Contender) -> float:
            def steps() -> None:
                for _ in range(EVERY):
                    contender.step()

            return timed(steps, device) / EVERY

        seconds = interleave({n: partial(run, c) for n, c in found.items()}, rounds=rounds)
        reads = {n: reads_per_step(c) for n, c in found.items()} if device.type == "cpu" else {}
        for contender in found.values():
            contender.close()
    left_out = [line.strip() for line in said.getvalue().splitlines() if "left out" in line]
    print("\n".join(left_out))
    table: dict[str, dict[str, float]] = {}
    for name in found:
        base = BARE_FUSED if "fused" in name or "Stepper" in name else BARE
        table[name] = ratios({name: seconds[name], base: seconds[base]}, to=base)[name]
        table[name]["mean"] = round(
            statistics.fmean(seconds[name]) / statistics.fmean(seconds[base]), 3
        )
        if name in reads:
            table[name]["reads"] = round(reads[name], 1)
    print_table(f"{title}, one step against clip_grad_norm_ with the same optimizer", table)
    for name, row in table.items():
        print(f"  {name:<34} mean {row['mean']:6.3f}x  reads {row.get('reads', float('nan')):7.1f}")
    return {
        "table": table,
        "left_out": left_out,
        "seconds": {n: [round(s, 6) for s in v] for n, v in seconds.items()},
    }


@contextlib.contextmanager
def time_inside() -> Any:
    """Count the seconds that the hooks of `attach` take."""
    total = [0.0]
    wrapped = [
        (OptimizerHooks, "_before"),
        (OptimizerHooks, "_after"),
        (Taps, "see"),
        (Taps, "see_attention"),
    ]
    originals = [getattr(owner, name) for owner, name in wrapped]

    def clocked(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                total[0] += time.perf_counter() - began

        return call

    for (owner, name), original in zip(wrapped, originals, strict=True):
        setattr(owner, name, clocked(original))
    try:
        yield total
    finally:
        for (owner, name), original in zip(wrapped, originals, strict=True):
            setattr(owner, name, original)


def growth(device: torch.device) -> dict[str, dict[str, float]]:
    """Measure milliseconds inside the hooks by depth and by batch, averaged over whole cadences."""
    for name in ("pyarrow.ipc", "pyarrow.parquet"):
        importlib.import_module(name)  # as the first flush does, once a process
    cases = {f"depth {d}, batch 8": (d, 8) for d in (2, 4, 8, 16)}
    cases |= {f"depth 4, batch {b}": (4, b) for b in (2, 32)}
    table = {}
    for title, (depth, batch) in cases.items():
        with tempfile.TemporaryDirectory() as folder, time_inside() as inside:
            contender = attached(gpt_problem(device, depth, batch), Path(folder), fused=True)
            for _ in range(EVERY):
                contender.step()
            inside[0] = 0.0
            began = time.perf_counter()
            for _ in range(4 * EVERY):
                contender.step()
            step = (time.perf_counter() - began) / (4 * EVERY)
            mine = inside[0] / (4 * EVERY)
            contender.close()
        table[title] = {"hooks_ms": round(mine * 1e3, 3), "step_ms": round(step * 1e3, 2)}
        print(
            f"  {title:<34} {mine * 1e3:7.3f} ms in hooks, with clipping, of {step * 1e3:8.2f} ms"
        )
    return table


def main() -> None:
    """Measure, show, keep."""
    parser = arguments(__doc__.splitlines()[0])
    parser.set_defaults(rounds=12)
    parser.add_argument("--only", choices=["gpt", "cnn", "growth"])
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    device = torch.device(options.device)
    models = {
        "gpt": ("GPT, 4 layers of 256, batch 8 x 128", partial(gpt_problem, device)),
        "cnn": ("residual CNN, batch 32", partial(conv_problem, device)),
    }
    results: dict[str, Any] = {
        name: compare(title, make, device, options.rounds)
        for name, (title, make) in models.items()
        if options.only in {None, name}
    }
    if options.only in {None, "growth"}:
        print("\nseconds inside the hooks")
        results["growth"] = growth(device)
    if not options.no_save:
        save("overhead", device, results)


if __name__ == "__main__":
    main()
