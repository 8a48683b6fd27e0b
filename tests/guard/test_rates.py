import pytest
import torch
from torch import nn

from trimtab.guard._rates import CALM, Rates


def optimizer(lr=1.0, other=0.1):
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    return torch.optim.SGD([{"params": [a], "lr": lr}, {"params": [b], "lr": other}], lr=lr)


def rates_in_step(rates, optimizer, *, stepped=True):
    """Return the rates that a step is made with."""
    rates.lower()
    seen = [group["lr"] for group in optimizer.param_groups]
    rates.put_back(stepped=stepped)
    return seen


def test_leaves_the_schedule_alone_when_nothing_is_held():
    opt = optimizer()
    rates = Rates([opt], rewarm=4)

    assert not rates.changes
    assert rates_in_step(rates, opt) == [1.0, 0.1]
    assert rates.used is None


def test_comes_back_from_a_tenth():
    opt = optimizer()
    rates = Rates([opt], rewarm=4)
    rates.begin_rewarm()

    seen = [rates_in_step(rates, opt)[0] for _ in range(6)]

    assert seen == pytest.approx([0.1, 0.325, 0.55, 0.775, 1.0, 1.0])
    assert [group["lr"] for group in opt.param_groups] == [1.0, 0.1]


def test_a_step_that_was_not_made_does_not_count():
    opt = optimizer()
    rates = Rates([opt], rewarm=4)
    rates.begin_rewarm()

    seen = [rates_in_step(rates, opt, stepped=False)[0] for _ in range(3)]

    assert seen == pytest.approx([0.1, 0.1, 0.1])


def test_a_rewarm_of_no_steps_is_none():
    opt = optimizer()
    rates = Rates([opt], rewarm=0)
    rates.begin_rewarm()

    assert rates_in_step(rates, opt) == [1.0, 0.1]


def test_undoes_a_jump_and_keeps_what_the_schedule_makes_of_it():
    opt = optimizer(lr=3.0)
    rates = Rates([opt], rewarm=4)
    rates.hold(0.5, 3.0)

    assert rates_in_step(rates, opt) == pytest.approx([0.5, 0.1])
    assert rates.used == pytest.approx([0.5, 0.1])
    opt.param_groups[0]["lr"] = 1.8  # it decays
    assert rates_in_step(rates, opt) == pytest.approx([0.3, 0.1])


def test_a_jump_is_over_when_the_rate_has_been_ordinary_for_a_while():
    opt = optimizer(lr=0.9)  # not twice the rate of before
    rates = Rates([opt], rewarm=4)
    rates.hold(0.5, 3.0)
    assert rates_in_step(rates, opt) == [0.9, 0.1]
    opt.param_groups[0]["lr"] = 3.0
    assert rates_in_step(rates, opt) == pytest.approx([0.5, 0.1])

    opt.param_groups[0]["lr"] = 0.9
    for _ in range(CALM):
        rates_in_step(rates, opt)

    assert rates.cap is None
    opt.param_groups[0]["lr"] = 3.0
    assert rates_in_step(rates, opt) == [3.0, 0.1]  # a cycle that comes later is meant


def test_the_factor_stays_and_multiplies_every_group():
    opt = optimizer()
    rates = Rates([opt], rewarm=4)
    rates.factor = 0.5

    assert [rates_in_step(rates, opt) for _ in range(2)] == [[0.5, 0.05]] * 2


def test_a_rate_in_a_tensor_stays_the_very_tensor():
    rate = torch.tensor(1.0)
    opt = torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=rate)
    rates = Rates([opt], rewarm=4)
    rates.factor = 0.25

    rates.lower()
    assert torch.equal(opt.param_groups[0]["lr"], torch.tensor(0.25))
    rates.put_back(stepped=True)

    assert opt.param_groups[0]["lr"] is rate
    assert torch.equal(rate, torch.tensor(1.0))


def test_resumes_in_the_middle():
    opt = optimizer()
    rates, resumed = Rates([opt], rewarm=4), Rates([opt], rewarm=4)
    rates.begin_rewarm()
    rates.factor = 0.5
    rates.hold(0.4, 0.9)
    rates_in_step(rates, opt)

    resumed.load_state_dict(rates.state_dict())

    for _ in range(5):
        assert rates_in_step(resumed, opt) == rates_in_step(rates, opt)


def test_a_jump_of_one_optimizer_is_no_reason_to_lower_the_others():
    params = [torch.ones(1, requires_grad=True) for _ in range(2)]
    optimizers = [
        torch.optim.SGD([p], lr=rate) for p, rate in zip(params, (30.0, 5.0), strict=True)
    ]
    rates = Rates(optimizers, rewarm=10)

    rates.hold(0.1, 30.0, 0)
    rates.lower()

    assert rates.used == pytest.approx([0.1, 5.0])
    assert (rates.used_by(0), rates.used_by(1)) == ([pytest.approx(0.1)], [5.0])
    rates.put_back(stepped=True)
    assert [o.param_groups[0]["lr"] for o in optimizers] == [30.0, 5.0]
    other = Rates(optimizers, rewarm=10)
    other.load_state_dict(rates.state_dict())
    other.lower()
    assert other.used == pytest.approx([0.1, 5.0])
    other.put_back(stepped=False)
    assert Rates(optimizers, rewarm=10).used_by(1) is None
