import inspect
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from trimtab.diagnosis._job import Job, Watched
from trimtab.rules import Judge


@pytest.fixture
def make_model(generator):
    """A small classifier with dropout; others are drawn afresh from the same generator."""

    def make(model=None):
        if model is None:
            model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.1), nn.Tanh(), nn.Linear(16, 3))
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
        return model

    return make


@pytest.fixture
def pairs(generator):
    """Batches that can be learned: the class is where the input is largest among three."""
    xs = torch.randn(12, 16, 8, generator=generator)
    return [(x, x[:, :3].argmax(1)) for x in xs]


@pytest.fixture
def env(make_model, pairs):
    """What a loop body is given, and what is watched; tests replace parts of it."""
    model = make_model()
    return SimpleNamespace(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        loss_fn=nn.CrossEntropyLoss(),
        scheduler=None,
        pairs=pairs,
        attached=False,
    )


@pytest.fixture
def run(env):
    """Run a loop body on all batches, or as often as asked, and return the log."""

    def run(body, calls=None, **changes):
        vars(env).update(changes)
        job = Job(env.model, env.optimizer, env.loss_fn, env.scheduler, body)
        given = [env.pairs[i % len(env.pairs)] for i in range(calls or len(env.pairs))]
        judge = Judge(rules=[]) if env.attached else None
        log = Watched(job, judge=judge, traced=True).run(given, every=1)
        if log.error is not None:
            raise log.error
        return log

    return run


@pytest.fixture
def watch(run):
    """Run a loop body and return the trace of its calls."""
    return lambda body, calls=None, **changes: run(body, calls, **changes).trace


@pytest.fixture
def line_of():
    """Return where in a function's file a piece of its source first stands."""

    def find(function, text):
        lines, first = inspect.getsourcelines(function)
        return first + next(i for i, line in enumerate(lines) if text in line)

    return find


def correct(model, optimizer, loss_fn, x, y):
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


@pytest.fixture(name="correct")
def correct_fixture():
    """A loop body without a fault."""
    return correct
