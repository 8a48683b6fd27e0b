import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.diagnosis import diagnose
from trimtab.diagnosis._curvature import measure_sharpness


def test_sharpness_of_a_bowl(generator):
    """The Hessian of mean (x w - y)^2 is 2 X'X / n."""
    x = torch.randn(64, 4, generator=generator) * torch.tensor([1.0, 1.0, 1.0, 3.0])
    model = nn.Linear(4, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    found = measure_sharpness(model, optimizer, functional.mse_loss, (x, torch.zeros(64, 1)))

    expected = float(torch.linalg.eigvalsh(2 * x.T @ x / 64).max())
    assert found["curvature.sharpness"] == pytest.approx(expected, rel=0.02)


def test_buffers_gradients_and_random_state_are_put_back(generator):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [b.clone() for b in model.buffers()], torch.get_rng_state()
    x = torch.randn(16, 4, generator=generator)

    assert measure_sharpness(model, optimizer, functional.mse_loss, (x, x[:, :1]))

    assert all(torch.equal(b, old) for b, old in zip(model.buffers(), before[0], strict=True))
    assert torch.equal(torch.get_rng_state(), before[1])
    assert all(p.grad is None for p in model.parameters())


def test_what_cannot_be_measured_is_left_out(generator):
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def no_loss(output, target):
        raise ValueError("no")

    assert measure_sharpness(model, optimizer, no_loss, (torch.ones(2, 4), None)) == {}


@pytest.mark.slow
def test_a_run_beyond_the_edge_is_found_and_stays_what_it_is(generator):
    x = torch.randn(64, 4, generator=generator)
    pair = (x, x.sum(1, keepdim=True))
    sharp = float(torch.linalg.eigvalsh(2 * x.T @ x / 64).max())

    def run(*, curvature, lr):
        model = nn.Linear(4, 1, bias=False)
        nn.init.constant_(model.weight, 1.0001)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        options = {"steps": 20, "trials": False, "curvature": curvature}
        return diagnose(model, optimizer, nn.MSELoss(), [pair], **options)

    lost, kept = run(curvature=True, lr=3.5 / sharp), run(curvature=True, lr=1.0 / sharp)

    codes = {f.code for c in lost.findings for f in (c, *c.consequences)}
    assert "TT410" in codes
    assert "TT410" not in {f.code for f in kept.findings}
    assert kept.log.losses == run(curvature=False, lr=1.0 / sharp).log.losses
