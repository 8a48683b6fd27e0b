"""Buffers as they were before a step's forward passes, to be put back when the step is skipped."""

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn

from trimtab.guard._leaves import copy_all
from trimtab.signals import Uncopied, unwrapped
from trimtab.signals._sample import local
from trimtab.signals._taps import compiled_modules

_LARGE_BYTES: Final = 2**20
"""From here on a buffer is copied only if it was written to. Statistics of normalisation, whose
kernels do not count their writes, are smaller: 2**20 bytes are 262,144 channels."""


class BufferKeeper(Uncopied):
    """Copies all buffers at the first training-mode forward pass of a step, and puts them back.

    A bad batch leaves its mark in BatchNorm's running statistics before anybody knows the loss.
    A model without buffers gets no hook. Where the hook does not run (inside of compiled code, or
    because parts of the model are called in place of it), `renew` makes the copy instead.

    Args:
        model: As it is called: wrapped (DDP, `fully_shard`, `torch.compile`) or not.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._modules = unwrapped(model), list(model.modules())
        self._groups: dict[tuple[torch.dtype, torch.device], _Group] = {}
        self._large: dict[tuple[int, str], _Large] = {}
        # Compiled code does not count what it writes.
        self._counted = not compiled_modules(model)
        self._fresh = self._fired = False  # a copy of this step, and whether the hook made it
        self._handle: Any = None
        if next(self._places(), None) is not None:
            self._copy()
            self._handle = model.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, args: Any) -> None:  # noqa: ARG002 # torch's
        """Copy the buffers if this is the step's first forward pass in training mode."""
        if not torch.compiler.is_compiling() and not self._fired and self._model.training:
            self._fired = True
            self._copy()

    def renew(self) -> None:
        """Begin a step: the next forward pass copies anew."""
        if self._handle is None:
            return
        self._fired, fired = False, self._fired
        self._fresh = False
        if not fired:
            self._copy()

    def put_back(self, skip: Tensor | bool) -> None:  # noqa: FBT001 # the decision itself
        """Put the buffers back if the step is skipped.

        Args:
            skip: As a tensor, 0 or 1 on any device: nothing waits for its value.
        """
        if self._handle is None or not self._fresh or not (isinstance(skip, Tensor) or skip):
            return
        for group in self._groups.values():
            group.put_back(skip)
        for large in self._large.values():
            large.put_back(skip)

    def close(self) -> None:
        """Take the hook off and forget the copies."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None
        self._groups, self._large = {}, {}

    def _places(self) -> Iterator[tuple[dict[str, Tensor | None], str, Tensor]]:
        """Yield the place of each buffer that is there now, each tensor once."""
        seen = set()
        for module in self._modules:
            for name, buffer in module._buffers.items():
                if buffer is None or id(buffer) in seen or nn.parameter.is_lazy(buffer):
                    continue
                seen.add(id(buffer))
                yield module._buffers, name, buffer

    @torch.no_grad()
    def _copy(self) -> None:
        self._fresh = True
        small: dict[tuple[torch.dtype, torch.device], list[_Place]] = {}
        large: dict[tuple[int, str], _Large] = {}
        for home, name, buffer in self._places():
            if buffer.numel() * buffer.element_size() >= _LARGE_BYTES:
                key = (id(home), name)
                kept = self._large.get(key) or _Large(home, name)
                kept.keep(always=not (self._fired and self._counted))
                large[key] = kept
            else:
                small.setdefault((buffer.dtype, buffer.device), []).append((home, name, buffer))
        self._large = large
        self._groups = {key: self._group(key, places) for key, places in small.items()}
        for group in self._groups.values():
            group.keep()

    def _group(self, key: tuple[torch.dtype, torch.device], places: "list[_Place]") -> "_Group":
        """Return the group of these buffers: the one of the step before if it still fits."""
        old = self._groups.get(key)
        return old if old is not None and old.holds(places) else _Group(places)


_Place = tuple[dict[str, Tensor | None], str, Tensor]


class _Group:
    """Small buffers of one type and device, kept in one stretch of memory."""

    def __init__(self, places: list[_Place]) -> None:
        self._places = places
        self._live = [local(b.detach()) for _, _, b in places]
        sizes = [b.numel() for b in self._live]
        like = self._live[0]
        self._saved = torch.empty(sum(sizes), dtype=like.dtype, device=like.device)
        self._saved_parts = _parts(self._saved, self._live, sizes)
        self._now: Tensor | None = None
        self._now_parts: list[Tensor] = []
        self._sizes = sizes

    def holds(self, places: list[_Place]) -> bool:
        """Tell whether these are its very buffers."""
        return len(places) == len(self._places) and all(
            new[2] is old[2] and new[0] is old[0]
            for new, old in zip(places, self._places, strict=True)
        )

    def keep(self) -> None:
        """Copy what the buffers hold now."""
        copy_all(self._saved_parts, self._live)

    @torch.no_grad()
    def put_back(self, skip: Tensor | bool) -> None:  # noqa: FBT001 # the decision itself
        """Put back what was kept, where `skip` is 1."""
        swapped = [i for i, (home, name, b) in enumerate(self._places) if home.get(name) is not b]
        for i in swapped:
            home, name, _ = self._places[i]
            _replace(home, name, self._saved_parts[i], skip)
        if skip is True:
            copy_all(self._live, self._saved_parts)
            return
        assert isinstance(skip, Tensor)
        if self._now is None:
            self._now = torch.empty_like(self._saved)
            self._now_parts = _parts(self._now, self._live, self._sizes)
        copy_all(self._now_parts, self._live)
        mixed = torch.where(_flag(skip, self._saved.device), self._saved, self._now)
        copy_all(self._live, _parts(mixed, self._live, self._sizes))


class _Large:
    """One large buffer, copied only when it was written to since the copy."""

    def __init__(self, home: dict[str, Tensor | None], name: str) -> None:
        self._home, self._name = home, name
        self._buffer: Tensor | None = None
        self._saved: Tensor | None = None
        self._version = -1

    def keep(self, *, always: bool) -> None:
        """Copy what the buffer holds now, if need be."""
        buffer = self._home[self._name]
        assert buffer is not None
        if not always and buffer is self._buffer and buffer._version == self._version:
            return
        held = local(buffer.detach())
        if (
            self._saved is None
            or self._saved.shape != held.shape
            or self._saved.dtype != held.dtype
        ):
            self._saved = torch.empty_like(held)
        self._saved.copy_(held)
        self._buffer, self._version = buffer, -1 if always else buffer._version

    @torch.no_grad()
    def put_back(self, skip: Tensor | bool) -> None:  # noqa: FBT001 # the decision itself
        """Put back what was kept, where `skip` is 1."""
        now = self._home.get(self._name)
        assert self._saved is not None
        assert self._buffer is not None
        if now is not self._buffer:
            _replace(self._home, self._name, self._saved, skip)
        elif now._version == self._version:
            return
        held = local(self._buffer.detach())
        if skip is True:
            held.copy_(self._saved)
        else:
            assert isinstance(skip, Tensor)
            torch.where(_flag(skip, held.device), self._saved, held, out=held)
        self._version = -1  # its copy is of other values if the step was not skipped


def _parts(flat: Tensor, like: list[Tensor], sizes: list[int]) -> list[Tensor]:
    return [p.view(b.shape) for p, b in zip(torch.split(flat, sizes), like, strict=True)]


def _flag(skip: Tensor, device: torch.device) -> Tensor:
    return skip.detach().to(device, non_blocking=True).reshape(()) != 0


def _replace(home: dict[str, Tensor | None], name: str, saved: Tensor, skip: Tensor | bool) -> None:  # noqa: FBT001 # the decision itself
    """Put back a buffer for which the forward pass put another tensor in its place."""
    now = home.get(name)
    fits = now is not None and now.shape == saved.shape and now.dtype == saved.dtype
    if skip is True:
        home[name] = saved.clone()
    elif fits and isinstance(skip, Tensor) and now is not None:
        home[name] = torch.where(_flag(skip, saved.device), saved, now.detach())
    elif bool(skip):  # another shape: only the host can decide, and has to wait
        home[name] = saved.clone()
