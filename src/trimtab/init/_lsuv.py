"""LSUV: weights scaled until every layer's output has variance 1 on a batch."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from trimtab.errors import ConfigError, StabilityWarning
from trimtab.init._checks import check_count, check_positive
from trimtab.init._orthogonal import orthogonal_
from trimtab.init._probe import check_finite, find_tensors, run, unchanged
from trimtab.init._weights import Weight, find_biases, find_weights

M = TypeVar("M", bound=nn.Module)


def lsuv_(
    module: M,
    batch: Any,
    *,
    tolerance: float = 0.1,
    max_iterations: int = 10,
    generator: torch.Generator | None = None,
) -> M:
    """Start orthogonal, then scale each layer in turn to unit output variance on a batch.

    A layer is scaled during its own first call, and its output with it, so the next layer
    sees what it will see in the end: one pass does for all. Further passes check, and go on
    if a layer is used twice. Dropout is off meanwhile and BatchNorm uses the batch. Modes,
    buffers and PyTorch's random state are restored, after an error the weights as well.

    It scales linear and convolution layers and the output projection of
    `nn.MultiheadAttention`; recurrent weights, query, key and value stay orthogonal, and so
    do layers that the batch does not reach. On the meta device nothing happens.

    Args:
        module: Changed in place; a model that can be run.
        batch: A tensor, a tuple of arguments or a mapping of keyword arguments; finite, on
            the model's device, the larger the better.
        tolerance: Largest distance of a variance from 1, finite and positive.
        max_iterations: Passes at most, at least 1.
        generator: Source of the orthogonal matrices. None: PyTorch's own.

    Returns:
        The same module. `StabilityWarning` names layers that did not get there, for
        instance because their output does not vary.

    Raises:
        ConfigError: An argument is out of range, `batch` or a layer's output is not finite,
            a layer has no shape yet, or there is no layer; nothing is changed then.

    Source: Mishkin & Matas 2015, arXiv:1511.06422, algorithm 1.
    """
    check_positive("tolerance", tolerance)
    check_count("max_iterations", max_iterations)
    check_finite(batch)
    weights = find_weights(module)
    if any(w.param.is_meta for w in weights):
        return module
    scaled = _by_called_module(module, weights)
    with _undo_on_error(weights), unchanged(module), torch.no_grad():
        orthogonal_(module, generator=generator)
        module.eval()
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.train()
        for _ in range(max_iterations + 1):
            variances = _scale_in_one_pass(module, batch, scaled, tolerance)
            missed = [n for n, v in variances.items() if not abs(v - 1) <= tolerance]
            movable = [n for n in missed if variances[n] > 0]
            if not movable:
                break
    _warn_of_missed({name: variances[name] for name in missed}, tolerance)
    return module


def _scale_in_one_pass(
    module: nn.Module, batch: Any, scaled: dict[nn.Module, Weight], tolerance: float
) -> dict[str, float]:
    """Run once, scaling each layer at its first call; return the variances found."""
    found: dict[str, float] = {}

    def scale(layer: nn.Module, _: Any, result: Any) -> Any:
        weight = scaled[layer]
        if weight.path in found:
            return None
        output = next(find_tensors(result))
        variance = _measure(weight, output)
        found[weight.path] = variance
        if variance == 0 or abs(variance - 1) <= tolerance:
            return None
        weight.values.div_(math.sqrt(variance))
        fixed = output / math.sqrt(variance)
        return (fixed, *result[1:]) if isinstance(result, tuple) else fixed

    hooks = [layer.register_forward_hook(scale) for layer in scaled]
    try:
        run(module, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _measure(weight: Weight, output: torch.Tensor) -> float:
    """Return the variance of a layer's output; one that is only rounding noise counts as 0.

    Raises:
        ConfigError: It is not finite.
    """
    wide = output.to(torch.promote_types(output.dtype, torch.float32))
    variance = float(wide.var(correction=0)) if wide.numel() else 0.0
    if not math.isfinite(variance):
        raise ConfigError(
            f"The output of layer {weight.path!r} has variance {variance} on this batch, so it "
            "cannot be scaled. Standardise the batch, and look for a NaN before this layer."
        )
    noise = torch.finfo(output.dtype).eps * float(wide.abs().max()) if wide.numel() else 0.0
    return 0.0 if variance <= noise**2 else variance


def _by_called_module(module: nn.Module, weights: list[Weight]) -> dict[nn.Module, Weight]:
    """Map each module whose call shows a weight's output to that weight.

    Attention uses its output projection without calling it.
    """
    attention = {m.out_proj: m for m in module.modules() if isinstance(m, nn.MultiheadAttention)}
    return {
        attention.get(w.layer, w.layer): w  # type: ignore[call-overload]  # a subclass of Linear
        for w in weights
        if w.kind in {"conv", "linear"}
    }


@contextmanager
def _undo_on_error(weights: list[Weight]) -> Iterator[None]:
    touched = [w.param for w in weights] + [b for w in weights for b in find_biases(w.layer)]
    before = {p: p.detach().clone() for p in touched}
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for parameter, value in before.items():
                parameter.copy_(value)
        raise


def _warn_of_missed(missed: dict[str, float], tolerance: float) -> None:
    if missed:
        listed = ", ".join(f"{name!r} ({v:.3g})" for name, v in list(missed.items())[:3])
        more = f" and {len(missed) - 3} more" if len(missed) > 3 else ""
        warnings.warn(
            f"lsuv_ could not bring the output variance of {listed}{more} to within {tolerance} "
            "of 1. Where it is 0 the batch does not vary there: pass more or other samples. "
            "Else raise max_iterations.",
            StabilityWarning,
            stacklevel=3,
        )
