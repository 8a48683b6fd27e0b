"""Where the first value that is not finite came up: found by running the forward pass again."""

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trimtab.checkpoint import random_state, restore_random_state
from trimtab.signals._sample import local
from trimtab.signals._taps import find_tensor, is_floating, site_name, unwrapped


@dataclass(frozen=True, kw_only=True)
class NonfiniteSource:
    """The first thing in the order of the forward pass that is not finite."""

    kind: Literal["input", "parameter", "activation", "loss", "gradient"]
    """What it is. The last two: everything in the forward pass was finite."""
    site: str
    """Argument of the model, parameter or module; `loss` for the loss."""
    row: int | None = None
    """Index in the batch of the first example that is not finite; None if all are, or if what is
    not finite has no rows of the batch."""
    num_rows: int = 0
    """Examples that are not finite; 0 if it has no rows of the batch."""
    inputs_finite: bool = True
    """Whether all that went into the module was finite."""

    def __str__(self) -> str:
        """Return it in words."""
        names = {
            "input": "argument {} of the model",
            "parameter": "parameter {}",
            "activation": "output of {}",
            "gradient": "gradient of {}",
        }
        text = names.get(self.kind, "the {}").format(self.site)
        if self.row is not None:
            more = f" and {self.num_rows - 1} more" if self.num_rows > 1 else ""
            text += f", row {self.row}{more} of the batch"
        elif self.num_rows:
            text += f", all {self.num_rows} rows of the batch"
        return text


@torch.no_grad()
def locate_nonfinite(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None
) -> NonfiniteSource | None:
    """Run the forward pass once more and say what was the first that is not finite.

    Inputs come first, then each module's own parameters, then its output. A tensor of zeros and
    minus infinity alone is a mask and lets pass. Buffers, random state and modes are afterwards as
    they were, also if the forward pass raises. Call it in the autocast that the model trains in.

    Args:
        model: Wrapped or not; sharded models cannot be run by one process alone.
        args: What the model was called with.
        kwargs: Likewise.

    Returns:
        The source; None if all of the forward pass is finite, so that the loss or the backward pass
        is to blame.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> x = torch.tensor([[0.0, 1.0], [torch.nan, 1.0]])
        >>> print(locate_nonfinite(model, (x,)))
        argument input of the model, row 1 of the batch
    """
    root, kwargs = unwrapped(model), dict(kwargs or {})
    search = _Search(root, _batch_size(args, kwargs))
    search.look_at_arguments(args, kwargs)
    if search.found is None:
        with _untouched(root), torch.compiler.set_stance("force_eager"), search:
            try:
                root(*args, **kwargs)
            except Exception:
                if search.found is None:  # else it is what came of it
                    raise
    return search.found


class _Search:
    """Temporary hooks that look at each module's parameters before it runs, then at its output."""

    def __init__(self, root: nn.Module, batch_size: int | None) -> None:
        self.found: NonfiniteSource | None = None
        self._root, self._batch_size = root, batch_size
        self._inputs_finite: dict[int, bool] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for name, module in self._root.named_modules():
            before, after = self._hooks(name)
            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            self._handles.append(module.register_forward_hook(after))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hooks(self, name: str) -> tuple[Any, Any]:
        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            if self.found is None:
                self._inputs_finite[id(module)] = not any(map(_is_bad, _tensors((args, kwargs))))
                self._look_at_parameters(name, module, recurse=False)

        def after(module: nn.Module, _args: Any, output: Any) -> None:
            if self.found is None:
                self._look_at_output(name, module, output)

        return before, after

    def look_at_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Look at what the model is given."""
        names = _argument_names(self._root, len(args))
        for name, value in [*zip(names, args, strict=False), *kwargs.items()]:
            for tensor in _tensors(value):
                if self.found is None and _is_bad(tensor):
                    row, count = self._rows(tensor)
                    self.found = NonfiniteSource(
                        kind="input", site=name, row=row, num_rows=count, inputs_finite=False
                    )

    def _look_at_parameters(self, name: str, module: nn.Module, *, recurse: bool) -> None:
        for own, p in module.named_parameters(recurse=recurse):
            if self.found is None and is_floating(local(p)) and not bool(local(p).isfinite().all()):
                site = site_name(f"{name}.{own}" if name else own)
                self.found = NonfiniteSource(
                    kind="parameter", site=site, inputs_finite=self._inputs_finite[id(module)]
                )

    def _look_at_output(self, name: str, module: nn.Module, output: Any) -> None:
        bad = next((t for t in _tensors(output) if _is_bad(t)), None)
        if bad is None:
            return
        # Those of parts that were not called, but whose parameters were used.
        self._look_at_parameters(name, module, recurse=True)
        if self.found is None:
            row, count = self._rows(bad)
            self.found = NonfiniteSource(
                kind="activation",
                site=site_name(name),
                row=row,
                num_rows=count,
                inputs_finite=self._inputs_finite.get(id(module), True),
            )

    def _rows(self, tensor: Tensor) -> tuple[int | None, int]:
        """Return the first row that is not finite, None if all are, and their number."""
        if tensor.ndim == 0 or tensor.shape[0] != self._batch_size:
            return None, 0
        bad = (~tensor.isfinite()).flatten(1).any(dim=1) if tensor.ndim > 1 else ~tensor.isfinite()
        rows = bad.nonzero().flatten().tolist()
        return (None if len(rows) == len(bad) and len(bad) > 1 else rows[0]), len(rows)


def locate_nonfinite_gradient(
    params: Iterable[tuple[str, nn.Parameter]], order: Sequence[str] = ()
) -> str | None:
    """Return the parameter whose gradient was the first to be not finite in the backward pass.

    That is the one nearest to the output; what lies behind it got its gradient from there.

    Args:
        params: Names and parameters.
        order: Names of modules in the order of the forward pass, as `Recorder.order` has them;
            without it the order of `params` counts.
    """
    found: tuple[int, str] | None = None
    place = 0
    for name, p in params:
        plain = site_name(name)
        place = _place(plain.rpartition(".")[0], order, otherwise=place)
        grad = p.grad
        if grad is None:
            continue
        values = grad.coalesce().values() if grad.is_sparse else local(grad)
        if not bool(values.isfinite().all()) and (found is None or place >= found[0]):
            found = place, plain
    return None if found is None else found[1]


def _place(owner: str, order: Sequence[str], *, otherwise: int) -> int:
    """Return when a module was first at work: no later than its parts."""
    inside = f"{owner}." if owner else ""
    return next((i for i, n in enumerate(order) if n == owner or n.startswith(inside)), otherwise)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield all floating tensors in what a module returned or was given."""
    if isinstance(value, Tensor):
        found = find_tensor(value)
        if found is not None:
            yield found
        return
    parts: Iterable[Any] = ()
    if isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, tuple | list):
        parts = value
    else:  # a dataclass
        parts = [getattr(value, n, None) for n in getattr(value, "__dataclass_fields__", ())]
    for part in parts:
        yield from _tensors(part)


def _is_bad(tensor: Tensor) -> bool:
    """Tell whether a tensor holds something that is not finite, and is no mask."""
    finite = tensor.isfinite()
    if bool(finite.all()):
        return False
    mask = ((tensor == 0) | (tensor == -math.inf)).all() & finite.any()
    return not bool(mask)


def _batch_size(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | None:
    first = find_tensor((args, kwargs), lambda t: t.ndim > 0)
    return None if first is None else first.shape[0]


def _argument_names(root: nn.Module, number: int) -> list[str]:
    """Return the names of the model's positional arguments."""
    names = []
    try:
        for name, parameter in inspect.signature(root.forward).parameters.items():
            if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}:
                names.append(name)
    except (TypeError, ValueError):  # a forward in C
        pass
    return [*names, *(f"args[{i}]" for i in range(len(names), number))][:number]


@contextmanager
def _untouched(root: nn.Module) -> Iterator[None]:
    """Put buffers, modes and random state back afterwards, bit for bit."""
    buffers = [(m, n, b, b.clone()) for m in root.modules() for n, b in _own_buffers(m)]
    modes = [(m, m.training) for m in root.modules()]
    drawn = random_state()
    try:
        yield
    finally:
        for module, name, buffer, saved in buffers:
            module._buffers[name] = buffer
            # A backward pass that is still to come may have kept it, and would see a new version.
            with torch.autograd.grad_mode._unsafe_preserve_version_counter(buffer):
                buffer.copy_(saved)
        for module, training in modes:
            module.training = training
        restore_random_state(drawn)


def _own_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(n, b) for n, b in module._buffers.items() if b is not None]
