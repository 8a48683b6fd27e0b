"""What happens, in order."""

import ast

import pytest

from trimtab.lint import Source
from trimtab.lint._trace import Context, compatible, condition_of

STEP = """\
import torch

def step(net, opt, x):
    opt.zero_grad()
    net(x).backward()
    opt.step()

def main():
    model, optimizer = make()
    for epoch in range(3):
        for x in loader:
            step(model, optimizer, x)
        if epoch == 1:
            model.eval()
        else:
            model.train()

if __name__ == "__main__":
    main()
"""


def told(trace, *kinds):
    return [(e.kind, e.key, len(e.loops)) for e in trace.of(*kinds)]


def test_functions_are_followed_and_names_are_the_caller_s():
    (trace,) = Source(STEP).traces

    assert told(trace, "zero", "forward", "backward", "step", "mode") == [
        ("zero", "optimizer", 2),
        ("forward", "model", 2),
        ("backward", "", 2),
        ("step", "optimizer", 2),
        ("mode", "model", 1),
        ("mode", "model", 1),
    ]


def test_branches_part_events():
    (trace,) = Source(STEP).traces
    first, second = trace.of("mode")

    assert not compatible(first, second)
    assert compatible(first, trace.of("step")[0])
    assert first.context.branches[0].condition == "epoch == 1"


def test_what_nobody_calls_is_a_trace_of_its_own():
    traces = Source(STEP.replace("    main()\n", "    pass\n")).traces

    assert [getattr(t.root, "name", "") for t in traces] == ["", "main"]


def test_methods_are_followed_on_their_instance():
    source = Source(
        "import torch\n"
        "class A:\n"
        "    def __init__(self, optimizer):\n"
        "        self.optimizer = optimizer\n"
        "    def run(self):\n"
        "        self.move()\n"
        "    def move(self):\n"
        "        self.optimizer.step()\n"
        "a = A(o)\n"
        "a.run()\n"
    )

    assert told(source.traces[0], "step") == [("step", "a.optimizer", 0)]


def test_a_closure_runs_within_the_step():
    source = Source(
        "import torch\n"
        "def closure():\n"
        "    optimizer.zero_grad()\n"
        "    loss().backward()\n"
        "optimizer.step(closure)\n"
    )

    assert [k for k, _, _ in told(source.traces[0], "zero", "backward", "step")] == [
        "zero",
        "backward",
        "step",
    ]


def test_an_if_that_leaves_parts_what_follows():
    source = Source(
        "import torch\n"
        "for x in loader:\n"
        "    if not fast:\n"
        "        loss.backward()\n"
        "        continue\n"
        "    optimizer.step()\n"
    )
    backward, step = source.traces[0].of("backward", "step")

    assert not compatible(backward, step)


def test_opposite_conditions_exclude_each_other():
    source = Source(
        "import torch\n"
        "if scaler is not None:\n"
        "    a.backward()\n"
        "if scaler is None:\n"
        "    optimizer.step()\n"
        "if not amp:\n"
        "    optimizer.zero_grad()\n"
    )
    backward, step, zero = source.traces[0].of("backward", "step", "zero")

    assert not compatible(backward, step)
    assert compatible(step, zero)


def test_recursion_ends():
    source = Source(
        "import torch\ndef f(n):\n    optimizer.step()\n    f(n - 1)\n    f(n - 2)\nf(9)\n"
    )

    assert len(source.traces[0].of("step")) == 1


@pytest.mark.parametrize(
    ("text", "condition", "holds"),
    [
        ("a", "a", True),
        ("not a", "a", False),
        ("a is None", "a", False),
        ("a is not None", "a", True),
        ("a != 1", "a == 1", False),
        ("a > 1", "a > 1", True),
    ],
)
def test_conditions(text, condition, holds):
    assert condition_of(ast.parse(text, mode="eval").body, Context()) == (condition, holds)


def test_names_of_a_call_are_put_in():
    context = Context(names=(("self", "trainer"), ("net", "model"), ("gone", "")))
    key = {
        t: context.key(ast.parse(t, mode="eval").body)
        for t in ("self.a", "net.module.b", "c", "gone.x")
    }

    assert key == {"self.a": "trainer.a", "net.module.b": "model.b", "c": "c", "gone.x": ""}
