"""Choosing for each weight what suits the activation that follows it."""

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from trimtab.init._gains import RECTIFIERS, SMOOTH, Activation
from trimtab.init._operations import LINEAR, OUTPUT, UNKNOWN, Ends, Surroundings
from trimtab.init._probe import check_finite
from trimtab.init._trace import Found, trace_parts
from trimtab.init._watch import watch
from trimtab.init._weights import Weight, find_weights
from trimtab.init._xavier import xavier_std


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What `auto_` does with one weight, and why."""

    name: str
    """Dotted path of the layer; a part of a fused weight has its name at the end."""
    reads: tuple[str, ...]
    """Where its input comes from: activations, `"input"`, `"linear"` (another layer) or
    `"norm"`."""
    follows: tuple[str, ...]
    """What the layer feeds: activations, `"linear"` (another layer), `"output"` (the
    model's), `"unknown"`."""
    initialiser: str
    """`"he"`, `"xavier"`, `"lecun"`, `"orthogonal"` or `"output"`."""
    gain: float
    """Factor on the initialiser's standard deviation."""
    std: float
    """Standard deviation of the weights; of an orthogonal matrix's, on average."""


def plan(model: nn.Module, batch: Any = None, *, scale_output: bool = True) -> list[Choice]:
    """Say what `auto_` would do with each weight, and change nothing.

    Args:
        model: As for `auto_`.
        batch: As for `auto_`.
        scale_output: As for `auto_`.

    Returns:
        One entry a weight, in order of registration.

    Raises:
        ConfigError: A layer has no shape yet, there is no layer, or `batch` is not finite.

    Examples:
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        >>> for choice in plan(model):
        ...     print(choice.name, choice.follows, choice.initialiser, round(choice.std, 4))
        0 ('relu',) he 0.1768
        2 ('output',) output 0.0156
    """
    return [choice for _, choice in make_plan(model, batch, scale_output=scale_output)]


def make_plan(model: nn.Module, batch: Any, *, scale_output: bool) -> list[tuple[Weight, Choice]]:
    """Choose for each weight.

    Args:
        model: As for `auto_`.
        batch: As for `auto_`.
        scale_output: As for `auto_`.

    Returns:
        Each weight with its choice.

    Raises:
        ConfigError: A layer has no shape yet, there is no layer, or `batch` is not finite.
    """
    weights = find_weights(model)
    check_finite(batch)
    found = _by_weight(trace_parts(model))
    blind = any(_around(w, found).after == {UNKNOWN} for w in weights)
    if blind and batch is not None and not any(w.param.is_meta for w in weights):
        found |= _by_weight(watch(model, batch))
    return [(w, _choose(w, _around(w, found), scale_output=scale_output)) for w in weights]


def _by_weight(found: Found) -> dict[int, Surroundings]:
    """Gather what surrounds each weight, over all layers that share it."""
    joined: dict[int, Surroundings] = {}
    for module, around in found.items():
        layer = module.out_proj if isinstance(module, nn.MultiheadAttention) else module
        key = id(getattr(layer, "weight", None))
        joined[key] = joined[key] | around if key in joined else around
    return joined


def _around(weight: Weight, found: dict[int, Surroundings]) -> Surroundings:
    """Look up what surrounds a weight; attention and gates have it built in."""
    linear, unknown = frozenset({LINEAR}), frozenset({UNKNOWN})
    if weight.kind == "attention":
        return Surroundings(linear, linear)
    if weight.kind == "recurrent":
        kind = getattr(weight.layer, "nonlinearity", "tanh")
        return Surroundings(linear, frozenset({Activation("relu" if kind == "relu" else "tanh")}))
    around = found.get(id(weight.param), Surroundings(linear, unknown))
    return around if around.after else Surroundings(around.before, unknown)


def _choose(weight: Weight, around: Surroundings, *, scale_output: bool) -> Choice:
    lecun = 1 / math.sqrt(max(1, weight.fan_in))
    initialiser, gain, std = "lecun", 1.0, lecun
    if weight.role == "state":
        initialiser = "orthogonal"
    elif around.after == {OUTPUT} and scale_output:
        initialiser, gain, std = "output", lecun, lecun**2
    elif activation := _gentlest(around.after):
        if activation.name in RECTIFIERS:
            initialiser, gain = "he", activation.gain
        elif activation.name in SMOOTH:
            before = _gentlest(around.before)
            initialiser, gain = ("he", before.gain) if before else ("lecun", 1.0)
        else:
            initialiser, lecun = "xavier", xavier_std(weight)
        std = gain * lecun
    return Choice(
        name=weight.path,
        reads=_names(around.before),
        follows=_names(around.after),
        initialiser=initialiser,
        gain=gain,
        std=std,
    )


def _gentlest(ends: Ends) -> Activation | None:
    """Return the activation that asks for the smallest gain, if there is nothing else."""
    activations = [end for end in ends if isinstance(end, Activation)]
    return min(activations, key=lambda a: a.gain) if len(activations) == len(ends) > 0 else None


def _names(ends: Ends) -> tuple[str, ...]:
    return tuple(sorted(end.name if isinstance(end, Activation) else end for end in ends))
