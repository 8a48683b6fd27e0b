"""Remedies for recurrent networks: weights that carry a signal over time, and a gated path."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from trimtab.diagnosis._batches import call_model
from trimtab.engine import TrainingSetup
from trimtab.repair._edit import Edit
from trimtab.repair._optimizers import repoint_optimizer
from trimtab.repair._remedy import Order

RECURRENT: Final = (nn.RNNBase, nn.RNNCellBase)

GATED: Final[dict[type[nn.Module], type[nn.Module]]] = {nn.RNN: nn.GRU, nn.RNNCell: nn.GRUCell}
"""What takes the place of a plain network: it is called, and answers, in the same way."""

SHORTEST: Final = math.e + 1
"""Length whose largest gate bias is 1, which Jozefowicz et al. 2015 advise for every LSTM."""


def is_recurrent(model: nn.Module) -> bool:
    """Tell whether a model has one of torch's recurrent layers."""
    return any(isinstance(m, RECURRENT) for m in model.modules())


def gate_recurrence(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Replace plain recurrent layers by gated ones of the same size, and let gates remember.

    Source: gates: Cho et al. 2014, arXiv:1406.1078; their biases: `remember`.
    """
    lengths = _lengths(setup.model, order.sample)
    replaced = []
    for parent in list(setup.model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in GATED:
                setattr(parent, name, _gated(child))
                replaced.append(child)
    edits = []
    if replaced:
        repoint_optimizer(setup, Order(action="repoint_optimizer"))
        old = type(replaced[0]).__name__
        new = GATED[type(replaced[0])].__name__
        edits.append(
            Edit(
                what="recurrent layers",
                before=f"{len(replaced)} nn.{old}",
                after=f"nn.{new} of the same size",
                advice=f"use nn.{new} in place of nn.{old}: without gates, gradients vanish or "
                "explode over time",
            )
        )
    length = max(lengths.values(), default=0)
    return [*edits, *remember(setup.model, length)]


def _gated(plain: nn.Module) -> nn.Module:
    """Return a GRU of the size of a plain recurrent layer."""
    weight = next(plain.parameters())
    there: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    if isinstance(plain, nn.RNNCell):
        return nn.GRUCell(plain.input_size, plain.hidden_size, plain.bias, **there)
    assert isinstance(plain, nn.RNN)
    new = nn.GRU(
        plain.input_size,
        plain.hidden_size,
        plain.num_layers,
        plain.bias,
        plain.batch_first,
        plain.dropout,
        plain.bidirectional,
        **there,
    )
    return new.train(plain.training)


_GATES: Final = (
    ", and the bias of the forget gate (LSTM) or update gate (GRU) with log(u), u drawn between 1 "
    "and {}, the length of a sequence"
)


@torch.no_grad()
def remember(model: nn.Module, length: int) -> list[Edit]:
    """Draw recurrent weights orthogonally, and let gates begin open for as long as a sequence.

    The biases of an LSTM's forget gate and a GRU's update gate are the logarithm of a number
    drawn between 1 and the length; a ReLU network starts as the identity.

    Args:
        model: Changed in place.
        length: Steps of a sequence; 0 if unknown.

    Source: Saxe et al. 2014, arXiv:1312.6120 (orthogonal); Le et al. 2015, arXiv:1504.00941 (the
        identity); Tallec & Ollivier 2018, arXiv:1804.11188, equation 16 (gates).
    """
    layers = [m for m in model.modules() if isinstance(m, RECURRENT)]
    for layer in layers:
        _draw(layer, max(float(length), SHORTEST))
    gated = any(isinstance(m, nn.LSTM | nn.LSTMCell | nn.GRU | nn.GRUCell) for m in layers)
    if not layers:
        return []
    longest = max(length, 3)
    return [
        Edit(
            what="weights of recurrent layers",
            before="as built",
            after="orthogonal from state to state"
            + (f", gates that keep a state for up to {longest} steps" if gated else ""),
            advice="initialise recurrent weights with nn.init.orthogonal_ (the identity with ReLU)"
            + (_GATES.format(longest) if gated else ""),
        )
    ]


def _draw(layer: nn.Module, length: float) -> None:
    """Draw the weights of one recurrent layer."""
    size = int(layer.hidden_size)  # type: ignore[arg-type] # an int of all recurrent layers
    relu = getattr(layer, "mode", "") == "RNN_RELU" or getattr(layer, "nonlinearity", "") == "relu"
    for name, values in layer.named_parameters():
        if values.ndim < 2:
            values.zero_()
            if name.startswith("bias_ih"):
                _open(layer, values, size, length)
            continue
        for block in torch.split(values, size) if name.startswith("weight_") else [values]:
            if name.startswith("weight_hh") and block.shape[0] == block.shape[1]:
                nn.init.eye_(block) if relu else nn.init.orthogonal_(block)
            else:
                nn.init.xavier_uniform_(block)


def _open(layer: nn.Module, bias: Tensor, size: int, length: float) -> None:
    """Set the biases of the gate that keeps the state, the second of torch's blocks."""
    kept = torch.empty(size, dtype=bias.dtype).uniform_(1, length - 1).log().to(bias.device)
    if isinstance(layer, nn.LSTM | nn.LSTMCell):
        bias[size : 2 * size] = kept
        bias[:size] = -kept  # what is kept is not overwritten
    elif isinstance(layer, nn.GRU | nn.GRUCell):
        bias[size : 2 * size] = kept


def _lengths(model: nn.Module, sample: Sequence[tuple[Any, Any]]) -> dict[str, int]:
    """Return how many steps each recurrent layer makes on a sample; nothing if it cannot be run."""
    found: dict[str, int] = {}

    def hook(name: str) -> Any:
        def seen(layer: nn.Module, args: Any) -> None:
            steps = 1 if isinstance(layer, nn.RNNCellBase) else _steps(layer, args)
            more = found.get(name, 0) if isinstance(layer, nn.RNNCellBase) else 0
            found[name] = more + steps

        return seen

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, RECURRENT)]
    handles = [m.register_forward_pre_hook(hook(n)) for n, m in layers]
    try:
        with torch.no_grad(), torch.random.fork_rng():
            for x, _ in sample[:1]:
                call_model(model, x)
    except Exception:  # noqa: BLE001 # asked otherwise by the loop body
        return found
    finally:
        for handle in handles:
            handle.remove()
    return found


def _steps(layer: nn.Module, args: Sequence[Any]) -> int:
    """Return the steps of a sequence as a recurrent layer gets it."""
    x = args[0] if args else None
    if isinstance(x, PackedSequence):
        return len(x.batch_sizes)
    if not isinstance(x, Tensor) or x.ndim < 2:
        return 0
    return x.shape[1] if x.ndim == 3 and getattr(layer, "batch_first", False) else x.shape[0]


def lengths_of(model: nn.Module, sample: Sequence[tuple[Any, Any]]) -> Iterator[int]:
    """Yield how many steps each recurrent layer makes."""
    yield from _lengths(model, sample).values()
