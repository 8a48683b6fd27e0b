"""Remedies for a loss and the output that it is given."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from trimtab.diagnosis._batches import call_model
from trimtab.engine import TrainingSetup
from trimtab.preflight._loss_calls import (
    REGRESSION,
    LossCall,
    LossListener,
    is_probability,
    last_operation,
    operation_name,
)
from trimtab.repair._data import scale_targets
from trimtab.repair._edit import Edit
from trimtab.repair._remedy import Order
from trimtab.repair._scaled import Scaled, first_tensor

_ENDS: Final = (nn.Softmax, nn.LogSoftmax, nn.Sigmoid, nn.ReLU, nn.Tanh, nn.Softplus, nn.Hardtanh)
"""Activations that a user puts behind the last layer."""

_BOUNDED: Final[Mapping[str, tuple[float, float] | None]] = {
    "Sigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "Relu": None,
    "Softplus": None,
}
"""Operations that bound an output, with its range; None if that has no end."""

_TINY: Final = 1e-12
"""Least probability whose logarithm is taken; it is finite in float32."""

Loss = Callable[..., Tensor]


def fit_output(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Let output and loss fit: take off what bounds the output, or compare it as what it is."""
    output, call = _asked(setup, order)
    if output is None:
        return []
    name = "" if call is None else call.name
    end = _last_activation(setup.model, order)
    if isinstance(end, nn.Softmax | nn.LogSoftmax) and end.dim == 0 and output.ndim == 2:
        end.dim = -1
        return [_end_edit(end, f"{type(end).__name__}(dim=0)", "dim=-1")]
    if name == "binary_cross_entropy" and isinstance(end, nn.Softmax) and output.shape[-1] == 1:
        _replace(setup.model, end, nn.Sigmoid())
        return [_end_edit(end, "Softmax over one output", "Sigmoid")]
    if end is not None and name in {"cross_entropy", "binary_cross_entropy_with_logits"}:
        _replace(setup.model, end, nn.Identity())
        return [_end_edit(end, type(end).__name__, "nothing: the loss takes logits")]
    if end is not None and name in REGRESSION | {"difference"}:
        _replace(setup.model, end, nn.Identity())
        return [_end_edit(end, type(end).__name__, "nothing: outputs of any value")]
    node = last_operation(output)
    operation = "" if node is None else operation_name(node)
    if name in REGRESSION and operation in _BOUNDED:
        return _into_range(setup, order, operation)
    return _fit_loss(setup, output, call) or usual_loss(setup, order)


def _end_edit(end: nn.Module, before: str, after: str) -> Edit:
    return Edit(
        what="the model's last activation",
        before=before,
        after=after,
        advice=f"change the {type(end).__name__} behind the last layer as shown",
    )


def _fit_loss(setup: TrainingSetup, output: Tensor, call: LossCall | None) -> list[Edit]:
    """Replace a loss by the one that is meant for what the model returns."""
    if call is None:
        return []
    node = last_operation(output)
    operation = "" if node is None else operation_name(node)
    probability = operation in {"Softmax", "Sigmoid"} or is_probability(call.rows)
    if call.name == "cross_entropy" and probability:
        return _use(setup, _of_probabilities, "cross-entropy of probabilities: nll_loss(log(p), y)")
    if call.name == "nll_loss":
        if probability:
            return _use(setup, _of_probabilities, "cross-entropy of probabilities")
        return _use(setup, _cross_entropy, "cross-entropy of logits")
    if call.name == "binary_cross_entropy_with_logits" and operation == "Sigmoid":
        return _use(setup, functional.binary_cross_entropy, "binary cross-entropy")
    if call.name == "binary_cross_entropy" and not probability:
        return _use(setup, _binary, "binary cross-entropy with logits")
    return []


def _use(setup: TrainingSetup, loss_fn: Loss, name: str) -> list[Edit]:
    old = setup.loss_fn
    setup.loss_fn = loss_fn
    return [
        Edit(
            what="loss",
            before=getattr(old, "__name__", type(old).__name__),
            after=name,
            advice=f"use as loss: {name}",
        )
    ]


def usual_loss(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Replace the loss by PyTorch's own for such outputs and targets."""
    output, _ = _asked(setup, order)
    y = first_tensor(order.sample[0][1]) if order.sample else None
    if output is None or y is None:
        return []
    found = _usual(output, y)
    if found is None or _is_alike(setup.loss_fn, found[0], output, order.sample[0][1]):
        return []
    return _use(setup, *found)


def _is_alike(loss_fn: Loss, other: Loss, output: Tensor, y: Any) -> bool:
    """Tell whether two losses are the same, value and gradient, for one batch."""
    try:
        values = [loss(output, y) for loss in (loss_fn, other)]
        slopes = [torch.autograd.grad(value, output, retain_graph=True)[0] for value in values]
    except Exception:  # noqa: BLE001 # of a loss that cannot be asked, or has no gradient
        return False
    same = torch.allclose(values[0], values[1])
    return same and torch.allclose(slopes[0], slopes[1])


def _usual(output: Tensor, y: Tensor) -> tuple[Loss, str] | None:
    """Return the usual loss and its name; None if it cannot be told."""
    whole = not y.is_floating_point()
    if whole and output.ndim == y.ndim + 1:
        if is_probability(output.reshape(-1, output.shape[-1])):
            return _of_probabilities, "cross-entropy of probabilities"
        return _cross_entropy, "cross-entropy of logits"
    if output.numel() != y.numel():
        return None
    if bool(((y == 0) | (y == 1)).all()):
        return _binary, "binary cross-entropy with logits"
    return None if whole else (_squared, "mean squared error")


def _cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    if output.shape[:-1] == y.shape:
        return functional.cross_entropy(output.float().flatten(0, -2), y.flatten())
    return functional.cross_entropy(output.float(), y)


def _of_probabilities(output: Tensor, y: Tensor) -> Tensor:
    logs = output.float().clamp(min=_TINY).log()
    if logs.shape[:-1] == y.shape:
        return functional.nll_loss(logs.flatten(0, -2), y.flatten())
    return functional.nll_loss(logs, y)


def _binary(output: Tensor, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(output, y.reshape(output.shape).float())


def _squared(output: Tensor, y: Tensor) -> Tensor:
    return functional.mse_loss(output, y.reshape(output.shape))


def _into_range(setup: TrainingSetup, order: Order, operation: str) -> list[Edit]:
    """Stretch a bounded output, which the model's own code makes, over the range of the targets."""
    seen = [t for t in (first_tensor(y) for _, y in order.sample) if t is not None]
    bounds = _BOUNDED[operation]
    if bounds is None or not all(t.is_floating_point() for t in seen):
        return scale_targets(setup, order)
    low, high = min(float(t.min()) for t in seen), max(float(t.max()) for t in seen)
    spread = 1.1 * (high - low) / (bounds[1] - bounds[0])  # a bound itself is never reached
    mean = (low + high) / 2 - spread * (bounds[0] + bounds[1]) / 2
    setup.model = Scaled(setup.model, outputs=(torch.tensor(mean), torch.tensor(spread)))
    return [
        Edit(
            what="range of the output",
            before=f"{bounds[0]:g} to {bounds[1]:g}",
            after=f"{low:.3g} to {high:.3g}",
            advice=f"leave out the {operation.lower()} behind the last layer",
        )
    ]


def match_shapes(setup: TrainingSetup, _order: Order) -> list[Edit]:
    """Give the targets the shape of the outputs before they are compared."""
    loss_fn = setup.loss_fn

    def matched(output: Any, y: Any, *rest: Any) -> Tensor:
        both = isinstance(output, Tensor) and isinstance(y, Tensor)
        if both and output.shape != y.shape and output.numel() == y.numel():
            y = y.reshape(output.shape)
        return loss_fn(output, y, *rest)

    setup.loss_fn = matched
    return [
        Edit(
            what="shape of the targets",
            before="broadcast against the outputs",
            after="that of the outputs",
            advice="write loss_fn(model(x), y.reshape(output.shape)), or model(x).squeeze(1)",
        )
    ]


def divide_loss(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Divide the loss, as by the number of micro-batches that are added up."""
    by, loss_fn = float(order.args.get("by", 1)), setup.loss_fn

    def divided(*args: Any, **kwargs: Any) -> Tensor:
        return loss_fn(*args, **kwargs) / by

    setup.loss_fn = divided
    return [
        Edit(
            what="loss of a micro-batch",
            before="whole",
            after=f"divided by {by:g}",
            advice=f"write (loss / {by:g}).backward()",
        )
    ]


def turn_loss(setup: TrainingSetup, _order: Order) -> list[Edit]:
    """Minimise what was maximised."""
    loss_fn = setup.loss_fn

    def turned(*args: Any, **kwargs: Any) -> Tensor:
        return -loss_fn(*args, **kwargs)

    setup.loss_fn = turned
    return [
        Edit(
            what="sign of the loss",
            before="as given",
            after="turned",
            advice="turn the sign of the loss: it fell without end while the model became worse",
        )
    ]


def mean_loss(setup: TrainingSetup, _order: Order) -> list[Edit]:
    """Take the mean over a batch instead of the sum."""
    loss_fn = setup.loss_fn
    if getattr(loss_fn, "reduction", None) != "sum":
        return []
    loss_fn.reduction = "mean"  # type: ignore[attr-defined] # a loss module of torch
    return [
        Edit(
            what="reduction of the loss",
            before="sum",
            after="mean",
            advice='pass reduction="mean" to the loss',
        )
    ]


def _asked(setup: TrainingSetup, order: Order) -> tuple[Tensor | None, LossCall | None]:
    """Return the model's output for the sample, and the call of PyTorch's loss that it met."""
    if not order.sample:
        return None, None
    x, y = order.sample[0]
    with torch.random.fork_rng(), torch.enable_grad():
        try:
            output = call_model(setup.model, x)
        except Exception:  # noqa: BLE001 # asked otherwise by the loop body
            return None, None
        if not isinstance(output, Tensor):
            return None, None
        listener = LossListener(output, y if isinstance(y, Tensor) else None)
        with suppress(Exception), listener:  # a loss that raises is seen all the same
            setup.loss_fn(output, y)
    return output, listener.calls[0] if listener.calls else None


def _last_activation(model: nn.Module, order: Order) -> nn.Module | None:
    """Return the activation that makes the model's output; None if it is not a module of it."""
    made: dict[int, nn.Module] = {}
    handles = [
        m.register_forward_hook(lambda m, _a, out: made.__setitem__(id(out), m))
        for m in model.modules()
        if isinstance(m, _ENDS)
    ]
    try:
        with torch.no_grad(), torch.random.fork_rng():
            output = call_model(model, order.sample[0][0])
    finally:
        for handle in handles:
            handle.remove()
    return made.get(id(output))


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)
