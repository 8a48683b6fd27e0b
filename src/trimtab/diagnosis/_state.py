"""Everything that training changes, kept so that it can be put back."""

import copy
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.checkpoint import random_state, restore_random_state

_PLAIN: Final = (bool, int, float, complex, str, tuple, type(None))
"""Types of attributes that are put back as they are; counters and the like."""

_REGISTERED: Final = ("_parameters", "_buffers", "_modules")


class State:
    """Model, optimizer, schedule and random states at one moment.

    Args:
        model: Its parameters, buffers, gradients, modes and what is trainable are kept, and
            the modules' own attributes, as far as they are numbers, texts, tensors, generators or
            containers of them.
        optimizer: Its state and the settings of its groups.
        scheduler: Anything with `state_dict` and `load_state_dict`, or None.
        loss_fn: Kept like the model if it is a module.
        others: Further modules, optimizers, or anything with `state_dict` and `load_state_dict`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: Any = None,
        loss_fn: Any = None,
        others: Sequence[Any] = (),
    ) -> None:
        roots = [m for m in (model, loss_fn, *others) if isinstance(m, nn.Module)]
        optimizers = [optimizer, *(o for o in others if isinstance(o, Optimizer))]
        modules = {id(m): m for root in roots for m in root.modules()}.values()
        self._modules = [_ModuleState(m) for m in modules]
        params = [p for m in modules for p in m.parameters(recurse=False)]
        params += [p for o in optimizers for g in o.param_groups for p in g["params"]]
        self._params = [_ParamState(p) for p in {id(p): p for p in params}.values()]
        self._optimizers = [_OptimizerState(o) for o in optimizers]
        rest = [o for o in others if not isinstance(o, nn.Module | Optimizer)]
        self._schedules = [] if scheduler is None else [(scheduler, _state_of(scheduler))]
        self._rest = []
        for each in rest:
            with suppress(Exception):  # not ours to judge; it stays as the loop body leaves it
                self._rest.append((each, _state_of(each)))
        self._random = random_state()

    @torch.no_grad()
    def restore(self) -> None:
        """Put all of it back; may be called again and again."""
        for module in self._modules:
            module.restore()
        for param in self._params:
            param.restore()
        for optimizer in self._optimizers:
            optimizer.restore()
        for scheduler, state in self._schedules:
            scheduler.load_state_dict(copy.deepcopy(state))
        for each, state in self._rest:
            with suppress(Exception):  # likewise
                each.load_state_dict(copy.deepcopy(state))
            if isinstance(each, torch.amp.GradScaler):  # a step that raised left it half-way
                each._per_optimizer_states.clear()
        restore_random_state(self._random)


class _OptimizerState:
    """One optimizer: its state, the settings of its groups, and its own plain attributes."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        params = [p for g in optimizer.param_groups for p in g["params"]]
        self._memo = {id(p): p for p in params}  # states are keyed by the parameters themselves
        self._state = copy.deepcopy(dict(optimizer.state), dict(self._memo))
        self._groups = [
            (g, list(g["params"]), {k: copy.deepcopy(v) for k, v in g.items() if k != "params"})
            for g in optimizer.param_groups
        ]
        self._attributes = dict(vars(optimizer))

    def restore(self) -> None:
        optimizer = self._optimizer
        own = vars(optimizer)
        for name in own.keys() - self._attributes.keys():
            del own[name]
        for name, value in self._attributes.items():
            if isinstance(value, _PLAIN) or name not in own:
                own[name] = value
        optimizer.state.clear()
        optimizer.state.update(copy.deepcopy(self._state, dict(self._memo)))
        optimizer.param_groups[:] = [group for group, _, _ in self._groups]
        for group, params, settings in self._groups:
            group.clear()
            group["params"] = params[:]
            group.update(copy.deepcopy(settings))


class _ParamState:
    """One parameter: value, gradient, and whether it is trained."""

    def __init__(self, p: Tensor) -> None:
        self._p, self._value, self._trainable = p, p.detach().clone(), p.requires_grad
        self._grad = p.grad
        self._grad_value = None if p.grad is None else p.grad.detach().clone()

    def restore(self) -> None:
        p, value = self._p, self._value
        p.requires_grad_(self._trainable)
        _put_back(p, value)
        if self._grad is not None and self._grad_value is not None:
            _put_back(self._grad, self._grad_value)
        p.grad = self._grad


class _ModuleState:
    """One module: which parameters and buffers it has, and its own attributes, mode included."""

    def __init__(self, module: nn.Module) -> None:
        own = {
            k: v
            for k, v in vars(module).items()
            if k not in _REGISTERED and not k.endswith("_hooks")
        }
        self._module = module
        self._registered = [(held, dict(held)) for held in (module._parameters, module._buffers)]
        self._names = set(vars(module))
        self._attributes = {k: v for k, v in own.items() if isinstance(v, (*_PLAIN, Tensor))}
        self._containers = [
            (v, copy.copy(v)) for v in own.values() if isinstance(v, list | dict | set | deque)
        ]
        self._generators = [
            (v, v.get_state()) for v in own.values() if isinstance(v, torch.Generator)
        ]
        self._values = [
            (t, t.detach().clone())
            for t in [*module._buffers.values(), *own.values()]
            if isinstance(t, Tensor) and not isinstance(t, nn.Parameter) and t.grad_fn is None
        ]

    def restore(self) -> None:
        for held, saved in self._registered:
            _refill(held, saved)
        own = vars(self._module)
        for name in own.keys() - self._names:
            del own[name]
        own.update(self._attributes)
        for container, content in self._containers:
            _refill(container, content)
        for generator, state in self._generators:
            generator.set_state(state)
        for tensor, value in self._values:
            _put_back(tensor, value)


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, list | deque):
        container.extend(content)
    else:
        container.update(content)


def _put_back(tensor: Tensor, value: Tensor) -> None:
    same = tensor.dtype == value.dtype and tensor.shape == value.shape
    if same and tensor.device == value.device and tensor.layout == value.layout:
        tensor.copy_(value)
    else:  # converted or resized in place, as by model.half()
        tensor.data = value.clone()


def _state_of(thing: Any) -> Any:
    return copy.deepcopy(thing.state_dict())
