import math

import pytest
import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.init._probe import check_finite, find_tensors, run, unchanged


class Restless(nn.Module):
    """Changes all that a run can change."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("count", torch.zeros(1))
        self.calls = 0

    def forward(self, x):
        self.count = self.count + torch.rand(1)
        self.seen, self.calls = x, self.calls + 1
        return self.norm(x)


@pytest.mark.parametrize("fails", [False, True])
def test_restores_everything(fails, generator):
    net = Restless()
    net.norm.eval()
    x = torch.randn(4, 3, generator=generator)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    buffer, state = net.count, torch.get_rng_state()

    try:
        with unchanged(net):
            net(x)
            net.train()
            net(x)
            assert net.norm.num_batches_tracked == 1
            if fails:
                raise KeyError
    except KeyError:
        pass

    assert net.training
    assert not net.norm.training
    assert net.count is buffer
    assert net.calls == 0
    assert not hasattr(net, "seen")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_arguments_by_kind_of_batch():
    class Add(nn.Module):
        def forward(self, a, b=1):
            return a + b

    one = torch.ones(1)

    assert run(Add(), one) == run(Add(), (one,)) == run(Add(), {"b": 1, "a": one}) == 2
    assert run(Add(), [one, 4]) == 5


def test_tensors_in_nested_collections():
    a, b, c = torch.ones(3)

    assert list(find_tensors({"x": (a, [b, 3]), "y": None, "z": c})) == [a, b, c]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_finite(value):
    check_finite((torch.ones(2), {"mask": torch.tensor([True]), "n": 3}))

    with pytest.raises(ConfigError, match="batch holds 1 of 2 values"):
        check_finite([torch.tensor([1.0, value])])
