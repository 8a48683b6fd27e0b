"""A remedy for models that are kept, or do their work, in 16 bits."""

import functools
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trimtab.engine import TrainingSetup
from trimtab.repair._edit import Edit
from trimtab.repair._mixed import mix_in, own_model
from trimtab.repair._remedy import Order

LOW: Final = frozenset({torch.float16, torch.bfloat16})

_CASTS: Final = frozenset({"half", "bfloat16"})
"""Methods of tensors that make a copy of 16 bits."""


def use_float32(setup: TrainingSetup, _order: Order) -> list[Edit]:
    """Keep weights in float32, and let the model and its loss work in it.

    Where the model's own `forward` converts to 16 bits, the conversion is left out: what is too
    large for float16 must not become infinite on the way.
    """
    kinds = {p.dtype for p in setup.model.parameters() if p.is_floating_point()}
    if not kinds & LOW:
        return []
    setup.model.float()
    mix_in(own_model(setup.model), _Wide)
    setup.model.register_forward_pre_hook(_in_float32, with_kwargs=True)
    setup.loss_fn = _wide_loss(setup.loss_fn)
    return [
        Edit(
            what="type of the weights",
            before=", ".join(sorted(str(k).removeprefix("torch.") for k in kinds)),
            after="float32",
            advice="keep the weights in float32, leave out .half() and .to(torch.bfloat16), and "
            "use torch.autocast for speed",
        )
    ]


class _Wide(nn.Module):
    """The first base of a model that does not convert to 16 bits."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _InFloat32():
            return super().forward(*args, **kwargs)


class _InFloat32(TorchFunctionMode):
    """Takes float32 wherever an author's code asks for a type of 16 bits."""

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in _CASTS and args and isinstance(args[0], Tensor):
            return args[0].float()
        given = {k: _widened(v) for k, v in (kwargs or {}).items()}
        return func(*map(_widened, args), **given)


def _widened(value: Any) -> Any:
    return torch.float32 if isinstance(value, torch.dtype) and value in LOW else value


def _wide_loss(loss_fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a loss that is given outputs and targets of 16 bits in float32."""
    if isinstance(loss_fn, nn.Module):
        loss_fn.register_forward_pre_hook(_in_float32, with_kwargs=True)
        return loss_fn

    @functools.wraps(loss_fn)
    def wide(*args: Any, **kwargs: Any) -> Tensor:
        args, kwargs = _in_float32(None, args, kwargs)
        return loss_fn(*args, **kwargs)

    return wide


def _in_float32(_module: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Convert tensors of 16 bits."""

    def change(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.dtype in LOW else value

    return tuple(change(a) for a in args), {k: change(v) for k, v in kwargs.items()}
