import math

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules
from torch.optim.swa_utils import SWALR

from trimtab.diagnosis._batches import Batches
from trimtab.diagnosis._job import Job
from trimtab.diagnosis._outcome import Outcome, Probe
from trimtab.diagnosis._state import State
from trimtab.diagnosis._trials import (
    MAX_STEPS,
    Trial,
    Trials,
    frozen_share,
    has_unusual_settings,
    reinitialise,
    scale_rates,
    standardiser,
    unfreeze,
    usual_settings,
)

SCHEDULES = {
    "none": lambda o: None,
    "StepLR": lambda o: schedules.StepLR(o, 3),
    "MultiStepLR": lambda o: schedules.MultiStepLR(o, [2, 5]),
    "ConstantLR": lambda o: schedules.ConstantLR(o, total_iters=3),
    "LinearLR": lambda o: schedules.LinearLR(o, total_iters=4),
    "ExponentialLR": lambda o: schedules.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: schedules.PolynomialLR(o, 6, 2.0),
    "CosineAnnealingLR": lambda o: schedules.CosineAnnealingLR(o, 6, eta_min=1e-3),
    "CosineAnnealingWarmRestarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 3, 1, 1e-3),
    "LambdaLR": lambda o: schedules.LambdaLR(o, lambda n: 1 / (n + 1)),
    "MultiplicativeLR": lambda o: schedules.MultiplicativeLR(o, lambda n: 0.9),
    "OneCycleLR": lambda o: schedules.OneCycleLR(o, [1.0, 0.5], total_steps=20, three_phase=True),
    "CyclicLR": lambda o: schedules.CyclicLR(o, 0.01, 0.2, 3),
    "ReduceLROnPlateau": lambda o: schedules.ReduceLROnPlateau(o, patience=0, min_lr=2e-3),
    "SequentialLR": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, total_iters=3), schedules.CosineAnnealingLR(o, 6, 1e-3)], [3]
    ),
    "ChainedScheduler": lambda o: schedules.ChainedScheduler(
        [schedules.ConstantLR(o, total_iters=3), schedules.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o: SWALR(o, swa_lr=0.05, anneal_epochs=4),
}


def rates_over_time(make, factor, *, tensor, moved, own=False):
    """Return the learning rates of both groups, and momenta, after scaling at some moment."""
    value = torch.tensor(0.1) if tensor else 0.1
    groups = [{"params": [nn.Parameter(torch.ones(2))]} for _ in range(2)]
    groups[1]["lr"] = value * 2
    optimizer = torch.optim.SGD(groups, lr=value, momentum=0.9)
    scheduler = make(optimizer)
    found = []
    for step in range(moved + 12):
        if step == moved:
            others = [scheduler, *getattr(scheduler, "_schedulers", ())] if own else []
            given = None if own else scheduler
            scale_rates(Job(None, optimizer, None, given, None, others), factor)
        if step >= moved:
            found.append([float(g["lr"]) for g in optimizer.param_groups])
            found.append([g["momentum"] / factor for g in optimizer.param_groups])
        optimizer.step()
        if isinstance(scheduler, schedules.ReduceLROnPlateau):
            scheduler.step(1.0)
        elif scheduler is not None:
            scheduler.step()
    return [v for row in found[::2] for v in row], found[1::2]


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("moved", [0, 2])
@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("factor", [0.1, 100.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_scales_the_whole_curve(name, factor, tensor, moved, own):
    how = {"tensor": tensor, "moved": moved, "own": own}
    plain, momenta = rates_over_time(SCHEDULES[name], 1.0, **how)
    scaled, others = rates_over_time(SCHEDULES[name], factor, **how)

    assert scaled == pytest.approx([factor * v for v in plain], rel=1e-5)
    assert len(plain) == 24
    for one, other in zip(momenta, others, strict=True):
        assert [v * factor for v in other] == pytest.approx(one)


# Settings.


def sgd(**settings):
    return torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1, **settings)


def adam(**settings):
    return torch.optim.Adam([nn.Parameter(torch.ones(2))], **settings)


@pytest.mark.parametrize(
    "optimizer",
    [
        sgd(momentum=0.999),
        sgd(maximize=True),
        adam(betas=(0.99, 0.999)),
        adam(betas=(0.9, 0.5)),
        adam(betas=(0.9, 0.999999)),
        adam(eps=0.1),
        adam(eps=0.0),
    ],
)
def test_unusual_settings_become_usual(optimizer):
    assert has_unusual_settings(optimizer)

    usual_settings(Job(None, optimizer, None))

    assert not has_unusual_settings(optimizer)
    group = optimizer.param_groups[0]
    if "betas" in group:
        assert (group["betas"], group["eps"], group["lr"]) == ((0.9, 0.999), 1e-8, 1e-3)
    else:
        assert (group["momentum"] <= 0.9, group["maximize"], group["lr"]) == (True, False, 0.1)


@pytest.mark.parametrize(
    "optimizer",
    [
        sgd(),
        sgd(momentum=0.9, nesterov=True, weight_decay=1e-4),
        sgd(momentum=0.97),
        adam(),
        adam(betas=(0.9, 0.95)),
        adam(betas=(0.5, 0.9)),  # of GANs
        adam(betas=(0.0, 0.99)),
        adam(eps=1e-6),
        torch.optim.RMSprop([nn.Parameter(torch.ones(2))]),
        torch.optim.Adagrad([nn.Parameter(torch.ones(2))]),
        torch.optim.LBFGS([nn.Parameter(torch.ones(2))]),
        torch.optim.Adafactor([nn.Parameter(torch.ones(2))]),
    ],
)
def test_common_settings_are_usual(optimizer):
    assert not has_unusual_settings(optimizer)


# Initialisation and inputs.


def test_draws_fresh_weights_of_a_sound_scale(make_model):
    model = make_model(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.BatchNorm1d(64)))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(100.0)
    model[2].running_mean.fill_(5.0)

    reinitialise(model)

    weight = model[0].weight.detach()
    assert float(weight.std()) == pytest.approx((2 / 64) ** 0.5, rel=0.1)
    assert float(model[0].bias.detach().abs().max()) < 0.2
    assert model[2].weight.tolist() == [1.0] * 64
    assert float(model[2].running_mean.abs().max()) == 0.0


def test_draws_fresh_weights_of_a_model_that_cannot_be_traced():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x) if float(x.sum()) > 0 else x

    model = Branching()
    nn.init.constant_(model.layer.weight, 7.0)

    reinitialise(model)

    assert float(model.layer.weight.detach().abs().max()) <= 1.0


@pytest.mark.parametrize("nested", ["tensor", "tuple", "dict"])
def test_standardises_each_feature_of_the_first_input(generator, nested):
    raw = torch.randn(4, 16, 3, generator=generator) * torch.tensor([1.0, 50.0, 1e-3]) + 7
    wrap = {
        "tensor": lambda x: x,
        "tuple": lambda x: (x, torch.ones(2)),
        "dict": lambda x: {"a": x, "b": torch.ones(2)},
    }[nested]
    pairs = [(wrap(x), None) for x in raw]

    change = standardiser(pairs)

    done = [change(x) for x, _ in pairs]
    first = [x if nested == "tensor" else (x[0] if nested == "tuple" else x["a"]) for x in done]
    together = torch.cat(first)
    torch.testing.assert_close(together.mean(0), torch.zeros(3), atol=1e-2, rtol=0)
    torch.testing.assert_close(together[:, :2].std(0), torch.ones(2), atol=1e-2, rtol=0)
    if nested != "tensor":
        assert torch.equal(done[0][1 if nested == "tuple" else "b"], torch.ones(2))


def test_standardises_a_feature_that_never_changes_and_pictures_of_many_sizes(generator):
    flat = torch.randn(2, 16, 3, generator=generator)
    flat[:, :, 1] = 4.0
    pictures = [100 * torch.rand(2, 1, n, n, generator=generator) for n in (8, 12)]

    change = standardiser([(x, None) for x in flat])
    of_pictures = standardiser([(x, None) for x in pictures])

    assert torch.cat([change(x) for x in flat]).isfinite().all()
    together = torch.cat([of_pictures(x).flatten() for x in pictures])
    assert float(together.mean()) == pytest.approx(0, abs=1e-3)
    assert float(together.std()) == pytest.approx(1, rel=1e-3)


def test_leaves_whole_numbers_alone():
    tokens = torch.arange(6).reshape(2, 3)

    assert standardiser([(tokens, None)])(tokens) is tokens
    assert standardiser([("text", None)])("text") == "text"


# Frozen parameters.


def test_unfreezes_with_the_settings_of_the_first_group(make_model):
    model = make_model(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.3, momentum=0.5)
    assert frozen_share(model) == 0.5

    unfreeze(Job(model, optimizer, None))
    unfreeze(Job(model, optimizer, None))  # nothing left to do

    assert frozen_share(model) == 0.0
    assert [len(g["params"]) for g in optimizer.param_groups] == [2, 2]
    assert {(g["lr"], g["momentum"]) for g in optimizer.param_groups} == {(0.3, 0.5)}
    assert frozen_share(nn.ReLU()) == 0.0


# Trials.


@pytest.fixture
def trials(env):
    """Trials of a run whose learning rate is far too low."""

    def make(body=None, steps=30, **changes):
        vars(env).update(changes)
        job = Job(env.model, env.optimizer, env.loss_fn, env.scheduler, body)
        source = Batches(env.pairs)
        list(source.take(steps))
        base = Outcome(Probe(1.1, 1.1, True), Probe(1.1, 1.1, True), 1.1, [1.1] * steps)
        state = State(job.model, job.optimizer, job.scheduler)
        return Trials(job, state, source, steps=steps, seed=0, base=base, update_ratio=math.nan)

    return make


def test_a_trial_trains_from_the_beginning_and_leaves_no_trace(env, trials):
    made = trials()
    before = {k: v.clone() for k, v in env.model.state_dict().items()}

    one, other, again = (made.learning_rate(f) for f in (1.0, 10.0, 1.0))

    assert all(torch.equal(v, before[k]) for k, v in env.model.state_dict().items())
    assert env.optimizer.param_groups[0]["lr"] == 0.1
    assert not env.optimizer.state
    assert [t.name for t in made.done] == [f"learning rate × {f}" for f in (1, 10, 1)]
    assert one.outcome.losses == again.outcome.losses
    assert one.outcome.losses != other.outcome.losses
    assert len(one.outcome.losses) == 30
    assert one.learned > 0.02


def test_a_schedule_is_as_before(env, trials):
    scheduler = schedules.OneCycleLR(env.optimizer, 0.5, total_steps=100)
    made = trials(scheduler=scheduler)
    before = str(scheduler.state_dict())

    made.learning_rate(0.01)

    assert str(scheduler.state_dict()) == before


def test_each_trial_changes_one_thing(env, trials):
    seen = []

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        group = optimizer.param_groups[0]
        weight = float(model[0].weight.detach().square().mean())
        seen.append((group["lr"], group["weight_decay"], group["momentum"], float(x.std()), weight))
        return loss

    optimizer = torch.optim.SGD(env.model.parameters(), lr=1e-9, momentum=0.999, weight_decay=0.5)
    pairs = [(100 * x, y) for x, y in env.pairs]
    made = trials(body, optimizer=optimizer, pairs=pairs, steps=2)
    initial = float(env.model[0].weight.detach().square().mean())

    made.decay()
    made.optimizer()
    made.inputs()
    made.initialisation()
    made.learning_rate(10.0)

    firsts = seen[::2]
    assert [row[0] for row in firsts] == pytest.approx([1e-9] * 4 + [1e-8])
    assert [row[1] for row in firsts] == [0.0, 0.5, 0.5, 0.5, 0.5]
    assert [row[2] for row in firsts] == [0.999, 0.9, 0.999, 0.999, 0.999]
    assert [row[3] > 50 for row in firsts] == [True, True, False, True, True]
    assert [row[4] == pytest.approx(initial, rel=1e-3) for row in firsts] == [True] * 3 + [
        False,
        True,
    ]


def test_one_batch_is_learned_by_heart(trials):
    trial = trials(steps=100).one_batch()

    assert trial.kind == "batch"
    assert len(set(trial.outcome.losses)) > 90
    assert trial.learned > 0.5


def test_a_trial_takes_no_more_than_a_hundred_steps(trials):
    assert len(trials(steps=150).learning_rate(1.0).outcome.losses) == MAX_STEPS == 100


def test_a_trial_that_breaks_or_raises_has_learned_less_than_anything(env, trials):
    def raises(model, optimizer, loss_fn, x, y):
        raise ValueError

    assert trials().learning_rate(1e40).learned == -math.inf
    assert trials(raises).learning_rate(1.0).learned == -math.inf


def test_a_trial_that_could_not_be_probed_has_learned_less_than_anything():
    trial = Trial(name="it", kind="lr", factor=1.0, outcome=Outcome(None, None, None, [1.0]))

    assert trial.learned == -math.inf
