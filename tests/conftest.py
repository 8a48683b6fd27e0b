"""Fixtures that every part's tests share."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

MakeParams = Callable[..., list[nn.Parameter]]


def pytest_configure():
    """One thread: beside another busy process, two wait for each other and take minutes."""
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def make_params(generator) -> MakeParams:
    """Parameters of the given shapes, each with a random gradient."""

    def make(shapes: Sequence[Sequence[int]], dtype=torch.float32, scale=1.0):
        params = []
        for shape in shapes:
            p = nn.Parameter(torch.randn(*shape, generator=generator).to(dtype))
            p.grad = (torch.randn(*shape, generator=generator) * scale).to(dtype)
            params.append(p)
        return params

    return make


class _NoHostSync(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError("a value was read back to the host inside no_host_sync()")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_host_sync() -> Callable[[], AbstractContextManager[None]]:
    """Fail on `.item()`, `float(tensor)` and `if tensor:`, on a CPU too."""

    @contextmanager
    def guard() -> Iterator[None]:
        with _NoHostSync():
            yield

    return guard
