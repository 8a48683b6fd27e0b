from copy import deepcopy

import pytest
import torch
from torch import nn

from trimtab.repair._apply import apply
from trimtab.repair._linear import bare_pairs, is_affine
from trimtab.repair._remedy import Order

ORDER = [Order(action="insert_activations")]


class Plain(nn.Module):
    def __init__(self, between=None):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 1)
        self.between = between or nn.Identity()

    def forward(self, x):
        return self.b(self.between(self.a(x)))


def test_layers_without_an_activation_get_a_relu(make_setup, task):
    setup = make_setup(model=Plain)
    assert is_affine(setup.model, task.pairs)
    (edit,) = apply(setup, ORDER, task.pairs)
    assert edit.diff == "activation between layers of a: none -> ReLU"
    assert edit.advice.startswith("put nn.ReLU() behind a: ")
    model, x = setup.model, task.x[0]
    plain = nn.functional.linear(x, model.a.weight, model.a.bias).relu()
    torch.testing.assert_close(model(x), model.b(plain))
    torch.testing.assert_close(deepcopy(model)(x), model(x))
    assert not is_affine(model, task.pairs)
    assert apply(setup, ORDER, task.pairs) == []


@pytest.mark.parametrize("between", [nn.ReLU(), nn.Tanh(), nn.LayerNorm(8)])
def test_a_network_with_something_between_is_not_linear(make_setup, task, between):
    setup = make_setup(model=lambda: Plain(between))
    assert not is_affine(setup.model, task.pairs)
    assert apply(setup, ORDER, task.pairs) == []


def test_a_convolution_is_a_layer_too(task):
    net = nn.Sequential(
        nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 3), nn.Conv1d(2, 2, 2), nn.Flatten()
    )
    assert is_affine(net, task.pairs)
    assert bare_pairs(net, task.pairs) == [("1", "2")]


def test_only_two_batches_of_numbers_of_one_shape_tell(task):
    model = Plain()
    assert not is_affine(model, task.pairs[:1])
    assert not is_affine(model, [(task.labels[0], None), (task.labels[1], None)])
    assert not is_affine(model, [(task.x[0], None), (task.x[1][:5], None)])
    assert not is_affine(nn.Linear(5, 1), task.pairs)
    assert not any(m._forward_hooks for m in model.modules())


def test_a_constant_answer_is_not_called_linear(task):
    model = Plain()
    nn.init.zeros_(model.b.weight)
    assert not is_affine(model, task.pairs)
