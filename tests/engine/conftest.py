"""Small models and their data for the tests of one step."""

import warnings

import pytest
import torch
from torch import nn

from trimtab import StabilityWarning, Stepper, Watch, attach
from trimtab.nn import Attention
from trimtab.optim import AdaptiveClip, AutoClip, NormClip, StableAdamW, ValueClip, ZClip

EVERYTHING = Watch(parameters=1, modules=1, histograms=1)


class OwnMomentum(torch.optim.Optimizer):
    """An optimizer that nobody knows; it moves even on a gradient of zero."""

    def __init__(self, params):
        super().__init__(params, {"lr": 1e-2})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    state["buffer"] = state.get("buffer", 0) * 0.9 + p.grad
                    p.sub_(state["buffer"] + 0.01, alpha=group["lr"])


class Inherited(torch.optim.SGD):
    """Calls its base class's step, which has hooks of its own."""

    def step(self, closure=None):
        return super().step(closure)


OPTIMIZERS = {
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "adam-amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "sgd-fused": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, fused=True),
    "stable-adamw": lambda p: StableAdamW(p, lr=1e-2),
    "own": OwnMomentum,
    "inherited": lambda p: Inherited(p, lr=1e-2, momentum=0.9),
}

CLIPPERS = {
    "none": lambda model: None,
    "norm": lambda model: NormClip(0.1),
    "value": lambda model: ValueClip(0.02),
    "adaptive": lambda model: AdaptiveClip(model, 0.005),
    "zclip": lambda model: ZClip(),
    "autoclip": lambda model: AutoClip(),
}


class TokenMixer(nn.Module):
    """All that has a gauge of its own: attention, norms, a bounded and a sparse activation."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.attention = Attention(8, 2, causal=True)
        self.mix = nn.Sequential(nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Dropout(0.3))
        self.squash = nn.Tanh()
        self.head = nn.Linear(16, 11)

    def forward(self, x):
        h = self.embed(x)
        return self.head(self.squash(self.mix(h + self.attention(h))))


def fill(model, seed=0):
    """Draw all parameters anew; the same for every model of the same shape."""
    g = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g).to(p.dtype) * 0.3
    return model


def tokens(step, batch=4):
    g = torch.Generator().manual_seed(step)
    return torch.randint(11, (batch, 6), generator=g)


def token_loss(model, step):
    x = tokens(step)
    return nn.functional.cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten())


def train_tokens(model, optimizer, steps, each=None):
    """Train with dropout from a fixed global seed; returns losses."""
    losses = []
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        for step in range(steps):
            optimizer.zero_grad()
            loss = token_loss(model, step)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if each is not None:
                each(step)
    return losses


def values(model):
    return [p.detach().clone() for p in model.parameters()]


def assert_same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def snapshot(model, optimizer):
    """All there is on a model and its optimizer that attach() might leave something in."""
    hooks = {
        name: {k: len(v) for k, v in vars(module).items() if k.endswith(("_hooks", "_kwargs"))}
        for name, module in model.named_modules()
    }
    attributes = {name: sorted(vars(module)) for name, module in model.named_modules()}
    on_params = [p._backward_hooks for p in model.parameters()]
    on_optimizer = {k: len(v) for k, v in vars(optimizer).items() if "hook" in k}
    return hooks, attributes, on_params, on_optimizer, sorted(vars(optimizer))


def step_once(model, optimizer, x, read=lambda output: output):
    optimizer.zero_grad()
    loss = read(model(x)).float().square().mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def watched(model, optimizer=None, **options):
    """Attach in memory, everything in every step."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"out": None, "watch": EVERYTHING} | options
    return optimizer, attach(model, optimizer, **options)


def row(trim, table, site, signal, record=-1):
    sites, columns = trim.history[record].tables[table]
    return float(columns[signal][list(sites).index(site)])


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
