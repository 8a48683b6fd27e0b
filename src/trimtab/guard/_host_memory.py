"""How much of the host's memory snapshots may take."""

import os
from pathlib import Path
from typing import Final

SHARE: Final = 0.25
"""Of the memory that is free: data loaders and the page cache of a data set need the rest."""

_UNKNOWN_BYTES: Final = 2**32
"""Taken for free where the system does not say."""


def snapshot_budget_bytes() -> int:
    """Return a quarter of what is free now, shared among the processes of this host."""
    processes = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # as torchrun sets it
    return int(free_bytes() * SHARE / processes)


def free_bytes(root: Path = Path("/")) -> int:
    """Return the memory that can be had now: the system's, or a container's if that is less.

    Args:
        root: Where `proc` and `sys` are.
    """
    found = [_system_bytes(root), *_container_bytes(root)]
    known = [n for n in found if n is not None]
    return max(0, min(known)) if known else _UNKNOWN_BYTES


def _system_bytes(root: Path) -> int | None:
    try:
        for line in (root / "proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # macOS, Windows
        return None


def _container_bytes(root: Path) -> list[int]:
    """Return what is left under the limits of control groups, version 2 and 1."""
    left = []
    for folder, limit, used in (
        (root / "sys/fs/cgroup", "memory.max", "memory.current"),
        (root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            most = (folder / limit).read_text(encoding="utf-8").strip()
            now = int((folder / used).read_text(encoding="utf-8"))
            reclaimable = _file_cache_bytes(folder / "memory.stat")
            if most != "max":
                left.append(int(most) - now + reclaimable)
        except (OSError, ValueError):
            continue
    return left


def _file_cache_bytes(stat: Path) -> int:
    """Return the bytes of a group that are a cache of files: they go when memory is wanted."""
    for line in stat.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(" ")
        if name in {"inactive_file", "total_inactive_file"}:
            return int(value)
    return 0
