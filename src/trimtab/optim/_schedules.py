"""Learning-rate schedules: a warm-up, then what suits the run; each a real `LRScheduler`."""

from typing import Any, Final, Literal

import torch

from trimtab.errors import ConfigError
from trimtab.optim._schedule_base import Schedule
from trimtab.optim._schedule_curve import Curve
from trimtab.optim._schedule_lengths import (
    Length,
    Lengths,
    read_decay,
    read_endless,
    read_length,
    read_lengths,
)

DEFAULT_TIMESCALE: Final = 10_000
"""Steps, for an inverse square root without a warm-up, as in Transformers and big_vision."""


def warmup_cosine(
    optimizer: torch.optim.Optimizer,
    warmup_steps: Length | None = None,
    total_steps: int | None = None,
    min_ratio: float = 0.0,
    *,
    start_ratio: float = 0.0,
    warmup_tokens: Length | None = None,
    total_tokens: int | None = None,
    last_epoch: int = -1,
) -> Schedule:
    """Warm up in a straight line, then fall along half a cosine to a floor.

    The usual choice where the length of the run is known. From the last step on the rate stays at
    the floor. Give all lengths in steps, or all in tokens; by tokens, the schedule is moved by
    `step_tokens`. With the default `start_ratio` the very first step has a learning rate of 0, as
    in Transformers.

    Args:
        optimizer: Its learning rates are the peaks.
        warmup_steps: Steps, or a float in [0, 1] for a share of the run; 0 for none.
        total_steps: Steps of the whole run, warm-up included.
        min_ratio: The floor as a share of the peak, in [0, 1]; GPT-3 ends at 0.1.
        start_ratio: Where the warm-up starts, as a share of the peak, in [0, 1].
        warmup_tokens: Tokens, or a share of the run. GPT-3: 375 million.
        total_tokens: Tokens of the whole run.
        last_epoch: Last step done, to resume without a state; -1 for a new run.

    Returns:
        The schedule; the optimizer's learning rates are those of the first step.

    Raises:
        ConfigError: A value is out of range, the warm-up is longer than the run, lengths are
            missing or in two units, or a learning rate is negative or not finite.

    Examples:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> schedule = warmup_cosine(optimizer, warmup_steps=2, total_steps=4, min_ratio=0.1)
        >>> [round(schedule.curve.factor(step), 3) for step in range(6)]
        [0.0, 0.5, 1.0, 0.55, 0.1, 0.1]

    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.2 (warm-up); Loshchilov & Hutter 2017,
    arXiv:1608.03983, equation 5; Brown et al. 2020, arXiv:2005.14165, appendix B (by tokens).
    """
    lengths = read_lengths(warmup_steps, total_steps, tokens=(warmup_tokens, total_tokens))
    return _falling(
        optimizer,
        lengths,
        name="warmup_cosine",
        fall="cosine",
        min_ratio=min_ratio,
        start_ratio=start_ratio,
        last_epoch=last_epoch,
    )


def warmup_linear(
    optimizer: torch.optim.Optimizer,
    warmup_steps: Length | None = None,
    total_steps: int | None = None,
    min_ratio: float = 0.0,
    *,
    start_ratio: float = 0.0,
    warmup_tokens: Length | None = None,
    total_tokens: int | None = None,
    last_epoch: int = -1,
) -> Schedule:
    """Warm up in a straight line, then fall in one to a floor.

    Usual for fine-tuning, and without a warm-up for PPO. Everything else is as in `warmup_cosine`.

    Args:
        optimizer: Its learning rates are the peaks.
        warmup_steps: Steps, or a float in [0, 1] for a share of the run; 0 for none.
        total_steps: Steps of the whole run, warm-up included.
        min_ratio: The floor as a share of the peak, in [0, 1].
        start_ratio: Where the warm-up starts, as a share of the peak, in [0, 1].
        warmup_tokens: Tokens, or a share of the run.
        total_tokens: Tokens of the whole run.
        last_epoch: Last step done, to resume without a state; -1 for a new run.

    Raises:
        ConfigError: As for `warmup_cosine`.

    Source: Devlin et al. 2019, arXiv:1810.04805, appendix A.2.
    """
    lengths = read_lengths(warmup_steps, total_steps, tokens=(warmup_tokens, total_tokens))
    return _falling(
        optimizer,
        lengths,
        name="warmup_linear",
        fall="linear",
        min_ratio=min_ratio,
        start_ratio=start_ratio,
        last_epoch=last_epoch,
    )


def polynomial(
    optimizer: torch.optim.Optimizer,
    warmup_steps: Length | None = None,
    total_steps: int | None = None,
    power: float = 1.0,
    min_ratio: float = 0.0,
    *,
    start_ratio: float = 0.0,
    warmup_tokens: Length | None = None,
    total_tokens: int | None = None,
    last_epoch: int = -1,
) -> Schedule:
    """Warm up in a straight line, then fall with a power of the share of the run that is left.

    Everything else is as in `warmup_cosine`.

    Args:
        optimizer: Its learning rates are the peaks.
        warmup_steps: Steps, or a float in [0, 1] for a share of the run; 0 for none.
        total_steps: Steps of the whole run, warm-up included.
        power: 1 is a straight line, above 1 falls faster at first; finite and positive. DeepLab
            uses 0.9.
        min_ratio: The floor as a share of the peak, in [0, 1].
        start_ratio: Where the warm-up starts, as a share of the peak, in [0, 1].
        warmup_tokens: Tokens, or a share of the run.
        total_tokens: Tokens of the whole run.
        last_epoch: Last step done, to resume without a state; -1 for a new run.

    Raises:
        ConfigError: As for `warmup_cosine`, or `power` is not finite and positive.

    Source: Chen et al. 2017, arXiv:1606.00915, section 4.1.
    """
    lengths = read_lengths(warmup_steps, total_steps, tokens=(warmup_tokens, total_tokens))
    return _falling(
        optimizer,
        lengths,
        name="polynomial",
        power=power,
        min_ratio=min_ratio,
        start_ratio=start_ratio,
        last_epoch=last_epoch,
    )


def wsd(
    optimizer: torch.optim.Optimizer,
    warmup_steps: Length | None = None,
    total_steps: int | None = None,
    decay_steps: Length | None = None,
    min_ratio: float = 0.0,
    *,
    decay: Literal["1-sqrt", "cosine", "linear"] = "1-sqrt",
    start_ratio: float = 0.0,
    warmup_tokens: Length | None = None,
    total_tokens: int | None = None,
    decay_tokens: Length | None = None,
    last_epoch: int = -1,
) -> Schedule:
    """Warm up, stay at the peak, and fall over the last part of the run: warmup, stable, decay.

    Any checkpoint of the plateau can be continued to another length, so the run need not be
    planned in advance. Everything else is as in `warmup_cosine`.

    Args:
        optimizer: Its learning rates are the peaks.
        warmup_steps: Steps, or a float in [0, 1] for a share of the run; 0 for none.
        total_steps: Steps of the whole run, warm-up and decay included.
        decay_steps: Steps, or a share of the run; default: a fifth of it, or what the warm-up
            leaves if that is less.
        min_ratio: The floor as a share of the peak, in [0, 1].
        decay: Shape of the fall. The default did best in the paper below.
        start_ratio: Where the warm-up starts, as a share of the peak, in [0, 1].
        warmup_tokens: Tokens, or a share of the run.
        total_tokens: Tokens of the whole run.
        decay_tokens: Tokens, or a share of the run.
        last_epoch: Last step done, to resume without a state; -1 for a new run.

    Raises:
        ConfigError: As for `warmup_cosine`, or warm-up and decay are longer than the run.

    Source: Hu et al. 2024, arXiv:2404.06395, section 4; Hägele et al. 2024, arXiv:2405.18392,
    section 3.
    """
    lengths = read_lengths(warmup_steps, total_steps, tokens=(warmup_tokens, total_tokens))
    return _falling(
        optimizer,
        lengths,
        name="wsd",
        fall=decay,
        decay=read_decay(lengths, decay_steps, decay_tokens),
        min_ratio=min_ratio,
        start_ratio=start_ratio,
        last_epoch=last_epoch,
    )


def warmup_constant(
    optimizer: torch.optim.Optimizer,
    warmup_steps: int | None = None,
    *,
    start_ratio: float = 0.0,
    warmup_tokens: int | None = None,
    last_epoch: int = -1,
) -> Schedule:
    """Warm up in a straight line, then stay at the peak.

    Args:
        optimizer: Its learning rates are the peaks.
        warmup_steps: Steps; 0 for none. No share: this schedule has no end.
        start_ratio: Where the warm-up starts, as a share of the peak, in [0, 1].
        warmup_tokens: Tokens, in place of steps.
        last_epoch: Last step done, to resume without a state; -1 for a new run.

    Raises:
        ConfigError: As for `warmup_cosine`.

    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.2.
    """
    lengths = read_endless(warmup_steps, warmup_tokens)
    curve = Curve(
        name="warmup_constant", unit=lengths.unit, warmup=lengths.warmup, start_ratio=start_ratio
    )
    return Schedule(optimizer, curve, last_epoch=last_epoch)


def inverse_sqrt(
    optimizer: torch.optim.Optimizer,
    warmup_steps: int | None = None,
    min_ratio: float = 0.0,
    *,
    timescale: int | None = None,
    start_ratio: float = 0.0,
    warmup_tokens: int | None = None,
    last_epoch: int = -1,
) -> Schedule:
    """Warm up in a straight line, then fall with the inverse square root of the steps.

    Without an end: for runs whose length is not known. With the default `timescale`, the rate
    after `n` steps is `sqrt(warmup_steps / n)` of the peak.

    Args:
        optimizer: Its learning rates are the peaks.
        warmup_steps: Steps; 0 for none. No share: this schedule has no end.
        min_ratio: The floor as a share of the peak, in [0, 1].
        timescale: Steps (or tokens) after the warm-up in which the rate falls to 0.71 of the peak,
            the square root of a half. Default: as long as the warm-up; without one, 10,000 steps.
        start_ratio: Where the warm-up starts, as a share of the peak, in [0, 1].
        warmup_tokens: Tokens, in place of steps.
        last_epoch: Last step done, to resume without a state; -1 for a new run.

    Raises:
        ConfigError: As for `warmup_cosine`; or a schedule by tokens has neither a warm-up nor a
            `timescale`.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 5.3.
    """
    lengths = read_endless(warmup_steps, warmup_tokens)
    if timescale is None and not lengths.warmup and lengths.unit == "tokens":
        raise ConfigError(
            "An inverse square root by tokens without a warm-up has no natural scale. Pass "
            "timescale, in tokens."
        )
    if timescale is None:
        timescale = lengths.warmup or DEFAULT_TIMESCALE
    if read_length("timescale", timescale, total=None) < 1:
        raise ConfigError(f"timescale must be at least 1, got {timescale!r}.")
    curve = Curve(
        name="inverse_sqrt",
        unit=lengths.unit,
        warmup=lengths.warmup,
        timescale=int(timescale),
        start_ratio=start_ratio,
        min_ratio=min_ratio,
    )
    return Schedule(optimizer, curve, last_epoch=last_epoch)


def _falling(
    optimizer: torch.optim.Optimizer,
    lengths: Lengths,
    *,
    name: str,
    last_epoch: int,
    decay: int | None = None,
    **shape: Any,
) -> Schedule:
    """Return a schedule that falls to the end of the run; `decay` is the default's whole rest.

    Raises:
        ConfigError: A value is out of range.
    """
    total, warmup = lengths.total, lengths.warmup
    assert total is not None
    decay = total - warmup if decay is None else decay
    curve = Curve(name=name, unit=lengths.unit, warmup=warmup, total=total, decay=decay, **shape)
    return Schedule(optimizer, curve, last_epoch=last_epoch)
