import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.init._gains import Activation
from trimtab.init._operations import INPUT, LINEAR, NORM, OUTPUT, UNKNOWN, Surroundings
from trimtab.init._trace import is_layer, join, known_parts, trace, trace_parts


def after(found):
    """Return what follows each layer."""
    return {layer: around.after for layer, around in found.items()}


RELU = frozenset({Activation("relu")})


class Wrapped(nn.Module):
    """One layer whose output goes through a function."""

    def __init__(self, function):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)
        self.function = function

    def forward(self, x, mask=None, factor: float = 1.0):
        if mask is not None:
            x = x * mask
        return self.last(self.function(self.fc(x)) * factor)


class ByValue(nn.Module):
    """Decides by the values of a tensor, which no tracer can follow."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

    def forward(self, x):
        return self.inner(x) if x.sum() > 0 else -self.inner(x)


@pytest.mark.parametrize(
    ("function", "ends"),
    [
        (functional.relu, RELU),
        (torch.relu, RELU),
        (lambda x: x.relu_(), RELU),
        (lambda x: functional.relu(x, inplace=True), RELU),
        (lambda x: functional.leaky_relu(x, 0.3), {Activation("leakyrelu", 0.3)}),
        (lambda x: functional.leaky_relu(x, negative_slope=0.3), {Activation("leakyrelu", 0.3)}),
        (lambda x: x.tanh(), {Activation("tanh")}),
        (torch.sigmoid, {Activation("sigmoid")}),
        (functional.selu, {Activation("selu")}),
        (lambda x: functional.gelu(functional.dropout(x.view(-1, 2, 2)).flatten(1)),
         {Activation("gelu")}),
        (lambda x: functional.layer_norm(x, (4,)).relu(), RELU),
        (lambda x: x.view(x.shape[0], -1), {LINEAR}),
        (lambda x: x.softmax(-1), {LINEAR}),
        (lambda x: x * torch.sigmoid(x), {Activation("sigmoid"), LINEAR}),
        (lambda x: x if x.dim() == 7 else x.relu(), RELU),
        (lambda x: x.to(x.dtype).relu().to(x.device), RELU),
    ],
)  # fmt: skip
def test_functions_and_methods(function, ends):
    net = Wrapped(function)

    assert after(trace(net)) == {net.fc: ends, net.last: {OUTPUT}}


def test_an_activation_of_ones_own_is_known_by_its_name():
    class QuickGELU(nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(1.702 * x)

    net = Wrapped(QuickGELU())

    assert trace(net)[net.fc].after == {Activation("gelu")}


def test_what_cannot_be_traced_is_opaque():
    assert trace(ByValue()) is None

    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), ByValue(), nn.ReLU(), nn.Linear(4, 4))
    inner = net[2].inner

    assert after(trace(net)) == {
        net[0]: {Activation("tanh")},
        inner[0]: RELU,
        inner[2]: {UNKNOWN},
        net[4]: {OUTPUT},
    }


def test_an_opaque_end_of_the_model_is_its_output():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Linear(4, 4)

        def forward(self, x):
            return self.proj(x)

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = Head()

        def forward(self, x):
            return float(x.sum()) * self.head(x)

    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Odd())

    assert trace(net)[net[0]].after == RELU
    assert trace(net)[net[2].head.proj].after == {UNKNOWN}


def test_children_are_traced_where_the_parent_cannot_be():
    net = ByValue()

    assert after(trace_parts(net)) == {net.inner[0]: RELU, net.inner[2]: {UNKNOWN}}


def test_pytorchs_transformer_layers_are_known():
    layer = nn.TransformerDecoderLayer(4, 2, 8, activation="gelu")

    found = known_parts(layer)

    assert found[layer.linear1] == Surroundings({NORM}, {Activation("gelu")})
    assert found[layer.linear2] == Surroundings({Activation("gelu")}, {LINEAR})
    assert found[layer.multihead_attn] == Surroundings({NORM}, {LINEAR})
    assert known_parts(nn.Linear(2, 2)) is None


def test_a_layer_alone():
    layer = nn.Conv2d(2, 2, 1)

    assert is_layer(layer)
    assert trace_parts(layer) == {layer: Surroundings({INPUT}, {OUTPUT})}


def test_what_a_layer_reads():
    net = nn.Sequential(
        nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.GELU(),
        nn.Dropout(), nn.Linear(4, 4),
    )  # fmt: skip

    found = trace(net)

    assert [found[net[i]].before for i in (0, 1, 3, 6)] == [
        {INPUT}, {LINEAR}, {NORM}, {Activation("gelu")}
    ]  # fmt: skip


def test_joining_two_calls():
    layer, other = nn.Linear(2, 2), nn.Linear(2, 2)
    found = {layer: Surroundings(frozenset({INPUT}), RELU)}

    join(found, {layer: Surroundings(frozenset({NORM}), RELU), other: Surroundings(RELU, RELU)})

    assert found == {layer: Surroundings({INPUT, NORM}, RELU), other: Surroundings(RELU, RELU)}


def test_the_model_is_not_changed():
    class Keeps(nn.Module):
        def forward(self, x):
            self.kept = x
            return x + torch.rand(1)

    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), Keeps(), nn.Linear(4, 4)).eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()

    assert trace(net) is not None

    assert not net.training
    assert not hasattr(net[2], "kept")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
