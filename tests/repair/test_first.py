import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trimtab.repair._first import FirstRun
from trimtab.repair._goal import Goal


def first(build, *, steps=40, look=20, goal=None):
    return FirstRun(build, steps=steps, look=look, seed=0, goal=goal or Goal()).run()


def error(model):
    return float(model[0].weight.detach().norm())


def test_a_healthy_run_is_that_of_a_plain_loop(make_build, train, task):
    data = TensorDataset(task.x.flatten(0, 1), task.y.flatten(0, 1))

    def net():
        layers = [nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2)]
        return nn.Sequential(*layers, nn.Linear(16, 1))

    def build(seed):
        return make_build(net, batches=DataLoader(data, 16, shuffle=True))(seed)

    found = first(build)

    assert found.good
    assert found.complete
    assert found.findings == []
    plain = train(build(0), 40)
    own, other = found.setup.model.state_dict(), plain.model.state_dict()
    assert all(torch.equal(own[k], other[k]) for k in other)


def test_a_run_that_is_lost_for_a_known_reason_is_stopped(make_build):
    def step(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        optimizer.step()
        return loss

    found = first(make_build(train_step=step))

    assert found.steps == 10  # half of the first look is enough for what is certain
    assert not found.complete
    assert not found.good
    assert [f.code for f in found.findings] == ["TT423"]
    assert len(found.sample) == 11


def test_a_run_that_reaches_its_target_goes_on_whatever_is_found(make_build):
    def step(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        optimizer.step()
        return loss

    goal = Goal(lambda model: 1.0, 0.5)
    found = first(make_build(train_step=step), goal=goal)
    assert found.complete
    assert found.good
    assert found.metric == 1.0


def test_a_run_that_just_learns_little_is_given_its_time(make_build):
    found = first(make_build(optimizer=lambda p: torch.optim.SGD(p, lr=1e-3)))
    assert found.complete
    assert not found.good


def test_the_metric_on_the_way_is_that_of_the_state_on_the_way(make_build, train):
    seen = []

    def metric(model):
        seen.append(error(model))
        return 0.0

    build = make_build()
    first(build, goal=Goal(metric, 1.0))
    assert seen == [error(train(build(0), n).model) for n in (10, 20, 40)]


def test_rates_are_kept_beside_losses(make_build):
    def rising(setup):
        setup.scheduler = torch.optim.lr_scheduler.LambdaLR(setup.optimizer, lambda s: s + 1.0)

    found = first(make_build(after=rising), goal=Goal(lambda model: 1.0, 0.5))
    assert [round(rate, 4) for rate, _ in found.rates[:3]] == [0.01, 0.02, 0.03]


def test_a_loop_body_with_several_losses_is_told_from_one(make_build):
    def game(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        (0.1 * model(x).square().mean()).backward()
        optimizer.step()
        return loss

    goal = Goal(lambda model: 1.0, 0.5)
    assert first(make_build(train_step=game), goal=goal).adversary
    assert not first(make_build(), goal=goal).adversary


def test_a_loss_that_counts_its_calls_is_asked_afresh_each_time(make_build):
    made = []

    def counting():
        calls = iter(range(10**6))

        def loss(output, y):
            made[-1].append(next(calls))
            return (output - y).square().mean()

        return loss

    def build(seed):
        made.append([])
        return make_build(loss_fn=counting())(seed)

    first(build)
    spares = [calls for calls in made[1:] if calls]
    assert len(spares) == 3  # at 10, 20 and 40 steps
    assert all(calls[0] == 0 for calls in spares)
