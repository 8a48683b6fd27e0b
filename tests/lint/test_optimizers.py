"""Optimizers and what they were built from."""

import ast

import pytest

from trimtab.lint import Source
from trimtab.lint._optimizers import built, is_rebuilt, later_statements, whole_model


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("m.parameters()", "m"),
        ("self.m.parameters()", "self.m"),
        ("list(m.parameters())", "m"),
        ("filter(lambda p: p.requires_grad, m.parameters())", "m"),
        ("[p for p in m.parameters() if p.requires_grad]", "m"),
        ("[p for n, p in m.named_parameters()]", None),
        ("groups", None),
        ("m.parameters(recurse=False)", None),
    ],
)
def test_whole_models(text, model):
    found = whole_model(ast.parse(text, mode="eval").body)

    assert (found and ast.unparse(found)) == model


TEXT = """\
import torch
def f():
    if a:
        o = torch.optim.SGD(m.parameters(), lr=1)
        first()
    else:
        other()
    for x in y:
        second()
        def g():
            inner()
    third()
"""


def test_what_comes_later():
    source = Source(TEXT)
    (one,) = built(source)

    assert (one.name, one.key) == ("SGD", "m")
    assert [ast.unparse(s) for s in later_statements(source, one.call)] == [
        "first()",
        "second()",
        "third()",
    ]


@pytest.mark.parametrize(
    ("line", "rebuilt"),
    [
        ("o = torch.optim.SGD(m.parameters(), lr=2)", True),
        ("o.add_param_group({})", True),
        ("o.step()", False),
    ],
)
def test_rebuilt(line, rebuilt):
    source = Source(TEXT.replace("third()", f"third()\n    {line}"))
    one = next(iter(built(source)))
    third = next(c for c in source.all(ast.Call) if getattr(c.func, "id", "") == "third")

    assert is_rebuilt(source, one, third) is rebuilt
