import pytest
import torch
from torch import nn

from trimtab.repair._apply import apply
from trimtab.repair._blocked import norms_over_one, softmax_between
from trimtab.repair._remedy import Order

NORMS = [Order(action="remove_norms")]
SOFTMAX = [Order(action="replace_softmax")]


def with_norm(norm):
    return nn.Sequential(nn.Unflatten(1, (4, 1)), norm, nn.Flatten(), nn.Linear(4, 1))


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(1), nn.RMSNorm(1), nn.GroupNorm(4, 4), nn.InstanceNorm1d(4)]
)
def test_norms_over_one_value_are_taken_out(make_setup, task, norm):
    setup = make_setup(model=lambda: with_norm(norm))
    (edit,) = apply(setup, NORMS, task.pairs)
    assert edit.diff == (
        f"norms over a single value ({type(norm).__name__}) of 1: always its bias -> left out"
    )
    assert type(setup.model[1]) is nn.Identity
    assert setup.model(task.x[0]).std() > 0
    assert apply(setup, NORMS, task.pairs) == []


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm((4, 1)), nn.GroupNorm(2, 4), nn.BatchNorm1d(4), nn.Identity()]
)
def test_norms_over_more_are_left_alone(task, norm):
    assert norms_over_one(with_norm(norm), task.pairs) == []


def soft_tower(end):
    return nn.Sequential(
        nn.Linear(4, 8), nn.Softmax(dim=1), nn.Dropout(0.2), nn.Linear(8, 8),
        nn.LogSoftmax(dim=1), nn.Linear(8, 3), end,
    )  # fmt: skip


def test_softmax_between_layers_is_replaced_and_the_last_is_not(make_setup, task):
    setup = make_setup(model=lambda: soft_tower(nn.Softmax(dim=1)))
    (edit,) = apply(setup, SOFTMAX, task.pairs)
    assert edit.diff == "activation between layers of 1, 4: LogSoftmax, Softmax -> GELU"
    assert [type(setup.model[i]).__name__ for i in (1, 4, 6)] == ["GELU", "GELU", "Softmax"]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.score, self.softmax, self.head = nn.Linear(4, 4), nn.Softmax(dim=1), nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.softmax(self.score(x)) * x)


class Both(Attention):
    """One softmax for the hidden layer and for the end."""

    def forward(self, x):
        return self.softmax(self.head(self.softmax(self.score(x))))


@pytest.mark.parametrize("kind", [Attention, Both])
def test_softmax_of_an_attention_or_used_at_the_end_too_stays(task, kind):
    assert softmax_between(kind(), task.pairs) == []


def test_without_a_softmax_nothing_is_run(task):
    def fail(*_):
        pytest.fail("it was run")

    model = nn.Linear(4, 1)
    model.register_forward_hook(fail)
    assert softmax_between(model, task.pairs) == []
    assert norms_over_one(model, task.pairs) == []


def test_without_a_sample_nothing_is_known():
    assert softmax_between(soft_tower(nn.Identity()), []) == []
    assert norms_over_one(with_norm(nn.LayerNorm(1)), []) == []
    assert torch.is_grad_enabled()
