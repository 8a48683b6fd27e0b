import torch

from trimtab.repair._apply import apply
from trimtab.repair._remedy import Order
from trimtab.repair._run import Run
from trimtab.repair._tried import Tried


def sgd(lr):
    return lambda params: torch.optim.SGD(params, lr=lr)


def tried_of(build, *actions, steps=5):
    plan = [Order(action=action, args=args) for action, args in actions]
    setup = build(0)
    tried = Tried(tuple(plan), Run(setup, 0), apply(setup, plan))
    tried.run.go(steps)
    return tried


def test_runs_that_go_alike_are_told_from_those_that_may_part_later(make_build):
    build = make_build()
    maximises = make_build(optimizer=lambda p: torch.optim.Adam(p, maximize=True))
    half = tried_of(build, ("scale_learning_rate", {"factor": 0.5}))
    assert tried_of(build, ("set_learning_rate", {"lr": 0.005})).is_like(half)
    assert not tried_of(build, ("scale_learning_rate", {"factor": 0.4})).is_like(half)
    turned = tried_of(maximises, ("plain_loop", {}), steps=8)
    assert tried_of(maximises, ("usual_settings", {})).is_like(turned)
    as_it_is = tried_of(build)
    assert not tried_of(build, ("cap_learning_rate", {"lr": 1.0})).is_like(as_it_is)
    assert not tried_of(build, steps=0).is_like(as_it_is)


def test_of_trials_with_equal_metrics_the_lower_loss_counts(make_build):
    same = ("scale_learning_rate", {"factor": 1.01})
    slow, fast = (tried_of(make_build(optimizer=sgd(lr)), same, steps=20) for lr in (1e-4, 0.1))
    slow.value = fast.value = 0.25
    assert fast.rank() > slow.rank()
    slow.value = 0.26
    assert slow.rank() > fast.rank()


def test_of_equal_metrics_what_mends_something_odd_counts_more(make_build):
    odd = tried_of(make_build(optimizer=sgd(1e-4)), ("set_dropout", {}))
    sundry = tried_of(make_build(optimizer=sgd(0.01)), ("scale_learning_rate", {"factor": 10}))
    odd.value = sundry.value = 0.25
    assert odd.rank() > sundry.rank()
    other = tried_of(make_build(optimizer=sgd(0.1)), ("reinitialise", {}))
    other.value = 0.25
    assert other.rank() == odd.rank()  # so that the first counts


def test_changes_are_told_in_words(make_build):
    tried = tried_of(make_build(), ("scale_learning_rate", {"factor": 0.5}), ("unfreeze", {}))
    assert tried.changes == "learning rate: 0.01 -> 0.005"


def test_what_was_learned_and_lost_again_is_seen(make_setup):
    tried = Tried((), Run(make_setup(), 0), [])
    tried.value = tried.highest = 0.6
    assert not tried.fell_back
    tried.value = 0.58
    assert not tried.fell_back
    tried.value = 0.5
    assert tried.fell_back
