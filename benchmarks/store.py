"""What keeping measured signals costs: time and bytes a record, beside TensorBoard and CSV.

A record is one step of 60 sites with 11 signals: 660 numbers, 2,640 bytes as float32. The signals
are random walks on a logarithmic scale, as norms are. `flush` writes what 50 steps have left, and
`load` reads a million values into one long table.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import measure
import numpy as np
import torch

from trimtab.signals import RunWriter, csv_logger, load_run, tensorboard_logger

NUM_SITES, NUM_SIGNALS, FLUSH_EVERY = 60, 11, 50
SITES = tuple(f"blocks.{i}.mlp.fc.weight" for i in range(NUM_SITES))
Record = dict[str, np.ndarray]


def make_records(num: int) -> list[Record]:
    """Return the columns of each step."""
    generator = np.random.default_rng(0)
    moves = generator.normal(0, 0.05, (num, NUM_SIGNALS, NUM_SITES))
    walks = np.exp(moves.cumsum(axis=0) * 0.2 + moves).astype(np.float32)
    return [{f"signal.{i}": row for i, row in enumerate(step)} for step in walks]


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def ours(records: list[Record], folder: Path) -> dict[str, float]:
    """Time appending and flushing apart."""
    writer = RunWriter(folder, info={}, flush_s=1e9)
    appends, flushes = [], []
    for step, columns in enumerate(records):
        began = time.perf_counter()
        writer.append("parameters", step, columns, SITES)
        ended = time.perf_counter()
        if step % FLUSH_EVERY == FLUSH_EVERY - 1:
            writer.flush()
            flushes.append(time.perf_counter() - ended)
        appends.append(ended - began)
    growing = folder_bytes(folder)
    began = time.perf_counter()
    writer.close()
    rows = len(records) * NUM_SITES
    return {
        "append_us": statistics.median(appends) * 1e6,
        "append_p99_us": sorted(appends)[len(appends) * 99 // 100] * 1e6,
        "flush_ms": statistics.median(flushes[1:]) * 1e3,
        "us_per_record": (sum(appends) + sum(flushes[1:])) / len(records) * 1e6,
        "close_ms": (time.perf_counter() - began) * 1e3,
        "bytes_per_row_growing": growing / rows,
        "bytes_per_row_closed": folder_bytes(folder) / rows,
    }


def peer(records: list[Record], folder: Path, make: Callable[[Path], object]) -> dict[str, float]:
    """Time a logger that takes scalars, flattening included."""
    logger = make(folder)
    began = time.perf_counter()
    for step, columns in enumerate(records):
        logger(
            step,
            {
                f"{name}/{site}": value
                for name, values in columns.items()
                for site, value in zip(SITES, values.tolist(), strict=True)
            },
        )
    logger.close()
    seconds = time.perf_counter() - began
    return {
        "us_per_record": seconds / len(records) * 1e6,
        "bytes_per_row_closed": folder_bytes(folder) / (len(records) * NUM_SITES),
    }


def load(folder: Path, backend: str, rounds: int) -> float:
    """Return the median seconds of reading everything into one long table."""
    load_run(folder).table(backend=backend)  # imports
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        table = load_run(folder).table(backend=backend)
        seconds.append(time.perf_counter() - began)
    assert len(table) >= 1_000_000
    return statistics.median(seconds)


def main() -> None:
    options = measure.arguments(__doc__.splitlines()[0]).parse_args()
    records = make_records(2000)  # 1.3 million values
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours(records[:100], folder / "warm-up")
        results = {"trimtab": ours(records, folder / "ours")}
        few = records[:200]
        results["tensorboard"] = peer(few, folder / "tensorboard", tensorboard_logger)
        results["csv"] = peer(few, folder / "csv", lambda path: csv_logger(path / "log.csv"))
        rounds = max(3, options.rounds // 4)
        seconds = {b: load(folder / "ours", b, rounds) for b in ("polars", "pandas")}
    results["load"] = {f"{b}_s_per_million_values": s / 1.32 for b, s in seconds.items()}
    for title, row in results.items():
        print(f"\n{title}")
        for key, value in row.items():
            print(f"  {key:<28} {value:12.3f}")
    rounded = {t: {k: round(v, 4) for k, v in row.items()} for t, row in results.items()}
    about = {"sites": NUM_SITES, "signals": NUM_SIGNALS, "flush_every": FLUSH_EVERY}
    if not options.no_save:
        measure.RESULTS.mkdir(exist_ok=True)
        measure.save("store", torch.device("cpu"), {**about, **rounded})


if __name__ == "__main__":
    main()
