"""What a model answers to a batch, as the loss function is given it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trimtab.diagnosis._batches import Pair, call_model, tensors_in
from trimtab.diagnosis._job import Job


class _Asked(BaseException):  # so that no `except Exception` of a loop body stops it
    """Carries what a loss function was called with out of a loop body."""

    def __init__(self, args: Sequence[Any]) -> None:
        super().__init__()
        self.given = args


@torch.no_grad()
def answers(job: Job, pairs: Sequence[Pair]) -> list[Pair]:
    """Return the model's answers with the targets that they are compared with.

    Args:
        job: Called as its loop body does it if `job.reshapes`, else as `model(x)`; buffers may
            move.
        pairs: Inputs and targets.

    Raises:
        ValueError: The loop body asks its loss function something else.
    """
    if not job.reshapes:
        return [(call_model(job.model, x), y) for x, y in pairs]
    return [_asked(job, pair) for pair in pairs]


def asks_plainly(job: Job, pair: Pair) -> bool:
    """Tell whether the loss is that of `model(x)` and `y` as they are, or of parts of them.

    Args:
        job: Whose loop body is begun once; what it changes before the loss stays changed.
        pair: Inputs and targets.
    """
    if job.train_step is None:
        return True
    try:
        output, target = _asked(job, pair, whole=False)
        plain = call_model(job.model, pair[0])
    except Exception:  # noqa: BLE001 # whatever it does, it is not that
        return False
    shapes = [getattr(t, "shape", ())[1:] for t in (output, target, plain, pair[1])]
    dims = [getattr(t, "ndim", -1) for t in (output, target, plain, pair[1])]
    return shapes[:2] == shapes[2:] and dims[:2] == dims[2:]


def _asked(job: Job, pair: Pair, *, whole: bool = True) -> Pair:
    """Return what the loop body first asks its loss function.

    Args:
        job: Whose loop body is begun.
        pair: Inputs and targets.
        whole: Whether it has to be about all of the batch.

    Raises:
        ValueError: It is not about the model's output and the batch's targets.
    """
    assert job.train_step is not None
    seen: list[Tensor] = []
    handle = job.model.register_forward_hook(lambda _m, _a, output: seen.extend(tensors_in(output)))
    x, y = pair
    try:
        job.train_step(job.model, job.optimizer, _ask, x, y)
    except _Asked as asked:
        given = asked.given
    else:
        given = ()
    finally:
        handle.remove()
    if len(given) < 2 or (whole and not (_matches(given[0], seen) and _is_target(given[1], y))):
        raise ValueError("The loss is not one of the model's output and the batch's targets.")
    return given[0], given[1]


def _ask(*args: Any, **kwargs: Any) -> Tensor:
    raise _Asked([*args, *kwargs.values()])


def _matches(given: Any, outputs: Sequence[Tensor]) -> bool:
    """Tell whether a tensor is an output, maybe reshaped."""
    return isinstance(given, Tensor) and any(o.numel() == given.numel() for o in outputs)


def _is_target(given: Any, y: Any) -> bool:
    """Tell whether a tensor holds the batch's targets, maybe reshaped or of another type."""
    if not isinstance(given, Tensor):
        return False
    flat = given.detach().flatten().double()
    own = [t.to(given.device).flatten().double() for t in tensors_in(y)]
    return any(t.shape == flat.shape and bool((t == flat).all()) for t in own)
