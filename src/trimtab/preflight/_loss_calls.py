"""Listening to a loss: which of PyTorch's loss functions it calls, and with what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

LOSSES: Final = {
    functional.cross_entropy: "cross_entropy",
    functional.nll_loss: "nll_loss",
    functional.binary_cross_entropy: "binary_cross_entropy",
    functional.binary_cross_entropy_with_logits: "binary_cross_entropy_with_logits",
    functional.mse_loss: "mse_loss",
    functional.l1_loss: "l1_loss",
    functional.smooth_l1_loss: "smooth_l1_loss",
    functional.huber_loss: "huber_loss",
}
"""What is listened for, by the name that it has in messages."""

REGRESSION: Final = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})
CLASSIFICATION: Final = frozenset({"cross_entropy", "nll_loss"})
BINARY: Final = frozenset({"binary_cross_entropy", "binary_cross_entropy_with_logits"})

_DIFFERENCES: Final = frozenset({"sub", "rsub", "__sub__", "__rsub__", "subtract"})
_ARGUMENTS: Final = ("weight", "size_average", "ignore_index")


class RefusedError(RuntimeError):
    """A call that would have failed, on an accelerator for good; it was not made."""


@dataclass(frozen=True)
class LossCall:
    """One call of a loss function."""

    name: str
    """As in `torch.nn.functional`; `"difference"` for a hand-written one."""
    input: Tensor
    """What the model predicts; still in the graph."""
    target: Tensor
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its other arguments by name."""

    @property
    def ignore_index(self) -> int:
        """The label that does not count."""
        return int(self.settings.get("ignore_index", -100))

    @property
    def has_indices(self) -> bool:
        """Whether the targets are class indices."""
        return self.name in CLASSIFICATION and not self.target.is_floating_point()

    @property
    def num_classes(self) -> int:
        """Size of the class dimension."""
        return self.input.shape[1 if self.input.ndim > 1 else 0]

    @property
    def labels(self) -> Tensor:
        """Class indices that count, `(num_labels,)`."""
        flat = self.target.reshape(-1)
        return flat[flat != self.ignore_index]

    @property
    def rows(self) -> Tensor:
        """Predictions with the classes last, `(num_rows, num_classes)`."""
        moved = self.input.movedim(1, -1) if self.input.ndim > 2 else self.input
        return moved.reshape(-1, moved.shape[-1] if moved.ndim else 1)


class LossListener(TorchFunctionMode):
    """Keeps every call of a loss function inside of it, also one that raises.

    Args:
        output: What the model returned, if it is known: the operand that a hand-written loss
            subtracts from.
    """

    def __init__(self, output: Tensor | None = None, target: Tensor | None = None) -> None:
        super().__init__()
        self.calls: list[LossCall] = []
        self._output, self._target = output, target

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at one call and let it through."""
        kwargs = kwargs or {}
        name = LOSSES.get(func) if callable(func) else None
        if name is not None:
            self._keep(name, args, kwargs)
        elif getattr(func, "__name__", "") in _DIFFERENCES:
            self._keep_difference(args)
        return func(*args, **kwargs)

    def _keep(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(("input", "target", *_ARGUMENTS), args, strict=False)) | kwargs
        made, wanted = given.pop("input", None), given.pop("target", None)
        if isinstance(made, Tensor) and isinstance(wanted, Tensor):
            call = LossCall(name, made, wanted, given)
            self.calls.append(call)
            if call.has_indices and made.ndim and made.device.type != "cpu":
                _refuse_bad_labels(call)

    def _keep_difference(self, args: tuple[Any, ...]) -> None:
        """Keep `output - target` if broadcasting made it larger than both."""
        if len(args) != 2 or self._output is None or self._target is None:
            return
        pair = {id(a) for a in args if isinstance(a, Tensor)}
        if pair == {id(self._output), id(self._target)} and self._output is not self._target:
            self.calls.append(LossCall("difference", self._output, self._target))


def _refuse_bad_labels(call: LossCall) -> None:
    """Refuse labels that would kill the device's context.

    Raises:
        RefusedError: One is out of range.
    """
    labels = call.labels
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < call.num_classes:
        raise RefusedError(
            f"Labels run from {int(labels.min())} to {int(labels.max())}, but there are "
            f"{call.num_classes} classes."
        )


PASSED: Final = frozenset(
    {
        "Alias", "AsStrided", "Clone", "Contiguous", "Expand", "Index", "Permute", "Reshape",
        "Select", "Slice", "Split", "Squeeze", "T", "ToCopy", "Transpose", "UnsafeView",
        "Unsqueeze", "View",
    }
)  # fmt: skip
"""Operations that hand on the values that they are given."""


def last_operation(tensor: Tensor) -> Any:
    """Return the autograd node that computed a tensor's values, past views; None for a leaf."""
    node = tensor.grad_fn
    while node is not None and operation_name(node) in PASSED:
        node = next((n for n, _ in node.next_functions if n is not None), None)
    return node


def operation_name(node: Any) -> str:
    """Return an autograd node's plain name, such as `"Softmax"`."""
    name = str(node.name()).rpartition("::")[2]
    return name.partition("Backward")[0]


def is_probability(rows: Tensor) -> bool:
    """Return whether all rows are probabilities: not negative, with sum 1.

    Args:
        rows: `(num_rows, num_classes)`.
    """
    wide = rows.detach().float()
    if wide.shape[-1] < 2 or not bool((wide >= 0).all()):
        return False
    return bool(torch.allclose(wide.sum(-1), torch.ones(()).to(wide), atol=1e-3))
