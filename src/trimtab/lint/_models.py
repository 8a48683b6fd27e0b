"""What layers a network has, as far as the source shows it."""

import ast
import re
from typing import TYPE_CHECKING, Final

from trimtab.lint._names import (
    AFFINE,
    BATCH_NORMS,
    DROPOUTS,
    LAYERS,
    NORMS,
    WITH_DROPOUT,
)
from trimtab.lint._outputs import lone_model
from trimtab.lint._scopes import ClassInfo
from trimtab.lint._source import is_constant, keyword

if TYPE_CHECKING:
    from trimtab.lint._source import Source

ZOOS: Final = ("torchvision.models", "timm", "transformers", "segmentation_models_pytorch")
"""Packages whose networks have norms, and dropout or batch statistics."""
WITH_BATCH_NORM: Final = re.compile(
    r"""(?x)
    (wide_)?res(net|next)\d|densenet\d|mobilenet_|mnasnet|efficientnet_|regnet_|shufflenet_|
    inception_|googlenet|vgg\d+_bn
    """
)
"""Networks of torchvision that normalise by batches."""


def layers_of(source: "Source", model: ast.expr) -> set[str]:
    """Return the names of the layers that a model is built from; `zoo` for one of a library.

    Empty where nothing is known.
    """
    found: set[str] = set()
    origins = source.origins.of(model)
    for origin in origins:
        if isinstance(origin, ast.Call):
            found |= _made_by(source, origin, set())
    if not found and (info := lone_model(source, model)):
        found |= layers_of_class(source, info)
    return found


def has_batch_norms(source: "Source", model: ast.expr) -> bool:
    """Tell whether a model certainly has BatchNorm, its own or as a known network of a library."""
    if layers_of(source, model) & BATCH_NORMS:
        return True
    return any(
        isinstance(o, ast.Call)
        and source.qualname(o.func).startswith("torchvision.models")
        and WITH_BATCH_NORM.match(source.called(o)) is not None
        for o in source.origins.of(model)
    )


def _made_by(source: "Source", call: ast.Call, seen: set[ClassInfo]) -> set[str]:
    info = source.origins.local_class(call)
    if info is not None:
        return layers_of_class(source, info, seen)
    name = source.called(call)
    path = source.qualname(call.func)
    found = {"zoo"} if path.startswith(ZOOS) else set()
    if name in LAYERS:
        found.add(_qualified(call, name))
        for part in ast.walk(call):
            if part is not call and isinstance(part, ast.Call):
                found |= _made_by(source, part, seen)
    return found


def _qualified(call: ast.Call, name: str) -> str:
    """Return a layer's name, with what matters of its arguments."""
    if name in WITH_DROPOUT and is_constant(keyword(call, "dropout"), 0.0):
        return f"{name} without dropout"
    if name in AFFINE and is_constant(keyword(call, "bias"), False):  # noqa: FBT003
        return f"{name} without bias"
    return name


def layers_of_class(
    source: "Source", info: ClassInfo, seen: set[ClassInfo] | None = None
) -> set[str]:
    """Return the layers that a class of the file makes, those of its parts included."""
    seen = set() if seen is None else seen
    if info in seen:
        return set()
    seen.add(info)
    found: set[str] = set()
    for each in source.origins.ancestors(info):
        for node in ast.walk(each.node):
            if isinstance(node, ast.Call):
                made = _made_by(source, node, seen)
                found |= made
                if source.qualname(node.func).endswith("functional.dropout"):
                    found.add("functional dropout")
    return found


def has_modes(layers: set[str]) -> bool:
    """Tell whether a network computes something else in training than in evaluation."""
    moody = DROPOUTS | BATCH_NORMS | WITH_DROPOUT | {"zoo"}
    return bool(layers & moody)


def has_norms(layers: set[str]) -> bool:
    """Tell whether a network has norm layers."""
    names = {layer.partition(" ")[0] for layer in layers}  # whatever their arguments
    return bool(names & (NORMS | WITH_DROPOUT | {"zoo"}))


def has_biases(layers: set[str]) -> bool:
    """Tell whether a network has biases."""
    return bool(layers & AFFINE) or has_norms(layers)
