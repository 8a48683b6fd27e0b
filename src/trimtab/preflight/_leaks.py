"""Finding out whether outputs depend on what they must not see, by changing that and looking."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from trimtab.preflight._batch import find_tensors, map_tensors
from trimtab.preflight._records import is_weighted
from trimtab.preflight._subject import Subject

TOLERANCE: Final = 1e-3
"""Change of an output, relative to the outputs' own deviation, that counts as rounding. Kernels may
sum in another order: float32 stays below 1e-5, bfloat16 below 1e-2 of the RMS."""

Change = Callable[[Tensor], Tensor]
Kept = Callable[[Tensor], Tensor | None]


def differs(before: Tensor, after: Tensor) -> bool:
    """Return whether two results differ by more than rounding."""
    wide = torch.promote_types(before.dtype, torch.float32)
    a, b = before.detach().to(wide), after.detach().to(wide)
    if a.shape != b.shape or not a.numel():
        return False
    scale = float((a - a.mean()).square().mean().sqrt()) + 1e-6 * float(a.abs().max())
    limit = TOLERANCE * (20 if before.dtype in {torch.bfloat16, torch.float16} else 1)
    return float((a - b).abs().max()) > limit * scale


def leaks(subject: Subject, change: Change, kept: Kept) -> bool | None:
    """Tell whether the part of the output that `kept` picks feels a change of the inputs.

    Args:
        subject: Whose model is run twice, as it stands.
        change: Of each input tensor.
        kept: The part of an output that must stay; None if it cannot be told.

    Returns:
        None if it cannot be told.
    """
    before = subject.compute_output(subject.batch.inputs)
    after = subject.compute_output(map_tensors(subject.batch.inputs, change))
    if before is None or after is None:
        return None
    first, second = kept(before), kept(after)
    if first is None or second is None or not bool(first.isfinite().all()):
        return None
    return differs(first, second)


def find_leak(subject: Subject, change: Change, kept: Kept) -> str:
    """Return the first module whose output feels it; empty if that cannot be told."""
    with _tapped(subject.model) as taps:
        subject.compute_output(subject.batch.inputs)
        before = dict(taps)
        taps.clear()
        subject.compute_output(map_tensors(subject.batch.inputs, change))
    for name, tensor in before.items():
        first = kept(tensor)
        second = kept(taps[name]) if name in taps else None
        if first is not None and second is not None and differs(first, second):
            return name
    return ""


@contextmanager
def _tapped(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Keep the first output of each module that is called inside."""
    taps: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_: nn.Module, __: Any, result: Any) -> None:
            made = next((t for t in find_tensors(result) if t.is_floating_point()), None)
            if made is not None and name not in taps:
                taps[name] = made.detach().clone()

        return keep

    hooks = [
        m.register_forward_hook(hook(n))
        for n, m in model.named_modules()
        if n and (is_weighted(m) or not any(m.children()))
    ]
    try:
        yield taps
    finally:
        for each in hooks:
            each.remove()
