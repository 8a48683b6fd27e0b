"""How the programs of the part `heldout` are put together, and their losses and loop bodies."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, RMSprop

from faults.cases import heldout_models as models
from faults.cases import heldout_tasks as tasks
from faults.common import clipped, cross_entropy, program
from faults.data import Task
from faults.registry import Setup, case

Generator = torch.Generator
Make = Callable[..., torch.optim.Optimizer]
heldout = partial(case, part="heldout")
bce: Callable[..., Tensor] = functional.binary_cross_entropy_with_logits
mse: Callable[..., Tensor] = functional.mse_loss


def put_together(
    g: Generator,
    task: Task,
    net: nn.Module,
    make: Make,
    loss_fn: Callable[..., Tensor] = cross_entropy,
    *,
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    **options: Any,
) -> Setup:
    """Return a program; `schedule` makes a scheduler, other options are those of `program`."""
    optimizer = make(net.parameters())
    scheduler = schedule(optimizer) if schedule else None
    return program(task, g, net, optimizer, loss_fn, scheduler=scheduler, **options)


def word_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy over all words of all sentences."""
    return cross_entropy(logits.flatten(0, 1), y.flatten())


def both_loss(out: Tensor, y: Tensor) -> Tensor:
    """Half the squared error of the value, and the cross-entropy of the class."""
    return 0.5 * mse(out[:, :1], y[:, :1]) + cross_entropy(out[:, 1:], y[:, 1].long())


def pixel_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of a picture, with more weight for the rare pixels of a disc."""
    return bce(logits, y, pos_weight=torch.tensor(3.0))


def pair_loss(distance: Tensor, y: Tensor) -> Tensor:
    """Contrastive loss with a margin of one (Hadsell et al. 2006); `y` is 1 for different."""
    far = (1 - distance).clamp(min=0).square()
    return ((1 - y) * distance.square() + y * far).mean()


def sum_of_squares(out: Tensor, y: Tensor) -> Tensor:
    """Squared error, summed over readings and averaged over examples."""
    return (out - y).square().sum(1).mean()


def on_shapes(
    g: Generator, make: Make | None = None, *, net: nn.Module | None = None, **options: Any
) -> Setup:
    task = options.pop("task", None) or tasks.shapes(g)
    make = make or partial(SGD, lr=0.03, momentum=0.9)
    return put_together(g, task, net or models.shapes_net(), make, **options)


def on_gratings(
    g: Generator, make: Make | None = None, *, net: nn.Module | None = None, **options: Any
) -> Setup:
    task = options.pop("task", None) or tasks.gratings(g)
    return put_together(g, task, net or models.Mixer(), make or partial(AdamW, lr=3e-3), **options)


def on_signals(
    g: Generator, make: Make | None = None, *, net: nn.Module | None = None, **options: Any
) -> Setup:
    task = options.pop("task", None) or tasks.signals(g)
    return put_together(
        g, task, net or models.signal_net(), make or partial(Adam, lr=3e-3), **options
    )


def on_rings(
    g: Generator, make: Make | None = None, *, net: nn.Module | None = None, **options: Any
) -> Setup:
    net = net or models.tower(8, 3)
    return put_together(g, tasks.rings(g), net, make or partial(Adam, lr=1e-3), **options)


def on_customers(
    g: Generator, make: Make | None = None, *, net: nn.Module | None = None, **options: Any
) -> Setup:
    task = options.pop("task", None) or tasks.customers(g)
    given = {"loss_fn": bce, "size": 50} | options
    return put_together(g, task, net or models.Buyer(), make or partial(AdamW, lr=1e-2), **given)


def on_majority(
    g: Generator, make: Make | None = None, *, net: nn.Module | None = None, **options: Any
) -> Setup:
    make = make or partial(RMSprop, lr=3e-3)
    return put_together(g, tasks.majority(g), net or models.Reader(), make, **options)


def on_averages(
    g: Generator, make: Make | None = None, *, net: nn.Module | None = None, **options: Any
) -> Setup:
    make = make or partial(SGD, lr=0.01, momentum=0.9)
    given: dict[str, Any] = {"train_step": clipped(1.0)} | options
    return put_together(g, tasks.averages(g), net or models.Averager(), make, mse, **given)


def on_translation(
    g: Generator, make: Make | None = None, *, net: nn.Module | None = None, **options: Any
) -> Setup:
    given = {"loss_fn": word_loss} | options
    make = make or partial(Adam, lr=5e-3)
    return put_together(g, tasks.translation(g), net or models.Translator(), make, **given)


def on_histogram(
    g: Generator, make: Make | None = None, *, net: nn.Module | None = None, **options: Any
) -> Setup:
    given = {"loss_fn": word_loss} | options
    make = make or partial(Adam, lr=3e-3)
    return put_together(g, tasks.histogram(g), net or models.Tallier(), make, **given)


def friedman_net() -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)
    )


def on_friedman(
    g: Generator, make: Make | None = None, *, net: nn.Module | None = None, **options: Any
) -> Setup:
    task = options.pop("task", None) or tasks.friedman(g)
    given = {"loss_fn": mse} | options
    make = make or partial(SGD, lr=0.02, momentum=0.9)
    return put_together(g, task, net or friedman_net(), make, **given)


def on_sensors(
    g: Generator, make: Make | None = None, *, net: nn.Module | None = None, **options: Any
) -> Setup:
    given = {"loss_fn": sum_of_squares} | options
    make = make or partial(Adam, lr=5e-3)
    return put_together(g, tasks.sensors(g), net or models.filler(), make, **given)


def on_both(
    g: Generator, make: Make | None = None, *, net: nn.Module | None = None, **options: Any
) -> Setup:
    task = options.pop("task", None) or tasks.both(g)
    given = {"loss_fn": both_loss} | options
    make = make or partial(Adam, lr=5e-3)
    return put_together(g, task, net or models.TwoHeads(), make, **given)


def on_discs(
    g: Generator, make: Make | None = None, *, net: nn.Module | None = None, **options: Any
) -> Setup:
    task = options.pop("task", None) or tasks.discs(g)
    given = {"loss_fn": pixel_loss, "size": 16} | options
    return put_together(g, task, net or models.UNet(), make or partial(Adam, lr=3e-3), **given)


def on_pairs(
    g: Generator, make: Make | None = None, *, net: nn.Module | None = None, **options: Any
) -> Setup:
    given = {"loss_fn": pair_loss, "size": 64} | options
    make = make or partial(Adam, lr=3e-3)
    return put_together(g, tasks.pairs(g), net or models.Siamese(), make, **given)


def node_loss(out: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of the half of the nodes whose class is known."""
    return cross_entropy(out[: len(y) // 2], y[: len(y) // 2])


def on_graph(
    g: Generator, make: Make | None = None, *, net: nn.Module | None = None, **options: Any
) -> Setup:
    task, adjacency = tasks.communities(g)
    net = net or models.GraphNet(adjacency)
    make = make or partial(Adam, lr=1e-2, weight_decay=5e-4)
    return put_together(g, task, net, make, node_loss, size=len(task.x), shuffle=False, **options)


def taught(g: Generator) -> nn.Sequential:
    """Return a network for shapes that was trained on three of the five."""
    net = models.shapes_net()
    task = tasks.shapes(g)
    rows = (task.y < 3).nonzero().squeeze(1)
    optimizer = Adam(net.parameters(), lr=2e-3)
    for _ in range(100):
        some = rows[torch.randint(len(rows), (32,), generator=g)]
        optimizer.zero_grad()
        cross_entropy(net(task.x[some]), task.y[some]).backward()
        optimizer.step()
    net[-1] = nn.Linear(32, 5)
    return net
