"""The curvature that an optimizer meets, and the learning rate at which it becomes unstable."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from trimtab.errors import ConfigError
from trimtab.preflight._gradients import gradients
from trimtab.preflight._lanczos import Vector, largest_eigenvalue

Closure = Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True)
class Sharpness:
    """The largest eigenvalue of the loss's Hessian, as the optimizer sees it."""

    value: float
    """For an adaptive optimizer that of P^-1/2 H P^-1/2, where it moves by -lr P^-1 g."""
    limit: float
    """Learning rate beyond which a quadratic bowl of this sharpness throws it out; infinite if
    nothing curves upwards."""
    lr: float
    """The highest of the optimizer's own, now."""
    preconditioned: bool
    """Whether the optimizer is adaptive."""
    iterations: int
    """Products with the Hessian that were made."""

    @property
    def ratio(self) -> float:
        """The optimizer's learning rate as a share of the limit: below 1 is stable."""
        return self.lr / self.limit


def sharpness(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_closure: Closure,
    *,
    second_moments: Sequence[Tensor] | None = None,
    max_iterations: int = 30,
    tolerance: float = 0.01,
    generator: torch.Generator | None = None,
) -> Sharpness:
    """Measure the sharpness at the present weights, and the learning rate that it allows.

    Products with the Hessian come from differentiating the gradient once more, so it costs one
    forward pass and about two backward passes an iteration. Gradients and weights stay as they are.

    Args:
        model: Its trainable parameters that the optimizer holds are looked at.
        optimizer: SGD, with momentum or without, or one of Adam's family, RMSprop or Adagrad.
        loss_closure: Returns the loss with its graph; called once.
        second_moments: Of an adaptive optimizer that has taken no step yet, one a parameter as
            `held_parameters` lists them. None: squares of the present gradient.
        max_iterations: Products with the Hessian at most.
        tolerance: Relative accuracy of the eigenvalue.
        generator: Of the iteration's first vector.

    Raises:
        ConfigError: The optimizer holds none of the parameters, or is of a kind whose limit is not
            known.

    Source: Cohen et al. 2021, arXiv:2103.00065; for adaptive optimizers Cohen et al. 2022,
        arXiv:2207.14484, equation 5.
    """
    params = held_parameters(model, optimizer)
    if not params:
        raise ConfigError(
            "The optimizer holds no trainable parameter of this model, so there is no curvature "
            "that it could meet. Build it from model.parameters()."
        )
    rule = _rule_of(optimizer)
    rates = _rates(optimizer)
    top = max(rates.values(), default=0.0)
    with _twice_differentiable(model):
        grads = torch.autograd.grad(
            loss_closure(), params, create_graph=True, allow_unused=True, materialize_grads=True
        )
        roots = _roots(optimizer, params, grads, rates, top, second_moments, rule)

        def apply(vector: Vector) -> Vector:
            scaled = [v * r for v, r in zip(vector, roots, strict=True)]
            reached = [(g, s) for g, s in zip(grads, scaled, strict=True) if g.requires_grad]
            if not reached:
                return [torch.zeros_like(v) for v in vector]
            outputs, weights = zip(*reached, strict=True)
            products = torch.autograd.grad(
                outputs, params, [w.to(o.dtype) for o, w in reached], retain_graph=True,
                allow_unused=True, materialize_grads=True,
            ) if weights else ()  # fmt: skip
            return [p.detach().float() * r for p, r in zip(products, roots, strict=True)]

        value, iterations = largest_eigenvalue(
            apply, params, max_iterations=max_iterations, tolerance=tolerance, generator=generator
        )
    limit = rule.bound(optimizer.param_groups[0]) / value if value > 0 else float("inf")
    return Sharpness(
        value=value,
        limit=limit,
        lr=top,
        preconditioned=rule.moment is not None,
        iterations=iterations,
    )


def held_parameters(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the model's trainable real parameters that the optimizer holds."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [
        p for p in model.parameters() if p.requires_grad and id(p) in held and p.is_floating_point()
    ]


def estimate_second_moments(closures: Sequence[Closure], params: Sequence[Tensor]) -> list[Tensor]:
    """Estimate what Adam's second moments will be: the square of the mean gradient and its noise.

    A single batch's gradient squared would be right on average, but zero where it happens to be,
    and the curvature relative to it without bound. Where noise prevails this is twice too high,
    which makes the limit too high by the square root of 2 at most.

    Args:
        closures: The losses of the parts of a batch, of equal size; at least 2.
        params: Leaves.
    """
    total = [torch.zeros_like(p, dtype=torch.float32) for p in params]
    squares = [torch.zeros_like(p, dtype=torch.float32) for p in params]
    for closure in closures:
        for i, grad in enumerate(gradients(closure(), params)):
            if grad is not None:
                dense = (grad.to_dense() if grad.is_sparse else grad).float()
                total[i] += dense
                squares[i] += dense.square()
    num = len(closures)
    moments = []
    for t, s in zip(total, squares, strict=True):
        mean = t / num
        variance = (s / num - mean.square()).clamp(min=0) * num / (num - 1)
        moments.append(mean.square() + variance / num)
    return moments


@dataclass(frozen=True)
class _Rule:
    """How an optimizer's step depends on lr and state."""

    moment: str | None
    """Name of the second moment in its state; None without one."""
    bound: Callable[[dict[str, Any]], float]
    """lr times sharpness at which it becomes unstable, by param group."""
    corrected: bool = False
    """Whether the moment is divided by 1 - beta2^step."""


def _sgd_bound(group: dict[str, Any]) -> float:
    momentum = float(group.get("momentum", 0.0))
    if group.get("nesterov"):
        return (2 + 2 * momentum) / (1 + 2 * momentum)
    return (2 + 2 * momentum) / (1 - float(group.get("dampening", 0.0)) * (momentum > 0))


def _adam_bound(group: dict[str, Any]) -> float:
    beta = float(group["betas"][0])
    return (2 + 2 * beta) / (1 - beta)


def _plain_bound(group: dict[str, Any]) -> float:
    return 2 + 2 * float(group.get("momentum", 0.0))


_RULES = {
    "SGD": _Rule(None, _sgd_bound),
    "Adam": _Rule("exp_avg_sq", _adam_bound, corrected=True),
    "AdamW": _Rule("exp_avg_sq", _adam_bound, corrected=True),
    "NAdam": _Rule("exp_avg_sq", _adam_bound, corrected=True),
    "StableAdamW": _Rule("exp_avg_sq", _adam_bound, corrected=True),
    "RMSprop": _Rule("square_avg", _plain_bound),
    "Adagrad": _Rule("sum", _plain_bound),
}


def _rule_of(optimizer: torch.optim.Optimizer) -> _Rule:
    for cls in type(optimizer).__mro__:
        if cls.__name__ in _RULES:
            return _RULES[cls.__name__]
    raise ConfigError(
        f"The largest stable learning rate of {type(optimizer).__name__} is not known. Known are "
        f"{', '.join(_RULES)} and what derives from them."
    )


def _rates(optimizer: torch.optim.Optimizer) -> dict[int, float]:
    return {id(p): float(g["lr"]) for g in optimizer.param_groups for p in g["params"]}


def _roots(
    optimizer: torch.optim.Optimizer,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    rates: dict[int, float],
    top: float,
    moments: Sequence[Tensor] | None,
    rule: _Rule,
) -> list[Tensor]:
    """Return P^-1/2 of each parameter, with the learning rates of its group relative to the top."""
    groups = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    roots = []
    for index, (p, grad) in enumerate(zip(params, grads, strict=True)):
        share = (rates[id(p)] / top) ** 0.5 if top > 0 else 1.0
        if rule.moment is None:
            roots.append(torch.full((), share, device=p.device))
            continue
        group, state = groups[id(p)], optimizer.state.get(p, {})
        if rule.moment in state:
            moment = state[rule.moment].float()
            if rule.corrected:
                moment = moment / (1 - float(group["betas"][1]) ** float(state["step"]))
        else:
            moment = moments[index] if moments is not None else grad.detach().float().square()
            if not bool(moment.any()):  # behind a layer that starts at zero: not moved yet
                roots.append(torch.zeros((), device=p.device))
                continue
        scale = moment.sqrt() + float(group.get("eps", 1e-8))
        roots.append(share * scale.rsqrt())
    return roots


@contextmanager
def _twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Leave out fused kernels that have no second derivative: of attention and recurrent layers."""
    recurrent = any(isinstance(m, nn.RNNBase) for m in model.modules())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32")  # mkldnn.flags sets it, unasked
        with (
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.cudnn.flags(enabled=not recurrent),
            torch.backends.mkldnn.flags(enabled=not recurrent),
            torch.enable_grad(),
        ):
            yield
