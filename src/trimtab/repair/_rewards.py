"""A remedy for losses of reinforcement learning whose batches hold huge rewards."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import Tensor

from trimtab.diagnosis._batches import call_model
from trimtab.engine import TrainingSetup
from trimtab.repair._data import Changed, Pair
from trimtab.repair._edit import Edit
from trimtab.repair._remedy import Order
from trimtab.repair._scaled import Scaled

HUGE: Final = 20.0
"""Root mean square from which on a number in a batch is worth scaling: networks start with outputs
of about 1. Mnih et al. 2015 clip rewards to 1."""

RIGHT: Final = 0.01
"""Share of the loss that targets leave as answers to themselves, if that is what they are."""


def scale_rewards(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Divide huge numbers beside the inputs, such as rewards, and multiply the answers again.

    A loop body or a loss of one's own stays, and works with the model within, which learns in units
    of the rewards' own size; whoever calls the trained model gets answers in the old units.
    """
    step, loss_fn = setup.train_step, setup.loss_fn
    columns = huge_columns(order.sample)
    if not columns or not _are_fields(setup, order):
        return []
    by = max(columns.values())
    setup.model = Scaled(setup.model, outputs=(torch.zeros(()), torch.tensor(by)))
    if step is None:
        setup.loss_fn = lambda output, y: loss_fn(output / by, y)
    else:
        setup.train_step = _within(step)
    setup.batches = Changed(setup.batches, _divided(list(columns), by))
    return [
        Edit(
            what="size of rewards",
            before=f"{by:.3g}",
            after="1 (the model's answers are scaled back)",
            advice=f"divide rewards by {by:.3g}, and multiply the model's values by it where they "
            "are read",
        )
    ]


def _are_fields(setup: TrainingSetup, order: Order) -> bool:
    """Tell whether the targets are fields that a loss picks from, not what outputs should equal."""
    x, y = order.sample[0]
    try:
        with torch.no_grad(), torch.random.fork_rng():
            output = call_model(setup.model, x)
    except Exception:  # noqa: BLE001 # asked otherwise by the loop body
        return setup.train_step is not None
    if not isinstance(output, Tensor) or output.shape != y.shape:
        return isinstance(output, Tensor)
    try:
        return bool(setup.loss_fn(y, y) > RIGHT * setup.loss_fn(output, y))
    except Exception:  # noqa: BLE001 # a loss that takes no such outputs
        return True


def huge_columns(sample: Any) -> dict[int, float]:
    """Return columns of the targets whose numbers are huge, with their root mean square.

    A column beside columns of a usual size is what is looked for: targets that are huge as a whole
    are scaled by `scale_targets`.
    """
    targets = [y for _, y in sample if isinstance(y, Tensor)]
    tabular = [y for y in targets if y.is_floating_point() and y.ndim == 2 and y.shape[1] > 1]
    if not tabular or len(tabular) != len(sample) or len({y.shape[1] for y in tabular}) > 1:
        return {}
    sizes = torch.cat([y.detach().float() for y in tabular]).square().mean(dim=0).sqrt().tolist()
    huge = {i: size for i, size in enumerate(sizes) if size > HUGE}
    return huge if len(huge) < len(sizes) else {}


def _within(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a loop body that is given the model inside the scaled one."""

    def within(model: Scaled, *args: Any) -> Any:
        return step(model.model, *args)

    return within


def _divided(columns: list[int], by: float) -> Callable[[Iterator[Pair]], Iterator[Pair]]:
    def change(pairs: Iterator[Pair]) -> Iterator[Pair]:
        for x, y in pairs:
            scaled = y.clone()
            scaled[:, columns] = scaled[:, columns] / by
            yield x, scaled

    return change
