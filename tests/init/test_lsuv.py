import copy
import math

import pytest
import torch
from torch import nn

from trimtab.errors import ConfigError, StabilityWarning
from trimtab.init import lsuv_


class Mixed(nn.Module):
    """Registers its layers in another order than it runs them, one of them twice."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(32, 5)
        self.twice = nn.Linear(32, 32)
        self.conv = nn.Conv1d(3, 32, 5)
        self.norm = nn.BatchNorm1d(32)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        x = self.drop(self.norm(self.conv(x)).relu()).mean(-1)
        return self.head(self.twice(torch.tanh(self.twice(x))).abs())


@pytest.fixture
def batch(generator):
    return 7 + 3 * torch.randn(64, 3, 20, generator=generator)


def variances(net, x, kinds=(nn.Linear, nn.Conv1d, nn.MultiheadAttention)):
    """Each layer's output variance at its first call, with dropout off, in float64."""
    found = {}

    def note(module, _, output):
        output = output[0] if isinstance(output, tuple) else output
        found.setdefault(module, output.double().var(correction=0).item())

    net = copy.deepcopy(net).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.train()
    for module in net.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(note)
    with torch.no_grad():
        net(x)
    return list(found.values())


@pytest.mark.parametrize("tolerance", [0.1, 1e-3])
def test_every_output_has_unit_variance(tolerance, batch, generator):
    net = lsuv_(Mixed(), batch, tolerance=tolerance, generator=generator)

    assert variances(net, batch) == pytest.approx([1, 1, 1], abs=tolerance)


def test_through_100_layers(generator):
    net = nn.Sequential(*(m for _ in range(100) for m in (nn.Linear(64, 64), nn.ReLU())))
    x = torch.randn(64, 64, generator=generator)

    lsuv_(net, x, tolerance=0.01, generator=generator)

    assert variances(net, x) == pytest.approx([1] * 100, abs=0.011)


def test_a_transformer(generator):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    x = torch.randn(8, 6, 32, generator=generator)

    lsuv_(layer, x, tolerance=0.01, generator=generator)

    assert variances(layer, x) == pytest.approx([1, 1, 1], abs=0.011)


def test_weights_stay_orthogonal_up_to_a_factor(generator):
    net = nn.Sequential(nn.Linear(32, 32))

    lsuv_(net, torch.randn(64, 32, generator=generator) * 5, generator=generator)

    values = torch.linalg.svdvals(net[0].weight)
    torch.testing.assert_close(values, values.mean().expand_as(values))
    assert values.mean().item() == pytest.approx(0.2, rel=0.05)


def test_state_is_restored(batch, generator):
    net = Mixed()
    net.drop.eval()
    before, state = copy.deepcopy(net), torch.get_rng_state()

    lsuv_(net, batch, generator=generator)

    assert [m.training for m in net.modules()] == [m.training for m in before.modules()]
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(net.buffers(), before.buffers(), strict=True):
        assert torch.equal(a, b)
    assert not any(m._forward_hooks for m in net.modules())


def test_an_error_in_the_model_leaves_everything_as_it_was(batch):
    class Fails(Mixed):
        def forward(self, x):
            super().forward(x)
            raise KeyError("broken")

    net = Fails()
    before = copy.deepcopy(net.state_dict())

    with pytest.raises(KeyError, match="broken"):
        lsuv_(net, batch)

    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training
    assert not any(m._forward_hooks for m in net.modules())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_batch_that_is_not_finite(value, batch):
    net = Mixed()
    before = copy.deepcopy(net.state_dict())
    batch[0, 0, 0] = value

    with pytest.raises(ConfigError, match="batch holds 1 of 3840 values"):
        lsuv_(net, batch)

    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_layer_whose_output_is_not_finite(generator):
    class Divides(nn.Module):
        def forward(self, x):
            return x / 0

    net = nn.Sequential(nn.Linear(2, 2), Divides(), nn.Linear(2, 2))
    before = net[0].weight.clone()

    with pytest.raises(ConfigError, match="output of layer '2' has variance nan"):
        lsuv_(net, torch.randn(4, 2, generator=generator))

    assert torch.equal(net[0].weight, before)


def test_an_output_that_does_not_vary(generator):
    net = nn.Sequential(nn.Linear(4, 4), nn.Threshold(1e9, 0), nn.Linear(4, 4))

    with pytest.warns(
        StabilityWarning, match=r"variance of '2' \(0\) .* 0 the batch does not vary"
    ):
        lsuv_(net, torch.randn(8, 4, generator=generator), generator=generator)

    assert net[2].weight.isfinite().all()


def test_layers_that_are_not_reached_stay_orthogonal(generator):
    net = nn.Sequential(nn.Linear(4, 4))
    net[0].extra = nn.Linear(4, 4)

    lsuv_(net, torch.randn(8, 4, generator=generator), generator=generator)

    weight = net[0].extra.weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(4), atol=1e-5, rtol=0)


def test_batches_of_several_arguments(generator):
    bilinear = nn.ModuleDict({"q": nn.Linear(4, 4)})
    bilinear.forward = lambda a, b: bilinear["q"](a) * b
    a, b = torch.randn(2, 8, 4, generator=generator)

    for batch in ((a, b), {"b": b, "a": a}):
        lsuv_(bilinear, batch, tolerance=0.01, generator=generator)
        assert bilinear["q"](a).var(correction=0).item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("bad", [{"tolerance": 0}, {"tolerance": math.nan}, {"max_iterations": 0}])
def test_bad_arguments(bad, batch):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        lsuv_(Mixed(), batch, **bad)
