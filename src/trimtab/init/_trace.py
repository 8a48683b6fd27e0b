"""Finding what follows each layer without running the model, by symbolic tracing."""

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from trimtab.init._gains import activation_named, activation_of, plain_name
from trimtab.init._operations import (
    INPUT,
    LINEAR,
    NORM,
    OUTPUT,
    UNKNOWN,
    End,
    Ends,
    Operation,
    Surroundings,
    find_ends,
    find_origins,
    role_of,
)
from trimtab.init._probe import unchanged
from trimtab.init._weights import CONVOLUTIONS, RECURRENT, TRANSPOSED, is_conv1d

_LAYERS = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED, nn.MultiheadAttention, *RECURRENT)
_SHAPES = {
    "dim",
    "is_cuda",
    "is_nested",
    "layout",
    "ndim",
    "numel",
    "requires_grad",
    "shape",
    "size",
}
_COMPARISONS = vars(operator).values()


Found = dict[nn.Module, Surroundings]


def is_layer(module: nn.Module) -> bool:
    """Tell whether an initialiser may know this module."""
    return isinstance(module, _LAYERS) or is_conv1d(module)


def trace(model: nn.Module, *, output: End = OUTPUT) -> Found | None:
    """Trace a model and find what surrounds every layer in it.

    A submodule that cannot be traced is taken as one opaque step and traced by itself.
    Conditions on shapes count as not met, because most guard against misuse.

    Args:
        model: Any; may be on the meta device. It is not changed, and nothing is computed.
        output: What the end of `model` is: `OUTPUT`, or `UNKNOWN` for a part of a model.

    Returns:
        What was found for each layer that is called. None: the forward itself cannot be
        traced.
    """
    if is_layer(model):
        return {model: Surroundings(frozenset({INPUT}), frozenset({output}))}
    tracer = _Tracer()
    try:
        with unchanged(model):
            graph = tracer.trace(model, _defaults(model))
    except Exception:  # noqa: BLE001 - a user's forward may fail in any way on a proxy
        return None
    return _read(model, graph, output)


class _Proxy(fx.Proxy):
    """A proxy that answers questions on its type, which many models ask."""

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


class _Tracer(fx.Tracer):
    """Traces through containers and a user's modules, and around those it cannot trace."""

    proxy_buffer_attributes = True
    trace_asserts = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = is_layer(m) or (not any(m.children()) and _role(m) != "pass")
        return known or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return False if _is_about_shape(obj.node) else super().to_bool(obj)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        before = len(self.graph.nodes)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # noqa: BLE001 - a user's forward may fail in any way on a proxy
            for node in reversed(list(self.graph.nodes)[before:]):
                self.graph.erase_node(node)
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def _defaults(model: nn.Module) -> dict[str, Any]:
    """Bind optional arguments to their defaults, or `mask is None` would not be true."""
    parameters = inspect.signature(model.forward).parameters.values()
    simple = (bool, int, float, str, type(None))
    return {p.name: p.default for p in parameters if isinstance(p.default, simple)}


def _is_about_shape(node: fx.Node) -> bool:
    """Tell whether a value follows from tensors' shapes alone."""
    if node.op not in {"call_function", "call_method"}:
        return False
    name = node.args[1] if node.target is getattr else node.target
    if name in _SHAPES:
        return True
    computes = node.op == "call_function" and any(node.target is f for f in _COMPARISONS)
    sources = node.all_input_nodes
    return computes and bool(sources) and all(map(_is_about_shape, sources))


def _read(model: nn.Module, graph: fx.Graph, output: End) -> Found:
    """Turn a traced graph into what surrounds each layer."""
    steps: dict[fx.Node, Operation] = {}
    for node in graph.nodes:
        steps[node] = _operation(model, node)
        for source in node.all_input_nodes:
            steps[source].feed(steps[node])
    found: Found = {}
    for step in steps.values():
        if step.module is None:
            continue
        ends = frozenset(output if end == OUTPUT else end for end in find_ends(step))
        if step.role == "layer":
            origins = find_origins(step.inputs[0]) if step.inputs else frozenset()
            join(found, {step.module: Surroundings(origins, ends)})
        elif any(map(is_layer, step.module.modules())):
            last = OUTPUT if ends == {OUTPUT} else UNKNOWN
            join(found, trace_parts(step.module, output=last))
    return found


def join(found: Found, more: Found) -> None:
    """Add to what was found, in place.

    Args:
        found: Changed.
        more: Added to it.
    """
    for module, surroundings in more.items():
        found[module] = found[module] | surroundings if module in found else surroundings


def trace_parts(model: nn.Module, *, output: End = OUTPUT) -> Found:
    """Trace a model, or if that fails each child by itself.

    Args:
        model: Any; may be on the meta device.
        output: What the end of `model` is.

    Returns:
        What was found for each layer that was met.
    """
    own = known_parts(model)
    if own is not None:
        return own
    found = trace(model, output=output)
    if found is not None:
        return found
    return {
        layer: surroundings
        for child in model.children()
        for layer, surroundings in trace_parts(child, output=UNKNOWN).items()
    }


def known_parts(model: nn.Module) -> Found | None:
    """Return what surrounds each layer of PyTorch's own Transformer layers.

    Args:
        model: Any.

    Returns:
        None if it is no Transformer layer.
    """
    if not isinstance(model, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return None
    linear, norm = frozenset[End]({LINEAR}), frozenset[End]({NORM})
    found = {m: Surroundings(norm, linear) for m in model.modules() if is_layer(m)}
    activation = activation_of(model.activation)
    if activation is not None:
        between: Ends = frozenset({activation})
        found[model.linear1] = Surroundings(norm, between)
        found[model.linear2] = Surroundings(between, linear)
    return found


def _operation(model: nn.Module, node: fx.Node) -> Operation:
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        role = _role(module)
        activation = activation_of(module) if role == "activation" else None
        return Operation(role, activation, module if role in {"layer", "stop"} else None)
    if node.op == "output":
        return Operation("output")
    if node.op not in {"call_function", "call_method"}:
        return Operation("input" if node.op == "placeholder" else "side")
    target = node.args[1] if node.target is getattr else node.target
    name = plain_name(target if isinstance(target, str) else getattr(target, "__name__", ""))
    return Operation(role_of(name), activation_named(name, _slope(name, node)))


def _slope(name: str, node: fx.Node) -> float | None:
    """Read the slope that a functional leaky ReLU was given."""
    if name != "leakyrelu":
        return None
    given = node.kwargs.get("negative_slope", node.args[1] if len(node.args) > 1 else None)
    return float(given) if isinstance(given, int | float) else None


def _role(module: nn.Module) -> str:
    if is_layer(module):
        return "layer"
    if any(map(is_layer, module.modules())) or isinstance(module, nn.Bilinear):
        return "stop"
    if activation_of(module) is not None:
        return "activation"
    return "norm" if "norm" in type(module).__name__.lower() else "pass"
