"""What training changes, seen in place: read as tensors and structure, and put back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.checkpoint import random_state, restore_random_state
from trimtab.errors import ConfigError, StateError
from trimtab.guard._host_copies import Copier
from trimtab.guard._leaves import InPlace, Leaf, copy_all, fits, put_together, rebuilt, take_apart
from trimtab.signals import unwrapped
from trimtab.signals._sample import local

_NO_PARTS: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass
class OptimizerReading:
    """One optimizer at one moment."""

    settings: list[dict[str, Any]]
    """Of each group: all but its parameters."""
    params: list[list[Any]]
    """The parameters of each group."""
    state: list[tuple[Any, Any]]
    """Keys of the state, parameters as a rule, and the structure under each."""


@dataclass
class Reading:
    """Everything that training changes at one moment: structure here, values in tensors."""

    tensors: list[Tensor] = field(default_factory=list)
    """All values, by index. Those of now until they are copied; empty after that."""
    late: list[bool] = field(default_factory=list)
    """Whether only an update writes to it, so that its copy may be made until then."""
    model: dict[str, int] = field(default_factory=dict)
    """Parameters and buffers by name; two names of one tensor have one index."""
    transient: list[str] = field(default_factory=list)
    """Names of the buffers that the model's own state dict leaves out."""
    others: dict[str, int] = field(default_factory=dict)
    """Parameters that an optimizer trains outside of the model."""
    optimizers: list[OptimizerReading] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    """What modules keep by `get_extra_state`, by their names."""
    parts: dict[str, Any] = field(default_factory=dict)
    random: Any = None

    def add(self, tensor: Tensor, *, late: bool) -> int:
        """Note a tensor; returns its index."""
        self.tensors.append(local(tensor.detach()))
        self.late.append(late)
        return len(self.tensors) - 1

    def add_tree(self, value: Any, *, late: bool) -> Any:
        """Note all tensors of nested state; returns its structure."""
        structure = take_apart(value, self.tensors)
        self.late += [late] * (len(self.tensors) - len(self.late))
        return structure


class LiveState:
    """Model, optimizers and whatever else a step changes, where they are.

    The model's parameters (tied ones once) and all its buffers, what optimizers remember and are
    set to, the state dicts of `parts` and the global random states. Of sharded tensors, what this
    process holds. Gradients are not part of it, nor are attributes of modules that are not
    tensors.

    Args:
        model: Wrapped (DDP, `fully_shard`, `torch.compile`) or not.
        optimizers: All that train it.
        parts: By name, what has `state_dict()` and `load_state_dict()`: a schedule, a loss scaler,
            a clipper, torchdata's `StatefulDataLoader`, the user's own.

    Raises:
        ConfigError: A part lacks one of the two.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        parts: Mapping[str, Any] = _NO_PARTS,
    ) -> None:
        for name, part in parts.items():
            for method in ("state_dict", "load_state_dict"):
                if not callable(getattr(part, method, None)):
                    raise ConfigError(
                        f"The part {name!r}, a {type(part).__name__}, has no {method}(), so it "
                        "cannot be put back. Give it state_dict() and load_state_dict(), or leave "
                        "it out."
                    )
        self.model, self.optimizers, self.parts = model, list(optimizers), dict(parts)
        self.copier = Copier(self.optimizers)
        """Makes the copies: one for all, so that an update waits for whoever has asked for them."""

    @property
    def nbytes(self) -> int:
        """Bytes of all that a snapshot would hold now."""
        return sum(t.numel() * t.element_size() for t in self.read().tensors)

    @torch.no_grad()
    def read(self) -> Reading:
        """Return everything as it is now, with tensors that are not copied yet."""
        reading = Reading()
        places: dict[int, int] = {}
        for name, tensor in self._named(reading.transient):
            if id(tensor) not in places:
                late = isinstance(tensor, nn.Parameter)
                places[id(tensor)] = reading.add(tensor, late=late)
            reading.model[name] = places[id(tensor)]
        for number, optimizer in enumerate(self.optimizers):
            for index, p in enumerate(_params(optimizer)):
                if id(p) not in places:
                    places[id(p)] = reading.add(p, late=True)
                    reading.others[f"optimizers.{number}.{index}"] = places[id(p)]
            reading.optimizers.append(_read_optimizer(optimizer, reading))
        for name, module in self._with_extra_state():
            reading.extra[name] = reading.add_tree(module.get_extra_state(), late=False)
        for name, part in self.parts.items():
            reading.parts[name] = reading.add_tree(part.state_dict(), late=False)
        reading.random = random_state()
        return reading

    def _named(self, transient: list[str]) -> list[tuple[str, Tensor]]:
        """Return parameters and buffers by the names that the plain model knows them under."""
        plain = unwrapped(self.model)
        found: list[tuple[str, Tensor]] = []
        for prefix, module in plain.named_modules(remove_duplicate=False):
            if callable(getattr(module, "unshard", None)):
                module.reshard()  # FSDP2's: what is trained are the shards
            dot = f"{prefix}." if prefix else ""
            for name, p in module._parameters.items():
                if p is not None and not nn.parameter.is_lazy(p):
                    found.append((dot + name, p))
            for name, b in module._buffers.items():
                if b is not None and not nn.parameter.is_lazy(b):
                    found.append((dot + name, b))
                    if name in module._non_persistent_buffers_set:
                        transient.append(dot + name)
        return found

    def _with_extra_state(self) -> list[tuple[str, nn.Module]]:
        """Return the modules that keep more than tensors."""
        plain = nn.Module.get_extra_state
        modules = unwrapped(self.model).named_modules()
        return [(name, m) for name, m in modules if type(m).get_extra_state is not plain]

    @torch.no_grad()
    def write(self, reading: Reading, stored: Sequence[Tensor]) -> None:
        """Put everything back as it was read.

        Values go into the tensors that are there now. Gradients stay as they are.

        Args:
            reading: What `read` returned.
            stored: Copies of its tensors.

        Raises:
            StateError: The model's tensors have other names, shapes or types now; nothing has been
                changed.
        """
        pairs = self._model_pairs(reading, stored)
        torch.clear_autocast_cache()  # casts of the weights that go
        copy_all([p[0] for p in pairs], [p[1] for p in pairs])

        def make(leaf: Leaf) -> Tensor:
            return rebuilt(leaf, stored[leaf.index])

        for name, module in self._with_extra_state():
            if name in reading.extra:
                module.set_extra_state(put_together(reading.extra[name], make))
        for name, structure in reading.parts.items():
            self.parts[name].load_state_dict(put_together(structure, make))
        # After the parts: a schedule may set the learning rate when it loads.
        for optimizer, old in zip(self.optimizers, reading.optimizers, strict=True):
            _write_optimizer(optimizer, old, stored)
        restore_random_state(reading.random)

    def _model_pairs(
        self, reading: Reading, stored: Sequence[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return which tensors of now get which values, each once.

        Raises:
            StateError: One is missing or has another shape or type.
        """
        now = dict(self._named([]))
        for other in reading.others:
            _, number, place = other.split(".")
            now[other] = _params(self.optimizers[int(number)])[int(place)]
        pairs: dict[int, tuple[Tensor, Tensor]] = {}
        for name, index in (reading.model | reading.others).items():
            if name not in now:
                raise StateError(
                    f"The model had a tensor {name!r} when the snapshot was taken and has none "
                    "now. A snapshot goes back into the model that it was taken from; take a new "
                    "one after changing the model."
                )
            held, value = local(now[name].detach()), stored[index]
            if not fits(held, value):
                raise StateError(
                    f"{name!r} was {tuple(value.shape)} in {value.dtype} when the snapshot was "
                    f"taken and is {tuple(held.shape)} in {held.dtype} now. Take a new snapshot "
                    "after changing the model."
                )
            pairs.setdefault(id(now[name]), (held, value))
        return list(pairs.values())


def _params(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _read_optimizer(optimizer: Optimizer, reading: Reading) -> OptimizerReading:
    settings = [
        {k: reading.add_tree(v, late=False) for k, v in group.items() if k != "params"}
        for group in optimizer.param_groups
    ]
    params = [list(group["params"]) for group in optimizer.param_groups]
    state = [(k, reading.add_tree(v, late=True)) for k, v in optimizer.state.items()]
    return OptimizerReading(settings, params, state)


def _write_optimizer(optimizer: Optimizer, old: OptimizerReading, stored: Sequence[Tensor]) -> None:
    values = InPlace(stored)
    # Groups added since then keep their settings: whoever added them will not add them again.
    for group, settings in zip(optimizer.param_groups, old.settings, strict=False):
        for key in group.keys() - settings.keys() - {"params"}:
            del group[key]
        for key, value in settings.items():
            group[key] = values.into(value, group.get(key))
    kept = {id(key) for key, _ in old.state}
    for param in [p for p in optimizer.state if id(p) not in kept]:
        del optimizer.state[param]
    for param, structure in old.state:
        optimizer.state[param] = values.into(structure, optimizer.state.get(param))
    values.fill()
