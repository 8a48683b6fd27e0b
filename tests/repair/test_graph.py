from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.repair._apply import apply
from trimtab.repair._remedy import Order

ORDER = [Order(action="keep_graph")]


class Cut(nn.Module):
    """A body and a head, with something between."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.head(self.between(self.body(x)))

    def between(self, h):
        return h.relu().detach()


class Data(Cut):
    def between(self, h):
        return h.relu().data


class Numpy(Cut):
    def between(self, h):
        return torch.from_numpy(h.relu().detach().numpy())


class Copied(Cut):
    def between(self, h):
        return torch.as_tensor(h.relu().detach().numpy())


class NoGrad(Cut):
    def forward(self, x):
        with torch.no_grad():
            h = self.body(x).relu()
        return self.head(h)


def slopes(setup, task):
    setup.model.zero_grad()
    setup.loss_fn(setup.model(task.x[0]), task.y[0]).backward()
    return {
        n: None if p.grad is None else p.grad.clone() for n, p in setup.model.named_parameters()
    }


@pytest.mark.parametrize("kind", [Cut, Data, Numpy, Copied, NoGrad])
def test_gradients_reach_what_was_cut_off(make_setup, task, kind):
    setup = make_setup(model=kind)
    assert slopes(setup, task)["body.weight"] is None

    (edit,) = apply(setup, ORDER, task.pairs)

    assert edit.what == "the model's graph"
    assert edit.where.startswith("test_graph.py:")
    assert edit.advice.startswith(f"in {edit.where}: leave out detach(), .data, no_grad()")
    whole = make_setup(model=Cut)
    whole.model.between = functional.relu
    whole.model.load_state_dict(setup.model.state_dict())
    torch.testing.assert_close(slopes(setup, task), slopes(whole, task))
    assert type(setup.model).__name__ == kind.__name__
    assert isinstance(setup.model, kind)


def test_a_copy_keeps_its_own_graph(make_setup, task):
    setup = make_setup(model=Cut)
    apply(setup, ORDER, task.pairs)
    copy = deepcopy(setup.model)
    copy(task.x[0]).sum().backward()
    assert copy.body.weight.grad is not None
    assert setup.model.body.weight.grad is None


def test_no_grad_around_a_trained_model_still_counts(make_setup, task):
    setup = make_setup(model=NoGrad)
    apply(setup, ORDER, task.pairs)
    with torch.no_grad():
        assert not setup.model(task.x[0]).requires_grad


class Stateful(nn.Module):
    """Keeps its state between batches, as it should, and cuts its output, as it should not."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 8), nn.Linear(8, 1)
        self.state = None
        self.register_buffer("level", torch.zeros(()))

    def forward(self, x):
        y, state = self.rnn(x[None], self.state)
        with torch.no_grad():
            self.level = 0.9 * self.level + 0.1 * y.mean()
        self.state = state.detach()
        return self.head(y[0].detach())


def test_a_state_that_is_kept_for_the_next_batch_stays_detached(make_setup, task, train):
    setup = make_setup(model=Stateful)
    (edit,) = apply(setup, ORDER, task.pairs)
    assert edit.where.count("test_graph.py:") == 3
    train(setup, 5)  # a second pass over the same graph would raise
    assert not setup.model.state.requires_grad
    assert not setup.model.level.requires_grad


def test_what_cuts_nothing_is_left_alone(make_setup, task):
    setup = make_setup()
    assert apply(setup, ORDER, task.pairs) == []
    assert apply(make_setup(model=Cut), ORDER) == []  # without a sample
    normed = make_setup(
        model=lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 1))
    )  # torch's own code cuts on purpose
    assert apply(normed, ORDER, task.pairs) == []
