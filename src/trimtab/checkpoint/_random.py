"""The global random states of torch, NumPy and Python: saved, put back, and set from a seed."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the state of all global generators.

    Those are torch's on the CPU and on every CUDA device in use, NumPy's and Python's.

    Returns:
        Tensors, numbers and strings, as a checkpoint can hold them.
    """
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call] # untyped in torch
        state |= {f"cuda{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    state["python"] = _python_state()
    state["numpy"] = _numpy_state()
    return state


_encoded: dict[str, tuple[Any, dict[str, Any]]] = {}
"""States of Python's and NumPy's generators as they were last, with their encoding: a training loop
asks at every step, and few loops draw from them."""


def _python_state() -> dict[str, Any]:
    state = random.getstate()
    if "python" not in _encoded or _encoded["python"][0] != state:
        version, words, gauss = state
        plain = {"version": version, "words": torch.tensor(words), "gauss": gauss}
        _encoded["python"] = state, plain
    return dict(_encoded["python"][1])


def _numpy_state() -> dict[str, Any]:
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002 # the user's own
    words = state["state"].get("key")  # of the usual generator
    if words is None:
        return dict(_to_plain(state))
    key = (words.tobytes(), state["state"]["pos"], state["has_gauss"], state["gauss"])
    if "numpy" not in _encoded or _encoded["numpy"][0] != key:
        _encoded["numpy"] = key, _to_plain(state)
    return dict(_encoded["numpy"][1])


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put back what `random_state` returned.

    Devices that are not here are passed over, and generators that the state does not hold, as one
    of trimtab 0.1 does not hold NumPy's and Python's.
    """
    torch.set_rng_state(state["cpu"])
    for name, value in state.items():
        if name.startswith("cuda") and int(name[4:]) < torch.cuda.device_count():
            torch.cuda.set_rng_state(value, int(name[4:]))
    if "python" in state:
        python = state["python"]
        random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    if "numpy" in state:
        np.random.set_state(_to_numpy(state["numpy"]))  # noqa: NPY002 # as above


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run with all global random states set from one seed, and put them back afterwards.

    Args:
        seed: Any whole number that torch takes; NumPy gets its lowest 32 bits.
    """
    before = random_state()
    torch.random.manual_seed(seed)  # every device's
    np.random.seed(seed % 2**32)  # noqa: NPY002 # what runs inside may draw from it
    random.seed(seed)
    try:
        yield
    finally:
        restore_random_state(before)


def _to_plain(value: Any) -> Any:
    """Turn NumPy's arrays into tensors; theirs are of unsigned words, as torch has them too."""
    if isinstance(value, Mapping):
        return {k: _to_plain(v) for k, v in value.items()}
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def _to_numpy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _to_numpy(v) for k, v in value.items()}
    return value.numpy() if isinstance(value, torch.Tensor) else value
