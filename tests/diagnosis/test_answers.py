import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.diagnosis import diagnose
from trimtab.diagnosis._answers import answers
from trimtab.diagnosis._job import Job


def job_of(model, body=None):
    job = Job(model, torch.optim.SGD(model.parameters(), lr=0.1), functional.mse_loss)
    job.train_step, job.reshapes = body, body is not None
    return job


def squeezing(model, optimizer, loss_fn, x, y):
    optimizer.zero_grad()
    loss = loss_fn(model(x).squeeze(1), y.float())
    loss.backward()
    optimizer.step()
    return loss


@pytest.fixture
def columns(generator):
    x = torch.randn(16, 8, generator=generator)
    return [(x, (x[:, 0] > 0).long())]


def test_plain_answers_are_the_models(make_model, columns):
    model = make_model(nn.Linear(8, 1))

    ((output, target),) = answers(job_of(model), columns)

    assert torch.equal(output, model(columns[0][0]))
    assert target is columns[0][1]


def test_a_loop_body_says_how_it_compares(make_model, columns):
    model = make_model(nn.Linear(8, 1))
    before = [p.clone() for p in model.parameters()]

    ((output, target),) = answers(job_of(model, squeezing), columns)

    assert output.shape == target.shape == (16,)
    assert torch.equal(output, model(columns[0][0]).squeeze(1))
    assert target.dtype == torch.float32
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("wrong", ["target", "output", "nothing"])
def test_another_question_is_refused(make_model, columns, wrong):
    def body(model, optimizer, loss_fn, x, y):
        if wrong == "target":
            return loss_fn(model(x).squeeze(1), torch.full((16,), 7.0))
        if wrong == "output":
            return loss_fn(model(x)[:3], y)
        return model(x).mean()

    with pytest.raises(ValueError, match="not one of the model's output"):
        answers(job_of(make_model(nn.Linear(8, 1)), body), columns)


@pytest.mark.slow
def test_a_reshaping_loop_has_an_outcome(make_model, generator):
    """With the shapes of `model(x)` and `y` the loss would broadcast, and nothing be learned."""
    pairs = [(x, (x[:, 0] > 0).long()) for x in torch.randn(20, 16, 8, generator=generator)]
    model = make_model(nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    found = diagnose(model, optimizer, functional.mse_loss, pairs, train_step=squeezing, steps=80)

    assert found.outcome.learned > 0.4
    assert found.healthy
