"""Remedies that are tried on suspicion, where findings do not say enough."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from torch import Tensor

from trimtab.diagnosis import Outcome
from trimtab.diagnosis._cause import STRONG_DROPOUT, SUSPECT_DECAY
from trimtab.diagnosis._trials import frozen_share, has_unusual_settings, strongest_dropout
from trimtab.findings import Finding
from trimtab.repair._blocked import softmax_between
from trimtab.repair._dropout import calls_that_drop
from trimtab.repair._first import First
from trimtab.repair._linear import bare_pairs, is_affine
from trimtab.repair._remedy import Order
from trimtab.repair._rewards import huge_columns
from trimtab.repair._scaled import first_tensor

HOT: Final = frozenset({"TT102", "TT302", "TT306", "TT401", "TT406", "TT407"})
"""Codes of steps that are too large."""

FEW: Final = 4
"""Examples up to which a batch is made larger: Wu & He 2018, arXiv:1803.08494, figure 1."""

ENOUGH: Final = 32
"""Examples that it is made of then, as Masters & Luschi 2018, arXiv:1804.07612, advise."""

MOSTLY: Final = 0.5
"""Share of frozen parameters from which on training all of them is tried."""

PROBED: Final = 8
"""Batches that are looked at."""


def odd_settings(first: First) -> Iterator[list[Order]]:
    """Yield remedies for settings that are far from what anybody uses."""
    setup = first.setup
    groups = setup.optimizer.param_groups
    own = setup.train_step is not None and not first.adversary
    if own or any(g.get("maximize") for g in groups):
        yield [Order(action="plain_loop")]
    if _falls_below_zero(first):
        yield [Order(action="turn_loss")]
    if frozen_share(setup.model) > MOSTLY:
        yield [Order(action="unfreeze")]
    if has_unusual_settings(setup.optimizer):
        yield [Order(action="usual_settings")]
    yield from _odd_layers(first)
    if any(float(g.get("weight_decay") or 0.0) >= SUSPECT_DECAY for g in groups):
        yield [Order(action="set_weight_decay", args={"weight_decay": 0.0})]
    if _is_rising(first):
        yield [Order(action="cap_learning_rate", args={"lr": best_rate(first) or 1e-3})]
    if getattr(setup.loss_fn, "reduction", None) == "sum":
        yield [Order(action="mean_loss")]
    if setup.train_step is None:
        yield [Order(action="usual_loss")]


def _odd_layers(first: First) -> Iterator[list[Order]]:
    model, sample = first.setup.model, first.sample
    if softmax_between(model, sample):
        yield [Order(action="replace_softmax")]
    seen = calls_that_drop(model, sample, training=True)
    if max([strongest_dropout(model), *seen.values()]) >= STRONG_DROPOUT:
        yield [Order(action="set_dropout", args={"p": 0.1})]
    if is_affine(model, sample) and bare_pairs(model, sample):
        yield [Order(action="insert_activations")]


def odd_data(first: First) -> Iterator[list[Order]]:
    """Yield remedies for batches that are tiny, or of another scale than is usual."""
    inputs = [t for x, _ in first.sample[:PROBED] if (t := first_tensor(x)) is not None]
    targets = [t for _, y in first.sample[:PROBED] if (t := first_tensor(y)) is not None]
    size = max((len(t) for t in inputs if t.ndim), default=0)
    if 0 < size <= FEW:
        yield [Order(action="join_batches", args={"times": math.ceil(ENOUGH / size)})]
    if has_rewards(first):
        yield [Order(action="scale_rewards")]
    if _is_far(targets, 0.02, 20):
        yield [Order(action="scale_targets")]
    if _is_far(inputs, 0.1, 5):
        yield [Order(action="normalise_inputs")]


def rates(found: Sequence[Finding], *, hot: bool) -> Iterator[list[Order]]:
    """Yield other learning rates, in the likelier direction first."""
    if hot:
        factors: tuple[float, ...] = (0.1, 0.01)
    else:
        low = [f.remedy for f in found if f.code == "TT402" and f.remedy is not None]
        guess = float(low[0].args.get("factor", 10.0)) if low else 10.0
        factors = (guess, 10 * guess) if guess > 10 else (10.0,)
    for factor in factors:
        yield [scaled(factor)]


def has_rewards(first: First) -> bool:
    """Tell whether targets have fields, such as rewards, that are huge beside others."""
    return bool(huge_columns(first.sample[:PROBED]))


def is_hot(outcome: Outcome, codes: set[str]) -> bool:
    """Tell whether a run blew up, or made steps that were too large."""
    return outcome.broken or outcome.worse or bool(codes & HOT)


def boost(lr: float = 3e-3) -> list[Order]:
    """Return an optimizer with which nearly every model learns fast."""
    return [
        Order(action="use_adamw", args={"lr": lr}),
        Order(action="warm_up", args={"steps": 10}),
        clipped(),
    ]


def afresh() -> list[Order]:
    """Return fresh weights beside that optimizer, at a rate that suits recurrent nets too."""
    return [Order(action="reinitialise"), *boost(6e-3)]


def gated() -> list[Order]:
    """Return gates that remember from the beginning, with which recurrent nets nearly always learn.

    At this rate and with clipping they solve the tasks with long lags of Hochreiter & Schmidhuber
    1997 in some hundred steps.
    """
    return [Order(action="gate_recurrence"), *boost(1e-2)]


def other_rates(lr: float) -> list[list[Order]]:
    """Return that optimizer at rates around the one that has helped."""
    return [boost(float(f"{lr * factor:.2g}")) for factor in (10 / 3, 1 / 3)]


def recipe() -> list[Order]:
    """Return what nearly every model trains with, when all else has failed."""
    return [
        Order(action="plain_loop"),
        Order(action="normalise_inputs"),
        Order(action="replace_activation", args={"kind": "bounded", "by": "ReLU"}),
        Order(action="insert_norms"),
        Order(action="reinitialise"),
        *boost(),
    ]


def scaled(factor: float) -> Order:
    return Order(action="scale_learning_rate", args={"factor": factor})


def clipped() -> Order:
    return Order(action="clip_gradients", args={"max_norm": 1.0})


def best_rate(first: First) -> float | None:
    """Return the rate that was in use some time before the loss was at its lowest."""
    known = [(rate, loss) for rate, loss in first.rates if math.isfinite(loss)]
    if len(known) < 10:
        return None
    width = 5
    levels = [
        (sum(loss for _, loss in known[i : i + width]), known[i][0])
        for i in range(len(known) - width)
    ]
    return min(levels)[1]


def _is_far(values: Sequence[Tensor], least: float, most: float) -> bool:
    """Tell whether the mean size of values of floating point is out of these bounds."""
    if not values or not all(t.is_floating_point() for t in values):
        return False
    sizes = [float(t.float().abs().mean()) for t in values]
    finite = [size for size in sizes if math.isfinite(size)]
    return bool(finite) and not least < max(finite) < most


def _is_rising(first: First) -> bool:
    """Tell whether the learning rate rose tenfold or more after the first steps."""
    rates = [rate for rate, _ in first.rates if math.isfinite(rate)]
    return len(rates) > 10 and max(rates) > 10 * max(rates[:5])


def _falls_below_zero(first: First) -> bool:
    """Tell whether the loss fell below zero, where few losses have anything to look for."""
    losses = [loss for loss in first.outcome.losses if math.isfinite(loss)]
    return len(losses) > 10 and min(losses) < min(0.0, losses[0])
