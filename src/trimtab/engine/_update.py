"""Clip, decide and update: folded into a fused optimizer, in place for the others."""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from trimtab.optim import Clipper, GradNorms, NormClip, ScaleClipper, grad_norms


@dataclass(frozen=True)
class Update:
    """What an update did; on the device, or in numbers where the host may look at once."""

    found_inf: Tensor | float
    """1 if nothing was touched because the loss or a gradient was not finite."""
    norms: GradNorms
    """Before clipping, after division."""
    coefficient: Tensor | float
    """The clip factor."""
    params: list[nn.Parameter]
    """Those that had a gradient, in the order of the optimizer."""


class Updater:
    """One optimizer update from gradients that still have to be divided and clipped.

    With a fused optimizer the division, the clip factor and the decision to skip ride on its
    `grad_scale` and `found_inf` tensors: one pass over the gradients for their norm, one for the
    update, and on an accelerator no wait. Other optimizers get their gradients multiplied in place
    first and are not called when a value is not finite, which the host has to know.

    Args:
        optimizer: Any that is not called with a closure.
        clipper: None measures only.
        at_once: The host may look at values without waiting, as on a CPU. It then saves the
            optimizer a factor of 1, and the call if the step is skipped.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, clipper: Clipper | None, *, at_once: bool
    ) -> None:
        self.optimizer: Final = optimizer
        self.clipper: Final = clipper
        self.folds: Final = _folds(optimizer)
        self.at_once: Final = at_once
        self._scale_clipper = clipper if isinstance(clipper, ScaleClipper) else None

    @torch.no_grad()
    def apply(self, *, divisor: float | Tensor, loss: Tensor) -> Update:
        """Make one update.

        Args:
            divisor: Loss scale times the weight of the window; more than 0.
            loss: 0-d; a non-finite one skips the step like a non-finite gradient.

        Returns:
            Norms, clip factor and decision.
        """
        params = _with_grad(self.optimizer)
        norm_type = 2.0 if self._scale_clipper is None else self._scale_clipper.norm_type
        norms = grad_norms(params, norm_type)
        if isinstance(divisor, Tensor) or divisor != 1:
            norms = GradNorms(norms.total / divisor, norms.each / divisor)
        if self.at_once:
            return self._apply_at_once(params, norms, divisor, loss)
        finite = norms.total.isfinite() & loss.to(norms.total.device).isfinite()
        found_inf = (~finite).float()
        total = torch.where(finite, norms.total, math.nan)  # NaN: not for a clipper's statistics
        coefficient, grad_scale = self._clip(params, total, divisor)
        if self.folds:
            self._step(grad_scale=grad_scale, found_inf=found_inf)
        else:
            scale, found = torch.stack([grad_scale, found_inf.to(grad_scale.dtype)]).tolist()
            if not found:
                _divide_(params, scale)
                self._step()
        return Update(found_inf, norms, coefficient, params)

    def _apply_at_once(
        self, params: list[nn.Parameter], norms: GradNorms, divisor: float | Tensor, loss: Tensor
    ) -> Update:
        """Make one update, looking at values: the optimizer is not even called for a skip."""
        total = norms.total.item()
        if not (math.isfinite(total) and math.isfinite(loss.item())):
            return Update(1.0, norms, 1.0, params)
        if isinstance(self.clipper, NormClip):  # in numbers: tensors would take ten times as long
            limit = self.clipper.max_norm
            coefficient = limit / total if total > limit else 1.0
            scale = float(divisor) / coefficient
        else:
            clipped, left = self._clip(params, norms.total, divisor)
            coefficient, scale = clipped.item(), left.item()
        if scale == 1:  # then the kernel need not write the gradients back
            self._step()
        elif self.folds:
            self._step(grad_scale=torch.tensor(scale, dtype=torch.float32))
        else:
            _divide_(params, scale)
            self._step()
        return Update(0.0, norms, coefficient, params)

    def _clip(
        self, params: list[nn.Parameter], total: Tensor, divisor: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the clip factor, and what is left to divide the gradients by; both 0-d."""
        if self._scale_clipper is not None:
            coefficient = self._scale_clipper.coefficient(total)
            return coefficient, divisor / coefficient
        one = torch.ones_like(total)
        if self.clipper is not None:
            _divide_(params, divisor)
            return self.clipper.clip_(params).coefficient, one
        return one, one * divisor

    def _step(self, **fold: Tensor) -> None:
        """Call the optimizer with `grad_scale` or `found_inf` set on it."""
        try:
            for name, value in fold.items():
                setattr(self.optimizer, name, value.float())
            self.optimizer.step()
        finally:
            for name in fold:
                delattr(self.optimizer, name)


def _folds(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the optimizer divides by `grad_scale` and obeys `found_inf` by itself.

    Those that do say so to torch's GradScaler. They read `grad_scale` in float32, which would cost
    a float64 model half its digits.
    """
    params = (p for group in optimizer.param_groups for p in group["params"])
    supported = getattr(optimizer, "_step_supports_amp_scaling", False)
    return bool(supported) and all(p.dtype != torch.float64 for p in params)


def _with_grad(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Return the optimizer's parameters that have a gradient, in its order."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _divide_(params: list[nn.Parameter], divisor: float | Tensor) -> None:
    """Divide the gradients in place; a sparse one keeps its sparsity."""
    if isinstance(divisor, float) and divisor == 1:
        return
    grads = [p.grad for p in params if p.grad is not None]
    dense = [g for g in grads if not g.is_sparse]
    if dense:
        torch._foreach_div_(dense, divisor)
    for grad in grads:
        if grad.is_sparse:
            grad.div_(divisor)
