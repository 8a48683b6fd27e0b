"""torch.compile and attach, in each order: full graphs, few of them, and the same training."""

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from trimtab import Watch, attach
from trimtab.nn import Attention

pytestmark = [
    pytest.mark.slow,
    # torch hides these two from users, but not from a filter that makes errors of them.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]

STEPS = 30


class Net(nn.Module):
    """Attention, sparse and bounded activations; a dict with the loss, as Transformers has it."""

    def __init__(self, *, returns_loss=False):
        super().__init__()
        self.inp, self.attention = nn.Linear(4, 8), Attention(8, 2, causal=True)
        self.act = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 1), nn.Tanh())
        self.returns_loss = returns_loss

    def forward(self, x):
        h = self.inp(x)
        y = self.act(h + self.attention(h))
        return {"loss": y.square().mean(), "y": y} if self.returns_loss else y


def build(*, returns_loss=False):
    model = Net(returns_loss=returns_loss)
    g = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g) * 0.3
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)


def train(model, optimizer, steps=STEPS, accumulate=1, first=0):
    for step in range(first, first + steps):
        optimizer.zero_grad()
        for i in range(accumulate):
            g = torch.Generator().manual_seed(step * accumulate + i)
            out = model(torch.randn(8, 6, 4, generator=g))
            loss = out["loss"] if isinstance(out, dict) else out.square().mean()
            loss.backward()
        optimizer.step()


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def modules(trim, signal="activation.rms"):
    return [r.tables["modules"][1][signal] for r in trim.history if "modules" in r.tables]


@pytest.mark.parametrize(
    ("backend", "order", "returns_loss"),
    [
        ("eager", "before", True),
        ("eager", "after", True),
        ("eager", "in-place", False),
        ("aot_eager", "after", True),
    ],
)
def test_full_graphs_and_only_a_few(backend, order, returns_loss):
    bare, theirs = build(returns_loss=returns_loss)
    train(bare, theirs, accumulate=2)

    model, optimizer = build(returns_loss=returns_loss)
    counter = CompileCounterWithBackend(backend)
    compiled = model
    if order == "before":
        compiled = torch.compile(model, backend=counter, fullgraph=True)
    watch = Watch(parameters=5, modules=5, histograms=10, burst=3)
    trim = attach(compiled, optimizer, clip=None, watch=watch, out=None)
    if order == "after":
        compiled = torch.compile(model, backend=counter, fullgraph=True)
    elif order == "in-place":
        model.compile(backend=counter, fullgraph=True)
    train(compiled, optimizer, accumulate=2)

    # The model with and without samples; the hooks of the whole model are compiled by themselves.
    assert counter.frame_count <= 4
    exact = {"rtol": 0, "atol": 0} if backend == "eager" else {}
    torch.testing.assert_close(list(model.parameters()), list(bare.parameters()), **exact)
    seen = modules(trim)
    assert len(seen) == 1 + STEPS // 5
    assert np.isfinite(seen).all()
    sites, columns = next(r.tables["modules"] for r in reversed(trim.history) if r.tables)
    assert np.isfinite(columns["attention.entropy"][sites.index("attention")])
    assert columns["activation.dead_fraction"][sites.index("act.1")] >= 0
    assert np.isfinite([r.values["loss"] for r in trim.history]).all() == returns_loss

    trim.detach()
    train(compiled, optimizer, steps=3, first=STEPS)
    train(bare, theirs, steps=3, first=STEPS)
    torch.testing.assert_close(list(model.parameters()), list(bare.parameters()), **exact)
    assert counter.frame_count <= 5


def test_evaluation_adds_one_graph():
    counter = CompileCounterWithBackend("eager")
    model, optimizer = build()
    trim = attach(model, optimizer, watch=2, out=None)
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for step in range(8):
        train(compiled, optimizer, steps=1, first=step)
        compiled.eval()
        with torch.no_grad():
            compiled(torch.ones(8, 6, 4))
        compiled.train()
    assert counter.frame_count <= 4
    trim.detach()


@pytest.mark.parametrize("in_place", [False, True])
def test_a_model_that_ran_compiled_before_is_told(in_place):
    model, optimizer = build()
    compiled = model
    if in_place:
        model.compile(backend="eager", fullgraph=True)
    else:
        compiled = torch.compile(model, backend="eager", fullgraph=True)
    train(compiled, optimizer, steps=2)
    with attach(compiled, optimizer, watch=1, out=None) as trim:
        with pytest.warns(UserWarning, match=r"Nothing was seen.*torch\.compiler\.reset\(\)"):
            train(compiled, optimizer, steps=1)
        train(compiled, optimizer, steps=2)  # no second warning
        assert np.isfinite(trim.history[-1].tables["parameters"][1]["update.ratio"]).all()
        torch.compiler.reset()
        train(compiled, optimizer, steps=1)
        assert np.isfinite(modules(trim)[-1]).all()


def test_inductor_sees_the_same_numbers():
    model, optimizer = build()
    with attach(model, optimizer, clip=None, watch=1, out=None) as trim:
        train(model, optimizer, steps=2)
        expected = list(trim.history)
    model, optimizer = build()
    with attach(model, optimizer, clip=None, watch=1, out=None) as trim:
        train(torch.compile(model, fullgraph=True), optimizer, steps=2)
        for ours, theirs in zip(trim.history, expected, strict=True):
            for name, column in theirs.tables["modules"][1].items():
                np.testing.assert_allclose(
                    ours.tables["modules"][1][name], column, rtol=1e-3, atol=1e-5, err_msg=name
                )
