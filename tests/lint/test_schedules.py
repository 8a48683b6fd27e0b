"""What schedules count."""

import ast

import pytest

from trimtab.lint import Source
from trimtab.lint._schedules import constructors, drives, expanded, unit_of

HEAD = """\
from torch.optim.lr_scheduler import *
from torch.optim import lr_scheduler as s
from transformers import get_linear_schedule_with_warmup
num_epochs = 10
total = len(loader) * num_epochs
"""


def unit(text):
    source = Source(HEAD + f"schedule = {text}\n")
    (value,) = (d.value for d in source.module.definitions["schedule"])
    return unit_of(source, value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s.OneCycleLR(o, 0.1, steps_per_epoch=len(loader), epochs=3)", "step"),
        ("s.OneCycleLR(o, 0.1, steps_per_epoch=1, epochs=3)", None),
        ("s.OneCycleLR(o, 0.1, total)", "step"),
        ("get_linear_schedule_with_warmup(o, 100, total)", "step"),
        ("get_linear_schedule_with_warmup(o, 1, num_epochs)", "epoch"),
        ("s.CosineAnnealingLR(o, T_max=num_epochs)", "epoch"),
        ("s.CosineAnnealingLR(o, T_max=args.epochs * iters_per_epoch)", "step"),
        ("s.CosineAnnealingLR(o, 50)", "epoch"),
        ("s.CosineAnnealingLR(o, 50_000)", None),
        ("s.CosineAnnealingLR(o, cfg.length)", None),
        ("s.StepLR(o, 30)", "epoch"),
        ("s.StepLR(o, 30, gamma=0.99)", None),
        ("s.StepLR(o, 10_000, gamma=0.1)", None),
        ("s.MultiStepLR(o, [30, 60])", "epoch"),
        ("s.MultiStepLR(o, [30_000, 60_000])", None),
        ("s.ExponentialLR(o, 0.9)", "epoch"),
        ("s.ExponentialLR(o, 0.9999)", None),
        ("s.ReduceLROnPlateau(o)", "epoch"),
        ("s.LambdaLR(o, f)", None),
        (
            "s.SequentialLR(o, [s.LinearLR(o, total_iters=max_steps), "
            "s.CosineAnnealingLR(o, max_steps)], [5])",
            "step",
        ),
    ],
)
def test_units(text, expected):
    assert unit(text) == expected


def test_names_are_expanded_with_what_they_stand_for():
    source = Source(HEAD + "use(total)\n")
    call = next(c for c in source.all(ast.Call) if getattr(c.func, "id", "") == "use")

    assert "len(loader) * num_epochs" in expanded(source, call.args[0])


def test_whose_learning_rate_it_is():
    source = Source(
        HEAD + "import torch\n"
        "a = torch.optim.SGD(p, 1)\n"
        "b = torch.optim.SGD(q, 1)\n"
        "sched = s.StepLR(a, 1)\n"
        "a.step()\nb.step()\nsched.step()\nlr_scheduler.step()\n"
    )
    (trace,) = source.traces
    a, b = trace.of("step")
    known, unknown = trace.of("schedule")

    assert [drives(source, known, e) for e in (a, b)] == [True, False]
    assert [drives(source, unknown, e) for e in (a, b)] == [True, True]
    assert [source.called(c) for c in constructors(source, known.subject)] == ["StepLR"]
