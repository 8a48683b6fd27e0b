"""The schedules against PyTorch's own, at their edges, and what they refuse."""

import math
import subprocess
import sys

import pytest
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from trimtab.errors import ConfigError
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


@pytest.mark.parametrize("start_ratio", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("min_ratio", [0.0, 0.1])
def test_equals_sequential_lr_of_pytorch(start_ratio, min_ratio, make_optimizer, rates):
    optimizer = make_optimizer()
    warmup = LinearLR(optimizer, start_factor=start_ratio, total_iters=5)
    cosine = CosineAnnealingLR(optimizer, T_max=15, eta_min=PEAK * min_ratio)
    expected = rates(SequentialLR(optimizer, [warmup, cosine], milestones=[5]), 20)

    ours = warmup_cosine(make_optimizer(), 5, 20, min_ratio, start_ratio=start_ratio)

    assert rates(ours, 20) == pytest.approx(expected, rel=1e-12, abs=1e-18)


def test_inverse_sqrt_falls_to_its_floor(make_optimizer):
    scheduler = inverse_sqrt(make_optimizer(), 4, 0.2)

    got = [scheduler.curve.factor(s) for s in (0, 2, 4, 16, 64, 100, 10_000)]

    assert got == pytest.approx([0, 0.5, 1, 0.5, 0.25, 0.2, 0.2])


@pytest.mark.parametrize("builder", WITH_END)
@pytest.mark.parametrize(("warmup", "total"), [*LENGTHS, (20, 20), (1.0, 20), (0.0, 20)])
def test_stays_at_the_floor_after_the_end(builder, warmup, total, make_optimizer, rates, build):
    got = rates(build(builder, make_optimizer(), warmup, total, min_ratio=0.1), 3 * total)

    assert all(lr == PEAK * 0.1 for lr in got[total:])
    assert all(0 <= lr <= PEAK for lr in got)


def test_warmup_as_long_as_the_run(make_optimizer, rates):
    assert rates(warmup_cosine(make_optimizer(1.0), 4, 4, 0.1), 6) == [0, 0.25, 0.5, 0.75, 0.1, 0.1]


@pytest.mark.parametrize(
    ("builder", "options", "message"),
    [
        (warmup_cosine, {"warmup_steps": 30}, "warmup_steps is 30, but the run has 20 steps"),
        (warmup_cosine, {"warmup_steps": -1}, "warmup_steps must be a whole number, 0 or more"),
        (warmup_cosine, {"warmup_steps": True}, "warmup_steps must be .* got True"),
        (warmup_cosine, {"warmup_steps": 1.5}, "float in .* got 1.5"),
        (warmup_cosine, {"warmup_steps": math.nan}, "warmup_steps must be .* got nan"),
        (warmup_cosine, {"warmup_steps": math.inf}, "warmup_steps must be .* got inf"),
        (warmup_cosine, {"warmup_steps": "10"}, "warmup_steps must be .* got '10'"),
        (warmup_cosine, {"warmup_steps": None}, "warmup_steps is missing.* warmup_steps=0 is none"),
        (warmup_cosine, {"total_steps": None}, "total_steps is missing"),
        (warmup_cosine, {"total_steps": 0}, "total_steps must be .* at least 1, got 0"),
        (warmup_cosine, {"total_steps": 0.5}, "total_steps must be .* at least 1, got 0.5"),
        (warmup_cosine, {"total_steps": True}, "total_steps must be .* got True"),
        (warmup_cosine, {"total_steps": math.inf}, "total_steps must be .* got inf"),
        (warmup_cosine, {"total_tokens": 100}, "in steps and in tokens"),
        (warmup_cosine, {"min_ratio": 1.1}, r"min_ratio .* must lie in \[0, 1\], got 1.1"),
        (warmup_cosine, {"min_ratio": -0.1}, "min_ratio"),
        (warmup_cosine, {"min_ratio": math.nan}, "min_ratio"),
        (warmup_cosine, {"min_ratio": True}, "min_ratio"),
        (warmup_cosine, {"start_ratio": 2}, "start_ratio"),
        (polynomial, {"power": 0.0}, "power must be finite and positive, got 0.0"),
        (polynomial, {"power": math.inf}, "power"),
        (polynomial, {"power": True}, "power"),
        (wsd, {"decay": "sqrt"}, "decay must be one of 1-sqrt, cosine, linear; got 'sqrt'"),
        (wsd, {"decay_steps": 16}, "5 and a decay of 16 steps do not fit into a run of 20.* to 15"),
        (wsd, {"decay_steps": -1}, "decay_steps must be"),
        (wsd, {"decay_tokens": 3}, "counted in steps, but its decay .* Pass decay_steps"),
        (warmup_constant, {"warmup_steps": 0.1}, "does not know how long the run is"),
        (warmup_constant, {"warmup_steps": None}, "warmup_steps is missing"),
        (inverse_sqrt, {"timescale": 0}, "timescale must be at least 1, got 0"),
        (inverse_sqrt, {"timescale": -4}, "timescale must be a whole number"),
        (
            inverse_sqrt,
            {"warmup_steps": None, "warmup_tokens": 0},
            "Pass timescale, in tokens",
        ),
        (warmup_cosine, {"last_epoch": -2}, "last_epoch must be a whole number"),
        (warmup_cosine, {"last_epoch": 3}, "param group 0 has no initial_lr"),
        (
            warmup_constant,
            {"warmup_steps": None, "warmup_tokens": 5, "last_epoch": 3},
            "does not say how many tokens were seen",
        ),
    ],
)
def test_refuses_before_anything_changes(builder, options, message, make_optimizer):
    optimizer = make_optimizer()
    lengths = {"warmup_steps": 5} | ({"total_steps": 20} if builder in WITH_END else {})

    with pytest.raises(ConfigError, match=message):
        builder(optimizer, **(lengths | options))

    assert optimizer.param_groups[0]["lr"] == PEAK
    assert "initial_lr" not in optimizer.param_groups[0]


def test_importing_trimtab_does_not_import_transformers():
    code = "import sys, trimtab; print('transformers' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
