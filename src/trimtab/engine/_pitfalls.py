"""Settings that run but are known to break training, found when a Stepper is built or steps."""

import math
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from trimtab.errors import ConfigError, StabilityWarning
from trimtab.optim import no_decay_params
from trimtab.signals import local

ADAPTIVE_OPTIMIZERS = ("Adam", "AdamW", "NAdam", "Adamax", "StableAdamW", "RMSprop", "Lion")
"""Names of the classes whose first steps are as large as all others; look-alikes count too.

RAdam is left out: it allows for young second moments by itself.
"""

MAX_GRAD_SPREAD = 1e8
"""Largest healthy ratio of weight-gradient norms at the first step.

Networks that train stay below 1e4; LayerScale at 1e-6 reaches 1e7; twenty badly initialised layers
pass 1e12.
"""
MIN_GRAD_PER_LOSS = 1e-6
"""Least healthy ratio of the largest weight-gradient norm to the loss at the first step.

In a plain stack of layers all weight gradients vanish alike, so their spread shows nothing.
Networks that train have 0.1 to 10; twenty layers that halve the signal each have 1e-6.
"""
MAX_GRAD_PER_WEIGHT = 1e8
"""Largest healthy ratio of a weight gradient's norm to that of the weights at the first step.

A regression on targets of a million, not standardised, has 1e6.
"""

CLIP_WINDOW = 200
"""Steps over which clipping is judged."""
MAX_CLIPPED_SHARE = 0.95
"""Largest healthy share of clipped steps, when the median factor is also below one half."""


def refuse_foreign(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer of another model.

    Raises:
        ConfigError: It holds none of the model's parameters.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in held for p in model.parameters()):
        raise ConfigError(
            "The optimizer holds no parameter of this model, so no step could change it. Build the "
            "optimizer from model.parameters() after the model is final (moved, wrapped, tied)."
        )


def refuse_impossible(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse what can never work.

    Raises:
        ConfigError: The optimizer holds none of the model's parameters, a learning rate is not
            finite, parameters are fp16, or the optimizer calls the loss by itself.
    """
    refuse_foreign(model, optimizer)
    for index, group in enumerate(optimizer.param_groups):
        lr = float(group["lr"])
        if not (math.isfinite(lr) and lr >= 0):
            raise ConfigError(
                f"The learning rate of param group {index} is {lr}; it must be finite and not "
                "negative."
            )
    for name, p in model.named_parameters():
        if p.dtype == torch.float16:
            raise ConfigError(
                f"Parameter {name} is float16: small updates to it round to nothing. Keep the "
                'model in float32 and pass precision="fp16"; the forward pass then runs in fp16.'
            )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ConfigError(
            "LBFGS evaluates the loss several times within one step, and its line search is its "
            "own safeguard. Call optimizer.step(closure) directly, without a Stepper."
        )


def check_schedule(schedule: object, optimizer: torch.optim.Optimizer) -> LRScheduler | None:
    """Return the schedule if the Stepper can move it, None if there is none.

    Raises:
        ConfigError: It is of another kind, needs a metric, or moves another optimizer.
    """
    if schedule is None or schedule == "constant":
        return None
    if isinstance(schedule, ReduceLROnPlateau):
        raise ConfigError(
            "ReduceLROnPlateau needs a validation metric, which a step does not have. Pass "
            'schedule="constant" and call its step(metric) after each validation.'
        )
    if not isinstance(schedule, LRScheduler):
        raise ConfigError(
            "schedule must be a torch LRScheduler, such as trimtab.optim.warmup_cosine(optimizer, "
            f'...), or "constant"; got {type(schedule).__name__}.'
        )
    if schedule.optimizer is not optimizer:
        raise ConfigError("The schedule was built for another optimizer than the stepper's.")
    return schedule


def warn_about(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, starts_here: bool, num_ranks: int
) -> None:
    """Warn once for every pitfall that the settings show.

    Args:
        model: As trained, wrapped or not.
        optimizer: With its schedule, if any, already attached.
        starts_here: The next step is the run's first, and no constant rate was asked for.
        num_ranks: Processes that train together.
    """
    checks = [
        _decay_on_norms(model, optimizer),
        _learning_rate_too_high(optimizer),
        _no_warmup(optimizer) if starts_here else None,
        _unsynchronised_batch_norm(model) if num_ranks > 1 else None,
    ]
    for message in filter(None, checks):
        warnings.warn(message, StabilityWarning, stacklevel=3)


def _is_adaptive(optimizer: torch.optim.Optimizer) -> bool:
    return any(cls.__name__ in ADAPTIVE_OPTIMIZERS for cls in type(optimizer).__mro__)


def _decay_on_norms(model: nn.Module, optimizer: torch.optim.Optimizer) -> str | None:
    decayed = {
        id(p) for g in optimizer.param_groups if g.get("weight_decay", 0) for p in g["params"]
    }
    names = [name for name, p in no_decay_params(model) if id(p) in decayed]
    if not names:
        return None
    return (
        f"decay-on-norms: weight decay pulls {len(names)} biases or norm weights towards zero, "
        f"{names[0]} among them. Build the optimizer from "
        "trimtab.optim.param_groups(model, weight_decay)."
    )


def _no_warmup(optimizer: torch.optim.Optimizer) -> str | None:
    if not _is_adaptive(optimizer):
        return None
    for group in optimizer.param_groups:
        if 0 < float(group.get("initial_lr", group["lr"])) > float(group["lr"]):
            return None
    name = type(optimizer).__name__
    return (
        f"no-warmup: {name} starts at its full learning rate, while its second moments know one "
        "step only. Pass schedule=trimtab.optim.warmup_cosine(optimizer, warmup_steps, "
        'total_steps), or schedule="constant" if this is meant.'
    )


def _learning_rate_too_high(optimizer: torch.optim.Optimizer) -> str | None:
    """Adam moves each weight by up to its learning rate a step, whatever the gradient."""
    if not _is_adaptive(optimizer):
        return None
    for index, group in enumerate(optimizer.param_groups):
        rms = _median_weight_rms(group["params"])
        lr = float(group.get("initial_lr", group["lr"]))
        if rms is not None and lr > rms:
            return (
                f"learning-rate-too-high: the learning rate of param group {index}, {lr:g}, is "
                f"above the typical weight, {rms:.2g}: one step of {type(optimizer).__name__} "
                f"would replace the weights rather than adjust them. Start from {rms / 30:.1g} or "
                f"less."
            )
    return None


@torch.no_grad()
def _median_weight_rms(params: Iterable[nn.Parameter]) -> float | None:
    """Return the median over matrices of their weights' RMS; None without a non-zero matrix."""
    matrices = [p for p in map(local, params) if p.ndim >= 2 and p.numel() and not p.is_meta]
    rms = torch.tensor([float(p.float().square().mean().sqrt()) for p in matrices])
    rms = rms[rms > 0]
    return float(rms.median()) if len(rms) else None


def _unsynchronised_batch_norm(model: nn.Module) -> str | None:
    for name, module in model.named_modules():
        alone = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if alone and not isinstance(module, nn.SyncBatchNorm):
            return (
                f"unsynchronised-batch-norm: {name} normalises by each rank's own batch, so the "
                "replicas see different networks. Call "
                "torch.nn.SyncBatchNorm.convert_sync_batchnorm(model) before wrapping it, or use "
                "GroupNorm."
            )
    return None


@torch.no_grad()
def warn_about_first_gradients(
    optimizer: torch.optim.Optimizer, each: Tensor, loss: Tensor
) -> None:
    """Warn if the first gradients vanish or explode.

    Biases are not looked at: in front of a norm, or in an attention's keys, theirs is zero in
    health.

    Args:
        optimizer: Its parameters with a gradient are those of `each`.
        each: Gradient norms, `(num_grads,)`.
        loss: What they are the gradients of, 0-d.
    """
    params = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
    pairs = zip(params, each.tolist(), strict=True)
    matrices = [(p, norm) for p, norm in pairs if p.ndim >= 2 and norm != 0]
    size = abs(float(loss))
    if not matrices or not math.isfinite(size):
        return
    largest, smallest = (f(norm for _, norm in matrices) for f in (max, min))
    weight = max(float(local(p).float().norm()) for p, _ in matrices)
    if largest < MIN_GRAD_PER_LOSS * size:
        found = f"are {largest:.1g} at most, at a loss of {size:.2g}: they vanish on their way"
    elif not largest <= MAX_GRAD_PER_WEIGHT * max(weight, 1):
        found = f"reach {largest:.1g}: they explode on their way"
    elif largest > MAX_GRAD_SPREAD * smallest:
        found = f"reach from {smallest:.1g} to {largest:.1g}, so some layers get no signal"
    else:
        return
    warnings.warn(
        f"init-mismatch: the first gradients of the weight matrices {found}. Initialise for the "
        "activations with trimtab.init.auto_(model), or add norms and residual connections.",
        StabilityWarning,
        stacklevel=4,
    )


class ClipWatch:
    """Watches for a clip threshold so low that it, not the learning rate, sets the step size."""

    def __init__(self) -> None:
        self._coefficients: list[float] = []
        self._norms: list[float] = []
        self._done = False

    def see(self, coefficient: float, norm: float) -> None:
        """Take in one step's clip factor and norm; warn once, after a full window of clipping."""
        if self._done:
            return
        self._coefficients.append(coefficient)
        self._norms.append(norm)
        if len(self._coefficients) < CLIP_WINDOW:
            return
        share = sum(c < 1 for c in self._coefficients) / CLIP_WINDOW
        median = sorted(self._coefficients)[CLIP_WINDOW // 2]
        if share > MAX_CLIPPED_SHARE and median < 0.5:
            self._done = True
            usual = sorted(self._norms)[int(0.9 * CLIP_WINDOW)]
            warnings.warn(
                f"threshold-too-aggressive: {share:.0%} of the last {CLIP_WINDOW} steps were "
                f"clipped, by a median factor of {median:.2g}, so the threshold sets the step "
                f"size. Raise clip to about {usual:.2g}, the 90th percentile of the norm, or lower "
                "the learning rate.",
                StabilityWarning,
                stacklevel=5,
            )
        self._coefficients.clear()
        self._norms.clear()
