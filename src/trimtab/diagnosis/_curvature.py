"""The sharpness of the loss while a run goes on."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from trimtab.diagnosis._batches import Pair, call_model
from trimtab.errors import TrimtabError
from trimtab.preflight import sharpness


def measure_sharpness(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: Callable[..., Tensor], pair: Pair
) -> dict[str, float]:
    """Return the sharpness on one batch as a signal; nothing where it cannot be measured.

    Buffers and random state are put back.

    Args:
        model: Called with the inputs.
        optimizer: Whose preconditioner counts.
        loss_fn: Called with output and targets; once.
        pair: Inputs and targets.
    """
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    try:
        with torch.random.fork_rng():
            found = sharpness(
                model, optimizer, lambda: loss_fn(call_model(model, pair[0]), pair[1])
            )
    except (TrimtabError, RuntimeError, TypeError, ValueError):
        return {}  # another kind of optimizer, or a loss that cannot be differentiated twice
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
    return {"curvature.sharpness": found.value}
