"""Running a model on a batch to look at it, and leaving no trace of that."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from trimtab.errors import ConfigError


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore attributes, buffers and PyTorch's random state at the end, also after an error.

    The attributes include each module's mode, and what a forward pass keeps on `self`.

    Args:
        model: What will be run or traced inside.
    """
    attributes = [(vars(m), dict(vars(m))) for m in model.modules()]
    buffers = [
        (m, name, buffer, buffer.detach().clone())
        for m in model.modules()
        for name, buffer in m.named_buffers(recurse=False)
    ]
    with ExitStack() as stack:
        for kind, devices in _accelerators(model).items():
            stack.enter_context(torch.random.fork_rng(devices, device_type=kind))
        stack.enter_context(torch.random.fork_rng([]))
        try:
            yield
        finally:
            for current, kept in attributes:
                for name in current.keys() - kept.keys():
                    del current[name]
                current.update(kept)
            for module, name, buffer, value in buffers:
                setattr(module, name, buffer)
                with torch.no_grad():
                    buffer.copy_(value)


def run(model: nn.Module, batch: Any) -> Any:
    """Call a model: a tuple or list gives its arguments, a mapping its keyword arguments.

    Args:
        model: Any.
        batch: A tensor, or a collection of arguments.

    Returns:
        What the model returns.
    """
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)


def find_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in nested tuples, lists and mappings.

    Args:
        value: What a model takes or returns.
    """
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from find_tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from find_tensors(part)


def check_finite(batch: Any) -> None:
    """Refuse a batch with NaN or infinity in it.

    Args:
        batch: What `run` takes.

    Raises:
        ConfigError: A value is not finite.
    """
    for tensor in find_tensors(batch):
        bad = tensor.numel() - int(tensor.isfinite().sum()) if not tensor.is_meta else 0
        if bad:
            raise ConfigError(
                f"batch holds {bad} of {tensor.numel()} values that are NaN or infinite, so "
                "nothing can be measured with it. Pass a batch of healthy, standardised data."
            )


def _accelerators(model: nn.Module) -> dict[str, list[int]]:
    """List the indices of the devices other than the CPU that hold parameters, by kind."""
    found: dict[str, set[int]] = {}
    for parameter in model.parameters():
        device = parameter.device
        # fork_rng cannot address Apple's one device
        if device.type not in {"cpu", "meta", "mps"} and device.index is not None:
            found.setdefault(device.type, set()).add(device.index)
    return {kind: sorted(indices) for kind, indices in found.items()}
