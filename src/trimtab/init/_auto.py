"""The initialiser that looks at the model: each layer by the activation that follows it."""

import warnings
from typing import Any, TypeVar

import torch
from torch import nn

from trimtab.errors import StabilityWarning
from trimtab.init._draw import draw_
from trimtab.init._orthogonal import fill_orthogonal_
from trimtab.init._plan import Choice, make_plan
from trimtab.init._weights import Weight

M = TypeVar("M", bound=nn.Module)


def auto_(
    model: M,
    batch: Any = None,
    *,
    scale_output: bool = True,
    generator: torch.Generator | None = None,
) -> M:
    """Initialise each layer by the activation that really follows it; biases become zero.

    The model is traced symbolically: functions, methods and modules are all seen, and the
    search goes through dropout, shapes, norms, products and residual sums to the first
    activation or layer. What is then drawn, from a normal distribution:

    | what follows | weights |
    | --- | --- |
    | ReLU, leaky ReLU, PReLU | He, with the slope |
    | GELU, SiLU, ELU, SELU and alike | He's argument, so that their input has variance 1 |
    | tanh, sigmoid, a GLU's gate | Xavier, gain 1 |
    | another layer, with no activation between | LeCun: variance 1 / fan_in |
    | the model's output | standard deviation 1 / fan_in, so that first outputs are small |
    | a recurrent state | orthogonal |

    GELU and its like are shaped for an input of variance 1: the gain is 1 if the layer
    reads data, a norm or a layer, and `measure_gain` of the activation that it reads
    otherwise. A deep stack of them without norms drifts all the same, since a deviation
    grows from layer to layer: past some 10 layers, use norms.

    A layer that feeds different activations gets the smallest of their gains, an activation
    beside a plain use that of a linear layer. An output behind a norm or a residual sum is
    no output layer. It acts on the layers that `xavier_` acts on, and treats frozen,
    parametrised, tied and meta weights alike.

    A part of the model that cannot be traced, because it decides by the values of tensors,
    is traced in pieces. Where that is not enough, `batch` is run once; without one, the
    layer counts as linear, with a warning. `plan` shows the choices.

    Args:
        model: Changed in place; the whole model, or with `scale_output=False` a part.
        batch: A tensor, a tuple of arguments or a mapping of keyword arguments, for the
            case that tracing fails; finite. The run leaves modes, buffers and random state
            as they were.
        scale_output: Whether the layer that makes the model's output starts small.
        generator: Source of randomness. None: PyTorch's own.

    Returns:
        The same module.

    Raises:
        ConfigError: A layer has no shape yet, there is no layer, or `batch` is not finite;
            before anything is changed.

    Source: ReLU: He et al. 2015, arXiv:1502.01852; tanh: Glorot & Bengio 2010, and for gain
        1 at any depth Schoenholz et al. 2016, arXiv:1611.01232; SELU: Klambauer et al. 2017,
        arXiv:1706.02515; the output: Yang et al. 2022, arXiv:2203.03466, table 8; the
        recurrent state: Saxe et al. 2013, arXiv:1312.6120.
    """
    planned = make_plan(model, batch, scale_output=scale_output)
    _warn_of_guesses([choice for _, choice in planned])
    for weight, choice in planned:
        _draw_one_(weight, choice, generator)
    return model


def _draw_one_(weight: Weight, choice: Choice, generator: torch.Generator | None) -> None:
    def fill(values: torch.Tensor, _: Weight) -> None:
        if choice.initialiser == "orthogonal":
            fill_orthogonal_(values, weight, choice.gain, generator)
        else:
            nn.init.normal_(values, std=choice.std, generator=generator)

    draw_([weight], fill, generator)


def _warn_of_guesses(choices: list[Choice]) -> None:
    unseen = [choice.name for choice in choices if choice.follows == ("unknown",)]
    if unseen:
        more = f" and {len(unseen) - 3} more" if len(unseen) > 3 else ""
        warnings.warn(
            f"auto_ could not see what follows {', '.join(map(repr, unseen[:3]))}{more}, and "
            "treats them as linear layers. Pass a batch, so that it can watch the model run.",
            StabilityWarning,
            stacklevel=3,
        )
