"""The micro-batches of a step that is not made yet: their gradients, weights and losses."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trimtab.engine import _ranks
from trimtab.engine._micro_guard import MicroGuard, kept_loss, kept_weight
from trimtab.engine._step_tape import StepTape
from trimtab.engine._window import Window, check_weight
from trimtab.errors import ConfigError, StateError
from trimtab.precision import LossScaler, Precision, autocast


class OpenWindow:
    """Takes micro-batches until a step is due.

    Args:
        model: As it is called.
        optimizer: Over its parameters.
        accumulate: Micro-batches for each step.
        precision: What the forward pass runs in.
        scaler: Loss scale; None without one.
        tape: Remembers what repeats a micro-batch.
        micro_guard: Leaves single micro-batches out; None leaves out none.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        accumulate: int,
        precision: Precision,
        scaler: LossScaler | None,
        tape: StepTape,
        micro_guard: MicroGuard | None,
    ) -> None:
        self.model, self.optimizer, self.accumulate = model, optimizer, accumulate
        self.precision: Precision = precision
        """What the forward pass runs in from now on."""
        self.tape, self.micro_guard = tape, micro_guard
        self.reference: float = 0.0
        """Weight that counts as one; several ranks must agree on one for the whole run."""
        self._scaler = scaler
        self._device = next(p.device for g in optimizer.param_groups for p in g["params"])
        self._ranks = _ranks.num_ranks(model)
        self._window = Window()
        self._dropped: list[bool | Tensor] = []
        self._in_autocast = False

    @property
    def count(self) -> int:
        """Micro-batches so far."""
        return self._window.count

    @property
    def due(self) -> bool:
        """Whether it is full."""
        return self._window.count >= self.accumulate

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context to compute a loss in when it is not given as a closure."""
        self._in_autocast = True
        return autocast(self._device.type, self.precision)

    def backward(
        self, loss: Tensor | Callable[[], Tensor], weight: float | Tensor, *, at_once: bool
    ) -> Tensor:
        """Add one micro-batch's gradient.

        Args:
            loss: As for `Stepper.backward`.
            weight: As there.
            at_once: Whether the host may look at values.

        Returns:
            The loss, detached, 0-d.

        Raises:
            ConfigError: The loss is not a single number, or the weight is negative or not finite.
            StateError: The window is full, the loss has no gradient, or it was computed outside
                `autocast()` although the precision is not fp32.
        """
        weight = check_weight(weight)
        if self.due:
            raise StateError(
                f"The window of {self.accumulate} micro-batches is full. Call step() after every "
                "backward(); it acts when a step is due."
            )
        if self._window.count == 0:
            self.clear_gradients()  # that others left behind
        last = self._window.count + 1 == self.accumulate
        micro = self.tape.note(loss, weight, self.precision)
        judged = self.micro_guard
        if last and isinstance(self.model, DistributedDataParallel):
            judged = None  # what comes is the sum over the window and over all ranks
        with nullcontext() if judged is None else judged.aside():
            with _ranks.exchange(self.model, last=last):
                value = self._evaluate(loss)
                if weight == 0 and self._ranks == 1 and isinstance(weight, float):
                    self._window.add(0.0, torch.zeros_like(value))
                    return value.detach()
                factor = self._factor(weight)
                wide = value.to(torch.promote_types(value.dtype, torch.float32))
                (wide * factor).backward()  # type: ignore[no-untyped-call] # torch's
            value = value.detach()
            bad = False if judged is None else self._judge(judged, value, factor, at_once=at_once)
        self.tape.add(micro, factor=factor, loss=value, dropped=bad)
        self._window.add(kept_weight(weight, bad), kept_loss(value, bad))
        return value

    def _judge(
        self, judged: MicroGuard, value: Tensor, factor: float | Tensor, *, at_once: bool
    ) -> bool | Tensor:
        """Return whether a micro-batch is left out of the window."""
        bad = judged.after(value, factor, scaled=self._scaler is not None, at_once=at_once)
        self._dropped.append(bad)
        return bad

    def _factor(self, weight: float | Tensor) -> float | Tensor:
        """Return what the gradient of a micro-batch is multiplied by."""
        self._agree_on_reference(weight)
        factor = self._window.factor(weight)
        return factor if self._scaler is None else factor * self._scaler.scale

    def _agree_on_reference(self, weight: float | Tensor) -> None:
        if self._ranks == 1:
            return
        if self.reference == 0:
            self.reference = _ranks.largest_over_ranks(weight, self._device) or 1.0
        self._window.reference = self.reference

    def _evaluate(self, loss: Tensor | Callable[[], Tensor]) -> Tensor:
        """Return the loss with its graph, computed in the right precision.

        Raises:
            ConfigError: It is not a single number.
            StateError: It has no gradient, or was computed outside mixed precision.
        """
        if not isinstance(loss, Tensor):
            with autocast(self._device.type, self.precision):
                loss = loss()
        elif self.precision != "fp32" and not self._in_autocast:
            raise StateError(
                f"The loss was computed outside mixed precision, but precision={self.precision!r}. "
                "Compute it under stepper.autocast(), or pass a function that returns it."
            )
        self._in_autocast = False
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            seen = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ConfigError(f"The loss must be one number, got {seen}. Take its mean().")
        if not loss.requires_grad:
            raise StateError(
                "The loss has no gradient: it was computed under no_grad(), detached, or reaches "
                "no trainable parameter."
            )
        return loss.reshape(())

    def clear_gradients(self) -> None:
        """Forget the gradients of all parameters."""
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                p.grad = None

    def exchange_if_short(self) -> None:
        """Average gradients over ranks, which DDP has not done if the window is not full."""
        if self._ranks > 1 and not self.due and isinstance(self.model, DistributedDataParallel):
            _ranks.average_gradients_(list(self.model.parameters()))

    def close(self) -> tuple[float | Tensor, float | Tensor, Tensor]:
        """Return divisor, weight and mean loss over the window, on all ranks, and open the next."""
        window, self._window = self._window, Window()
        if self._ranks > 1:
            sums = _ranks.sum_over_ranks([window.weight, window.loss], self._device)
            window.weight, window.loss = sums[0], sums[1]
            return sums[0] / (self._ranks * self.reference), sums[0], window.mean_loss()
        return window.divisor(), window.weight, window.mean_loss()

    def take_num_dropped(self) -> float | Tensor:
        """Return how many micro-batches were left out since the last call."""
        dropped, self._dropped = sum(self._dropped, torch.zeros(())), []
        return dropped

    def drop(self) -> None:
        """Empty the window, as if its backward passes had never been."""
        self._window, self._dropped = Window(), []
        self.tape.drop()
        self.clear_gradients()

    def state_dict(self) -> dict[str, Any] | None:
        """Return the window with its gradients; None while it is empty."""
        if not self._window.count:
            return None
        window = {k: getattr(self._window, k) for k in ("count", "weight", "reference", "loss")}
        grads = {str(i): p.grad for i, p in enumerate(self._params()) if p.grad is not None}
        return window | {"grads": grads}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Take up what `state_dict` returned."""
        self.drop()
        if state is None:
            return
        window = dict(state)
        params = self._params()
        for index, grad in window.pop("grads").items():
            params[int(index)].grad = grad.clone()
        self._window = Window(**window)
        self.tape.drop(unseen=True)

    def _params(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]
