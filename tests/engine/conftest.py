"""A small model and its data for the tests of one step."""

import warnings

import pytest
import torch
from torch import nn

from trimtab import StabilityWarning, Stepper


class Problem:
    """A two-layer network with a regression task, made anew and the same every time."""

    def __init__(self, dtype=torch.float32, seed=0):
        g = torch.Generator().manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1)).to(dtype)
        for p in self.model.parameters():
            p.data = torch.randn(p.shape, generator=g, dtype=dtype) * 0.4
        self.x = torch.randn(64, 6, generator=g, dtype=dtype)
        self.y = self.x.sum(dim=1, keepdim=True).sin()

    def loss(self, rows=slice(None)):
        return nn.functional.mse_loss(self.model(self.x[rows]), self.y[rows])

    def adamw(self, lr=1e-2, **options):
        return torch.optim.AdamW(self.model.parameters(), lr=lr, weight_decay=0.0, **options)

    def stepper(self, optimizer=None, **options):
        options.setdefault("schedule", "constant")
        options.setdefault("guard", None)  # tested by itself
        return Stepper(self.model, optimizer or self.adamw(), **options)

    def params(self):
        return [p.detach().clone() for p in self.model.parameters()]


@pytest.fixture
def problem():
    return Problem()


@pytest.fixture
def make_problem():
    return Problem


@pytest.fixture
def quiet():
    """Let pitfall warnings pass, where a test is about something else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StabilityWarning)
        yield


@pytest.fixture(autouse=True)
def _findings_may_be_said():
    """Let findings be said in tests whose runs are broken on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"TT\d{3} ", StabilityWarning)
        yield
