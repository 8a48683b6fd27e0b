"""Which device a run trains on, and in which precision."""

import torch

from trimtab.errors import ConfigError
from trimtab.precision import Precision, best_precision
from trimtab.train._config import RunConfig


def pick_device(name: str) -> torch.device:
    """Return the named device, or the machine's accelerator for `"auto"`, or the CPU.

    Raises:
        ConfigError: The name is unknown, or the device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"Device {name!r} cannot be used here: {reason}") from error
    if device.type == "meta":
        raise ConfigError("Device 'meta' holds no values, so nothing can be trained on it.")
    return device


def pick_precision(run: RunConfig, device: torch.device) -> Precision:
    """Return the precision asked for, or the fastest safe one."""
    return best_precision(device) if run.precision == "auto" else run.precision
