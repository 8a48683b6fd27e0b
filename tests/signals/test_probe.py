import pytest
import torch
from torch import nn

from trimtab.signals._gauges import ABSENT, PARAMETER_COLUMNS
from trimtab.signals._probe import Probe

CPU = torch.device("cpu")


def columns(gauges):
    return dict(zip(PARAMETER_COLUMNS, gauges.unbind(1), strict=True))


def step(probe, optimizer, params):
    probe.before()
    optimizer.step()
    probe.after([optimizer.state.get(p, {}) for p in params])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_update_ratio_against_a_hand_computation(make_params, dtype):
    params = make_params([(4, 3), (7,), (1,)], dtype)
    probe = Probe(params, size=64, device=CPU)
    lr = 0.125
    before, grads = (
        [t.detach().double().clone() for t in ts] for ts in (params, [p.grad for p in params])
    )
    step(probe, torch.optim.SGD(params, lr=lr), params)
    found = columns(probe.measure(1.0, torch.full((3,), torch.nan)))
    for i, (p, b, g) in enumerate(zip(params, before, grads, strict=True)):
        change = p.detach().double() - b
        ratio = (change.square().mean() / b.square().mean()).sqrt()
        assert found["update.ratio"][i].item() == pytest.approx(ratio.item(), rel=1e-3)
        if dtype != torch.bfloat16:
            assert ratio == pytest.approx(lr * (g.norm() / b.norm()).item(), rel=1e-5)
        assert found["weight.norm"][i].item() == pytest.approx(b.norm().item(), rel=1e-3)
    assert found["adam.rms_ratio"].isnan().all()


@pytest.mark.parametrize("divisor", [1.0, 8.0, torch.tensor(1024.0)])
def test_gradients_are_after_unscaling(make_params, divisor):
    params = make_params([(4, 3), (2,)])
    expected = [p.grad.flatten().clone() for p in params]
    for p in params:
        p.grad *= divisor
    probe = Probe(params, size=16, device=CPU)
    probe.before()
    gradients = probe.gradients(divisor)
    for row, grad in zip(gradients, expected, strict=True):
        torch.testing.assert_close(row[: grad.numel()], grad)
        assert (row[grad.numel() :] == ABSENT).all()
    square, cross = probe.products(divisor)
    assert square.item() == pytest.approx(sum(g.square().sum().item() for g in expected), rel=1e-5)
    assert cross.isnan()


def test_products_scale_up_to_all_elements(generator):
    param = nn.Parameter(torch.randn(40_000, generator=generator))
    probe = Probe([param], size=1024, device=CPU)
    first, second = (torch.randn(40_000, generator=generator) + 2 for _ in range(2))
    for grad in (first, second):
        param.grad = grad
        probe.before()
        square, cross = probe.products(1.0)
    assert square.item() == pytest.approx(second.square().sum().item(), rel=0.15)
    assert cross.item() == pytest.approx((first @ second).item(), rel=0.15)


def test_large_parameters_are_sampled_within_the_error(generator):
    param = nn.Parameter(torch.randn(500, 300, generator=generator))
    param.grad = torch.randn(500, 300, generator=generator)
    param.grad[torch.rand(500, 300, generator=generator) < 0.3] = 0
    probe = Probe([param], size=1024, device=CPU)
    before = param.detach().clone()
    step(probe, torch.optim.SGD([param], lr=1e-3), [param])
    found = columns(probe.measure(1.0, torch.tensor([torch.nan])))
    ratio = 1e-3 * (param.grad.norm() / before.norm()).item()
    assert found["update.ratio"].item() == pytest.approx(ratio, rel=0.15)
    assert found["weight.norm"].item() == pytest.approx(before.norm().item(), rel=0.1)
    assert found["gradient.zero_fraction"].item() == pytest.approx(0.3, abs=0.06)


def test_what_cannot_be_sampled_is_absent():
    params = [
        nn.Parameter(torch.ones(3)),
        nn.Parameter(torch.ones(4, 2)),
        nn.Parameter(torch.ones(0)),
    ]
    params[1].grad = torch.ones(4, 2).to_sparse()
    probe = Probe(params, size=8, device=CPU)
    probe.before()
    assert (probe.gradients(1.0) == ABSENT).all()
    assert (probe.weights()[:2] != ABSENT).sum(dim=1).tolist() == [3, 8]
    probe.after([{"exp_avg_sq": torch.ones(1)}, {}, None])  # one moment for a whole block
    assert columns(probe.measure(1.0, torch.ones(3)))["adam.rms_ratio"].isnan().all()


def test_parameters_that_come_later(make_params):
    params = make_params([(3,), (4,)])
    probe = Probe(params[:1], size=8, device=CPU)
    probe.before()
    probe.products(1.0)
    probe.grow(params[1:])
    probe.before()
    square, cross = probe.products(1.0)
    assert square.item() == pytest.approx(
        sum(p.grad.square().sum().item() for p in params), rel=1e-5
    )
    assert cross.isnan()
    probe.move_to(CPU)
    assert probe.weights().shape == (2, 8)


class TestUnchanged:
    def unchanged(self, params, lr):
        probe = Probe(params, size=256, device=CPU)
        before = [p.detach().clone() for p in params]
        step(probe, torch.optim.SGD(params, lr=lr), params)
        found = columns(probe.measure(1.0, torch.full((len(params),), torch.nan)))
        shares = [
            ((p == b) & (p.grad != 0)).double().sum() / (p.grad != 0).sum()
            for p, b in zip(params, before, strict=True)
            if p.grad is not None
        ]
        return found["update.unchanged_fraction"].tolist(), [s.item() for s in shares]

    @pytest.mark.parametrize("lr", [1e-1, 3e-3, 1e-5])
    def test_updates_that_bfloat16_rounds_away(self, make_params, lr):
        params = make_params([(16, 16), (40,)], torch.bfloat16)
        params[0].grad[::2] = 0
        found, expected = self.unchanged(params, lr)
        assert found == pytest.approx(expected)
        assert (found[0] > 0.9) == (lr == 1e-5)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_in_health_nothing_stays(self, make_params, dtype):
        assert self.unchanged(make_params([(16, 16)], dtype), 1e-3)[0] == [0]

    def test_a_step_too_small_for_float32_is_one_in_float64(self, make_params):
        params = make_params([(16, 16), (3,)], torch.float64)
        assert self.unchanged(params, 1e-12) == ([0, 0], [0, 0])

    def test_a_learning_rate_of_zero(self, make_params):
        assert self.unchanged(make_params([(5,)]), 0.0)[0] == [1]

    def test_without_a_gradient_it_is_not_known(self, make_params):
        params = make_params([(5,), (5,)])
        params[0].grad = None
        params[1].grad.zero_()
        found, _ = self.unchanged(params, 0.1)
        assert torch.tensor(found).isnan().all()
