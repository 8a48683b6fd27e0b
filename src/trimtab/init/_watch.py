"""Finding what follows each layer by running the model once and reading autograd's graph."""

from typing import Any

import torch
from torch import nn

from trimtab.init._gains import activation_named, plain_name
from trimtab.init._operations import (
    INPUT,
    Ends,
    Operation,
    Surroundings,
    find_ends,
    find_origins,
    role_of,
)
from trimtab.init._probe import find_tensors, run, unchanged
from trimtab.init._trace import Found, is_layer, join


def watch(model: nn.Module, batch: Any) -> Found:
    """Run a model once in eval mode and find what surrounded every layer.

    It sees through any Python, unlike tracing, but needs data and the work of one forward
    pass. Modes, buffers and random state are restored.

    Args:
        model: Any, with memory.
        batch: A tensor, a tuple of arguments or a mapping of keyword arguments.

    Returns:
        What was found for each layer that was called and needed a gradient.
    """
    calls: list[tuple[nn.Module, Any, Any]] = []

    def note(module: nn.Module, args: Any, result: Any) -> None:
        given, made = next(find_tensors(args), None), next(find_tensors(result), None)
        if made is not None and made.grad_fn is not None:
            calls.append((module, getattr(given, "grad_fn", None), made.grad_fn))

    hooks = [m.register_forward_hook(note) for m in model.modules() if is_layer(m)]
    try:
        with unchanged(model), torch.enable_grad():
            model.eval()
            result = run(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    steps = _read([t.grad_fn for t in find_tensors(result) if t.grad_fn is not None])
    found: Found = {}
    for module, given, made in calls:
        origins: Ends = find_origins(steps[given]) if given in steps else frozenset({INPUT})
        ends = find_ends(steps[made]) if made in steps else frozenset()
        join(found, {module: Surroundings(origins, ends)})
    return found


def _read(roots: list[Any]) -> dict[Any, Operation]:
    """Turn autograd's graph around, so that it leads from the layers to the output."""
    steps = {root: _operation(root) for root in roots}
    waiting = list(steps)
    for root in waiting:
        steps[root].feed(Operation("output"))
    while waiting:
        function = waiting.pop()
        for source, _ in function.next_functions:
            if source is None:
                continue
            if source not in steps:
                steps[source] = _operation(source)
                waiting.append(source)
            steps[source].feed(steps[function])
    return steps


def _operation(function: Any) -> Operation:
    name = plain_name(function.name().rpartition("::")[2])
    if name == "elu" and getattr(function, "_saved_scale", 1) != 1:
        name = "selu"  # PyTorch computes one with the other
    if name == "hardtanh" and getattr(function, "_saved_min_val", -1) == 0:
        name = "relu6"
    slope = getattr(function, "_saved_negative_slope", None)
    return Operation(role_of(name), activation_named(name, slope))
