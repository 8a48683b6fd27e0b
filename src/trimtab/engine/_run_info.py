"""What stands beside the measurements of a run: model, optimizer, settings and environment."""

import platform
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trimtab.errors import ConfigError
from trimtab.optim import Clipper
from trimtab.rules import describe_setup
from trimtab.signals import Recorder, RunWriter, histogram_edges, unwrapped

RUNS: Final = Path("runs")
"""Where run folders go by default."""


def describe_run(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    recorder: Recorder,
    *,
    clipper: Clipper | None,
    config: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return what a reader of the measurements wants to know about the run; fits into JSON."""
    first = next(iter(model.parameters()))
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": dict(config or {}),
        "model": {
            "class": type(unwrapped(model)).__name__,
            "num_parameters": sum(p.numel() for p in model.parameters()),
        },
        "optimizers": [_describe_optimizer(o) for o in optimizers],
        "clip": repr(clipper),
        "environment": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "system": platform.platform(terse=True),
            "device": _device_name(first.device),
            "threads": torch.get_num_threads(),
        },
        "setup": describe_setup(model, optimizers).to_dict(),
        "watch": asdict(recorder.watch),
        "sites": recorder.sites,
        "histogram_edges": histogram_edges(),
    }


def _plain(value: object) -> object:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _describe_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    groups = [
        {k: v for k, v in plain.items() if isinstance(v, bool | int | float | str)}
        | {"num_parameters": sum(p.numel() for p in group["params"])}
        for group in optimizer.param_groups
        for plain in [{k: _plain(v) for k, v in group.items()}]
    ]
    return {"class": type(optimizer).__name__, "groups": groups}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def open_run(
    out: Path | str | None, info: Mapping[str, Any]
) -> tuple[Path | None, RunWriter | None]:
    """Return the run folder and its writer; None for a run in memory, and on ranks but the first.

    Raises:
        ConfigError: A folder was asked for, and the packages to write it are missing.
    """
    first_rank = not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
    if out is None or not first_rank:
        return None, None
    folder = new_run_folder(str(info["model"]["class"]).lower()) if out == "auto" else Path(out)
    folder = folder.absolute()  # the loop may change its working folder
    try:
        return folder, RunWriter(folder, info=info)
    except ConfigError as error:
        if out != "auto":
            raise
        warnings.warn(
            f"{error} The run is kept in memory only; out=None says that this is meant.",
            UserWarning,
            stacklevel=5,
        )
        return None, None


def new_run_folder(name: str) -> Path:
    """Return a folder under `runs/` that does not exist yet, named by what runs and when."""
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    path, count = RUNS / stem, 1
    while path.exists():
        count += 1
        path = RUNS / f"{stem}-{count}"
    return path
