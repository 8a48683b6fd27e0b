"""How several optimizers share backward passes, as it is seen from the outside."""

import pytest
import torch
from torch import nn

from trimtab.engine._turns import Turns


class Pair:
    """Two layers with an optimizer each."""

    def __init__(self):
        self.layers = [nn.Linear(3, 1), nn.Linear(3, 1)]
        self.optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in self.layers]
        self.turns = Turns(self.optimizers)

    def backward(self, *which):
        for i in which:
            self.layers[i](torch.ones(2, 3)).mean().backward()

    def step(self, which, *, num_new):
        return self.turns.close(which, num_new=num_new)


@pytest.fixture
def pair():
    return Pair()


def test_who_has_no_gradients_is_seen_by_one_parameter(pair):
    assert pair.turns.cleared() == {0, 1}  # before anything is known
    pair.backward(0, 1)
    pair.step(0, num_new=1), pair.step(1, num_new=0)

    assert pair.turns.cleared() == frozenset()
    pair.optimizers[0].zero_grad()
    assert pair.turns.cleared() == {0}
    pair.optimizers[1].zero_grad(set_to_none=False)
    assert pair.turns.cleared() == {0, 1}


def test_gradients_that_were_there_count_once_losses_are_shown(pair):
    assert not pair.step(0, num_new=0)  # nobody shows any: then nothing is known
    assert pair.step(0, num_new=1) is False
    assert pair.step(1, num_new=0) is True


def test_a_round_is_whole_where_the_next_step_has_a_pass_of_its_own(pair):
    assert pair.turns.is_whole  # as long as no loss is shown
    pair.step(0, num_new=1)
    assert not pair.turns.is_whole  # who comes next is not known yet
    pair.step(1, num_new=0)
    pair.step(0, num_new=1)
    assert not pair.turns.is_whole
    pair.step(1, num_new=0)
    assert pair.turns.is_whole


def test_gradients_of_a_state_that_is_gone_are_stale_until_a_new_pass(pair):
    pair.step(0, num_new=1)
    pair.turns.forget()

    assert pair.turns.is_stale(1, has_new=False)
    assert not pair.turns.is_stale(1, has_new=True)
    assert not pair.turns.is_stale(0, has_new=False)  # whose step it was
    pair.turns.cleared()  # a backward pass
    assert not pair.turns.is_stale(1, has_new=False)


def test_without_losses_nothing_is_stale(pair):
    pair.step(0, num_new=0)
    pair.turns.forget()

    assert not pair.turns.is_stale(1, has_new=False)
