"""Where gradients flow."""

import ast

import pytest

from trimtab.lint import Source
from trimtab.lint._graph import Graph, is_no_grad, is_without_gradients, roots_of

HEAD = "import torch\nimport torch.nn.functional as F\nfor x, y in loader:\n"


def state(*lines):
    source = Source(HEAD + "".join(f"    {line}\n" for line in lines) + "    loss.backward()\n")
    call = next(
        c
        for c in source.all(ast.Call)
        if isinstance(c.func, ast.Attribute) and c.func.attr == "backward"
    )
    return Graph(source).of(call.func.value)


@pytest.mark.parametrize(
    "lines",
    [
        ("out = model(x).detach()", "loss = loss_fn(out, y)"),
        ("loss = F.mse_loss(model(x).data, y)",),
        ("loss = torch.tensor(loss_fn(model(x), y).item())",),
        ("loss = loss_fn(model(x).argmax(1), y)",),
        ("_, pred = torch.max(model(x), 1)", "loss = loss_fn(pred.float(), y)"),
        ("pred = model(x).max(1)[1]", "loss = F.l1_loss(pred, y)"),
        ("loss = ((model(x) > 0.5).float() - y).pow(2).mean()",),
        ("loss = loss_fn(model(x).detach(), y) + 1.0",),
        ("with torch.no_grad():", "    out = model(x)", "loss = loss_fn(out, y)"),
        ("loss = loss_fn(torch.from_numpy(model(x).detach().cpu().numpy()), y)",),
        ("loss = float(loss_fn(model(x), y))",),
    ],
)
def test_is_cut(lines):
    assert state(*lines) == "cut"


@pytest.mark.parametrize(
    "lines",
    [
        ("loss = loss_fn(model(x), y)",),
        ("loss = loss_fn(model(x), model(x).detach())",),
        ("loss = critic(generator(x).detach()).mean()",),
        ("loss = loss_fn(model(x), y) + old.item()",),
        ("loss = (logp * torch.tensor(rewards)).sum()",),
        ("with torch.no_grad():", "    t = target(x)", "loss = F.mse_loss(model(x), t)"),
        ("loss = something(x.detach())",),
        ("loss, _ = compute(x)",),
        ("loss = first.detach() if a else model(x)",),
    ],
)
def test_may_be_alive(lines):
    assert state(*lines) == "alive"


def test_data_have_no_gradients_to_cut():
    assert state("loss = x.detach().mean()") == "data"


def test_the_nearest_cut_is_named_first():
    source = Source(HEAD + "    loss = loss_fn(model(x).detach(), y).item()\n    loss.backward()\n")
    graph = Graph(source)
    (loss,) = (d.value for d in source.module.definitions["loss"])

    assert graph.of(loss) == "cut"
    assert ast.unparse(graph.cuts[0]).endswith((".detach()", ".item()"))


@pytest.mark.parametrize(
    ("text", "off"),
    [
        ("torch.no_grad()", True),
        ("torch.inference_mode()", True),
        ("torch.set_grad_enabled(False)", True),
        ("torch.set_grad_enabled(train)", False),
        ("torch.inference_mode(False)", False),
        ("torch.autocast('cuda')", False),
    ],
)
def test_contexts(text, off):
    assert is_no_grad(text) is off


def test_blocks_and_decorators():
    source = Source(
        "import torch\n"
        "@torch.no_grad()\n"
        "def f():\n    a()\n"
        "with torch.no_grad():\n    b()\n    with torch.enable_grad():\n        c()\n"
    )
    calls = {c.func.id: c for c in source.all(ast.Call) if isinstance(c.func, ast.Name)}

    assert [is_without_gradients(source, calls[n]) for n in "abc"] == [True, True, False]


def test_roots():
    source = Source("a = f(b)\nc = a + d\nuse(c)\n")
    call = next(c for c in source.all(ast.Call) if c.func.id == "use")

    assert roots_of(source, call.args[0]) == {"a", "b", "c", "d", "f"}
