"""Short, real runs of the recipes."""

import io
import warnings
from dataclasses import dataclass, field, replace

import pytest
import torch
from rich.console import Console
from torch import nn

from trimtab import StabilityWarning
from trimtab.recipes import find_recipe
from trimtab.train import OptimizerConfig, Recipe, RunConfig, Task, train

SMALL = {
    "gpt": {"model": {"depth": 1, "dim": 16, "heads": 2, "context": 16}},
    "stablenet": {"model": {"depth": 2, "width": 16}},
}


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def small_config():
    """Settings of a recipe for a run of seconds, with changes to single fields by table."""

    def make(name="stablenet", **tables):
        config = find_recipe(name).default
        tables = {k: {**SMALL[name].get(k, {}), **v} for k, v in {"model": {}, **tables}.items()}
        changed = {t: replace(getattr(config, t), **fields) for t, fields in tables.items()}
        return replace(config, **changed)

    return make


@pytest.fixture
def run(console, tmp_path, small_config):
    """Train a small recipe into a folder below `tmp_path`; returns the summary and the folder."""

    def go(name="stablenet", out="run", resume=False, run=(), **tables):
        settings = {"steps": 12, "eval_every": 5, "save_every": 5, **dict(run)}
        config = small_config(name, run={**settings, "out": tmp_path / out}, **tables)
        return train(find_recipe(name), config, resume=resume, console=console), tmp_path / out

    return go


@dataclass(frozen=True, kw_only=True)
class LineConfig:
    """Fit a line."""

    run: RunConfig = field(default_factory=RunConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


class Line:
    """A recipe of milliseconds that notes what the loop asks of it."""

    def __init__(self, console, folder):
        self.console, self.folder = console, folder
        self.indices, self.scopes, self.modes = [], [], []
        self.recipe = Recipe(name="line", default=LineConfig(), build=self.build)

    def build(self, config, generator):
        model = nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.1))
        for p in model.parameters():
            p.data = torch.randn(p.shape, generator=generator) * 0.1
        return Task(
            model=model,
            batch=self.batch,
            loss=self.loss,
            weight=lambda batch: len(batch[0]),
            evaluate=self.evaluate,
            unit="samples",
            loss_unit="squares",
        )

    def batch(self, index):
        self.indices.append(index)
        x = torch.randn(4 + index % 3, 3, generator=torch.Generator().manual_seed(index))
        return x, x.sum(dim=1, keepdim=True)

    def loss(self, model, batch):
        return (model(batch[0]) - batch[1]).square().mean()

    def evaluate(self, model, scope):
        self.scopes.append(scope)
        self.modes.append((model.training, torch.is_grad_enabled()))
        return {"val_loss": float(self.loss(model, (torch.ones(1, 3), torch.full((1, 1), 3.0))))}

    def train(self, out="run", resume=False, optimizer=(), **run):
        run = {"steps": 12, "eval_every": 5, "save_every": 5, "out": self.folder / out, **run}
        optimizer = OptimizerConfig(**{"lr": 0.1, "warmup": 1.0, **dict(optimizer)})
        config = LineConfig(run=RunConfig(**run), optimizer=optimizer)
        return train(self.recipe, config, resume=resume, console=self.console), run["out"]


@pytest.fixture
def line(console, tmp_path):
    return Line(console, tmp_path)


@pytest.fixture(autouse=True)
def _findings_may_be_said():
    """Let findings be said in tests whose runs are broken on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"TT\d{3} ", StabilityWarning)
        yield
