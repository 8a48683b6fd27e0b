"""Batches of a run: read as long as they last, kept for a replay, begun anew when they end."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from trimtab.errors import ConfigError

KEEP_BYTES: Final = 2**30
"""Batches that are kept for a replay, together; a long run on large images keeps its first part."""

Pair = tuple[Any, Any]


class Batches:
    """Pairs of inputs and targets.

    Every pair is handed out as a copy, so that a loop body that changes its batch in place changes
    neither the caller's data nor what is replayed.

    Args:
        source: A data loader, a list, or any iterable of pairs. One that can be iterated again is
            begun anew when it ends; of a generator the pairs that were kept are repeated.

    Raises:
        ConfigError: It cannot be iterated.
    """

    def __init__(self, source: Iterable[Pair]) -> None:
        if not isinstance(source, Iterable):
            raise ConfigError(
                "batches must be an iterable of (x, y) pairs, such as a DataLoader or a list, got "
                f"{type(source).__name__}."
            )
        self.source: Final = source
        self.kept: list[Pair] = []
        self.num_given = 0
        """Pairs that one pass over the source gives; 0 until one has ended."""
        self._lasting: Final = isinstance(source, list | tuple)
        self.num_given = len(source) if isinstance(source, list | tuple) else 0
        """Pairs that one pass over the source gives; of what is no list, 0 until it has ended."""
        self._bytes = 0
        self._generators = [(g, g.get_state()) for g in _generators(source)]

    def take(self, count: int) -> Iterator[Pair]:
        """Yield this many pairs, and read no more than that.

        Raises:
            ConfigError: Something is not a pair, or there is nothing at all.
        """
        taken = 0
        while taken < count:
            before = taken
            for item in self.source:
                pair = _as_pair(item)
                taken += 1
                self._keep(pair)
                yield _copied(pair)
                if taken == count:
                    return
            self.num_given = self.num_given or taken - before
            if taken == before and self.kept:  # a generator that is used up
                for i in range(count - taken):
                    yield _copied(self.kept[i % len(self.kept)])
                return
            if taken == before:
                raise ConfigError(
                    "batches is empty. Pass an iterable of (x, y) pairs; a generator that was used "
                    "before has nothing left."
                )
            self.num_given = self.num_given or taken

    def first(self, count: int) -> list[Pair]:
        """Return copies of the first pairs that were kept."""
        return [_copied(pair) for pair in self.kept[:count]]

    def put_back(self) -> None:
        """Put the random generators of a data loader back to where they were."""
        for generator, state in self._generators:
            generator.set_state(state)

    def _keep(self, pair: Pair) -> None:
        if self._lasting:  # the caller keeps them
            self.kept.append(pair)
        elif self._bytes < KEEP_BYTES:
            self._bytes += sum(t.numel() * t.element_size() for t in tensors_in(pair))
            self.kept.append(_copied(pair))


def _generators(source: Any) -> list[torch.Generator]:
    """Return the generators that a data loader draws from."""
    sampler = getattr(source, "sampler", None)
    batch_sampler = getattr(source, "batch_sampler", None)
    owners = [source, sampler, batch_sampler, getattr(batch_sampler, "sampler", None)]
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _copied(pair: Pair) -> Pair:
    """Return a copy; what cannot be copied is passed on as it is."""
    try:
        return copy.deepcopy(pair)
    except Exception:  # noqa: BLE001 # a type of the user's, or a tensor with a graph
        return pair


def _as_pair(item: Any) -> Pair:
    """Return inputs and targets of one item.

    Raises:
        ConfigError: It is not a pair.
    """
    if isinstance(item, list | tuple) and len(item) == 2:
        return item[0], item[1]
    size = f" of {len(item)}" if isinstance(item, list | tuple | Mapping) else ""
    raise ConfigError(
        f"Each batch must be a pair (x, y) of inputs and targets, got {type(item).__name__}{size}. "
        "Put several inputs into one tuple or dict: ((a, b), y)."
    )


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for part in value.values() for t in tensors_in(part)]
    if isinstance(value, list | tuple):
        return [t for part in value for t in tensors_in(part)]
    return []


def call_model(model: Callable[..., Any], x: Any) -> Any:
    """Call a model as its inputs ask for: a dict by name, a tuple by place, else one argument."""
    if isinstance(x, Mapping):
        return model(**x)
    if isinstance(x, tuple | list) and not isinstance(x, PackedSequence):
        return model(*x)
    return model(x)


def size_of(x: Any) -> tuple[int, int]:
    """Return examples and elements of the first tensor in a batch's inputs; 1 if there is none."""
    found = tensors_in(x)
    if not found:
        return 1, 1
    return (int(found[0].shape[0]) if found[0].ndim else 1), found[0].numel()


def measure(prefix: str, value: Any) -> dict[str, float]:
    """Return signals of a batch's inputs or targets: mean, spread, largest, NaN, fingerprint."""
    found = [t.detach() for t in tensors_in(value) if _is_plain(t)]
    if not found:
        return {}
    first = found[0]
    wide = first.to(torch.float64).flatten()
    finite = wide[wide.isfinite()]
    weights = torch.arange(1, wide.numel() + 1, dtype=torch.float64, device=wide.device)
    signals = {
        f"{prefix}.nonfinite_fraction": 1 - finite.numel() / wide.numel(),
        f"{prefix}.fingerprint": float((wide.nan_to_num(0, 0, 0) * weights.sqrt()).sum()),
    }
    if finite.numel() and (first.is_floating_point() or prefix == "target"):
        signals |= {
            f"{prefix}.mean": float(finite.mean()),
            f"{prefix}.std": float(finite.std(correction=0)),
            f"{prefix}.max": float(finite.abs().max()),
            f"{prefix}.min": float(finite.min()),
        }
    return signals


def _is_plain(tensor: Tensor) -> bool:
    dense = tensor.layout is torch.strided and not tensor.is_nested
    return dense and tensor.numel() > 0 and not tensor.is_complex()
