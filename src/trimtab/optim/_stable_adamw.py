"""StableAdamW: AdamW that bounds each tensor's update when its second moments are stale."""

import math
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from trimtab.errors import ConfigError
from trimtab.optim._norms import norms_of


class StableAdamW(torch.optim.Optimizer):
    """AdamW with update clipping: for each tensor the learning rate is divided by max(1, RMS).

    RMS = sqrt(mean(g^2 / max(v, eps^2))) is about 1 as long as the second moment v knows gradients
    like the current one, and large when they grow suddenly: then Adam's step would be far too
    long. The decay is scaled with the learning rate. Nothing waits for the device.

    The state is that of `torch.optim.AdamW`, so a run can change from one to the other.

    Args:
        params: Parameters or param groups, as of `trimtab.optim.param_groups`.
        lr: Learning rate, not negative.
        betas: Decay of the means of gradients and of squared gradients, each in [0, 1).
        eps: Added to the denominator; positive.
        weight_decay: Decoupled; not negative.

    Raises:
        ConfigError: One of these is out of range.

    Source: Wortsman et al. 2023, arXiv:2304.13013, Algorithm 2.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        _check(defaults, "StableAdamW")
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; settings it leaves out are the optimizer's.

        Raises:
            ConfigError: One of its settings is out of range.
        """
        _check({**self.defaults, **param_group}, f"Param group {len(self.param_groups)}")
        super().add_param_group(param_group)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all parameters that have a gradient.

        Args:
            closure: Computes loss and gradients anew.

        Returns:
            What the closure returned.

        Raises:
            ConfigError: A gradient is sparse; nothing has been changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = [[p for p in g["params"] if p.grad is not None] for g in self.param_groups]
        if any(p.grad.layout != torch.strided for params in groups for p in params):
            raise ConfigError(
                "StableAdamW needs dense gradients, got a sparse one. Build the embedding with "
                "sparse=False."
            )
        for group, params in zip(self.param_groups, groups, strict=True):
            alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
            for p in params:
                alike.setdefault((p.device, p.dtype), []).append(p)
            for same in alike.values():
                self._update(same, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters of one device and dtype."""
        (beta1, beta2), eps, lr, decay = (group[k] for k in ("betas", "eps", "lr", "weight_decay"))
        states = [self._state_of(p) for p in params]
        real = [_real(p) for p in params]
        grads = [_real(p.grad) for p in params if p.grad is not None]
        steps = [s["step"] for s in states]
        means = [_real(s["exp_avg"]) for s in states]
        squares = [_real(s["exp_avg_sq"]) for s in states]

        torch._foreach_add_(steps, 1)
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)

        count = torch.stack(steps)  # (num_params,)
        unbiased = torch._foreach_div(squares, _each(_one_minus_power(beta2, count)))
        lrs = lr / _rms_ratios(grads, unbiased, eps).clamp(min=1)  # (num_params,)
        torch._foreach_sqrt_(unbiased)
        torch._foreach_add_(unbiased, eps)
        updates = torch._foreach_div(means, unbiased)
        torch._foreach_mul_(updates, _each(lrs / _one_minus_power(beta1, count)))
        if decay:
            torch._foreach_mul_(real, _each(1 - lrs * decay))
        torch._foreach_sub_(real, updates)

    def _state_of(self, p: Tensor) -> dict[str, Any]:
        """Return a parameter's state, made at its first gradient, on its device."""
        state: dict[str, Any] = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
        elif state["step"].device != p.device:  # AdamW keeps it on the CPU unless it is fused
            state["step"] = state["step"].to(p.device)
        return state


def _rms_ratios(grads: list[Tensor], squares: tuple[Tensor, ...], eps: float) -> Tensor:
    """Return sqrt(mean(g^2 / max(v, eps^2))) of each tensor, `(num_params,)`."""
    floors = torch._foreach_clamp_min(squares, eps**2)
    torch._foreach_sqrt_(floors)
    ratios = torch._foreach_div(grads, floors)
    sizes = [math.sqrt(max(1, g.numel())) for g in grads]
    return torch.stack(torch._foreach_div(norms_of(ratios).each.unbind(), sizes))


def _one_minus_power(base: float, exponents: Tensor) -> Tensor:
    """Return 1 - base^n without the cancellation that 1 - 0.999 suffers in float32."""
    if base == 0:
        return torch.ones_like(exponents)
    return -torch.expm1(exponents * math.log(base))


def _each(values: Tensor) -> list[Tensor]:
    """Return the elements as 0-d tensors, which foreach functions broadcast."""
    return list(values.unbind())


def _real(tensor: Tensor) -> Tensor:
    """Return real and imaginary parts as neighbours, sharing the memory."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _check(settings: dict[str, Any], owner: str) -> None:
    """Refuse settings out of range.

    Raises:
        ConfigError: One is.
    """
    lr, betas, eps, decay = (settings[k] for k in ("lr", "betas", "eps", "weight_decay"))
    for name, value in {"lr": lr, "weight_decay": decay}.items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{owner}: {name} must be finite and not negative, got {value}.")
    if not (math.isfinite(eps) and eps > 0):
        raise ConfigError(f"{owner}: eps must be finite and positive, got {eps}. Usual is 1e-8.")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ConfigError(f"{owner}: betas must be two numbers in [0, 1), got {betas}.")
