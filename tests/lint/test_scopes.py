"""Scopes and definitions."""

import ast

from trimtab.lint._scopes import NESTED, ScopeBuilder, dotted, parameters, position

TEXT = """\
import torch

a = 1

def f(x, *, y=2):
    a, (b, c) = x
    with g() as h:
        h += 1
    for i, (j, k) in z:
        pass
    def inner():
        return a

class A(B):
    size = 3

    def __init__(self, n):
        self.n = n
        self.parts["x"] = n

    @staticmethod
    def make(m):
        return m
"""


def build():
    return ScopeBuilder(ast.parse(TEXT))


def function(built, name):
    return next(s for s in built.scopes.values() if s.name == name)


def defined(scope, key):
    return [(d.how, d.index) for d in scope.definitions.get(key, ())]


def test_how_names_are_bound():
    scope = function(build(), "f")

    assert defined(scope, "x") == [("param", None)]
    assert defined(scope, "a") == [("assign", 0)]
    assert defined(scope, "b") == [("other", NESTED)]
    assert defined(scope, "h") == [("with", None), ("augment", None)]
    assert defined(scope, "i") == [("loop", 0)]
    assert defined(scope, "j") == [("loop", NESTED)]
    assert ast.unparse(scope.definitions["y"][0].value) == "2"


def test_names_are_looked_up_from_the_inside():
    built = build()
    inner = function(built, "inner")

    (found,) = inner.find("a")
    assert found.scope.name == "f"
    assert inner.find("nowhere") == []
    assert inner.find_function("f").name == "f"
    assert inner.find_function("a") is None
    assert inner.find_class("A").name == "A"


def test_a_class_knows_what_its_instances_hold():
    (info,) = build().classes

    assert info.bases == ["B"]
    assert sorted(info.methods) == ["__init__", "make"]
    assert sorted(info.attributes) == ["n", "parts['x']", "size"]


def test_only_methods_have_a_self():
    built = build()

    assert function(built, "__init__").self_name == "self"
    assert function(built, "make").self_name == ""
    assert function(built, "f").self_name == ""


def test_every_node_has_a_scope_and_a_parent():
    built = build()
    nodes = list(ast.walk(built.scopes[next(iter(built.scopes))].node))

    assert [n for n in nodes if n not in built.scope_of] == []
    assert [n for n in nodes[1:] if n not in built.parent_of] == []


def test_dotted():
    def parse(text):
        return ast.parse(text, mode="eval").body

    assert dotted(parse("a.b['c'].d")) == "a.b['c'].d"
    assert dotted(parse("a[i]")) == "a[i]"
    assert dotted(parse("a().b")) == ""
    assert dotted(None) == ""


def test_parameters_and_positions():
    node = ast.parse("def f(a, /, b, *, c): pass").body[0]

    assert parameters(node) == ["a", "b", "c"]
    assert position(node.args.args[0]) == (1, 12)
