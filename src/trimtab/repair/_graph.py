"""A remedy for models that cut their own graph: detach, .data, no_grad, and NumPy and back."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trimtab.diagnosis._batches import call_model
from trimtab.engine import TrainingSetup
from trimtab.repair._edit import Edit
from trimtab.repair._mixed import mix_in, own_model
from trimtab.repair._remedy import Order

_FOREIGN: Final = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
"""Code that cuts graphs on purpose."""

_SWITCHES: Final = ("grad_mode.py", "_contextlib.py", "overrides.py")
"""Files of torch between an author's `with torch.no_grad()` and what it calls."""

_HERE: Final = str(Path(__file__).parent)

_GET_DATA: Final = Tensor.data.__get__  # type: ignore[attr-defined] # a descriptor of C


def keep_graph(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Let the model's own code go on with the graph where it would cut it.

    Calls made by torch's and trimtab's layers stay as they are, and so does a state that is
    detached to be kept until the next batch.
    """
    model = own_model(setup.model)
    places = _places(model, order)
    if not places:
        return []
    mix_in(model, _Whole)
    where = ", ".join(sorted(places))
    return [
        Edit(
            what="the model's graph",
            where=where,
            before="cut",
            after="kept, so that gradients reach every layer",
            advice=f"in {where}: leave out detach(), .data, no_grad() and the way through NumPy; "
            "they stop the gradients of all layers before them",
        )
    ]


class _Whole(nn.Module):
    """The first base of a model whose graph is kept."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return super().forward(*args, **kwargs)
        mode = _Keeping()
        with mode, patch.object(torch, "from_numpy", mode.from_numpy):
            output = super().forward(*args, **kwargs)
        _cut_states(self, mode.kept)
        return output


class _Keeping(TorchFunctionMode):
    """Returns tensors themselves where an author's code would take them off the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []
        self.places: set[str] = set()
        self._arrays: dict[int, tuple[Any, Tensor]] = {}
        self._from_numpy = torch.from_numpy

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "_set_grad_enabled":
            return None if args and not args[0] and self._seen() else func(*args, **kwargs)
        first = args[0] if args else None
        if name in {"tensor", "as_tensor"} and id(first) in self._arrays:
            return self._arrays[id(first)][1]
        if not (isinstance(first, Tensor) and first.grad_fn is not None):
            return func(*args, **kwargs)
        if name == "numpy" and self._seen():
            array = first.detach().numpy()
            self._arrays[id(array)] = (array, first)
            return array
        if (name in {"detach", "detach_"} or func == _GET_DATA) and self._seen():
            self.kept.append(first)
            return first
        return func(*args, **kwargs)

    def from_numpy(self, array: Any) -> Tensor:
        """Return the tensor that an array was made of; a new one if it was made of none."""
        known = self._arrays.get(id(array))
        return self._from_numpy(array) if known is None else known[1]

    def _seen(self) -> bool:
        """Tell whether an author's code is calling, and note where."""
        frame = caller()
        if frame is None:
            return False
        self.places.add(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        return True


def caller(*, within_torch: bool = False) -> FrameType | None:
    """Return the frame that called torch; None if that is torch or trimtab itself.

    Args:
        within_torch: Whether to look further, behind torch's own layers.
    """
    frame: FrameType | None = sys._getframe(2)  # CPython's own way to it
    while frame is not None and _is_between(frame, within_torch=within_torch):
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename.startswith(_FOREIGN):
        return None
    return frame


def _is_between(frame: FrameType, *, within_torch: bool) -> bool:
    path = frame.f_code.co_filename
    between = path.startswith(_HERE) or Path(path).name in _SWITCHES
    return between or (within_torch and path.startswith(_FOREIGN[0]))


def _places(model: nn.Module, order: Order) -> set[str]:
    """Return the lines that cut the graph on a sample."""
    if not order.sample:
        return set()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    mode = _Keeping()
    with torch.random.fork_rng(), torch.enable_grad():
        try:
            with mode, patch.object(torch, "from_numpy", mode.from_numpy):
                call_model(model, order.sample[0][0])
        except Exception:  # noqa: BLE001 # asked otherwise by the loop body
            return set()
        finally:
            _cut_states(model, mode.kept)
            model.load_state_dict(before)
    return mode.places


def _cut_states(model: nn.Module, kept: list[Tensor]) -> None:
    """Detach what is kept until the next batch, whose graph will be gone by then."""
    ids = {id(t) for t in kept}
    for module in model.modules():
        for buffer in module.buffers(recurse=False):
            if buffer.grad_fn is not None:
                buffer.detach_()
        for key, value in vars(module).items():
            if any(id(t) in ids for t in _tensors(value)):
                vars(module)[key] = _detached(value, ids)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _detached(value: Any, ids: set[int]) -> Any:
    if isinstance(value, Tensor):
        return value.detach() if id(value) in ids else value
    if isinstance(value, list):
        return [_detached(part, ids) for part in value]
    return tuple(_detached(p, ids) for p in value) if type(value) is tuple else value
