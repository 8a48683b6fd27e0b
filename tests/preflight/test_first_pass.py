"""The pass that most rules read."""

import contextlib

import pytest
from torch import nn
from torch.nn import functional

from trimtab.preflight._batch import as_batch
from trimtab.preflight._first_pass import run_first_pass


def run(model, loss_fn, batch):
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    batch = as_batch(batch, loss_fn)
    return run_first_pass(model, loss_fn, batch, contextlib.nullcontext, trainable)


def test_measures_loss_gradients_and_modules(classes):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    x, y = classes

    found = run(model, functional.cross_entropy, classes)

    functional.cross_entropy(model(x), y).backward()
    assert found.error is None
    assert found.loss == pytest.approx(float(functional.cross_entropy(model(x), y).detach()))
    for name, p in model.named_parameters():
        assert found.norms[name] == pytest.approx(float(p.grad.norm()), rel=1e-5)
    assert [r.name for r in found.records] == ["0", "1", "2"]
    assert found.call is not None
    assert found.has_gradient


def test_keeps_what_an_error_leaves(classes):
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(17, 3))

    found = run(model, functional.cross_entropy, classes)

    assert isinstance(found.error, RuntimeError)
    assert [r.name for r in found.records] == ["0"]
    assert found.norms == {}


def test_keeps_the_call_that_raised(classes):
    x, y = classes

    found = run(nn.Linear(8, 3), nn.CrossEntropyLoss(), (x, y + 1))

    assert isinstance(found.error, IndexError)
    assert [c.name for c in found.calls] == ["cross_entropy"]


def test_listens_inside_of_a_model_that_computes_its_loss(classes):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 3)

        def forward(self, x, y):
            logits = self.head(x)
            return logits, functional.cross_entropy(logits, y)

    found = run(Own(), None, classes)

    assert [c.name for c in found.calls] == ["cross_entropy"]
    assert found.has_gradient


def test_gradients_that_float16_loses_are_counted(classes):
    model = nn.Linear(8, 3)

    found = run(model, lambda o, y: 1e-7 * functional.cross_entropy(o, y), classes)

    assert found.lost_in_half > 0.9


def test_a_gradient_that_is_not_finite_is_none(classes):
    found = run(nn.Linear(8, 3), lambda o, y: (o * 0).sqrt().sum(), classes)

    assert not found.has_gradient
