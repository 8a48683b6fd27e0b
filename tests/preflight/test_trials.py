"""Training for a few steps and taking it back."""

import math

import pytest
import torch
from torch import nn

from trimtab.optim import warmup_cosine
from trimtab.preflight._trials import identical_weights, run_overfit, run_trial


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def really_train(model, optimizer, batch, steps, scheduler=None):
    x, y = batch
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
def test_trial_is_what_training_will_be_and_leaves_no_trace(make_subject, classes, model, kind):
    optimizer = kind(model.parameters(), lr=0.05)
    scheduler = warmup_cosine(optimizer, 3, 20)
    before = [p.detach().clone() for p in model.parameters()]
    subject = make_subject(model, optimizer, nn.CrossEntropyLoss(), classes, scheduler=scheduler)
    state = str(optimizer.state_dict())

    trial = run_trial(subject)

    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert str(optimizer.state_dict()) == state
    assert scheduler.last_epoch == 0
    expected = really_train(model, optimizer, classes, 10, scheduler)
    assert trial.losses == pytest.approx(expected, rel=1e-6)


def test_trial_clips_if_the_loop_will(make_subject, classes, model):
    optimizer = torch.optim.SGD(model.parameters(), lr=100.0)
    free = run_trial(make_subject(model, optimizer, nn.CrossEntropyLoss(), classes))
    clipped = run_trial(make_subject(model, optimizer, nn.CrossEntropyLoss(), classes, clip=1e-4))

    assert not max(free.losses) < 100 or not all(map(math.isfinite, free.losses))
    assert max(clipped.losses) < 2


def test_no_trial_for_optimizers_that_need_a_closure(make_subject, classes, model):
    optimizer = torch.optim.LBFGS(model.parameters())

    assert run_trial(make_subject(model, optimizer, nn.CrossEntropyLoss(), classes)) is None


def test_overfitting_stops_at_the_goal_and_leaves_no_trace(make_subject, classes, model):
    before = [p.detach().clone() for p in model.parameters()]

    found = run_overfit(make_subject(model, None, nn.CrossEntropyLoss(), classes))

    assert found.solved is True
    assert found.best < found.goal == pytest.approx(0.9 * min(found.initial, found.baseline))
    assert found.num_examples == 16
    assert 1 <= found.steps < 80
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_overfitting_says_when_time_was_over(make_subject, classes, model):
    found = run_overfit(make_subject(model, None, nn.CrossEntropyLoss(), classes, overfit_s=1e-9))

    assert found.solved is None


def test_nothing_to_overfit_where_all_labels_are_one(make_subject, classes, model):
    x, y = classes

    assert run_overfit(make_subject(model, None, nn.CrossEntropyLoss(), (x, 0 * y))) is None


def test_long_sequences_are_cut_to_few_examples(make_subject, generator):
    tokens = torch.randint(9, (16, 100), generator=generator)
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9))

    found = run_overfit(
        make_subject(
            model, None, lambda o, y: nn.functional.cross_entropy(o.mT, y), (tokens, tokens)
        )
    )

    assert found.num_examples == 2


def test_identical_weights(make_subject, classes, model):
    nn.init.constant_(model[0].weight, 0.1)
    subject = make_subject(model, None, nn.CrossEntropyLoss(), classes)

    assert identical_weights(subject) == ["0.weight"]
