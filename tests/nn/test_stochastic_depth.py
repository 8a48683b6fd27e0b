import pytest
import torch

from trimtab.errors import ConfigError
from trimtab.nn import StochasticDepth, linear_decay


@pytest.mark.parametrize("mode", ["row", "batch"])
def test_each_unit_is_dropped_whole_or_scaled_whole(mode):
    x = torch.ones(64, 3, 5)

    y = StochasticDepth(0.25, mode)(x)

    per_row = y.flatten(1)  # (64, 15)
    assert (per_row == per_row[:, :1]).all()
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / 0.75))
    if mode == "batch":
        assert (y == y[0, 0, 0]).all()


def test_expectation_is_the_input():
    y = StochasticDepth(0.3)(torch.ones(40_000, 1))

    # standard error of the mean: sqrt(0.3 / 0.7 / 40,000) = 0.0033
    assert y.mean().item() == pytest.approx(1, abs=0.015)


def test_rows_differ():
    y = StochasticDepth(0.5)(torch.ones(1000, 1))

    assert 400 < (y == 0).sum() < 600


def test_eval_mode_and_zero_probability_are_the_identity():
    x = torch.ones(4, 2)

    assert StochasticDepth(0.9).eval()(x) is x
    assert StochasticDepth(0.0)(x) is x


def test_probability_one_drops_all_with_a_zero_gradient():
    x = torch.ones(4, 2, requires_grad=True)

    y = StochasticDepth(1.0)(x)
    y.sum().backward()

    assert y.count_nonzero() == 0
    assert x.grad.count_nonzero() == 0


def test_refuses_bad_settings():
    with pytest.raises(ConfigError, match="p is a probability"):
        StochasticDepth(1.5)
    with pytest.raises(ConfigError, match=r"mode must be one of batch, row"):
        StochasticDepth(0.5, "rows")


def test_linear_decay_ends_at_p():
    rates = linear_decay(0.3, 6)

    assert rates == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25, 0.3])
    assert linear_decay(0.3, 1) == [0.3]
    with pytest.raises(ConfigError, match="num_layers"):
        linear_decay(0.1, 0)


def test_shows_its_settings():
    assert repr(StochasticDepth(0.1)) == "StochasticDepth(p=0.1, mode='row')"
