"""Clippers: gradient clipping as objects, behind one protocol."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from trimtab.errors import ConfigError
from trimtab.optim._clip import (
    Excluded,
    check_threshold,
    clip_factor_for,
    clip_grad_value_,
    clip_units_,
    scale_,
)
from trimtab.optim._norms import GradNorms, Params, check_norm_type, gradients, listed, norms_of


class Clipped(NamedTuple):
    """What a clipper did to a set of gradients; nothing of it has been waited for."""

    norms: GradNorms
    """Before clipping."""
    coefficient: Tensor
    """Joint norm after clipping as a share of that before it, 0-d; 1 if nothing was clipped."""


@runtime_checkable
class Clipper(Protocol):
    """Clips gradients once a step, and may remember earlier ones.

    A value that is not finite must not enter the memory, nor change a gradient.
    """

    def clip_(self, params: Params) -> Clipped:
        """Clip the gradients of `params` in place."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the clipper remembers."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""


class ScaleClipper(ABC):
    """A clipper that comes down to one factor for all gradients.

    Its factor can be folded into a fused optimizer, which saves a pass over the gradients.

    Args:
        norm_type: The p of the joint norm that is judged.

    Raises:
        ConfigError: `norm_type` is not above 0.
    """

    def __init__(self, norm_type: float = 2.0) -> None:
        self.norm_type = check_norm_type(norm_type)

    @abstractmethod
    def coefficient(self, norm: Tensor) -> Tensor:
        """Judge one step's joint norm.

        Args:
            norm: 0-d; one that is not finite leaves the memory as it is.

        Returns:
            Factor for all gradients, 0-d, in (0, 1]; 1 for a norm that is not finite.
        """

    @torch.no_grad()
    def clip_(self, params: Params) -> Clipped:
        """Scale the gradients of `params` in place."""
        grads = gradients(params)
        norms = norms_of(grads, self.norm_type)
        if not grads:
            return Clipped(norms, torch.ones_like(norms.total))
        coefficient = self.coefficient(norms.total)
        scale_(grads, coefficient)
        return Clipped(norms, coefficient)

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what the clipper remembers; on the device, and a copy."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""


class NormClip(ScaleClipper):
    """Bounds the joint norm at a fixed threshold, as `clip_grad_norm_` does.

    Args:
        max_norm: In gradient units, after unscaling; finite and positive.
        norm_type: The p of the p-norm, above 0; `math.inf` for the largest absolute value.

    Raises:
        ConfigError: One of these is out of range.

    Source: Pascanu et al. 2013, arXiv:1211.5063, Algorithm 1.
    """

    def __init__(self, max_norm: float = 1.0, norm_type: float = 2.0) -> None:
        check_threshold("max_norm", max_norm)
        super().__init__(norm_type)
        self.max_norm = float(max_norm)

    def coefficient(self, norm: Tensor) -> Tensor:
        """Return the factor that brings `norm` down to the threshold."""
        return clip_factor_for(norm, self.max_norm)

    def state_dict(self) -> dict[str, Any]:
        """Return an empty dictionary: nothing is remembered."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""

    def __repr__(self) -> str:
        return f"NormClip({self.max_norm:g}, norm_type={self.norm_type:g})"


class ValueClip:
    """Bounds each element, as `clip_grad_value_` does; this changes the direction.

    Args:
        max_value: In gradient units, after unscaling; finite and positive.

    Raises:
        ConfigError: `max_value` is not finite and positive.
    """

    def __init__(self, max_value: float) -> None:
        check_threshold("max_value", max_value)
        self.max_value = float(max_value)

    @torch.no_grad()
    def clip_(self, params: Params) -> Clipped:
        """Limit the gradients of `params` in place; measures them before and after."""
        params = listed(params)
        return _compare(params, clip_grad_value_(params, self.max_value))

    def state_dict(self) -> dict[str, Any]:
        """Return an empty dictionary: nothing is remembered."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""

    def __repr__(self) -> str:
        return f"ValueClip({self.max_value:g})"


class AdaptiveClip:
    """Bounds each unit's gradient by the norm of its weights, as `adaptive_clip_` does.

    Args:
        model: Tells which linear layer is the last, the head, which is left out, and which
            dimension of a weight counts the units.
        clip_factor: Largest ratio of a gradient's to a weight's norm; finite and positive.
        eps: Least norm that weights count with; finite and positive.
        exclude: Modules and parameters that are not clipped; None: the last
            `nn.Linear`.

    Raises:
        ConfigError: A threshold is not finite and positive.

    Source: Brock et al. 2021, arXiv:2102.06171, equation 3.
    """

    def __init__(
        self,
        model: nn.Module,
        clip_factor: float = 0.01,
        eps: float = 1e-3,
        *,
        exclude: Excluded | None = None,
    ) -> None:
        check_threshold("clip_factor", clip_factor)
        check_threshold("eps", eps)
        if not isinstance(model, nn.Module):
            raise ConfigError(
                f"AdaptiveClip needs the model, to know its layers; got {type(model).__name__}. "
                "For parameters alone call adaptive_clip_(params)."
            )
        self.model = model
        self.clip_factor, self.eps = float(clip_factor), float(eps)
        if not (exclude is None or isinstance(exclude, nn.Module | Tensor)):
            exclude = list(exclude)  # a generator would be empty at the second step
        self.exclude = exclude

    @torch.no_grad()
    def clip_(self, params: Params) -> Clipped:
        """Limit the gradients of `params` in place; measures them before and after."""
        params = listed(params)
        norms = clip_units_(params, self.model, self.clip_factor, self.eps, self.exclude)
        return _compare(params, norms)

    def state_dict(self) -> dict[str, Any]:
        """Return an empty dictionary: nothing is remembered."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""

    def __repr__(self) -> str:
        return f"AdaptiveClip({type(self.model).__name__}, {self.clip_factor:g}, {self.eps:g})"


def _compare(params: list[Tensor], before: GradNorms) -> Clipped:
    """Return the change of the joint norm; 1 where it is zero or not finite."""
    share = norms_of(gradients(params)).total / before.total
    known = before.total.isfinite() & (before.total > 0)
    return Clipped(before, torch.where(known, share, 1).clamp(max=1))


def as_clipper(clip: float | Clipper | None) -> Clipper | None:
    """Return a clipper for what a user may pass: a threshold, a clipper, or None.

    Raises:
        ConfigError: It is something else, or a threshold that is not finite and positive.
    """
    if clip is None:
        return None
    if isinstance(clip, int | float):
        if not clip > 0:
            raise ConfigError(
                f"clip must be a positive threshold, a clipper, or None to measure only; got "
                f"{clip!r}."
            )
        return NormClip(clip)
    if isinstance(clip, type) or not isinstance(clip, Clipper):
        seen = clip.__name__ if isinstance(clip, type) else type(clip).__name__
        raise ConfigError(
            f"clip must be a threshold such as 1.0, a clipper such as ZClip(), or None; got {seen}."
        )
    return clip
