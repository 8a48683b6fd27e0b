"""Clip, decide and update: folded into a fused optimizer, in place for the others."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from trimtab.optim import Clipper, GradNorms, NormClip, ScaleClipper, grad_norms
from trimtab.signals import Recorder


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
    flagged: Tensor | float = 0.0
    """1 if the guard's policy took the step for an outlier."""


@dataclass(frozen=True)
class Prepared:
    """An update that is decided, and still has to be made."""

    update: Update
    fold: dict[str, Tensor]
    """What the fused kernel has to find on the optimizer: `grad_scale` and `found_inf`."""
    skip: bool
    """Whether the host knows that the optimizer must not be called."""


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
        protect: Whether a step that is not finite is left out.
        folds: Whether the optimizer divides and skips by itself; None asks it.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        clipper: Clipper | None,
        *,
        at_once: bool,
        protect: bool = True,
        folds: bool | None = None,
    ) -> None:
        self.optimizer: Final = optimizer
        self.clipper: Final = clipper
        self.folds: Final = folds_steps(optimizer) if folds is None else folds
        self.at_once = at_once
        self.protect: Final = protect
        self.on_nonfinite: Callable[[], None] | None = None
        """Called before anything is changed, when the host knows that a step is not finite."""
        self.judge: Callable[[Tensor | None, Tensor], Tensor] | None = None
        """Says of loss and norm, 0-d, whether the step is an outlier: 1, else 0, on the device."""
        self.obeys = True
        """Whether what `judge` takes for an outlier is left out."""
        self.norm_limit: float | None = None
        """Joint norm to which gradients are scaled down besides the clipper; None sets no limit."""
        momentum = isinstance(optimizer, torch.optim.SGD) and all(
            group["momentum"] != 0 for group in optimizer.param_groups
        )
        self._num_with_momentum = 0 if momentum else None
        self._scale_clipper = clipper if isinstance(clipper, ScaleClipper) else None

    @property
    def threshold(self) -> float:
        """Largest norm that the clipper lets pass whatever came before; NaN without a bound."""
        bound = getattr(self.clipper, "max_norm", None)
        return math.nan if bound is None else float(bound)

    @property
    def tells_host(self) -> bool:
        """Whether the host gets to know in time that a step is not finite."""
        return self.at_once or (self._skips and not self.folds)

    @property
    def _skips(self) -> bool:
        return self.protect or (self.judge is not None and self.obeys)

    def _tell(self) -> None:
        if self.on_nonfinite is not None:
            self.on_nonfinite()

    def apply(self, *, divisor: float | Tensor, loss: Tensor) -> Update:
        """Make one update.

        Args:
            divisor: Loss scale times the weight of the window; more than 0.
            loss: 0-d; a non-finite one skips the step like a non-finite gradient.

        Returns:
            Norms, clip factor and decision.
        """
        prepared = self.prepare(divisor=divisor, loss=loss)
        if prepared.skip:
            return prepared.update
        try:
            for name, value in prepared.fold.items():
                setattr(self.optimizer, name, value)
            self.optimizer.step()
        finally:
            for name in prepared.fold:
                delattr(self.optimizer, name)
        return prepared.update

    @torch.no_grad()
    def prepare(
        self,
        *,
        divisor: float | Tensor,
        loss: Tensor | None = None,
        overflow: Tensor | None = None,
    ) -> Prepared:
        """Decide on one update, and change the gradients where that cannot be folded.

        Args:
            divisor: As for `apply`.
            loss: As for `apply`; None if it is not known.
            overflow: Not 0 if somebody else has found the gradients not finite, which skips the
                step even without `protect`.

        Returns:
            What is left to do.
        """
        params = _with_grad(self.optimizer)
        norm_type = 2.0 if self._scale_clipper is None else self._scale_clipper.norm_type
        norms = grad_norms(params, norm_type)
        if isinstance(divisor, Tensor) or divisor != 1:
            norms = GradNorms(norms.total / divisor, norms.each / divisor)
        if self.at_once:
            return self._prepare_at_once(params, norms, divisor, loss, overflow)
        finite = norms.total.isfinite()
        if loss is not None:
            finite = finite & loss.to(finite.device).isfinite()
        flagged = None if self.judge is None else self.judge(loss, norms.total)
        vetoes = [(~finite).float()] if self.protect else []
        if flagged is not None and self.obeys:
            vetoes.append(flagged.to(finite.device))
            finite = finite & (flagged.to(finite.device) == 0)
        if overflow is not None:
            vetoes.append((overflow != 0).float().to(finite.device))
        found_inf = torch.stack(vetoes).amax(dim=0) if vetoes else None
        total = torch.where(finite, norms.total, math.nan)  # NaN: not for a clipper's statistics
        coefficient, grad_scale = self._clip(params, total, divisor)
        update = Update(
            0.0 if found_inf is None else found_inf,
            norms,
            coefficient,
            params,
            0.0 if flagged is None else flagged,
        )
        if self.folds and not self._starts_momentum(params):
            fold = {"grad_scale": grad_scale.float()}
            return Prepared(update, fold | _named(found_inf), skip=False)
        if found_inf is None:
            _divide_(params, grad_scale)
            return Prepared(update, {}, skip=False)
        scale, found = torch.stack([grad_scale, found_inf.to(grad_scale.dtype)]).tolist()
        if not found:
            _divide_(params, scale)
        else:
            self._tell()
        return Prepared(update, {}, skip=bool(found))

    def _prepare_at_once(
        self,
        params: list[nn.Parameter],
        norms: GradNorms,
        divisor: float | Tensor,
        loss: Tensor | None,
        overflow: Tensor | None,
    ) -> Prepared:
        """Decide on one update, looking at values."""
        total = norms.total.item()
        finite = math.isfinite(total) and (loss is None or math.isfinite(loss.item()))
        flagged = 0.0 if self.judge is None else self.judge(loss, norms.total).item()
        if not finite:
            self._tell()
        bad = (self.protect and not finite) or (self.obeys and flagged != 0)
        if bad or (overflow is not None and overflow.item() != 0):
            return Prepared(Update(1.0, norms, 1.0, params, flagged), {}, skip=True)
        if not finite:
            coefficient, scale = 1.0, float(divisor)
        elif isinstance(self.clipper, NormClip):  # in numbers: tensors take ten times as long
            limit = min(self.clipper.max_norm, self.norm_limit or math.inf)
            coefficient = limit / total if total > limit else 1.0
            scale = float(divisor) / coefficient
        else:
            clipped, left = self._clip(params, norms.total, divisor)
            coefficient, scale = clipped.item(), left.item()
        update = Update(0.0, norms, coefficient, params, flagged)
        if scale == 1:  # then the kernel need not write the gradients back
            return Prepared(update, {}, skip=False)
        if self.folds:
            fold = {"grad_scale": torch.tensor(scale, dtype=torch.float32)}
            return Prepared(update, fold, skip=False)
        _divide_(params, scale)
        return Prepared(update, {}, skip=False)

    def _starts_momentum(self, params: list[nn.Parameter]) -> bool:
        """Tell whether fused SGD would keep memory that nobody wrote, if it skipped this step.

        It does when the first step of all is skipped (PyTorch 2.13, `_fused_sgd`).
        """
        if self._num_with_momentum in {None, len(params)}:
            return False
        state = self.optimizer.state
        number = sum(state[p].get("momentum_buffer") is not None for p in params if p in state)
        self._num_with_momentum = number
        return number < len(params)

    def _clip(
        self, params: list[nn.Parameter], total: Tensor, divisor: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the clip factor, and what is left to divide the gradients by; both 0-d."""
        limited = self._limited(total)
        if self._scale_clipper is not None:
            coefficient = self._scale_clipper.coefficient(total)
            if limited is not None:
                coefficient = torch.minimum(coefficient, limited)
            return coefficient, divisor / coefficient
        one = torch.ones_like(total)
        if limited is not None:
            _divide_(params, 1 / limited)
        if self.clipper is not None:
            _divide_(params, divisor)
            return self.clipper.clip_(params).coefficient, one
        return one, one * divisor

    def _limited(self, total: Tensor) -> Tensor | None:
        """Return the factor that brings the joint norm down to `norm_limit`, 0-d."""
        if self.norm_limit is None:
            return None
        factor = (self.norm_limit / total).clamp(max=1)
        return torch.where(total.isfinite(), factor, 1.0)


def record_update(
    recorder: Recorder,
    updater: Updater,
    update: Update,
    *,
    divisor: float | Tensor,
    loss: float | Tensor,
    learning_rate: float | Tensor,
    loss_scale: float | Tensor,
    which: int = 0,
) -> None:
    """Measure what an update did.

    Args:
        recorder: What measures.
        updater: What made the update.
        update: What it did.
        divisor: What the gradients were divided by.
        loss: Of the step; NaN if it is not known.
        learning_rate: That the step used.
        loss_scale: That the gradients were computed with; NaN if it is not known.
        which: The optimizer's number in the recorder.
    """
    recorder.after_update(
        updater.optimizer,
        params=update.params,
        norms=update.norms,
        divisor=divisor,
        values={
            "loss": loss,
            "gradient.clip_coefficient": update.coefficient,
            "gradient.clip_threshold": updater.threshold,
            "learning_rate": learning_rate,
            "loss_scale": loss_scale,
            "step.skipped": update.found_inf,
            "step.flagged": update.flagged,
        },
        which=which,
    )


def _named(found_inf: Tensor | None) -> dict[str, Tensor]:
    return {} if found_inf is None else {"found_inf": found_inf}


def folds_steps(optimizer: torch.optim.Optimizer) -> bool:
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
