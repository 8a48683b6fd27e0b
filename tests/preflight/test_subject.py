"""What rules may ask a subject for."""

import pytest
import torch
from torch import nn

from trimtab.optim import warmup_cosine
from trimtab.preflight._subject import UnavailableError


@pytest.fixture
def subject(make_subject, classes):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    model[0].bias.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return make_subject(model, optimizer, nn.CrossEntropyLoss(), classes)


def test_lists_parameters(subject):
    assert list(subject.parameters) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert list(subject.trainable) == ["0.weight", "3.weight", "3.bias"]
    assert subject.num_parameters == 8 * 16 + 16 + 16 * 3 + 3
    assert len(subject.held) == 4
    assert [index for index, _, _ in subject.groups] == [0]
    assert subject.world_size == 1


def test_measures_once(subject):
    calls = []

    def measure(of):
        calls.append(of)
        return 7

    assert subject.once(measure) == subject.once(measure) == 7
    assert calls == [subject]
    assert subject.first is subject.first


def test_randomness_is_fixed(subject):
    assert torch.equal(subject.compute_loss(), subject.compute_loss())
    assert torch.equal(
        subject.compute_output(subject.batch.inputs), subject.compute_output(subject.batch.inputs)
    )


def test_gradients_are_those_of_the_loss(subject):
    loss, grads = subject.compute_gradients()

    subject.compute_loss().backward()
    expected = [p.grad for p in subject.trainable.values()]
    assert loss.requires_grad is False
    for grad, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, other)


def test_evaluating_puts_each_mode_back(subject):
    subject.model[2].eval()

    with subject.evaluating():
        assert not any(m.training for m in subject.model.modules())

    assert [m.training for m in subject.model] == [True, True, False, True]


def test_what_a_failed_pass_cannot_tell(make_subject, classes):
    model = nn.Linear(9, 3)
    failed = make_subject(model, None, nn.CrossEntropyLoss(), classes)

    assert isinstance(failed.first.error, RuntimeError)
    with pytest.raises(UnavailableError):
        _ = failed.passed
    with pytest.raises(UnavailableError):
        failed.rates(3)


def test_what_a_batch_that_is_not_finite_cannot_tell(make_subject, classes):
    x, y = classes
    model = nn.Linear(8, 3)
    subject = make_subject(model, None, nn.CrossEntropyLoss(), (x * torch.nan, y))

    assert not subject.finite_batch
    assert subject.passed.error is None
    with pytest.raises(UnavailableError):
        _ = subject.measured


def test_a_schedule_that_cannot_be_stepped_is_noted(make_subject, classes):
    model = nn.Linear(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = warmup_cosine(optimizer, warmup_tokens=10, total_tokens=100)
    subject = make_subject(model, optimizer, nn.CrossEntropyLoss(), classes, scheduler=scheduler)

    with pytest.raises(UnavailableError):
        subject.rates(3)

    assert "counts tokens" in subject.notes[0]


def test_first_pass_runs_in_the_users_precision(make_subject, classes):
    model = nn.Linear(8, 3)
    subject = make_subject(model, None, nn.CrossEntropyLoss(), classes, precision="bf16")

    assert subject.passed.output.dtype == torch.bfloat16
    assert subject.compute_output(subject.batch.inputs).dtype == torch.float32


def test_deadline():
    from trimtab.preflight._batch import Batch
    from trimtab.preflight._subject import Settings, Subject

    x = torch.ones(2, 2)
    late = Subject(nn.Linear(2, 2), [], None, Batch(x, x), settings=Settings(overfit_s=0.0))
    early = Subject(nn.Linear(2, 2), [], None, Batch(x, x), settings=Settings(overfit_s=60.0))

    assert late.deadline()()
    assert not early.deadline()()
