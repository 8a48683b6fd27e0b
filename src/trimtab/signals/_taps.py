"""Taps: forward hooks that copy a sample of each module's output, and do nothing else."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from trimtab.nn import Attention, QueriesKeys
from trimtab.signals._attention import attention_gauges
from trimtab.signals._gauges import ABSENT
from trimtab.signals._sample import local, sample
from trimtab.signals._unit_rows import row_gauges, row_sample, unit_rows, units_kept

CONTAINERS: Final = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Identity)
"""Their outputs are those of other modules."""

SILENT: Final = (nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)
"""What they do to a distribution is known."""

BOUNDS: Final[dict[type[nn.Module], tuple[float, float]]] = {
    nn.Tanh: (-1.0, 1.0),
    nn.Sigmoid: (0.0, 1.0),
    nn.Hardtanh: (-1.0, 1.0),
    nn.Hardsigmoid: (0.0, 1.0),
    nn.Softsign: (-1.0, 1.0),
}
"""Ranges of bounded activations; that of `Hardtanh` is read from the module."""

UNIT_WINDOW: Final = 4
"""Records after which a unit that stayed zero counts as dead: some 256 rows. A healthy unit that is
zero on 90 % of its inputs stays zero on as many once in 5e11 windows."""

WRAPPERS: Final = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|module|_fsdp_wrapped_module)(?:\.|$)")
"""What torch.compile, DDP and FSDP put into names."""


def site_name(name: str) -> str:
    """Return a module's or parameter's name as the user wrote it, without wrappers' parts."""
    return WRAPPERS.sub("", name).strip(".") or "model"


def watched_modules(model: nn.Module, keep: Callable[[str], bool]) -> dict[str, nn.Module]:
    """Return the modules worth a tap, by name, in the order of registration.

    Args:
        model: Wrapped or not.
        keep: Whether a name is wanted.
    """
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        plain = site_name(name)
        if plain in found or isinstance(module, CONTAINERS + SILENT) or not keep(plain):
            continue
        if type(module).__name__ in {"OptimizedModule", "DistributedDataParallel"}:
            continue
        if isinstance(module, QueriesKeys):  # shown at the attention that it is a part of
            continue
        found[plain] = module
    return found


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the user's module; compiled code must not come upon the wrapper it is made from."""
    if type(model).__name__ == "OptimizedModule":
        return unwrapped(model._orig_mod)  # type: ignore[arg-type] # a module
    if type(model).__name__ == "DistributedDataParallel":
        return unwrapped(model.module)  # type: ignore[arg-type] # a module
    return model


def compiled_modules(model: nn.Module) -> list[str]:
    """Return the prefix of the names of what is inside each compiled module; empty for `model`."""
    return [
        f"{plain}." if (plain := WRAPPERS.sub("", name).strip(".")) else ""
        for name, module in model.named_modules()
        if type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None
    ]


class Inert:
    """What is left of a hook in a copied or pickled model."""

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


class Uncopied:
    """What watches one model: a copied or pickled model is not watched, and has `Inert` for it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Inert:
        return Inert()

    def __reduce__(self) -> tuple[type[Inert], tuple[()]]:
        return Inert, ()


class Taps:
    """Samples of module outputs, one row a module, filled in by the forward pass.

    A module that is called twice shows its last call. Nothing is copied unless `armed`, in
    evaluation, or without gradients.

    Args:
        model: Whose mode tells training from evaluation.
        modules: What to tap, by name.
        size: Elements of a sample.
        device: Where the samples are kept.
    """

    def __init__(
        self, model: nn.Module, modules: Mapping[str, nn.Module], *, size: int, device: torch.device
    ) -> None:
        self.model, self.armed = unwrapped(model), False
        self.names = list(modules)
        self.samples = torch.full((len(modules), size), ABSENT, device=device)
        self.bounds = torch.tensor([_bounds(m) for m in modules.values()], device=device)
        self.bounds = self.bounds.reshape(-1, 2)
        self.units = Units(len(modules), device)
        self._rows = self.samples.unbind()
        self._attention = torch.full((len(modules), 2), math.nan, device=device)
        self._max_units = units_kept(len(modules))
        self._called: dict[int, None] = {}
        self._handles: list[Any] = []
        self._modules = list(modules.values())
        self._taps = [_Tap(self, index) for index in range(len(modules))]
        for index, module in enumerate(modules.values()):
            self._handles.append(module.register_forward_hook(self._taps[index]))
            if isinstance(module, Attention):
                inner = module.queries_keys
                hook = _AttentionTap(self, index, module)
                self._handles.append(inner.register_forward_hook(hook))

    def arm(self, armed: bool) -> None:  # noqa: FBT001 # a setter
        """Copy samples in the next forward passes, or do not."""
        if armed and self._rows:
            self.samples.fill_(ABSENT)
            self._attention.fill_(math.nan)
        self.armed = armed

    @property
    def looking(self) -> bool:
        """Whether a forward pass is to be sampled now."""
        # `armed` last: torch.compile then makes one graph for evaluation, not two.
        return torch.is_grad_enabled() and self.model.training and self.armed

    def move_to(self, device: torch.device) -> None:
        """Keep the samples on this device."""
        self.samples, self.bounds = self.samples.to(device), self.bounds.to(device)
        self._rows = self.samples.unbind()
        self._attention = self._attention.to(device)
        self.units.move_to(device)

    def attention(self) -> Tensor:
        """Return largest logit and entropy of each module, `(num_modules, 2)`; NaN elsewhere."""
        return self._attention

    def see_attention(
        self, index: int, output: tuple[Tensor, Tensor], *, causal: bool, softcap: float | None
    ) -> None:
        """Measure logits from queries and keys."""
        if self.looking:
            q, k = output
            gauges = attention_gauges(q.detach(), k.detach(), causal=causal, softcap=softcap)
            self._attention[index].copy_(gauges)

    def see(self, tap: "_Tap", output: Any) -> None:
        """Take a sample of one output, and note which of its units are not zero."""
        if not self.looking:
            return
        tensor = find_tensor(output)
        if tensor is None:
            return
        tensor = tensor.detach()
        part = sample(tensor, self.samples.shape[1])
        row, count = self._rows[tap.index], part.shape[0]
        row[:count].copy_(part)
        if count < row.shape[0]:  # of an earlier and larger output
            row[count:].fill_(ABSENT)
        tap.rows = row_sample(tensor, self._max_units)
        # Compiled code looks at the units of all: each change of what is watched would recompile.
        if torch.compiler.is_compiling() or self.units.watched[tap.index]:
            tap.alive = (unit_rows(tensor) != 0).any(dim=0)  # (num_units,)
        # Nor may it read a list that grows; it says only that it was there.
        if torch.compiler.is_compiling():
            tap.compiled = True
        else:
            self._called[tap.index] = None

    def dead_fractions(self) -> Tensor:
        """Close a record; returns each module's dead fraction, `(num_modules,)`, NaN if unknown."""
        alive = [tap.alive for tap in self._taps]
        for tap in self._taps:
            tap.alive = None
        return self.units.measure(alive)

    def row_gauges(self) -> Tensor:
        """Return how much the rows of each module varied, `(num_modules, 2)`, and forget them."""
        rows = [tap.rows for tap in self._taps]
        for tap in self._taps:
            tap.rows = None
        return row_gauges(rows, self.samples.device)

    @property
    def order(self) -> list[str]:
        """Names in the order in which the modules first gave out something; empty before that.

        A module comes after those that it is made of. Compiled code does not tell its order: where
        there is any, it is the one in which modules were registered, parts before the whole.
        """
        if not any(tap.compiled for tap in self._taps):
            return [self.names[index] for index in self._called]
        seen = {t.index for t in self._taps if t.compiled} | self._called.keys()
        names = [name for index, name in enumerate(self.names) if index in seen]
        places = {site_name(n): i for i, n in enumerate(_parts_first("", self.model))}
        return sorted(names, key=lambda name: places.get(name, 0))

    def follow(self, outputs: Any) -> bool:
        """Hand each output of the whole model to `outputs.see` too; False if it has no tap."""
        for tap, module in zip(self._taps, self._modules, strict=True):
            if module is self.model:
                tap.outputs = outputs
                return True
        return False

    def remove(self) -> None:
        """Take all hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.armed = False


class _Tap(Uncopied):
    """One forward hook."""

    def __init__(self, taps: Taps, index: int) -> None:
        self.taps, self.index = taps, index
        # Of the last call; compiled code only ever sets them.
        self.alive: Tensor | None = None
        self.rows: Tensor | None = None
        self.compiled = False
        self.outputs: Any = None

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002 # torch's
        self.taps.see(self, output)
        if self.outputs is not None:
            self.outputs.see(output)


class _AttentionTap(Uncopied):
    """The forward hook on a module's queries and keys."""

    def __init__(self, taps: Taps, index: int, attention: Attention) -> None:
        self.taps, self.index = taps, index
        self.causal, self.softcap = attention.causal, attention.softcap

    def __call__(self, module: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:  # noqa: ARG002 # torch's
        self.taps.see_attention(self.index, output, causal=self.causal, softcap=self.softcap)


class Units:
    """Which units of which modules have been alive lately.

    Only modules whose outputs are often exactly zero are looked at; which, is decided from record
    to record by their sampled zero fraction.

    Args:
        num_modules: Rows of the taps.
        device: Where the masks are kept.
    """

    def __init__(self, num_modules: int, device: torch.device) -> None:
        self.device = device
        self.watched = [False] * num_modules
        self._now: dict[int, Tensor] = {}
        self._before: dict[int, Tensor] = {}
        self._records: dict[int, int] = {}

    def watch(self, indices: Sequence[int]) -> None:
        """Look at these modules too, from the next record on."""
        for index in indices:
            self.watched[index] = True

    def move_to(self, device: torch.device) -> None:
        """Keep the masks on this device."""
        self.device = device
        self._now = {i: mask.to(device) for i, mask in self._now.items()}
        self._before = {i: mask.to(device) for i, mask in self._before.items()}

    def measure(self, alive: Sequence[Tensor | None]) -> Tensor:
        """Close a record; returns each module's dead fraction, `(num_modules,)`, NaN if unknown.

        A unit is dead if it was zero in all of the last full window and in the one since.

        Args:
            alive: Units that were not zero, `(num_units,)` each; None where nobody looked.
        """
        fractions = torch.full((len(alive),), math.nan, device=self.device)
        for index, mask in enumerate(alive):
            if mask is None or not self.watched[index]:
                continue
            fresh, old = mask.to(self.device), self._now.get(index)
            now = fresh if old is None or old.shape != fresh.shape else old | fresh
            before = self._before.get(index)
            self._now[index] = now
            self._records[index] = self._records.get(index, 0) + 1
            if self._records[index] % UNIT_WINDOW == 0:
                self._before[index] = now
                self._now[index] = torch.zeros_like(now)
                before = now if before is None or before.shape != now.shape else before | now
            elif before is None or before.shape != now.shape:
                continue
            else:
                before = before | now
            fractions[index] = 1 - before.float().mean()
        return fractions

    def dead(self, index: int) -> Tensor | None:
        """Return which units of a module are dead, `(num_units,)`; None if unknown."""
        before, now = self._before.get(index), self._now.get(index)
        if before is None or now is None or before.shape != now.shape:
            return None
        return ~(before | now)

    def state_dict(self) -> dict[str, Any]:
        """Return which modules are looked at, and the masks."""
        masks = {str(i): [self._now[i], self._before.get(i)] for i in self._now}
        return {
            "watched": list(self.watched),
            "masks": {i: [m for m in pair if m is not None] for i, pair in masks.items()},
            "records": {str(i): n for i, n in self._records.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.watched = list(state["watched"])
        masks = {int(i): [m.to(self.device).clone() for m in p] for i, p in state["masks"].items()}
        self._now = {i: pair[0] for i, pair in masks.items()}
        self._before = {i: pair[1] for i, pair in masks.items() if len(pair) > 1}
        self._records = {int(i): n for i, n in state["records"].items()}


def _parts_first(name: str, module: nn.Module) -> Iterator[str]:
    """Yield the names of all modules, each after those that it is made of."""
    for key, child in module.named_children():
        yield from _parts_first(f"{name}.{key}" if name else key, child)
    yield name


def is_dense(tensor: Tensor) -> bool:
    """Tell whether a tensor's elements can be looked at, and kept."""
    usable = tensor.layout == torch.strided and tensor.numel() > 0 and not tensor.is_complex()
    # By its type: compiled code would ask for `is_meta` in a graph of its own.
    return usable and tensor.device.type != "meta" and not _is_transformed(tensor)


def is_floating(tensor: Tensor) -> bool:
    """Tell whether it is dense, real and floating."""
    return tensor.is_floating_point() and is_dense(tensor)


def find_tensor(output: Any, wanted: Callable[[Tensor], bool] = is_floating) -> Tensor | None:
    """Return the first tensor of a kind in what a module returned or was given, or None."""
    if isinstance(output, Tensor):
        own = local(output)
        return own if wanted(own) else None
    parts: Any = ()
    if isinstance(output, Mapping):
        parts = output.values()
    elif isinstance(output, tuple | list):
        parts = output
    else:  # a dataclass
        parts = [getattr(output, n, None) for n in getattr(output, "__dataclass_fields__", ())]
    for part in parts:
        found = find_tensor(part, wanted)
        if found is not None:
            return found
    return None


def _is_transformed(tensor: Tensor) -> bool:
    """Tell whether the tensor stands for one inside of `torch.func`, which lets nothing be kept."""
    if tensor.is_nested:
        return True
    compiling = torch.compiler.is_compiling()
    return not compiling and torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _bounds(module: nn.Module) -> tuple[float, float]:
    if isinstance(module, nn.Hardtanh):
        return (module.min_val, module.max_val)
    for kind, bounds in BOUNDS.items():
        if isinstance(module, kind):
            return bounds
    return (math.nan, math.nan)
