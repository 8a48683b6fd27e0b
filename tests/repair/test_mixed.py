from contextlib import nullcontext

import torch
from torch import nn

from trimtab.repair import Scaled
from trimtab.repair._mixed import look, mix_in, own_model


class Twice(nn.Module):
    times = 2

    def forward(self, x):
        return super().forward(x) * self.times


def test_a_class_comes_first_and_the_model_stays():
    model = nn.Linear(2, 2)
    x, weight = torch.ones(1, 2), model.weight
    before = model(x)
    mix_in(model, Twice)
    torch.testing.assert_close(model(x), 2 * before)
    mix_in(model, Twice, times=3)  # again: its attributes count
    torch.testing.assert_close(model(x), 3 * before)
    assert model.weight is weight
    assert isinstance(model, nn.Linear)
    assert type(model).__name__ == "Linear"


def test_own_model_is_within_what_scales():
    model = nn.Linear(2, 2)
    assert own_model(Scaled(model, inputs=(torch.zeros(2), torch.ones(2)))) is model
    assert own_model(model) is model


def test_a_look_puts_back_mode_and_buffers_and_tells_whether_it_saw_anything():
    model = nn.BatchNorm1d(2)
    sample = [(torch.full((4, 2), 9.0), None)]
    assert look(model, sample, nullcontext, training=True)
    assert not model.running_mean.any()
    assert look(model, sample, nullcontext, training=False)
    assert model.training
    assert not look(model, [(torch.ones(4, 3), None)], nullcontext, training=True)
    assert not look(model, [], nullcontext, training=True)
