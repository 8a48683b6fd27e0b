"""Fair timing of contenders side by side, and where the numbers are kept."""

import argparse
import json
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def interleave(
    contenders: Mapping[str, Callable[[], float]], *, rounds: int, warmup: int = 3
) -> dict[str, list[float]]:
    """Call every contender once a round, in turning order, so that noise falls on all alike.

    Args:
        contenders: Each returns the seconds of its timed part.
        rounds: Measured rounds.
        warmup: Rounds before them that do not count.

    Returns:
        Seconds of each contender, one a round.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(warmup + rounds):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            taken = contenders[name]()
            if index >= warmup:
                seconds[name].append(taken)
    return seconds


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that `work` takes, with the device's queue empty before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def ratios(seconds: Mapping[str, list[float]], *, to: str) -> dict[str, dict[str, float]]:
    """Return each contender's time as a share of another's, round by round.

    Returns:
        Median of the ratios, their 10th and 90th percentile, and the median milliseconds.
    """
    table = {}
    for name, values in seconds.items():
        shares = sorted(a / b for a, b in zip(values, seconds[to], strict=True))
        table[name] = {
            "ratio": round(statistics.median(shares), 3),
            "p10": round(shares[len(shares) // 10], 3),
            "p90": round(shares[len(shares) * 9 // 10], 3),
            "ms": round(statistics.median(values) * 1e3, 3),
        }
    return table


def print_table(title: str, table: Mapping[str, Mapping[str, float]]) -> None:
    """Show one table of ratios."""
    print(f"\n{title}")
    for name, row in table.items():
        print(
            f"  {name:<34} {row['ratio']:6.3f}x  [{row['p10']:.3f} .. {row['p90']:.3f}]"
            f"  {row['ms']:9.3f} ms"
        )


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's own")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--no-save", action="store_true", help="print only")
    return parser


def save(name: str, device: torch.device, results: Mapping[str, Any]) -> Path:
    """Write results with the machine they were measured on; returns the file."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    slug = re.sub(r"[^a-z0-9]+", "-", hardware.lower()).strip("-")
    path = RESULTS / f"{name}-{slug}-{datetime.now(UTC):%Y-%m-%d}.json"
    machine = {
        "hardware": hardware,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    path.write_text(json.dumps({"machine": machine, **results}, indent=2) + "\n")
    print(f"\nwritten to benchmarks/results/{path.name}")
    return path


def _cpu_name() -> str:
    cores = torch.get_num_threads()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return f"{platform.machine()}-{cores}-cores"
    model = re.search(r"model name\s*:\s*(.+)", text)
    return f"{model.group(1).strip() if model else platform.machine()} {cores} cores"
