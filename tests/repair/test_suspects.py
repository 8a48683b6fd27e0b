import math

import pytest
import torch
from torch import nn

from trimtab.diagnosis import Outcome
from trimtab.repair._apply import apply
from trimtab.repair._first import First
from trimtab.repair._suspects import (
    best_rate,
    has_rewards,
    is_hot,
    odd_data,
    odd_settings,
    other_rates,
    recipe,
)


def first_of(setup, **fields):
    return First(setup, outcome=Outcome(None, None, None, (1.0,)), **fields)


def actions(plans):
    return [order.action for (order,) in plans]


def test_usual_settings_are_not_suspected(make_setup, task):
    first = first_of(make_setup(), sample=task.pairs, rates=[(0.01, 1.0)] * 50)
    assert actions(odd_settings(first)) == ["usual_loss"]  # which changes nothing here
    assert apply(first.setup, next(odd_settings(first)), task.pairs) == []
    assert list(odd_data(first)) == []


def test_odd_settings(make_setup):
    def model():
        return nn.Sequential(nn.Linear(4, 1), nn.Dropout(0.95))

    setup = make_setup(
        model=model,
        optimizer=lambda p: torch.optim.AdamW(p, betas=(0.999, 0.5), weight_decay=1.0),
        loss_fn=nn.MSELoss(reduction="sum"),
        train_step=print,
    )
    setup.model[0].weight.requires_grad_(False)
    first = first_of(setup, rates=[(0.01 * 1.1**i, 1.0) for i in range(60)])
    found = actions(odd_settings(first))
    assert found == [
        "plain_loop",
        "unfreeze",
        "usual_settings",
        "set_dropout",
        "set_weight_decay",
        "cap_learning_rate",
        "mean_loss",
    ]
    first.adversary = True
    assert actions(odd_settings(first))[0] == "unfreeze"


def test_a_loss_that_falls_below_zero_may_have_the_wrong_sign(make_setup):
    falling = Outcome(None, None, None, tuple(-float(i) for i in range(20)))
    assert actions(odd_settings(First(make_setup(), outcome=falling))) == [
        "turn_loss",
        "usual_loss",
    ]
    positive = Outcome(None, None, None, tuple(20.0 - i for i in range(20)))
    assert actions(odd_settings(First(make_setup(), outcome=positive))) == ["usual_loss"]


def test_odd_data(make_setup, task):
    pairs = [(100 * x[:2], 1000 * y[:2]) for x, y in task.pairs]
    plans = list(odd_data(first_of(make_setup(), sample=pairs)))
    assert actions(plans) == ["join_batches", "scale_targets", "normalise_inputs"]
    assert plans[0][0].args == {"times": 16}
    tokens = [(torch.full((8, 5), 77), torch.full((8, 5), 77))]
    assert list(odd_data(first_of(make_setup(), sample=tokens))) == []


def test_best_rate_is_the_one_before_the_lowest_loss(make_setup):
    rates = [(float(i), abs(20.0 - i)) for i in range(40)]
    assert best_rate(first_of(make_setup(), rates=rates)) == 18
    assert best_rate(first_of(make_setup(), rates=rates[:9])) is None
    broken = [*rates, *[(99.0, math.nan)] * 9]
    assert best_rate(first_of(make_setup(), rates=broken)) == 18


@pytest.mark.parametrize("losses", [(1.0, math.nan), (1.0,)])
def test_a_run_is_hot_if_it_broke_or_made_large_steps(losses):
    outcome = Outcome(None, None, None, losses)
    assert is_hot(outcome, set()) == (len(losses) > 1)
    assert is_hot(outcome, {"TT401"})


def test_rates_around_one_that_helped():
    assert [plan[0].args["lr"] for plan in other_rates(3e-3)] == [0.01, 0.001]


def test_huge_rewards_are_scaled_where_targets_have_other_fields(make_setup):
    rewards = [(torch.randn(8, 4), torch.tensor([[1.0, 3000.0, 2.0]] * 8))]
    first = first_of(make_setup(), sample=rewards)
    assert has_rewards(first)
    assert actions(odd_data(first))[0] == "scale_rewards"
    assert not has_rewards(first_of(make_setup(), sample=[(rewards[0][0], torch.ones(8, 3))]))


def test_the_recipe_trains_a_deep_net_of_sigmoids(make_setup, task, train):
    def model():
        layers = [nn.Linear(4, 16), nn.Sigmoid()]
        for _ in range(8):
            layers += [nn.Linear(16, 16), nn.Sigmoid()]
        return nn.Sequential(*layers, nn.Linear(16, 1))

    def build():
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(0)
            return make_setup(model=model, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))

    def loss(setup):
        with torch.no_grad():
            return setup.loss_fn(setup.model(task.x[0]), task.y[0]).item()

    setup = build()
    edits = apply(setup, recipe(), task.pairs)

    assert [e.what for e in edits] == [
        "inputs",
        "activation of 9 layers",
        "normalisation layers",
        "initial weights",
        "optimizer",
        "warm-up",
        "norm of the gradients",
    ]
    assert loss(train(build(), 100)) > 10 * loss(train(setup, 100))


def test_odd_layers(make_setup, task):
    class Dropping(nn.Linear):
        def forward(self, x):
            return super().forward(nn.functional.dropout(x, 0.9, training=self.training))

    def soft():
        return nn.Sequential(nn.Linear(4, 8), nn.Softmax(dim=1), nn.Linear(8, 1))

    def bare():
        return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))

    models = {soft: "replace_softmax", bare: "insert_activations"}
    models[lambda: Dropping(4, 1)] = "set_dropout"
    for model, action in models.items():
        first = first_of(make_setup(model=model), sample=task.pairs)
        assert actions(odd_settings(first)) == [action, "usual_loss"]
