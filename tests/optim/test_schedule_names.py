"""Schedules by name, step by step against those of Transformers."""

import sys
import warnings

import pytest

from trimtab.errors import ConfigError
from trimtab.optim._schedule_names import schedule
from trimtab.optim._schedules import (
    inverse_sqrt,
    polynomial,
    warmup_constant,
    warmup_cosine,
    warmup_linear,
    wsd,
)

PEAK = 3e-4
LENGTHS = [(0, 20), (5, 20), (19, 20), (1, 1), (0, 1), (7, 50)]
WITH_END = [warmup_cosine, warmup_linear, polynomial, wsd]
ALL = [*WITH_END, warmup_constant, inverse_sqrt]


@pytest.fixture(scope="module")
def hf():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies, on import
        return pytest.importorskip("transformers.optimization")


@pytest.mark.parametrize(("warmup", "total"), LENGTHS)
def test_equals_transformers(hf, warmup, total, make_optimizer, rates):
    lengths = {"num_warmup_steps": warmup, "num_training_steps": total}
    pairs = [
        (hf.get_linear_schedule_with_warmup, "linear", lengths),
        (hf.get_cosine_schedule_with_warmup, "cosine", lengths),
        (
            hf.get_constant_schedule_with_warmup,
            "constant_with_warmup",
            {"num_warmup_steps": warmup},
        ),
        (hf.get_constant_schedule, "constant", {}),
    ]
    for theirs, name, options in pairs:
        expected = rates(theirs(make_optimizer(), **options), total)
        assert rates(schedule(name, make_optimizer(), **options), total) == expected  # bit for bit


@pytest.mark.parametrize(("warmup", "total"), [(w, t) for w, t in LENGTHS if w < t])
def test_equals_the_other_transformers_schedules(hf, warmup, total, make_optimizer, rates):
    lengths = {"num_warmup_steps": warmup, "num_training_steps": total}
    pairs = [
        (
            hf.get_cosine_with_min_lr_schedule_with_warmup,
            "cosine_with_min_lr",
            lengths | {"min_lr": PEAK / 10},
        ),
        (
            hf.get_polynomial_decay_schedule_with_warmup,
            "polynomial",
            lengths | {"power": 2.0, "lr_end": 1e-7},
        ),
        (hf.get_inverse_sqrt_schedule, "inverse_sqrt", {"num_warmup_steps": warmup}),
        (
            hf.get_inverse_sqrt_schedule,
            "inverse_sqrt",
            {"num_warmup_steps": warmup, "timescale": 3},
        ),
    ]
    for theirs, name, options in pairs:
        expected = rates(theirs(make_optimizer(), **options), total)
        got = rates(schedule(name, make_optimizer(), **options), total)
        assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("decay_type", ["linear", "cosine", "1-sqrt"])
@pytest.mark.parametrize("min_lr_ratio", [0.0, 0.1])
def test_equals_transformers_wsd(hf, decay_type, min_lr_ratio, make_optimizer, rates):
    options = {
        "num_warmup_steps": 4,
        "num_decay_steps": 6,
        "num_training_steps": 20,
        "decay_type": decay_type,
        "min_lr_ratio": min_lr_ratio,
    }
    expected = rates(hf.get_wsd_schedule(make_optimizer(), **options), 30)

    got = rates(schedule("warmup_stable_decay", make_optimizer(), **options), 30)
    default = options | {"num_training_steps": 21}
    del default["decay_type"]

    assert got == pytest.approx(expected, rel=1e-12)
    assert rates(schedule("warmup_stable_decay", make_optimizer(), **default), 30) == pytest.approx(
        rates(hf.get_wsd_schedule(make_optimizer(), **default), 30), rel=1e-12
    )


def test_takes_the_enum_of_transformers(hf, make_optimizer):
    kind = sys.modules["transformers"].SchedulerType.COSINE

    assert schedule(kind, make_optimizer(), warmup_steps=0, total_steps=2).curve.fall == "cosine"


@pytest.mark.parametrize("builder", ALL)
def test_by_our_own_name(builder, make_optimizer, build):
    lengths = {"warmup_steps": 5} | ({"total_steps": 20} if builder in WITH_END else {})

    by_name = schedule(builder.__name__, make_optimizer(), **lengths)

    assert by_name.curve == build(builder, make_optimizer()).curve
    assert by_name.curve.name == builder.__name__


def test_a_floor_given_as_a_learning_rate(make_optimizer):
    lengths = {"num_warmup_steps": 2, "num_training_steps": 10}

    by_name = schedule("cosine_with_min_lr", make_optimizer(1e-3), **lengths, min_lr=1e-4)

    assert by_name.curve.min_ratio == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "cosin",
            {},
            "There is no schedule 'cosin'. Known are constant, constant_with_warmup, cosine, "
            "cosine_with_min_lr, inverse_sqrt, linear, polynomial, warmup_constant, warmup_cosine, "
            "warmup_linear, warmup_stable_decay, wsd. Did you mean 'cosine'?",
        ),
        (
            "linear",
            {"warmup_step": 3, "total_steps": 5},
            "The schedule 'linear' has no setting 'warmup_step'. It takes warmup_steps, "
            "total_steps, min_ratio, start_ratio, warmup_tokens, total_tokens, last_epoch. Did you "
            "mean 'warmup_steps'?",
        ),
        (
            "linear",
            {"warmup_steps": 3, "num_warmup_steps": 3},
            "The schedule 'linear' is given warmup_steps twice, under two names.",
        ),
        (
            "linear",
            {"warmup_steps": 3},
            "total_steps is missing. Pass it.",
        ),
        (
            "constant",
            {"warmup_steps": 3},
            'The schedule "constant" has no warm-up. Ask for "constant_with_warmup".',
        ),
        (
            "cosine_with_min_lr",
            {"warmup_steps": 3, "total_steps": 5},
            'The schedule "cosine_with_min_lr" needs its floor. Pass min_ratio, a share of the '
            "peak, or min_lr.",
        ),
        (
            "cosine",
            {"warmup_steps": 3, "total_steps": 5, "min_lr": 1.0},
            "min_lr must be a learning rate between 0 and the optimizer's 0.0003, got 1.0.",
        ),
    ],
)
def test_refuses_names_and_settings_it_does_not_know(name, options, message, make_optimizer):
    optimizer = make_optimizer()

    with pytest.raises(ConfigError) as error:
        schedule(name, optimizer, **options)

    assert str(error.value) == message
    assert "initial_lr" not in optimizer.param_groups[0]


@pytest.mark.parametrize("name", [None, 3, ["cosine"], "Cosine", ""])
def test_refuses_a_name_that_is_none(name, make_optimizer):
    with pytest.raises(ConfigError, match="There is no schedule"):
        schedule(name, make_optimizer())


def test_constant_has_no_floor(make_optimizer):
    with pytest.raises(ConfigError, match="has no setting 'min_lr'"):
        schedule("constant", make_optimizer(), min_lr=1e-5)
