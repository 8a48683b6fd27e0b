"""The default policy on a device decides as it does in numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.guard._spike_floats import OnHost
from trimtab.guard._spike_rule import SpikeRule, empty_memory
from trimtab.guard._spike_tensors import OnDevice

CPU = torch.device("cpu")


class Pair:
    """Both, side by side."""

    def __init__(self, **settings):
        self.rule = SpikeRule(**settings)
        self.mine, self.theirs = empty_memory(self.rule), empty_memory(self.rule)
        self.device = OnDevice(self.rule, CPU)

    def judge(self, loss, norm):
        finite = math.isfinite(norm) and (loss is None or math.isfinite(loss))
        on_device = self.device.judge(
            self.mine,
            None if loss is None else torch.tensor(loss),
            torch.tensor(norm),
            torch.tensor(finite),
        )
        host = OnHost(self.rule, self.theirs)
        on_host = host.judge(loss, norm)
        host.write(self.theirs)
        return bool(on_device) or not finite, on_host

    def compare(self):
        for name in ("series", "units", "tally"):
            torch.testing.assert_close(self.mine[name], self.theirs[name], rtol=1e-4, atol=1e-5)
        assert self.mine["calls"] == self.theirs["calls"]
        assert self.mine["losses"] == self.theirs["losses"]


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    bad=st.sampled_from([0.0, 0.02, 0.1, 0.5]),
    unknown=st.sampled_from([0.0, 0.3]),
    patience=st.integers(2, 9),
)
def test_decides_alike(seed, bad, unknown, patience):
    g = torch.Generator().manual_seed(seed)
    pair = Pair(patience=patience, min_history=12)
    level = 1.0
    for kind, which, *noise in torch.rand(200, 4, generator=g).tolist():
        if which < 0.02:
            level *= 6.0 if kind < 0.5 else 1 / 6
        loss, norm = 2 * level * (1 + 0.2 * noise[0]), level * (1 + 0.5 * noise[1])
        if kind < bad:
            factor = (10.0, 1000.0, math.nan, math.inf)[int(4 * which)]
            loss, norm = loss * factor, norm * factor
        a, b = pair.judge(None if which > 1 - unknown else loss, norm)
        assert a == b
    pair.compare()


def test_accepts_alike():
    pair = Pair()
    for i in range(60):
        pair.judge(2.0 + i % 3 / 10, 1.0)
    for i in range(6):
        assert pair.judge(20.0 + i % 2, 1.0) == (True, True)

    pair.device.accept(pair.mine)
    host = OnHost(pair.rule, pair.theirs)
    host.accept()
    host.write(pair.theirs)

    pair.compare()
    assert pair.judge(20.5, 1.0) == (False, False)


@pytest.mark.parametrize("loss", [None, 2.0])
def test_takes_few_operations(loss, count_operations):
    rule = SpikeRule()
    memory, device = empty_memory(rule), OnDevice(rule, CPU)
    values = (None if loss is None else torch.tensor(loss), torch.tensor(1.0), torch.tensor(True))
    for _ in range(200):
        device.judge(memory, *values)

    numbers = sorted(count_operations(lambda: device.judge(memory, *values)) for _ in range(4))

    assert numbers[2] <= 45  # kernels to launch, three calls of four
    assert numbers[3] <= 105


@pytest.fixture
def count_operations():
    """Count the operations of a call that are not mere views."""
    from torch.utils._python_dispatch import TorchDispatchMode

    views = {"select", "slice", "unbind", "detach", "unsqueeze", "view", "expand", "lift_fresh"}

    class Counter(TorchDispatchMode):
        number = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.number += func.overloadpacket.__name__ not in views
            return func(*args, **(kwargs or {}))

    def count(call):
        with Counter() as counter:
            call()
        return counter.number

    return count
