"""Passes of training loops."""

from trimtab.lint import Source
from trimtab.lint._cycles import concerns, cycles, is_wildcard

LOOP = """\
import torch

for epoch in range(3):
    for x in loader:
        optimizer.zero_grad()
        loss_fn(model(x)).backward()
        optimizer.step()
    scheduler.step()
"""


def test_a_cycle_is_the_innermost_loop_of_a_step():
    (cycle,) = cycles(Source(LOOP))

    assert (cycle.loop.lineno, cycle.depth) == (4, 2)
    assert [e.kind for e in cycle.events if e.kind != "call"] == [
        "zero",
        "forward",
        "backward",
        "step",
    ]


def test_of_other_kinds():
    (cycle,) = cycles(Source(LOOP), "schedule")

    assert (cycle.loop.lineno, cycle.depth) == (3, 1)


def test_a_function_is_a_cycle_only_in_a_fragment():
    text = "def step():\n    loss.backward()\n    optimizer.step()\n"

    assert cycles(Source(text)) == []
    (cycle,) = cycles(Source(text, fragment=True))
    assert cycle.loop is None


def test_between_goes_round_the_loop():
    (cycle,) = cycles(Source(LOOP))
    zero, step = cycle.of("zero")[0], cycle.of("step")[0]

    assert "backward" in {e.kind for e in cycle.between(zero, step)}
    assert [e.kind for e in cycle.between(step, zero)] == []


def test_whose_gradients_are_cleared():
    text = (
        "import torch\n"
        "for x in loader:\n"
        "    opt_a.zero_grad()\n"
        "    model.zero_grad()\n"
        "    for opt in optimizers:\n"
        "        opt.zero_grad()\n"
        "    opt_a.step()\n"
        "    opt_b.step()\n"
    )
    cycle = next(c for c in cycles(Source(text)) if c.depth == 1)
    own, model, each = cycle.of("zero")
    a, b = cycle.of("step")
    names = {"opt_a", "opt_b"}

    assert concerns(own, a, names)
    assert not concerns(own, b, names)
    assert concerns(model, b, names)
    assert is_wildcard(each)
    assert concerns(each, b, names)
