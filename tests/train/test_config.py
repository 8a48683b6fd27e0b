import dataclasses
import math

import pytest

from trimtab import ConfigError
from trimtab.train import OptimizerConfig, RunConfig, require

ACCEPTED = [
    (RunConfig, "steps", [1, 10**9]),
    (RunConfig, "seed", [0, 2**63 - 1]),
    (RunConfig, "threads", [0, 8]),
    (RunConfig, "eval_every", [0, 1]),
    (RunConfig, "save_every", [0, 1]),
    (RunConfig, "keep_checkpoints", [1]),
    (OptimizerConfig, "lr", [1e-9, 10.0]),
    (OptimizerConfig, "eps", [1e-16]),
    (OptimizerConfig, "warmup", [0, 0.0, 0.999, 1, 1.0, 2000.0]),
    (OptimizerConfig, "weight_decay", [0, 0.5]),
    (OptimizerConfig, "clip", [0, 1e6]),
    (OptimizerConfig, "beta1", [0.0, 0.999]),
    (OptimizerConfig, "beta2", [0.0, 0.999]),
    (OptimizerConfig, "min_lr_ratio", [0.0, 1.0]),
    (OptimizerConfig, "batch_size", [1]),
    (OptimizerConfig, "accumulate", [1]),
]
REFUSED = [
    (RunConfig, "steps", [0, -1]),
    (RunConfig, "seed", [-1, 2**63]),
    (RunConfig, "threads", [-1]),
    (RunConfig, "eval_every", [-1]),
    (RunConfig, "save_every", [-1]),
    (RunConfig, "keep_checkpoints", [0]),
    (OptimizerConfig, "lr", [0.0, -1.0, math.nan, math.inf]),
    (OptimizerConfig, "eps", [0.0, -1e-8, math.nan]),
    (OptimizerConfig, "warmup", [-0.1, 1.5, 2.25, math.nan, math.inf]),
    (OptimizerConfig, "weight_decay", [-0.1, math.nan, math.inf]),
    (OptimizerConfig, "clip", [-1.0, math.nan, math.inf]),
    (OptimizerConfig, "beta1", [-0.1, 1.0, math.nan]),
    (OptimizerConfig, "beta2", [-0.1, 1.0, math.nan]),
    (OptimizerConfig, "min_lr_ratio", [-0.1, 1.1, math.nan]),
    (OptimizerConfig, "batch_size", [0]),
    (OptimizerConfig, "accumulate", [0]),
]


def each(table):
    return [(cls, name, value) for cls, name, values in table for value in values]


@pytest.mark.parametrize(("cls", "name", "value"), each(ACCEPTED))
def test_the_ends_of_every_range_are_in_it(cls, name, value):
    assert getattr(cls(**{name: value}), name) == value


@pytest.mark.parametrize(("cls", "name", "value"), each(REFUSED))
def test_what_lies_outside_is_refused_by_name_and_value(cls, name, value):
    with pytest.raises(ConfigError, match=rf"^{name} must be .*, got {value}\.$"):
        cls(**{name: value})


@pytest.mark.parametrize("cls", [RunConfig, OptimizerConfig])
def test_is_frozen_and_by_keyword(cls):
    config = cls()
    field = dataclasses.fields(cls)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field, 1)
    with pytest.raises(TypeError, match="positional"):
        cls(1)


@pytest.mark.parametrize(
    ("warmup", "total", "steps"),
    [(0, 100, 0), (0.1, 100, 10), (0.1, 7, 1), (0.999, 10, 10), (1, 100, 1), (100, 100, 100)],
)
def test_warmup_is_a_share_below_one_and_steps_from_one_on(warmup, total, steps):
    found = OptimizerConfig(warmup=warmup).warmup_steps(total)
    assert found == steps
    assert type(found) is int


def test_a_warmup_longer_than_the_run():
    with pytest.raises(ConfigError, match=r"11 steps, but the run has 10: .* such as 0\.1\.$"):
        OptimizerConfig(warmup=11).warmup_steps(10)


def test_require():
    require(True, "width", "at least 1", 3)
    with pytest.raises(ConfigError, match=r"^width must be at least 1, got 0\.$"):
        require(False, "width", "at least 1", 0)
