"""A source and what its names stand for."""

import ast

import pytest

from trimtab.errors import ConfigError
from trimtab.lint import Source
from trimtab.lint._source import is_constant, keyword, last_name, names_in


def call(text, **options):
    source = Source(text, **options)
    return source, next(source.all(ast.Call))


@pytest.mark.parametrize(
    ("text", "name", "called"),
    [
        ("import torch\ntorch.nn.Linear(1)", "torch.nn.Linear", "Linear"),
        ("import torch.nn as nn\nnn.Linear(1)", "torch.nn.Linear", "Linear"),
        ("import torch.nn\ntorch.nn.Linear(1)", "torch.nn.Linear", "Linear"),
        ("from torch import nn as n\nn.Linear(1)", "torch.nn.Linear", "Linear"),
        ("from torch.nn import Linear as L\nL(1)", "torch.nn.Linear", "Linear"),
        ("from .models import Net\nNet()", ".models.Net", "Net"),
        ("nn.Linear(1)", "torch.nn.Linear", "Linear"),
        ("nn = 3\nnn.Linear(1)", "nn.Linear", ""),
        ("x.linear(1)", "x.linear", ""),
        ("print(1)", "print", "print"),
        ("model(1)", "model", ""),
        ("from torch.nn import *\nrelu(1)", "relu", "relu"),
        ("class Net: pass\nNet()", "Net", ""),
        ("def f(): pass\nf()", "f", ""),
        ("f()()", "", ""),
    ],
)
def test_names(text, name, called):
    source, found = call(text)

    assert source.qualname(found.func) == name
    assert source.called(found) == called


def test_names_from_outside_a_fragment():
    source, found = call("g(1)", aliases={"g": "torch.nn.functional.softmax"})

    assert source.called(found) == "softmax"


def test_places():
    source, found = call("class A:\n    def f(self):\n        def g():\n            é = 1; h(é)")

    assert source.site(found) == "A.f.g"
    assert source.function(found).name == "g"
    assert source.column(found.lineno, found.col_offset) == 20
    assert source.segment(found) == "h(é)"
    assert isinstance(source.statement(found.args[0]), ast.Expr)
    assert source.site(source.tree) == ""


def test_lines_are_those_of_the_parser():
    source, found = call("a = '\x0c'\r\nb = 1\rc()")

    assert source.lines == ["a = '\x0c'\r\n", "b = 1\r", "c()"]
    assert found.lineno == 3


@pytest.mark.parametrize("text", ["x = (", "\0", "def f(:\n", "(" * 5000])
def test_what_is_no_python(text):
    with pytest.raises(ConfigError, match=r"^a\.py.* is not Python that this interpreter can read"):
        Source(text, "a.py")


def test_arguments():
    _, found = call("f(1, *z, key=2)")

    assert ast.unparse(keyword(found, "key", 0)) == "2"
    assert ast.unparse(keyword(found, "first", 0)) == "1"
    assert keyword(found, "second", 1) is None
    assert keyword(found, "third", 2) is None


def test_small_things():
    tree = ast.parse("a.b + c[d]", mode="eval").body

    assert names_in(tree) == {"a", "a.b", "c", "d"}
    assert names_in(None) == set()
    assert last_name("a.b['c']") == "b"
    assert is_constant(ast.Constant(value=True), True)
    assert not is_constant(ast.Constant(value=1), True)


def test_nothing_is_traced_where_nothing_trains():
    assert Source("import torch\nx = model(y)\n").traces == []


def test_comments_mention_nothing():
    source = Source("# SyncBatchNorm\nx = 'a # b'  # scaler\n")

    assert not source.mentions("SyncBatchNorm", "scaler")
    assert source.mentions("# b")
