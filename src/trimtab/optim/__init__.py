"""From gradients to updates: param groups, clipping, schedules and StableAdamW."""

from trimtab.optim._autoclip import AutoClip
from trimtab.optim._clip import adaptive_clip_, clip_grad_norm_, clip_grad_value_
from trimtab.optim._clippers import (
    AdaptiveClip,
    Clipped,
    Clipper,
    NormClip,
    ScaleClipper,
    ValueClip,
    as_clipper,
)
from trimtab.optim._norms import GradNorms, grad_norms
from trimtab.optim._param_groups import no_decay_params, param_groups
from trimtab.optim._schedule_base import Schedule
from trimtab.optim._schedule_names import schedule
from trimtab.optim._schedules import (
    inverse_sqrt,
    polynomial,
    warmup_constant,
    warmup_cosine,
    warmup_linear,
    wsd,
)
from trimtab.optim._stable_adamw import StableAdamW
from trimtab.optim._zclip import ZClip

__all__ = [
    "AdaptiveClip",
    "AutoClip",
    "Clipped",
    "Clipper",
    "GradNorms",
    "NormClip",
    "ScaleClipper",
    "Schedule",
    "StableAdamW",
    "ValueClip",
    "ZClip",
    "adaptive_clip_",
    "as_clipper",
    "clip_grad_norm_",
    "clip_grad_value_",
    "grad_norms",
    "inverse_sqrt",
    "no_decay_params",
    "param_groups",
    "polynomial",
    "schedule",
    "warmup_constant",
    "warmup_cosine",
    "warmup_linear",
    "wsd",
]
