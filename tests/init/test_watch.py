import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.init._gains import Activation
from trimtab.init._operations import INPUT, LINEAR, NORM, OUTPUT
from trimtab.init._watch import watch


def after(found):
    """Return what follows each layer."""
    return {layer: around.after for layer, around in found.items()}


class ByValue(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)
        self.function = function

    def forward(self, x):
        if x.sum() > 1e9:
            return self.unused(x)
        return {"logits": self.last(self.function(self.fc(x)))}


@pytest.mark.parametrize(
    ("function", "ends"),
    [
        (functional.relu, {Activation("relu")}),
        (lambda x: functional.relu(x, inplace=True), {Activation("relu")}),
        (lambda x: functional.leaky_relu(x, 0.3), {Activation("leakyrelu", 0.3)}),
        (nn.PReLU(), {Activation("prelu", 0.25)}),
        (functional.relu6, {Activation("relu6")}),
        (functional.hardtanh, {Activation("hardtanh")}),
        (torch.tanh, {Activation("tanh")}),
        (functional.elu, {Activation("elu")}),
        (functional.selu, {Activation("selu")}),
        (functional.gelu, {Activation("gelu")}),
        (functional.silu, {Activation("silu")}),
        (functional.softplus, {Activation("softplus")}),
        (lambda x: functional.layer_norm(x, (4,)).view(3, 2, 2).flatten(1).relu(),
         {Activation("relu")}),
        (lambda x: functional.rms_norm(x, (4,)), {LINEAR}),
        (lambda x: functional.silu(x) * x, {Activation("silu"), LINEAR}),
    ],
)  # fmt: skip
def test_functions(function, ends, generator):
    net = ByValue(function)

    found = watch(net, torch.randn(3, 4, generator=generator))

    assert after(found) == {net.fc: ends, net.last: {OUTPUT}}


def test_sequences_attention_and_convolutions(generator):
    attention = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    found = watch(attention, torch.randn(2, 3, 4, generator=generator))
    assert after(found) == {
        attention.self_attn: {LINEAR},
        attention.linear1: {Activation("relu")},
        attention.linear2: {LINEAR},
    }

    conv = nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 2, 1))
    found = watch(conv, torch.randn(1, 4, 3, generator=generator))
    assert after(found) == {conv[0]: {Activation("relu")}, conv[3]: {OUTPUT}}


def test_what_a_layer_reads(generator):
    net = nn.Sequential(
        nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.GELU(),
        nn.Unflatten(1, (2, 2)), nn.Linear(2, 2),
    )  # fmt: skip

    found = watch(net, torch.randn(2, 4, generator=generator))

    assert [found[net[i]].before for i in (0, 1, 3, 6)] == [
        {INPUT}, {LINEAR}, {NORM}, {Activation("gelu")}
    ]  # fmt: skip


def test_leaves_no_hooks_also_after_an_error():
    net = ByValue(torch.relu)

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        watch(net, torch.ones(2, 5))

    assert not net.fc._forward_hooks
    assert net.training


def test_works_without_gradients_and_without_any(generator):
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
    with torch.no_grad():
        assert after(watch(net, torch.ones(1, 2))) == {
            net[0]: {Activation("tanh")},
            net[2]: {OUTPUT},
        }

    assert watch(net.requires_grad_(False), torch.ones(1, 2)) == {}
