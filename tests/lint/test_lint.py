"""Linting of texts and functions."""

import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.errors import ConfigError
from trimtab.findings import find_rule
from trimtab.lint import fix_source, lint_function, lint_source

SCALER = torch.amp.GradScaler("cpu", enabled=False)


def healthy_step(model, optimizer, loss_fn, x, y):
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()


def without_zero_grad(model, optimizer, loss_fn, x, y):
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


def with_two_softmaxes(model, optimizer, loss_fn, x, y):
    optimizer.zero_grad()
    loss = functional.cross_entropy(functional.softmax(model(x), dim=1), y)
    loss.backward()
    optimizer.step()
    return loss


def scaled_clip(model, optimizer, loss_fn, x, y):
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    SCALER.scale(loss).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    SCALER.step(optimizer)
    SCALER.update()
    return loss


def cut(model, optimizer, loss_fn, x, y):
    optimizer.zero_grad()
    loss = loss_fn(model(x).detach(), y)
    loss.requires_grad_()
    loss.backward()
    optimizer.step()
    return loss


@pytest.mark.parametrize(
    ("function", "codes"),
    [
        (healthy_step, []),
        (without_zero_grad, ["TT704"]),
        (with_two_softmaxes, ["TT707"]),
        (scaled_clip, ["TT701"]),
        (cut, ["TT722"]),
    ],
)
def test_judges_a_step_function(function, codes):
    assert [f.code for f in lint_function(function)] == codes


def test_lines_are_those_of_the_file():
    (found,) = lint_function(without_zero_grad)

    lines, _ = inspect.getsourcelines(inspect.getmodule(without_zero_grad))
    assert found.file == __file__
    assert lines[found.line - 1].strip() == "optimizer.step()"
    assert lines[found.line - 1].index("optimizer") == found.column - 1


def test_accumulation_with_a_counter():
    state = {"n": 0}

    def undivided(model, optimizer, loss_fn, x, y):
        loss = loss_fn(model(x), y)
        loss.backward()
        state["n"] += 1
        if state["n"] % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    def divided(model, optimizer, loss_fn, x, y):
        loss = loss_fn(model(x), y) / 4
        loss.backward()
        state["n"] += 1
        if state["n"] % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    assert [f.code for f in lint_function(undivided)] == ["TT706"]
    assert lint_function(divided) == []


def test_values_of_the_closure_settle_conditions():
    def make(*, unscale):
        scaler = torch.amp.GradScaler("cpu", enabled=False)

        def step(model, optimizer, loss_fn, x, y):
            optimizer.zero_grad()
            scaler.scale(loss_fn(model(x), y)).backward()
            if unscale and scaler is not None:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()

        return step

    assert lint_function(make(unscale=True)) == []
    assert [f.code for f in lint_function(make(unscale=False))] == ["TT701"]


def test_a_bound_method_and_a_callable_object():
    class Stepper:
        def run(self, model, optimizer, loss_fn, x, y):
            loss_fn(model(x), y).backward()
            optimizer.step()

        def __call__(self, model, optimizer, loss_fn, x, y):
            loss_fn(model(x), y).backward()
            optimizer.step()

    assert [f.code for f in lint_function(Stepper().run)] == ["TT704"]
    assert [f.code for f in lint_function(Stepper())] == ["TT704"]


def test_what_has_no_source_of_its_own_is_passed_over():
    made: dict = {}
    exec("def f(model, optimizer):\n    model().backward()\n    optimizer.step()\n", made)

    assert lint_function(made["f"]) == []
    assert lint_function(len) == []
    assert lint_function(lambda model, optimizer: optimizer.step) == []


def test_a_text_without_torch_is_passed_over():
    assert lint_source("optimizer.step\n") == []
    assert lint_source("this is no Python") == []


def test_a_text_that_is_no_python_is_named():
    with pytest.raises(ConfigError, match=r"^bad\.py, line 2, is not Python that .*: '\(' was"):
        lint_source("import torch\nx = (\n", "bad.py")


def test_only_the_given_rules_speak():
    text = "import torch\nfor x in loader:\n    optimizer.step\n    model.eval\n"

    assert [f.code for f in lint_source(text)] == ["TT731", "TT731"]
    assert lint_source(text, rules=[find_rule("TT701")()]) == []


def test_findings_come_in_the_order_of_lines():
    text = "import torch\nfor x in loader:\n    model.eval\n    optimizer.step\n"

    assert [f.line for f in lint_source(text)] == [3, 4]


def test_repairs_until_nothing_is_left():
    text = "import torch\nfor x in loader:\n    loss_fn(model(x)).backward()\n    optimizer.step\n"

    fixed, left = fix_source(text)

    assert left == []
    assert fixed == (
        "import torch\nfor x in loader:\n    optimizer.zero_grad()\n"
        "    loss_fn(model(x)).backward()\n    optimizer.step()\n"
    )


def test_code_that_is_expected_to_fail_is_passed_over():
    text = (
        "import pytest, torch\n"
        "for x in loader:\n"
        "    optimizer.zero_grad()\n"
        "    loss = loss_fn(model(x))\n"
        "    loss.backward()\n"
        "    optimizer.step()\n"
        "    with pytest.raises(RuntimeError):\n"
        "        loss.backward()\n"
    )

    assert lint_source(text) == []


def test_expressions_that_are_nested_too_deeply_are_named():
    with pytest.raises(ConfigError, match=r"^a\.py"):
        lint_source("import torch\nx = " + " + ".join(["a.b"] * 5000) + "\n", "a.py")
