"""Functions frozen with the variables of now, so that they give the same loss again later."""

import functools
import io
from collections.abc import Callable
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.errors import StateError
from trimtab.guard._reads import Read, reads_of, uses_of

LARGEST: Final = 64
"""Items of a list or dictionary that is looked into; longer ones are data sets, not batches."""

DEPTH: Final = 4
"""Levels of nested batches that are looked into."""

_SHARED: Final = frozenset({ModuleType, type, BuiltinFunctionType, bool, int, float, str})

_WITHOUT_GRAPH: Final = frozenset(
    {"data", "detach", "device", "dtype", "item", "numel", "shape", "size", "tolist"}
)
"""What can be asked of a tensor without going back through its graph."""

_EMPTY: Final = object()

_ABOUT_THE_MODULE: Final = ("__builtins__", "__name__", "__package__", "__spec__", "__file__")
"""Globals that imports and warnings inside of a function look for."""


class Frozen:
    """A function that sees its variables as they were when it was frozen."""

    def __init__(self, function: Callable[..., Any], *, copy: bool = False) -> None:
        freezer = _Freezer(function, copy=copy)
        self.function = freezer.hold(function, "the function")
        """What is called."""
        self.attributes = freezer.attributes
        """Attributes of shared objects, as (object, name, value): put in place for the call."""
        self.contents = freezer.contents
        """Of shared lists and dictionaries, as (list, its items): likewise."""
        self._watched, self._cells = freezer.watched, freezer.cells
        self._globals, self._globals_before = freezer.globals, dict(freezer.globals)
        self._reason = freezer.reason
        if self._reason is not None:  # what it holds would only keep the graph of that step alive
            self.function, self.attributes, self.contents = _nothing, [], []
            self._watched, self._cells, self._globals, self._globals_before = [], [], {}, {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function with what it saw; what it assigns is forgotten.

        Raises:
            StateError: It is known that it would not give the same result.
        """
        reason = self.why_not()
        if reason is not None:
            raise StateError(reason)
        attributes = [(o, n, vars(o).get(n, _EMPTY)) for o, n, _ in self.attributes]
        contents = [(c, c.copy()) for c, _ in self.contents]
        try:
            self._put(self.attributes, self.contents)
            return self.function(*args, **kwargs)
        finally:
            self._put(attributes, contents)
            self._forget()

    @staticmethod
    def _put(attributes: list[tuple[Any, str, Any]], contents: list[tuple[Any, Any]]) -> None:
        for owner, name, value in attributes:
            if value is not _EMPTY:
                vars(owner)[name] = value
            else:
                vars(owner).pop(name, None)
        for container, items in contents:
            container.clear()
            container.update(items) if isinstance(container, dict) else container.extend(items)

    def _forget(self) -> None:
        """Undo what a call has assigned: it would keep a graph alive, and change the next call."""
        for cell, value in self._cells:
            cell.cell_contents = value
            if value is _EMPTY:
                del cell.cell_contents
        self._globals.clear()
        self._globals.update(self._globals_before)

    def why_not(self) -> str | None:
        """Return why it cannot give the same result again; None if nothing speaks against it."""
        changed = [name for name, tensor, version in self._watched if tensor._version != version]
        if self._reason is None and changed:
            return (
                f"{', '.join(dict.fromkeys(changed))}: written to in place since the step, so the "
                "step cannot be run again with what it saw. Make a new tensor for every batch, or "
                "have batches copied with freeze(function, copy=True)."
            )
        return self._reason


def _nothing() -> None:
    """Stand in for a function that was not kept."""


class _Freezer:
    """Builds what sees the variables of now.

    Args:
        function: Whose module's functions are frozen with it.
        copy: Whether tensors are copied.
    """

    def __init__(self, function: Callable[..., Any], *, copy: bool) -> None:
        self.copy = copy
        self.reason: str | None = None
        self.watched: list[tuple[str, Tensor, int]] = []
        self.attributes: list[tuple[Any, str, Any]] = []
        self.contents: list[tuple[Any, Any]] = []
        self.cells: list[tuple[CellType, Any]] = []
        self._home = home_of(function)
        # One for all functions of the module: what one writes, the other reads.
        self.globals: dict[str, Any] = {
            k: self._home[k] for k in _ABOUT_THE_MODULE if k in self._home
        }
        self._made: dict[int, Any] = {}
        self._cells: dict[int, CellType] = {}
        self._seen: set[tuple[int, str]] = set()

    def hold(self, value: Any, name: str, depth: int = DEPTH) -> Any:
        """Return what stands for a value in the frozen function."""
        kind = type(value)
        if kind in _SHARED or isinstance(value, nn.Module):
            return value
        if isinstance(value, Tensor):
            return self._tensor(value, name, inside=depth < DEPTH)
        if kind in {list, tuple, dict}:
            return self._items(value, name, depth)
        if kind is FunctionType:
            return self._function(value) if value.__globals__ is self._home else value
        if kind is MethodType:
            return self._method(value)
        if kind is functools.partial:
            kept = {k: self.hold(v, k) for k, v in value.keywords.items()}
            args = [self.hold(v, str(i)) for i, v in enumerate(value.args)]
            return functools.partial(self.hold(value.func, name), *args, **kept)
        if isinstance(value, np.ndarray):
            return value.copy() if self.copy else value
        if hasattr(kind, "__next__") and not isinstance(value, io.IOBase):
            self._refuse(
                f"{name} is an iterator, which gives something else at each call. Take the batch "
                "out of it before, and let the function use that."
            )
        return value

    def _tensor(self, tensor: Tensor, name: str, *, inside: bool) -> Tensor:
        if type(tensor) is not Tensor and isinstance(tensor, nn.Parameter):
            return tensor
        if tensor.grad_fn is not None and inside:
            # Left by the step before: this one will put something else there, or cut it off.
            return tensor.detach()
        if tensor.grad_fn is not None:
            self._refuse(
                f"{name} was computed by a forward pass outside of the function, which cannot be "
                "run again from here. Compute it inside of the function, or detach it."
            )
        elif self.copy:
            with torch.no_grad():
                return tensor.clone().requires_grad_(tensor.requires_grad)
        elif not tensor.is_inference():
            self.watched.append((name, tensor, tensor._version))
        return tensor

    def _refuse(self, reason: str) -> None:
        self.reason = self.reason or f"The step cannot be run again: {reason}"

    def _items(self, value: Any, name: str, depth: int) -> Any:
        """Hold what is in a list, tuple or dictionary.

        A list or dictionary stays the same object, for hooks may write to it; it gets the contents
        of now for each call.
        """
        if depth == 0 or len(value) > LARGEST or id(value) in self._made:
            return value
        if type(value) is tuple:
            held = tuple([self.hold(v, name, depth - 1) for v in value])
            same = all(new is old for new, old in zip(held, value, strict=True))
            return value if same else held
        self._made[id(value)] = value  # before its items: it may be one of them
        items: Any
        if type(value) is dict:
            items = {k: self.hold(v, name, depth - 1) for k, v in value.items()}
        else:
            items = [self.hold(v, name, depth - 1) for v in value]
        self.contents.append((value, items))
        return value

    def _method(self, method: MethodType) -> Any:
        function = self.hold(method.__func__, method.__name__)
        if isinstance(method.__func__, FunctionType):
            self._own_attributes(method.__self__, method.__func__)
        return MethodType(function, method.__self__)

    def _function(self, function: FunctionType) -> FunctionType:
        """Return the function with cells and globals of its own."""
        if id(function) in self._made:
            return self._made[id(function)]  # type: ignore[no-any-return] # of this very type
        code, olds = function.__code__, function.__closure__ or ()
        cells = tuple([self._cells.setdefault(id(old), CellType()) for old in olds])
        made = FunctionType(code, self.globals, function.__name__, None, cells)
        self._made[id(function)] = made  # before its cells: it may call itself
        self._made[id(made)] = made
        uses = uses_of(code)
        for name, old, new in zip(code.co_freevars, olds, cells, strict=True):
            self._fill_cell(new, old, name, uses.get(("cell", name)))
        for kind, name in uses:
            if kind == "global" and name not in self.globals and name in self._home:
                self.globals[name] = None  # its own functions may name it too
                self.globals[name] = self._variable(self._home[name], name, uses[kind, name])
        self._copy_defaults(function, made)
        for read in reads_of(code):
            if read.attribute is not None:
                self._attribute(value_of(function, read), read)
        return made

    def _fill_cell(
        self, cell: CellType, old: CellType, name: str, uses: frozenset[str | None] | None
    ) -> None:
        """Give a cell what the old one holds, unless the function assigns it first."""
        try:
            value = old.cell_contents if uses else _EMPTY
        except ValueError:  # not assigned yet
            value = _EMPTY
        if value is not _EMPTY:
            value = cell.cell_contents = self._variable(value, name, uses or frozenset())
        self.cells.append((cell, value))

    def _variable(self, value: Any, name: str, uses: frozenset[str | None]) -> Any:
        """Return what stands for a variable's value, of which these attributes are used."""
        if isinstance(value, Tensor) and value.grad_fn is not None and uses <= _WITHOUT_GRAPH:
            return value.detach()  # a recurrent state, cut off from the step before
        return self.hold(value, name)

    def _copy_defaults(self, function: FunctionType, made: FunctionType) -> None:
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        if function.__defaults__:
            last = names[len(names) - len(function.__defaults__) :]
            pairs = zip(last, function.__defaults__, strict=True)
            made.__defaults__ = tuple(self.hold(v, n) for n, v in pairs)
        if function.__kwdefaults__:
            made.__kwdefaults__ = {n: self.hold(v, n) for n, v in function.__kwdefaults__.items()}
        if function.__dict__:
            made.__dict__.update(function.__dict__)

    def _attribute(self, owner: Any, read: Read) -> None:
        """Hold an attribute that is read of an object, or those that its method reads."""
        attribute = read.attribute or ""
        key = (id(owner), attribute)
        own = getattr(owner, "__dict__", None)
        if key in self._seen or own is None or isinstance(owner, ModuleType | type):
            return
        self._seen.add(key)
        if attribute in own:
            value = own[attribute]
            if not callable(value) and not isinstance(value, Optimizer | ModuleType):
                held = self.hold(value, f"{read.name}.{attribute}", DEPTH - 1)
                self.attributes.append((owner, attribute, held))
            return
        method = getattr(type(owner), attribute, None)
        if isinstance(method, FunctionType) and method.__globals__ is self._home:
            self._own_attributes(owner, method)

    def _own_attributes(self, owner: Any, method: FunctionType) -> None:
        """Hold what a method reads of its first argument."""
        first = method.__code__.co_varnames[:1]
        for read in reads_of(method.__code__):
            if read.attribute is not None and read.kind == "local" and (read.name,) == first:
                self._attribute(owner, read)


def home_of(function: Any) -> dict[str, Any]:
    """Return the globals of the module that a function is from."""
    kind = type(function)
    while kind is not FunctionType:
        if kind is functools.partial:
            function = function.func
        elif kind is MethodType:
            function = function.__func__
        elif kind is Frozen:
            function = function.function
        else:
            return {}
        kind = type(function)
    return function.__globals__  # type: ignore[no-any-return] # of a function


def value_of(function: FunctionType, read: Read) -> Any:
    """Return what a variable of a function holds now; None if that is not known before its call."""
    code = function.__code__
    if read.kind == "global":
        return function.__globals__.get(read.name)
    if read.kind == "cell" and read.name in code.co_freevars:
        try:
            return (function.__closure__ or ())[code.co_freevars.index(read.name)].cell_contents
        except ValueError:  # not assigned yet
            return None
    if read.kind == "local":
        names = code.co_varnames[: code.co_argcount]
        defaults = function.__defaults__ or ()
        first = len(names) - len(defaults)
        if read.name in names[first:]:
            return defaults[names.index(read.name) - first]
        return (function.__kwdefaults__ or {}).get(read.name)
    return None
