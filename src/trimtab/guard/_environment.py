"""What a run's numbers depend on beside its own code: versions, hardware and flags."""

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist

VARIABLES: Final = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "LOCAL_RANK",
    "MKL_CBWR",
    "MKL_NUM_THREADS",
    "NCCL_ALGO",
    "NCCL_PROTO",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PYTHONHASHSEED",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "RANK",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "WORLD_SIZE",
)
"""Variables that change numbers or their order of summation. The others may hold names and secrets,
and are never looked at."""

GIT_TIMEOUT_S: Final = 5
"""A repository on a slow network drive must not hold up the run."""


def describe_environment() -> dict[str, Any]:
    """Return what a replay needs to be equal for the same numbers; fits into JSON.

    It holds no user name, no host name and no path.
    """
    versions = {name: _version(name) for name in ("trimtab", "torch", "numpy", "safetensors")}
    return {
        **{name: version for name, version in versions.items() if version},
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        **_accelerator(),
        "ranks": dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        **_commit(),
    }


def compare_environments(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return what differs between two environments, in words.

    >>> compare_environments({"torch": "2.6.0", "threads": 8}, {"torch": "2.7.0", "threads": 8})
    ['torch 2.6.0 there, 2.7.0 here']

    Args:
        recorded: That of the run.
        here: That of the replay.
    """
    there, now = dict(_flat(recorded)), dict(_flat(here))
    names = [name for name in dict.fromkeys([*there, *now]) if name not in _INDIFFERENT]
    return [
        f"{name} {there.get(name, 'not set')} there, {now.get(name, 'not set')} here"
        for name in names
        if there.get(name) != now.get(name)
    ]


_INDIFFERENT: Final = {"safetensors"}
"""Reads files, computes nothing."""


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield name, value


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """Return the CPU's name, as far as the system tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2] for line in text.splitlines() if line.startswith("model name")]
    return names[0].strip() if names else platform.machine()


def _accelerator() -> dict[str, Any]:
    """Return device and library versions, if a GPU is in use; asking would start it otherwise."""
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):  # type: ignore[no-untyped-call] # untyped in torch
        return {"device": "cpu"}
    return {
        "device": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call] # untyped in torch
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }


def _commit() -> dict[str, str]:
    """Return the commit of the working folder; nothing without a repository or without git."""
    command = ["git", "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        found = subprocess.run(
            command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": found.stdout.strip()}
