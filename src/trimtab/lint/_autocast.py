"""Where the forward pass runs in half precision, and how gradients are scaled for it."""

import ast
from typing import TYPE_CHECKING, Final

from trimtab.lint._source import is_constant, keyword

if TYPE_CHECKING:
    from trimtab.lint._source import Source
    from trimtab.lint._trace import Event

SCALING_WORDS: Final = (
    "GradScaler", "loss_scale", "scale_loss", "amp.initialize", "Accelerator", "Fabric",
    "deepspeed", "grad_scaler", "loss_scaler", "NativeScaler", "get_scaler", "set_autocast",
    "LightningModule", "scaler",
)  # fmt: skip
"""What a file names that scales losses in one way or another."""


def half_precision(source: "Source", event: "Event") -> ast.Call | None:
    """Return the autocast to float16 that an event is in; None where the type is not certain."""
    for context in reversed(event.context.withs):
        for origin in source.origins.of(context):
            if isinstance(origin, ast.Call) and source.called(origin) == "autocast":
                return origin if is_half(source, origin) else None
    return None


def is_half(source: "Source", call: ast.Call) -> bool:
    """Tell whether an autocast is certainly to float16."""
    path = source.qualname(call.func)
    if is_constant(keyword(call, "enabled"), False):  # noqa: FBT003
        return False
    device = keyword(call, "device_type", 0)
    on_cuda = path.startswith("torch.cuda")
    if not on_cuda:
        kinds = {o.value for o in source.origins.of(device) if isinstance(o, ast.Constant)}
        on_cuda = "cuda" in kinds
    dtype = keyword(call, "dtype", 1)
    if dtype is None or is_constant(dtype, None):
        return on_cuda
    names = {source.qualname(o) for o in source.origins.of(dtype)}
    return bool(names) and names <= {"torch.float16", "torch.half"}
