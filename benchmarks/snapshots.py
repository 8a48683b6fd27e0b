"""What snapshots in memory cost: a healthy GPT with a ring of them beside the same run without.

Claims: with a budget of 1 %, taking snapshots is at most 1.2 % of the training time (the first
ones, into new memory, cost more), and a run takes at most 1.02x as long; the weights after it are
the same, bit for bit. `share_of_time` is measured inside one run; the ratio wants a quiet machine.

    python benchmarks/snapshots.py
"""

import time
from dataclasses import dataclass, field
from statistics import median

import torch
from measure import arguments, interleave, print_table, ratios, save, timed
from torch import Tensor, nn

from trimtab.guard import LiveState, SnapshotRing
from trimtab.nn import GPT

SIZES = {"3 M": {"dim": 256, "depth": 4}, "10 M": {"dim": 384, "depth": 6}}
"""Transformers over 256 bytes."""

PLAIN = "no snapshots"
RING = "a ring of three, 1 % budget"
DELAY = 16
"""Steps until a snapshot counts as healthy; the guard's own default."""


@dataclass
class Training:
    """One run; with a ring, it takes snapshots as the guard would."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: tuple[Tensor, Tensor]
    ring: SnapshotRing | None = None
    steps: int = 0
    step_seconds: list[float] = field(default_factory=list)
    taken: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def step(self) -> None:
        began = time.perf_counter()
        x, y = self.batch
        logits = self.model(x)
        nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()).backward()
        if self.ring is not None:
            self.ring.before_update()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        stepped = time.perf_counter()
        if self.ring is not None:
            self._end_step()
        self.step_seconds = [*self.step_seconds, stepped - began][-20:]
        self.seconds += time.perf_counter() - began

    def _end_step(self) -> None:
        assert self.ring is not None
        began = time.perf_counter()
        self.ring.confirm(self.steps - DELAY)
        if self.ring.due(self.steps, median(self.step_seconds) if self.step_seconds else 0.0):
            self.ring.take(self.steps)
        self.taken.append(time.perf_counter() - began)


def make(size: dict[str, int], device: torch.device, *, ring: bool) -> Training:
    generator = torch.Generator(device).manual_seed(0)
    model = GPT(256, **size, num_heads=size["dim"] // 64, generator=generator).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    tokens = torch.randint(256, (4, 65), generator=generator, device=device)
    training = Training(model, optimizer, (tokens[:, :-1], tokens[:, 1:]))
    if ring:
        training.ring = SnapshotRing(LiveState(model, [optimizer]))
    return training


def compare(name: str, device: torch.device, rounds: int, block: int) -> dict[str, object]:
    runs = {
        PLAIN: make(SIZES[name], device, ring=False),
        RING: make(SIZES[name], device, ring=True),
    }
    ring = runs[RING].ring
    assert ring is not None

    def steps_of(run: Training) -> float:
        return timed(lambda: [run.step() for _ in range(block)], device)

    seconds = interleave(
        {n: lambda r=r: steps_of(r) for n, r in runs.items()}, rounds=rounds, warmup=2
    )
    same = all(
        torch.equal(a, b)
        for a, b in zip(runs[PLAIN].model.parameters(), runs[RING].model.parameters(), strict=True)
    )
    table = ratios(seconds, to=PLAIN)
    print_table(f"{block} steps of a GPT, {name} parameters (same weights: {same})", table)
    copies = ring.copy_seconds
    facts = {
        "parameters": sum(p.numel() for p in runs[RING].model.parameters()),
        "snapshot_bytes": ring.snapshots[-1].nbytes,
        "copy_ms": round(1e3 * median(copies), 2),
        "gigabytes_per_s": round(ring.snapshots[-1].nbytes / median(copies) / 1e9, 2),
        "step_ms": round(1e3 * median(runs[RING].step_seconds), 1),
        "interval_steps": ring.interval,
        "snapshots_taken": ring.num_taken,
        "share_of_time": round(sum(runs[RING].taken) / runs[RING].seconds, 4),
        "same_weights": same,
    }
    for key, value in facts.items():
        print(f"  {key:<20} {value}")
    return {"table": table, **facts}


def restoring(name: str, device: torch.device) -> dict[str, object]:
    """Measure how long it takes to go back, and that it leads to the same losses."""
    run = make(SIZES[name], device, ring=True)
    assert run.ring is not None
    for _ in range(3):
        run.step()
    snapshot = run.ring.take(run.steps)
    assert snapshot is not None
    times, ends = [], []
    for _ in range(3):
        times.append(timed(lambda: run.ring.restore(snapshot), device))  # type: ignore[union-attr] # above
        for _ in range(2):
            run.step()
        ends.append([p.detach().clone() for p in run.model.parameters()])
    exact = all(
        torch.equal(a, b) for other in ends[1:] for a, b in zip(ends[0], other, strict=True)
    )
    print(f"\ngoing back, {name}: {1e3 * median(times):.1f} ms, bit for bit: {exact}")
    return {"restore_ms": round(1e3 * median(times), 2), "bit_for_bit": exact}


def main() -> None:
    """Measure, show, keep."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--block", type=int, default=10, help="steps of a round")
    parser.set_defaults(threads=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    results = {
        name: compare(name, device, options.rounds, options.block) | restoring(name, device)
        for name in SIZES
    }
    if not options.no_save:
        save("snapshots", device, results)


if __name__ == "__main__":
    main()
