"""Param groups: which parameters weight decay pulls, decided by the modules they belong to."""

import math
from collections.abc import Iterator
from numbers import Real
from typing import Any, Final

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from trimtab.errors import ConfigError
from trimtab.optim._clip import Excluded, ids_of

_NORMS: Final = (
    nn.modules.batchnorm._NormBase,  # BatchNorm, SyncBatchNorm and InstanceNorm
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
_EMBEDDINGS: Final = (nn.Embedding, nn.EmbeddingBag)


def param_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    decay_embeddings: bool = True,
    exclude: Excluded = (),
) -> list[dict[str, Any]]:
    """Split trainable parameters into those with weight decay and those without.

    Without are the parameters of norms, whatever their shape, and those of fewer than two
    dimensions: biases, and the scalars and vectors that scale a branch. A norm is one of torch's,
    or a class of another library whose name ends in "Norm" (or "LayerNorm2d" and the like). Decay
    would pull them towards a function that ignores its input. A parameter that several modules
    share appears once; it goes without decay if one of them asks for it. Frozen parameters are left
    out.

    Args:
        model: In its final form: parameters replaced later are not in the groups.
        weight_decay: Of the first group; finite and not negative.
        decay_embeddings: Whether embedding tables decay. Models differ: GPT-2 and its kin do it,
            OLMo 2 does not.
        exclude: Further modules and parameters that go without.

    Returns:
        One group or two, for any torch optimizer; empty ones are left out.

    Raises:
        ConfigError: There is no trainable parameter, one has no shape yet, or `weight_decay` is
            out of range.

    Examples:
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
        >>> for group in param_groups(model, 0.1):
        ...     print(group["weight_decay"], [tuple(p.shape) for p in group["params"]])
        0.1 [(8, 8)]
        0.0 [(8,), (8,), (8,)]

    Source: Loshchilov & Hutter 2019, arXiv:1711.05101 (decoupled decay); OLMo Team 2024,
        arXiv:2501.00656, section 3.4 (embeddings).
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"param_groups needs the model, since the kind of a layer decides; got "
            f"{type(model).__name__}."
        )
    number = isinstance(weight_decay, Real) and not isinstance(weight_decay, bool)
    if not (number and math.isfinite(weight_decay) and weight_decay >= 0):
        raise ConfigError(
            f"weight_decay must be finite and not negative, got {weight_decay!r}. 0 decays nothing."
        )
    spared = {id(p) for _, p in no_decay_params(model)} | ids_of(exclude)
    if not decay_embeddings:
        spared |= ids_of(m for m in model.modules() if isinstance(m, _EMBEDDINGS))
    params = [p for p in model.parameters() if p.requires_grad]  # each once
    if not params:
        raise ConfigError(
            "The model has no trainable parameter. Unfreeze what shall be trained with "
            "requires_grad_(True) first."
        )
    groups = [
        {"params": [p for p in params if id(p) not in spared], "weight_decay": float(weight_decay)},
        {"params": [p for p in params if id(p) in spared], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def no_decay_params(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return names and values of trainable parameters that weight decay harms; each once.

    Args:
        model: Wrapped or not.

    Raises:
        ConfigError: A parameter has no shape yet.
    """
    seen: set[int] = set()
    found = []
    for name, p, owner in _owned(model):
        if id(p) not in seen and (_is_norm(owner) or _num_dims(name, p) < 2):
            seen.add(id(p))
            found.append((name, p))
    return found


def _owned(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """Yield each trainable parameter with its owner, once for each owner."""
    for prefix, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False, remove_duplicate=False):
            if p.requires_grad:
                yield f"{prefix}.{name}".lstrip("."), p, module


def _is_norm(module: nn.Module) -> bool:
    """Return whether a module normalises: torch's own, or one of another library by its name."""
    name = type(module).__name__.lower().rstrip("123d_")
    return isinstance(module, _NORMS) or name.endswith("norm")


def _num_dims(name: str, p: Tensor) -> int:
    """Return the number of dimensions that the whole parameter has.

    Raises:
        ConfigError: It has no shape yet.
    """
    if is_lazy(p):
        raise ConfigError(
            f"Parameter {name} has no shape yet. Run one batch through the model first."
        )
    whole = getattr(p, "ds_shape", p.shape)  # DeepSpeed's ZeRO-3 leaves an empty shell in place
    return len(whole)
