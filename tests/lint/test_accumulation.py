"""A step at every k-th micro-batch."""

import ast

import pytest

from trimtab.lint import Source
from trimtab.lint._accumulation import counted, steps_every


def accumulation(condition, before=""):
    source = Source(
        "import torch\n"
        "for i, x in enumerate(loader):\n"
        "    loss(x).backward()\n"
        f"    {before or 'pass'}\n"
        f"    if {condition}:\n"
        "        optimizer.step()\n"
    )
    (trace,) = source.traces
    (backward,), (step,) = trace.of("backward"), trace.of("step")
    return source, step, backward


@pytest.mark.parametrize(
    ("condition", "before", "number"),
    [
        ("(i + 1) % 4 == 0", "", "4"),
        ("i % args.every == 0 or i + 1 == len(loader)", "", "args.every"),
        ("not (i + 1) % k", "", "k"),
        ("count == accumulation_steps", "", "accumulation_steps"),
        ("last", "last = (i + 1) % 8 == 0", "8"),
        ("ready", "", None),
        ("i == 3", "", None),
    ],
)
def test_the_number_of_passes(condition, before, number):
    found = counted(*accumulation(condition, before))

    assert (found and ast.unparse(found)) == number
    assert steps_every(*accumulation(condition, before)) == number


def test_every_pass_is_no_accumulation():
    assert steps_every(*accumulation("i % 1 == 0")) is None


def test_a_condition_around_both_parts_nothing():
    source = Source(
        "import torch\n"
        "for i, x in enumerate(loader):\n"
        "    if i % 2 == 0:\n"
        "        loss(x).backward()\n"
        "        optimizer.step()\n"
    )
    (trace,) = source.traces
    (backward,), (step,) = trace.of("backward"), trace.of("step")

    assert counted(source, step, backward) is None
