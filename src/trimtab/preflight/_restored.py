"""Leaving no trace: everything that a check may touch is put back, bit for bit."""

import copy
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.checkpoint import random_state, restore_random_state

_OWN = frozenset({"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"})


@contextmanager
def restored(*roots: object) -> Iterator[None]:
    """Restore buffers, gradients, modes, attributes and random state at the end, after errors too.

    Parameters are put back by whoever changes them: `trial_parameters`. Gradients come back as the
    same tensors. Random state is that of PyTorch on every device in use, NumPy, Python, and of
    generators that a module keeps.

    Args:
        roots: Modules that will be run; anything else is passed over.
    """
    modules = every_module(*roots)
    grads = [(p, p.grad) for m in modules for p in m.parameters(recurse=False)]
    with ExitStack() as stack:
        stack.callback(restore_random_state, random_state())
        for module in modules:
            stack.enter_context(_module_state(module))
        try:
            yield
        finally:
            for p, grad in grads:
                p.grad = grad


@contextmanager
def trial_parameters(params: Iterable[Tensor]) -> Iterator[None]:
    """Put back the values of parameters at the end, whatever was done to them inside.

    Args:
        params: Any; each is copied once.
    """
    kept = [(p, p.detach().clone(), p.grad) for p in params]
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value, grad in kept:
                p.copy_(value)
                p.grad = grad


def every_module(*roots: object) -> list[nn.Module]:
    """Return all modules below the roots, once each, with those hidden in plain containers."""
    found: dict[int, nn.Module] = {}
    waiting: list[object] = [*roots]
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, nn.Module):
            if id(thing) not in found:
                found[id(thing)] = thing
                waiting += [*thing.children(), *_containers(thing)]
        elif isinstance(thing, Mapping):
            waiting += [v for v in thing.values() if isinstance(v, nn.Module)]
        elif isinstance(thing, list | tuple):
            waiting += [v for v in thing if isinstance(v, nn.Module)]
    return list(found.values())


def shadow_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return an optimizer of the same parameters, settings and state that the user's never sees.

    State is copied, hooks are left out, and a step counts for no scheduler.

    Args:
        optimizer: Left alone.
    """
    shadow: torch.optim.Optimizer = object.__new__(type(optimizer))
    kept = {k: v for k, v in vars(optimizer).items() if k != "step"}
    shadow.__dict__.update(kept)
    for name in [n for n in kept if n.endswith("_hooks")]:
        setattr(shadow, name, OrderedDict())
    shadow.param_groups = [dict(group) for group in optimizer.param_groups]
    for group in shadow.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"] = group["lr"].clone()
    shadow.state = defaultdict(dict)
    for p, state in optimizer.state.items():
        shadow.state[p] = {k: _copied(v) for k, v in state.items()}
    return shadow


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _containers(module: nn.Module) -> list[object]:
    return [v for k, v in vars(module).items() if k not in _OWN and not k.endswith("_hooks")]


@contextmanager
def _module_state(module: nn.Module) -> Iterator[None]:
    attributes = dict(vars(module))
    parts = {k: v for k, v in attributes.items() if not k.endswith("_hooks") and k not in _OWN}
    contents = [
        (v, copy.copy(v)) for v in parts.values() if isinstance(v, list | dict | set | deque)
    ]
    registered = {id(p) for p in module.parameters(recurse=False)}
    tensors = [v for v in parts.values() if isinstance(v, Tensor) and id(v) not in registered]
    values = [
        (t, t.detach().clone())
        for t in [*tensors, *module._buffers.values()]
        if t is not None and (t.is_leaf or not t.requires_grad)
    ]
    buffers = dict(module._buffers)
    generators = [(g, g.get_state()) for g in parts.values() if isinstance(g, torch.Generator)]
    try:
        yield
    finally:
        current = vars(module)
        for name in current.keys() - attributes.keys():
            del current[name]
        current.update(attributes)
        module._buffers.clear()
        module._buffers.update(buffers)
        _put_back(contents, values)
        for generator, state in generators:
            generator.set_state(state)


def _put_back(contents: list[tuple[Any, Any]], values: list[tuple[Tensor, Tensor]]) -> None:
    for container, content in contents:
        container.clear()
        if isinstance(container, list | deque):
            container.extend(content)
        else:
            container.update(content)
    with torch.no_grad():
        for tensor, value in values:
            if not _same(tensor, value):
                tensor.copy_(value)


def _same(a: Tensor, b: Tensor) -> bool:
    """Return whether nothing changed; NaN counts as changed, which costs one copy."""
    return a.shape == b.shape and torch.equal(a, b)
