"""Losses, penalties and normalisations that keep the training signal in bounds."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from trimtab.errors import ConfigError, StateError

__all__ = ["cross_entropy", "gradient_penalty", "normalize_advantages", "z_loss"]


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    ignore_index: int = -100,
) -> Tensor:
    """Return the mean cross-entropy, in at least float32, with an optional z-loss.

    The z-loss shares the softmax's work. A batch in which every target is ignored has a loss of 0,
    not NaN.

    Labels are not read back to be checked, which would wait for the device. A label out of range
    is an `IndexError` on a CPU; on CUDA it ends the process, so try new data on a CPU first.

    Args:
        logits: `(batch, classes)` or `(batch, time, vocab)`, any number of leading dimensions;
            any floating dtype.
        targets: Class indices, the shape of `logits` without its last dimension.
        label_smoothing: Share of the target probability spread over all classes, in [0, 1).
        z_loss: Weight of the squared log of the softmax's normaliser; 0 for none, PaLM uses 1e-4.
        ignore_index: Targets of this value count neither in the sum nor in the mean.

    Returns:
        0-d, in nats.

    Raises:
        ConfigError: Shapes or dtypes do not fit together, or a setting is out of range.

    Examples:
        >>> cross_entropy(torch.zeros(2, 3, 4), torch.tensor([[0, 1, 2], [3, -100, -100]]))
        tensor(1.3863)

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7; Chowdhery et al. 2022,
    arXiv:2204.02311, section 5.
    """
    _check_weight("z_loss", z_loss)
    if not 0 <= label_smoothing < 1:
        raise ConfigError(
            f"label_smoothing must be at least 0 and below 1, got {label_smoothing!r}."
        )
    _check_targets(logits, targets)
    x = _at_least_float32(logits).reshape(-1, logits.shape[-1])  # (positions, classes)
    labels = targets.reshape(-1).long()  # (positions,)
    each = functional.cross_entropy(
        x, labels, reduction="none", ignore_index=ignore_index, label_smoothing=label_smoothing
    )
    kept = labels != ignore_index
    if z_loss:
        # each = log Z - expected logit under the (smoothed) target, so log Z costs one gather: with
        # a vocabulary of 50,257, half the time of a logsumexp and its gradient.
        index = labels.masked_fill(~kept, 0).unsqueeze(-1)
        expected = x.gather(-1, index).squeeze(-1)  # (positions,)
        if label_smoothing:
            expected = (1 - label_smoothing) * expected + label_smoothing * x.mean(-1)
        log_z = torch.where(kept, each + expected, 0)
        each = each + z_loss * log_z.square()
    return each.sum() / kept.sum().clamp(min=1)


def z_loss(logits: Tensor, weight: float = 1e-4, *, mask: Tensor | None = None) -> Tensor:
    """Return a penalty that holds the softmax's normaliser near 1, so that logits cannot drift.

    For a loss of your own; `cross_entropy` has it built in, at less cost.

    Args:
        logits: `(..., classes)`, any floating dtype; computed in at least float32.
        weight: Finite, 0 or more; PaLM uses 1e-4, OLMo 2 uses 1e-5.
        mask: Boolean, the shape of `logits` without its last dimension: true where a position
            counts, for example `targets != -100`. Default: all do.

    Returns:
        `weight` times the mean of `logsumexp(logits)` squared, 0-d; 0 if no position counts.

    Raises:
        ConfigError: The weight is out of range, or the mask does not fit.

    Source: Chowdhery et al. 2022, arXiv:2204.02311, section 5; OLMo 2 2025, arXiv:2501.00656,
    section 3.
    """
    _check_weight("weight", weight)
    if not logits.is_floating_point() or logits.ndim == 0:
        raise ConfigError(
            f"logits must be floating-point, (..., classes); got {logits.dtype} of shape "
            f"{tuple(logits.shape)}."
        )
    squares = _at_least_float32(logits).logsumexp(-1).square()  # (...,)
    if mask is None:
        return weight * squares.sum() / max(1, squares.numel())
    if mask.shape != squares.shape or mask.dtype != torch.bool:
        raise ConfigError(
            f"mask must be boolean, of shape {tuple(squares.shape)}; got {mask.dtype} of shape "
            f"{tuple(mask.shape)}. Pass for example targets != -100."
        )
    return weight * torch.where(mask, squares, 0).sum() / mask.sum().clamp(min=1)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    *,
    weight: float = 10.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the penalty on a critic whose slope between real and generated examples is not 1.

    Add it to the critic's loss. It is differentiated twice: kernels without a second derivative,
    such as fused attention, cannot be in the critic. Nor can BatchNorm, which makes one example's
    score depend on the others: take LayerNorm or GroupNorm. Where the slope is exactly zero, its
    norm passes on a gradient of zero, not NaN.

    Args:
        critic: Maps `(batch, ...)` to scores, `(batch, ...)`; each from its own example only.
        real: Real examples, `(batch, ...)`, floating.
        fake: Generated examples of the same shape, dtype and device.
        weight: Finite, 0 or more.
        generator: Draws the mixing shares; on any device. Default: torch's global state.

    Returns:
        `weight` times the mean over examples of (norm - 1) squared, 0-d, in at least float32.

    Raises:
        ConfigError: The examples do not fit together, or the weight is out of range.
        StateError: Gradients are switched off, or the scores do not depend on the examples.

    Examples:
        >>> critic = lambda x: 3 * x.sum(dim=1)  # its slope has norm 3 * sqrt(4) = 6
        >>> gradient_penalty(critic, torch.zeros(2, 4), torch.ones(2, 4))
        tensor(250.)

    Source: Gulrajani et al. 2017, arXiv:1704.00028, Algorithm 1 and section 4.
    """
    _check_weight("weight", weight)
    same = real.shape == fake.shape and real.dtype == fake.dtype and real.device == fake.device
    if not same or not real.is_floating_point() or real.ndim == 0 or len(real) == 0:
        raise ConfigError(
            "real and fake must be floating-point batches of one shape, dtype and device, not "
            f"empty; got {tuple(real.shape)} {real.dtype} {real.device} and {tuple(fake.shape)} "
            f"{fake.dtype} {fake.device}."
        )
    source = real.device if generator is None else generator.device
    share = torch.rand(len(real), generator=generator, device=source)  # (batch,)
    share = share.to(real).view(-1, *[1] * (real.ndim - 1))
    mixed = torch.lerp(fake.detach(), real.detach(), share).requires_grad_()  # (batch, ...)
    scores = critic(mixed)
    if not scores.requires_grad:
        raise StateError(
            "The critic's scores have no gradient. Call gradient_penalty() outside no_grad(), with "
            "a critic that does not detach its input."
        )
    (slopes,) = torch.autograd.grad(scores.sum(), mixed, create_graph=True, allow_unused=True)
    if slopes is None:
        raise StateError("The critic's scores do not depend on the examples it was given.")
    slopes = _at_least_float32(slopes).reshape(len(real), -1)
    norms: Tensor = torch.linalg.vector_norm(slopes, dim=1)  # (batch,)
    return (norms - 1).square().mean() * weight


@torch.no_grad()
def normalize_advantages(
    advantages: Tensor, mask: Tensor | None = None, eps: float = 1e-8
) -> Tensor:
    """Return advantages with mean 0 and standard deviation 1 over the whole batch.

    Advantages that are all equal, or only one, become 0: they prefer no action. So does a spread
    that is no more than rounding error, which would otherwise be blown up to full size. Numbers
    that are not finite are not hidden.

    Args:
        advantages: Any shape.
        mask: Boolean, the same shape: true where an entry counts. The others become 0, whatever
            they hold. Default: all count.
        eps: Added to the standard deviation; finite, 0 or more.

    Returns:
        The same shape and dtype (float32 for whole numbers), without a graph.

    Raises:
        ConfigError: The mask does not fit, or `eps` is out of range.

    Examples:
        >>> normalize_advantages(torch.tensor([1.0, 2.0, 3.0]))
        tensor([-1.2247,  0.0000,  1.2247])
        >>> normalize_advantages(torch.tensor([0.1, 0.1, 0.1]))
        tensor([0., 0., 0.])

    Source: Andrychowicz et al. 2021, arXiv:2006.05990, choice C67.
    """
    _check_weight("eps", eps)
    if mask is None:
        mask = torch.ones_like(advantages, dtype=torch.bool)
    if mask.shape != advantages.shape or mask.dtype != torch.bool:
        raise ConfigError(
            f"mask must be boolean, of shape {tuple(advantages.shape)}; got {mask.dtype} of shape "
            f"{tuple(mask.shape)}."
        )
    x = torch.where(mask, _at_least_float32(advantages), 0)
    count = mask.sum().clamp(min=1)
    centred = torch.where(mask, x - x.sum() / count, 0)
    centred = torch.where(mask, centred - centred.sum() / count, 0)  # the first mean was rounded
    std = (centred.square().sum() / count).sqrt()
    largest = torch.linalg.vector_norm(x, torch.inf)
    resolution = 8 * torch.finfo(x.dtype).eps
    # <= and not >, so that NaN goes on to the result.
    out = torch.where(std <= resolution * largest, 0, centred / (std + eps))
    return out.to(advantages.dtype) if advantages.is_floating_point() else out


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _check_weight(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{name} must be finite and not negative, got {value!r}.")


def _check_targets(logits: Tensor, targets: Tensor) -> None:
    """Refuse what does not fit together, without looking at a value.

    Raises:
        ConfigError: A shape or dtype is wrong.
    """
    if not logits.is_floating_point() or logits.ndim == 0 or logits.shape[-1] == 0:
        raise ConfigError(
            f"logits must be floating-point, (..., classes); got {logits.dtype} of shape "
            f"{tuple(logits.shape)}."
        )
    whole = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    if not whole or targets.shape != logits.shape[:-1]:
        raise ConfigError(
            f"targets must be class indices, integers of shape {tuple(logits.shape[:-1])} for "
            f"logits of shape {tuple(logits.shape)}; got {targets.dtype} of shape "
            f"{tuple(targets.shape)}."
        )
