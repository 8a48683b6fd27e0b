"""Probes: samples of gradients, weights, updates and second moments around one optimizer step."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from trimtab.signals._gauges import ABSENT, parameter_gauges
from trimtab.signals._sample import local, sample

_FINER: Final = {torch.float64, torch.complex128}
"""A small step of such weights is none in a sample, which is float32."""


def real(tensor: Tensor) -> Tensor:
    """Return real and imaginary parts as neighbours, sharing the memory."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


class Probe:
    """Samples of parameters, one row each, taken before and after an optimizer step.

    Args:
        params: All that may be measured, in the order of the rows.
        size: Elements of a sample.
        device: Where the samples are kept.
    """

    def __init__(self, params: Sequence[nn.Parameter], *, size: int, device: torch.device) -> None:
        self.size, self.device = size, device
        self.params: list[nn.Parameter] = []
        self._rows: dict[str, list[Tensor]] = {}
        self._matrices: dict[str, Tensor] = {}
        self._previous: Tensor | None = None
        self._finer: dict[int, Tensor] = {}
        self.grow(params)

    def grow(self, params: Sequence[nn.Parameter]) -> None:
        """Add parameters, such as those of a param group added later."""
        self.params += params
        for name in ("grads", "before", "after", "moments"):
            matrix = torch.full((len(self.params), self.size), ABSENT, device=self.device)
            self._matrices[name] = matrix
            self._rows[name] = list(matrix.unbind())
        sizes = [p.numel() * (2 if p.is_complex() else 1) for p in self.params]
        self.sizes = torch.tensor(sizes, dtype=torch.float32, device=self.device)
        self._previous = None

    def move_to(self, device: torch.device) -> None:
        """Keep the samples on this device; those taken so far are lost."""
        self.device = device
        self.grow(())

    @torch.no_grad()
    def before(self) -> None:
        """Sample gradients and weights."""
        for matrix in self._matrices.values():
            matrix.fill_(ABSENT)
        self._take("grads", [p.grad for p in self.params])
        self._take("before", self.params)
        self._finer = {
            i: self._finer_sample(p).clone()
            for i, p in enumerate(self.params)
            if p.dtype in _FINER and p.numel()
        }

    @torch.no_grad()
    def after(self, states: Iterable[Any]) -> None:
        """Sample weights, and second moments where the optimizer keeps them.

        Args:
            states: The optimizer's state of each parameter, `{}` without one.
        """
        self._take("after", self.params)
        for i, before in self._finer.items():
            old, new = (self._rows[name][i][: len(before)] for name in ("before", "after"))
            moved = (self._finer_sample(self.params[i]) != before).to(new.device)
            least = torch.nextafter(old, torch.full_like(old, torch.inf))
            new.copy_(torch.where(moved & (new == old), least, new))
        moments = (s.get("exp_avg_sq") if s else None for s in states)
        # Some optimizers keep one for a whole row or block, which no gradient belongs to.
        pairs = zip(moments, self.params, strict=True)
        self._take(
            "moments", [m if m is not None and m.shape == p.shape else None for m, p in pairs]
        )

    def _finer_sample(self, param: Tensor) -> Tensor:
        return sample(real(local(param.detach())), self.size)

    def _take(self, name: str, tensors: Iterable[Tensor | None]) -> None:
        rows, parts = [], []
        for row, tensor in zip(self._rows[name], tensors, strict=True):
            if tensor is None or tensor.layout != torch.strided or tensor.is_meta:
                continue
            part = sample(real(local(tensor.detach())), self.size)
            if part.shape[0]:
                rows.append(row[: part.shape[0]])
                parts.append(part)
        if rows:
            torch._foreach_copy_(rows, parts)

    @torch.no_grad()
    def measure(self, divisor: Tensor | float, bias_correction: Tensor) -> Tensor:
        """Return the gauges of the step between `before` and `after`, `(num_params, columns)`.

        Args:
            divisor: What the gradients are still multiplied by, such as the loss scale.
            bias_correction: 1 - beta2^step of each parameter, `(num_params,)`; NaN without any.
        """
        matrices = self._matrices
        unbiased = _divided(matrices["moments"], bias_correction[:, None])
        grads = self.gradients(divisor)
        return parameter_gauges(grads, matrices["before"], matrices["after"], unbiased, self.sizes)

    @torch.no_grad()
    def products(self, divisor: Tensor | float) -> Tensor:
        """Return |g|^2 and g.g' of the sampled gradient and that of the record before, `(2,)`.

        Both are scaled up to all elements; NaN for the first record.
        """
        grads = self._matrices["grads"]
        grads = torch.where(grads == ABSENT, 0, grads) / divisor
        present = (self._matrices["grads"] != ABSENT).sum(dim=1).clamp(min=1)
        share = (self.sizes / present)[:, None]
        previous, self._previous = self._previous, grads
        square = (grads.square() * share).sum()
        cross = torch.full_like(square, torch.nan)
        if previous is not None and previous.shape == grads.shape:
            cross = (grads * previous * share).sum()
        return torch.stack([square, cross])

    def weights(self) -> Tensor:
        """Return the sampled weights before the update, `(num_params, size)`."""
        return self._matrices["before"]

    def gradients(self, divisor: Tensor | float) -> Tensor:
        """Return the sampled gradients after unscaling, `(num_params, size)`."""
        return _divided(self._matrices["grads"], divisor)


def _divided(samples: Tensor, divisor: Tensor | float) -> Tensor:
    """Return samples divided by a number or by one for each row; what is absent stays so."""
    if isinstance(divisor, float | int) and divisor == 1:
        return samples
    return torch.where(samples == ABSENT, ABSENT, samples / divisor)
