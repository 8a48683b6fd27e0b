import math

import pytest
import torch
from torch import nn

from trimtab.optim import grad_norms
from trimtab.signals._parameters import NORM_WINDOW, PARAMETER_NAMES, Parameters

CPU = torch.device("cpu")


def make(params):
    names = {id(p): f"p{i}" for i, p in enumerate(params)}
    return Parameters(params, names, size=64, device=CPU)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.95)])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("coefficient", [1.0, 0.25])
def test_adam_ratio_against_a_hand_computation(betas, fused, coefficient, make_params, generator):
    """Adam sees the clipped gradient; v is unbiased."""
    params = make_params([(4, 3), (5,)])
    part = make(params)
    optimizer = torch.optim.AdamW(params, lr=1e-3, betas=betas, fused=fused)
    v = [torch.zeros_like(p, dtype=torch.float64) for p in params]
    for number in range(1, 5):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator) * number
        norms = grad_norms(params)
        part.probe.before()
        for p in params:
            p.grad *= coefficient
        optimizer.step()
        gauges = part.measure(optimizer, params, norms, 1.0, coefficient)
        found = dict(zip(PARAMETER_NAMES, gauges.unbind(1), strict=True))
        for i, p in enumerate(params):
            g = p.grad.double()
            v[i] = betas[1] * v[i] + (1 - betas[1]) * g.square()
            ratio = (g.square() / (v[i] / (1 - betas[1] ** number))).mean().sqrt()
            assert found["adam.rms_ratio"][i].item() == pytest.approx(ratio.item(), rel=1e-3)
            norm = g.norm().item() / coefficient
            assert found["gradient.norm"][i].item() == pytest.approx(norm, rel=1e-6)
            rms = norm / p.numel() ** 0.5
            assert found["gradient.rms"][i].item() == pytest.approx(rms, rel=1e-6)


def test_only_those_with_a_gradient_have_a_norm(make_params):
    params = make_params([(3,), (4,), (5,)])
    params[1].grad = None
    part = make(params)
    part.probe.before()
    optimizer = torch.optim.SGD(params, lr=0.1)
    optimizer.step()
    with_grad = [params[0], params[2]]
    gauges = part.measure(optimizer, with_grad, grad_norms(params), 1.0, 1.0)
    norms = [params[0].grad.norm(), torch.tensor(torch.nan), params[2].grad.norm()]
    torch.testing.assert_close(gauges[:, 0], torch.stack(norms), equal_nan=True)


class TestNoiseScale:
    def test_known_mean_and_covariance(self, generator):
        """tr(cov) / |mean|^2 of a gradient that is drawn anew in each step."""
        size, spread = 2000, 0.5
        mean = torch.randn(size, generator=generator) * 0.1
        true = size * spread**2 / mean.square().sum().item()
        param = nn.Parameter(torch.zeros(size))
        part = Parameters([param], {id(param): "p"}, size=size, device=CPU)
        estimates = []
        for _ in range(60):
            param.grad = mean + spread * torch.randn(size, generator=generator)
            part.probe.before()
            square, cross = part.probe.products(1.0).tolist()
            estimates.append(part.estimate_noise(square, cross))
        assert estimates[0] is None
        settled = sorted(estimates[30:])
        assert true / 2 < settled[len(settled) // 2] < true * 2

    def test_without_noise_it_is_zero(self):
        part = make([nn.Parameter(torch.zeros(3))])
        for _ in range(5):
            scale = part.estimate_noise(4.0, 4.0)
        assert scale == 0

    @pytest.mark.parametrize("bad", [(math.nan, 1.0), (1.0, math.inf), (math.inf, math.inf)])
    def test_what_is_not_finite_does_not_enter(self, bad):
        part = make([nn.Parameter(torch.zeros(3))])
        part.estimate_noise(3.0, 1.0)
        before = part.state_dict()
        assert part.estimate_noise(*bad) is None
        assert part.state_dict() == before
        assert part.estimate_noise(3.0, 1.0) == pytest.approx(2.0)

    def test_gradients_without_a_common_direction_have_none(self):
        part = make([nn.Parameter(torch.zeros(3))])
        assert part.estimate_noise(3.0, -1.0) is None


class TestUnusualNorms:
    def test_twice_the_median_is_unusual(self):
        part = make([nn.Parameter(torch.zeros(3))])
        for i in range(NORM_WINDOW):
            assert not part.is_unusual(1.0 + 0.01 * i)
        assert not part.is_unusual(2.0)
        assert part.is_unusual(3.0)

    @pytest.mark.parametrize("norm", [math.nan, math.inf])
    def test_one_that_is_not_finite_is_and_does_not_enter(self, norm):
        part = make([nn.Parameter(torch.zeros(3))])
        before = part.state_dict()
        assert part.is_unusual(norm)
        assert part.state_dict() == before

    def test_a_young_run_has_no_usual(self):
        part = make([nn.Parameter(torch.zeros(3))])
        assert not any(part.is_unusual(10.0**i) for i in range(NORM_WINDOW))


def test_state_round_trip():
    part = make([nn.Parameter(torch.zeros(3))])
    part.steps = 7
    part.is_unusual(2.0)
    part.estimate_noise(3.0, 1.0)
    other = make([nn.Parameter(torch.zeros(3))])
    other.load_state_dict(part.state_dict())
    assert other.state_dict() == part.state_dict()
