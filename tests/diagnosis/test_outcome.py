import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from trimtab.diagnosis._job import Job
from trimtab.diagnosis._outcome import (
    NUM_PROBED,
    Outcome,
    Probe,
    constant_loss,
    probe,
    shuffled,
)


def job_of(model, loss_fn):
    return Job(model, None, loss_fn)


def entropy(counts):
    shares = counts[counts > 0].double() / counts.sum()
    return float(-(shares * shares.log()).sum())


@pytest.fixture
def xs(generator):
    return torch.randn(6, 16, 8, generator=generator)


# The best constant answer.


def test_constant_of_cross_entropy_is_the_entropy_of_labels(make_model, xs, generator):
    pairs = [(x, torch.randint(3, (16,), generator=generator).clamp(max=1) * 2) for x in xs]

    found = constant_loss(job_of(make_model(), nn.CrossEntropyLoss()), pairs)

    labels = torch.cat([y for _, y in pairs])
    assert found == pytest.approx(entropy(labels.bincount()), rel=1e-3)


def test_constant_of_squares_is_the_variance(make_model, xs):
    pairs = [(x, x[:, :3] * torch.tensor([1.0, 2.0, 5.0]) + 7) for x in xs]

    found = constant_loss(job_of(make_model(), nn.MSELoss()), pairs)

    y = torch.cat([y for _, y in pairs]).double()
    assert found == pytest.approx(float(y.var(0, correction=0).mean()), rel=1e-3)


def test_constant_of_squares_without_a_feature_axis(make_model, xs):
    model = nn.Sequential(make_model(nn.Linear(8, 1)), nn.Flatten(0))
    pairs = [(x, x[:, 0]) for x in xs]

    found = constant_loss(job_of(model, nn.MSELoss()), pairs)

    y = torch.cat([y for _, y in pairs]).double()
    assert found == pytest.approx(float(y.var(correction=0)), rel=1e-3)


def test_constant_of_binary_cross_entropy(make_model, xs):
    pairs = [(x, (x[:, :3] > torch.tensor([0.0, 0.5, 1.0])).float()) for x in xs]

    found = constant_loss(job_of(make_model(), nn.BCEWithLogitsLoss()), pairs)

    y = torch.cat([y for _, y in pairs])
    each = [entropy(torch.stack([y[:, i].sum(), 96 - y[:, i].sum()])) for i in range(3)]
    assert found == pytest.approx(sum(each) / 3, rel=1e-3)


def test_constant_of_a_sequence_is_one_answer_for_all_places(make_model, generator):
    model = nn.Sequential(nn.Embedding(5, 4), make_model(nn.Linear(4, 5)))
    tokens = torch.randint(3, (4, 6, 9), generator=generator)
    pairs = [(t, t) for t in tokens]

    def loss_fn(output, y):
        return nn.functional.cross_entropy(output.transpose(1, 2), y)

    found = constant_loss(job_of(model, loss_fn), pairs)

    assert found == pytest.approx(entropy(tokens.flatten().bincount()), rel=1e-3)


def test_constant_of_pictures_is_one_answer_for_each_channel(make_model, generator):
    model = make_model(nn.Conv2d(1, 3, 1))
    x = torch.randn(4, 5, 1, 6, 6, generator=generator)
    y = torch.randint(2, (4, 5, 6, 6), generator=generator)

    found = constant_loss(job_of(model, nn.CrossEntropyLoss()), list(zip(x, y, strict=True)))

    assert found == pytest.approx(entropy(y.flatten().bincount()), rel=1e-3)


def test_constant_leaves_no_gradients(make_model, xs):
    model = make_model()

    constant_loss(job_of(model, nn.MSELoss()), [(x, x[:, :3]) for x in xs])

    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    "loss_fn",
    [
        lambda output, y: output.mean(),  # has no minimum
        lambda output, y: torch.tensor(output.sum().item()),  # has no gradient
        lambda output, y: {"loss": output.mean()},
        lambda output, y: output @ y,  # shapes do not fit
    ],
)
def test_no_constant_where_there_is_none(make_model, xs, loss_fn):
    pairs = [(x, x[:, :3].sigmoid()) for x in xs]

    assert constant_loss(job_of(make_model(), loss_fn), pairs) is None


@pytest.mark.parametrize("kind", ["tuple", "whole numbers"])
def test_no_constant_for_other_answers(make_model, xs, kind):
    class Other(nn.Module):
        def forward(self, x):
            return (x, x) if kind == "tuple" else x.long()

    pairs = [(x, x) for x in xs]

    assert constant_loss(job_of(Other(), lambda output, y: y.square().mean()), pairs) is None


# Probes.


def test_probe_matches_means_over_the_first_batches(make_model, xs):
    model = make_model().eval()
    pairs = [(x, x[:, :3]) for x in xs.repeat(2, 1, 1)]

    found = probe(job_of(model, nn.MSELoss()), pairs, seed=0)

    with torch.no_grad():
        each = [float((model(x) - y).square().mean()) for x, y in pairs[:NUM_PROBED]]
        spread = [
            float((model(x)[:, None] - y).square().mean(2)[~torch.eye(16, dtype=torch.bool)].mean())
            for x, y in pairs[:NUM_PROBED]
        ]
    assert found.loss == pytest.approx(sum(each) / len(each))
    assert found.shuffled == pytest.approx(sum(spread) / len(spread), rel=0.1)
    assert found.finite
    assert found.gap == found.shuffled - found.loss
    assert found == probe(job_of(model, nn.MSELoss()), pairs, seed=0)


def test_probe_takes_losses_of_each_example(make_model, xs):
    pairs = [(x, x[:, :3]) for x in xs]
    model = make_model().eval()

    one, other = (
        probe(job_of(model, nn.MSELoss(reduction=r)), pairs, seed=0) for r in ("mean", "none")
    )

    assert one.loss == pytest.approx(other.loss)


def test_probe_of_single_examples_knows_no_other(make_model, xs):
    found = probe(job_of(make_model(), nn.MSELoss()), [(xs[0, :1], xs[0, :1, :3])], seed=0)

    assert math.isnan(found.shuffled)
    assert found.finite


def test_probe_sees_what_is_not_finite(make_model, xs):
    found = probe(job_of(make_model(), nn.MSELoss()), [(xs[0] * math.inf, xs[0, :, :3])], seed=0)

    assert not found.finite


def test_no_probe_of_what_cannot_be_called(xs):
    assert probe(job_of(nn.Linear(9, 3), nn.MSELoss()), [(xs[0], xs[0])], seed=0) is None
    assert probe(job_of(nn.Linear(8, 3), nn.MSELoss()), [], seed=0) is None


def test_shuffles_examples_alone(generator):
    y = torch.arange(20).reshape(10, 2)

    moved = shuffled(y, generator)

    assert not torch.equal(moved, y)
    assert torch.equal(moved.sort(0).values, y)
    assert torch.equal(moved[:, 0] + 1, moved[:, 1])
    for other in (torch.tensor(1.0), y[:1], (y, y), None):
        assert shuffled(other, generator) is None


# Outcomes.


def healthy(**changes):
    """A run that learned half: from 1.2 to 0.5, where 1.0 needs no input."""
    run = Outcome(Probe(1.2, 1.2, True), Probe(0.5, 1.1, True), 1.0, [1.2, 0.9, 0.5])
    return replace(run, **changes)


def test_a_run_that_learned():
    run = healthy()

    assert run.reference == 1.0
    assert run.learned == 0.5
    assert run.knows == pytest.approx(0.6)
    assert run.fell == pytest.approx(0.7 / 1.2)
    assert (run.broken, run.learned_nothing, run.worse) == (False, False, False)


def test_without_a_constant_the_start_is_the_reference():
    assert healthy(constant=None).learned == pytest.approx(0.7 / 1.2)


def test_a_run_that_only_found_the_constant_learned_nothing():
    run = healthy(end=Probe(1.0, 1.0, True))

    assert (run.learned, run.learned_nothing, run.worse) == (0.0, True, False)


def test_a_run_that_is_no_better_but_knows_its_examples_learned_something():
    assert not healthy(end=Probe(1.0, 1.2, True)).learned_nothing


def test_a_run_that_ends_above_its_start_is_worse():
    assert healthy(end=Probe(1.9, 1.9, True)).worse
    assert not healthy(end=Probe(1.3, 1.3, True)).worse


@pytest.mark.parametrize(
    "changes",
    [{"losses": [1.0, math.nan]}, {"losses": [math.inf]}, {"end": Probe(math.nan, 1, False)}],
)
def test_a_run_with_nan_is_broken(changes):
    assert healthy(**changes).broken


def test_a_broken_end_learned_less_than_anything():
    run = healthy(end=Probe(math.nan, math.nan, False))

    assert run.learned == -math.inf
    assert math.isnan(run.knows)
    assert not run.worse


def test_a_run_that_could_not_be_probed_says_nothing():
    run = Outcome(None, None, None, [1.0, 0.9])

    assert all(math.isnan(v) for v in (run.learned, run.knows, run.fell, run.reference))
    assert (run.broken, run.learned_nothing, run.worse) == (False, False, False)


def test_losses_around_zero_do_not_divide_by_zero():
    run = Outcome(Probe(0.0, 0.0, True), Probe(0.0, 0.0, True), 0.0, [0.0])

    assert (run.learned, run.knows, run.fell, run.worse) == (0.0, 0.0, 0.0, False)
