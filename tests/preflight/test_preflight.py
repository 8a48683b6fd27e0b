"""All checks at once, and that nothing of them stays behind."""

import copy
import random
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.errors import ConfigError
from trimtab.findings import Severity
from trimtab.optim import warmup_cosine
from trimtab.preflight import preflight
from trimtab.preflight.tt007_initial_loss import InitialLoss


class Net(nn.Module):
    """Dropout, BatchNorm, state of its own, and a choice of what to break."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
        )
        self.calls = 0
        self.fails_after: int | None = None

    def forward(self, x):
        self.calls += 1
        if self.fails_after is not None and self.calls > self.fails_after:
            raise RuntimeError("no more")
        return self.net(x)


def everything(model, optimizer, scheduler):
    return {
        "parameters": {k: v.tolist() for k, v in model.state_dict().items()},
        "identities": [id(p) for p in model.parameters()],
        "gradients": [
            (id(p.grad), None if p.grad is None else p.grad.tolist()) for p in model.parameters()
        ],
        "modes": [m.training for m in model.modules()],
        "attributes": model.calls,
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "optimizer": str(optimizer.state_dict()),
        "scheduler": str(scheduler.state_dict()),
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "python": random.getstate(),
    }  # fmt: skip


@pytest.mark.parametrize("fails_after", [None, 0, 1, 3, 12])
@pytest.mark.parametrize("steps", [0, 3])
def test_leaves_no_trace_even_when_checks_fail(classes, fails_after, steps):
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = warmup_cosine(optimizer, 5, 50)
    for _ in range(steps):
        functional.cross_entropy(model(classes[0]), classes[1]).backward()
        optimizer.step()
        scheduler.step()
    model.net[1].eval()
    model.fails_after = None if fails_after is None else model.calls + fails_after
    before = everything(model, optimizer, scheduler)

    preflight(model, optimizer, nn.CrossEntropyLoss(), classes, scheduler=scheduler, curvature=True)

    after = everything(model, optimizer, scheduler)
    for name, value in before.items():
        assert after[name] == value, name


def test_training_afterwards_is_bitwise_what_it_would_have_been(classes):
    losses = []
    for checked in (False, True):
        torch.default_generator.manual_seed(7)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters())
        if checked:
            preflight(model, optimizer, nn.CrossEntropyLoss(), classes, curvature=True)
        run = []
        for _ in range(5):
            loss = functional.cross_entropy(model(classes[0]), classes[1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.append(float(loss.detach()))
        losses.append(run)

    assert losses[0] == losses[1]


def test_a_check_that_fails_is_a_note_and_hides_no_other(classes):
    class Broken(InitialLoss):
        def check(self, subject):
            raise KeyError("lost")

    model = nn.Linear(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    from trimtab.preflight.tt021_zero_learning_rate import ZeroLearningRate

    result = preflight(
        model,
        optimizer,
        nn.CrossEntropyLoss(),
        classes,
        rules=[Broken(), ZeroLearningRate()],
    )

    assert result.notes == ("TT007 initial-loss could not be checked: KeyError: 'lost'",)
    assert [f.code for f in result.findings] == ["TT021"]


def test_most_causal_comes_first_with_what_follows(classes):
    x, y = classes
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    result = preflight(model, optimizer, nn.CrossEntropyLoss(), (1000 * x, y))

    assert result.findings[0].code == "TT505"
    assert "TT007" in [f.code for f in result.findings[0].consequences]
    assert not result.ok


def test_advice_is_ok(classes):
    model = nn.Linear(8, 3)

    result = preflight(model, torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(), classes)

    assert result.ok
    assert {f.severity for f in result.findings} == {Severity.ADVICE}


def test_reads_as_text(classes):
    model = nn.Linear(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    text = str(preflight(model, optimizer, nn.CrossEntropyLoss(), classes))

    assert text == (
        "preflight: 1 finding, 1 piece of advice\n"
        "\n"
        "TT021 zero-learning-rate at param group 0: the learning rate is 0 for the next 1000 "
        "steps\n"
        "  evidence  steps that can learn 0, normal >= 10\n"
        "  why       With a learning rate of zero no step changes a weight. The scheduler's factor "
        "is 0, it was built for fewer steps, or the rate was never set.\n"
        "  fix       set a learning rate above 0 and give the scheduler the true number of steps\n"
        "\n"
        "TT019 not-needed: stabilisers are hardly needed here: the model has 27 trainable "
        "parameters\n"
        "  evidence  trainable elements 27, normal >= 1,000,000\n"
        "  why       Networks under a million parameters rarely become unstable, and a wrong "
        "setting shows within seconds.\n"
        "  fix       leave them out if you like; if training fails, look at data, labels and the "
        "loss"
    )


def test_thresholds_can_be_set(classes):
    model = nn.Linear(8, 3)
    optimizer = torch.optim.Adam(model.parameters())

    result = preflight(
        model, optimizer, nn.CrossEntropyLoss(), classes, rules=[InitialLoss(advice_excess=-2.0)]
    )

    assert [f.code for f in result.findings] == ["TT007"]


def test_wrapped_and_compiled_models_are_unwrapped(classes):
    model = torch.compile(nn.Linear(8, 3), backend="eager")

    result = preflight(model, torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(), classes)

    assert result.ok, str(result)


def test_hugging_face_style(classes):
    class Output(dict):
        def __getattr__(self, name):
            return self[name]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Sequential(nn.Linear(8, 3), nn.Softmax(1))

        def forward(self, inputs, labels):
            logits = self.head(inputs)
            return Output(loss=functional.cross_entropy(logits, labels), logits=logits)

    model = Model()
    batch = {"inputs": classes[0], "labels": classes[1]}

    result = preflight(model, torch.optim.Adam(model.parameters()), None, batch)

    assert [f.code for f in result.findings] == ["TT008", "TT019"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "net"}, "checks a torch.nn.Module, got str"),
        ({"optimizer": "adam"}, "optimizer must be a torch.optim.Optimizer"),
        ({"accumulate": 0}, "accumulate must be a whole number of at least 1, got 0"),
        ({"world_size": 1.5}, "world_size must be a whole number of at least 1, got 1.5"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"model": nn.LazyLinear(3)}, "weight has no values yet"),
        ({"batch": (1, 2)}, "no tensor among the inputs"),
    ],
)
def test_refuses_what_it_cannot_use(classes, change, message):
    model = nn.Linear(8, 3)
    given = {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters()),
        "loss_fn": nn.CrossEntropyLoss(),
        "batch": classes,
    }

    with pytest.raises(ConfigError, match=re.escape(message)):
        preflight(**(given | change))


def test_a_copied_model_is_judged_alike(classes):
    model = Net()
    results = [
        preflight(m, torch.optim.Adam(m.parameters()), nn.CrossEntropyLoss(), classes)
        for m in (model, copy.deepcopy(model))
    ]

    assert next(str(r) for r in results) == str(results[1])
