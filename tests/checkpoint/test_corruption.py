"""A short run of `benchmarks/corruption.py`: no damage is ever loaded silently."""

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from trimtab.checkpoint import _store

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import corruption


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_no_damage_is_loaded_silently(tmp_path, sharded, monkeypatch):
    if sharded:  # by one process here; the benchmark starts two
        monkeypatch.setattr(corruption, "fully_shard", lambda model: model)
    with torch.random.fork_rng():
        corruption.save_two(tmp_path, sharded=sharded)
    outcomes = corruption.attack_all(tmp_path, num=8)
    total = sum(outcomes.values(), Counter())
    assert total.keys() <= {"fell back", "same content"}, outcomes
    assert total["fell back"] > 150
    harmless = {kind for kind, counts in outcomes.items() if counts["same content"]}
    # White space in the manifest, and the index of shards, which is the same in both.
    assert harmless <= {"lengthened", "bit flipped", "byte flipped", "of another step"}


def test_the_benchmark_would_notice(tmp_path, monkeypatch):
    """Without checksums, damage is loaded silently."""
    with torch.random.fork_rng():
        corruption.save_two(tmp_path, sharded=False)
    monkeypatch.setattr(_store, "read_verified", lambda path, _, name: (path / name).read_bytes())
    right = corruption.content(tmp_path)
    file = tmp_path / f"step-{corruption.NEW:08d}" / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert corruption.judge(tmp_path, right=right, before=(0, "")) == "silent"
