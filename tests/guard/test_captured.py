import functools
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from trimtab.guard import captured, freeze
from trimtab.guard._captured import _Walk

MODEL = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
WEIGHT = nn.Parameter(torch.ones(1))
X, Y, Z = torch.zeros(2, 3), torch.ones(2), torch.full((2,), 2.0)


@dataclass
class Batch:
    ids: torch.Tensor
    name: str
    hook: object = None


def loss(*args):
    return sum(args)


def helper():
    return loss(MODEL(X), Y)


def cases():
    x, y, z, alpha = X, Y, Z, 0.5
    nested = {"ids": x, "pair": (y, z), "name": "a", "model": MODEL}
    batch = Batch(x, "a", MODEL)
    many, few = list(range(100)), [x, None, MODEL, alpha]
    array = np.arange(3)
    running, out = MODEL[1].running_mean, MODEL(X)
    holder = SimpleNamespace(x=x, model=MODEL)
    return {
        "order of use": (lambda: loss(MODEL(y), x), {"y": y, "x": x}),
        "numbers alone": (lambda: loss(MODEL, alpha, WEIGHT, many), {}),
        "nested": (
            lambda: loss(nested),
            {"nested": {"ids": x, "pair": (y, z), "name": "a"}},
        ),
        "list": (lambda: loss(few), {"few": [x, None, None, 0.5]}),
        "dataclass": (lambda: loss(batch), {"batch": {"ids": x, "name": "a"}}),
        "array": (lambda: loss(array), {"array": torch.arange(3)}),
        "method of a tensor": (lambda: loss(x.float()), {"x": x}),
        "attribute": (lambda: loss(holder.x), {"holder.x": x}),
        "buffer": (lambda: loss(MODEL(x), running), {"x": x}),
        "graph": (lambda: loss(out, y), {"y": y}),
        "global": (lambda: loss(MODEL(X), Y), {"X": X, "Y": Y}),
        "through a function": (lambda: (helper(), 0), {"X": X, "Y": Y}),
        "defaults": (lambda a=y, b=x: loss(b, a), {"b": x, "a": y}),
        "partial": (functools.partial(loss, MODEL, x, target=y), {"1": x, "target": y}),
        "no function": (MODEL, {}),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("name", cases())
def test_the_batch_is_found(name):
    function, expected = cases()[name]
    assert same(captured(function), expected)


@pytest.mark.parametrize("name", sorted(cases().keys() - {"graph"}))
def test_of_a_frozen_function_too(name):
    function, expected = cases()[name]
    assert same(captured(freeze(function)), expected)


def test_a_frozen_object_gives_what_it_held():
    holder = SimpleNamespace(x=X)
    function = freeze(lambda: loss(holder.x))
    holder.x = Z
    assert captured(function)["holder.x"] is X


def test_a_dictionary_that_is_filled_anew_gives_what_it_held():
    batch = {"x": X, "more": [Y]}
    function = freeze(lambda: loss(batch))
    batch["x"], batch["more"][0] = Z, Z
    assert same(captured(function), {"batch": {"x": X, "more": [Y]}})


def test_a_bound_method_gives_its_objects_tensors():
    class Trainer:
        def __init__(self):
            self.x, self.model = X, MODEL

        def loss(self):
            return self.further(self.model(self.x))

        def further(self, out):
            return loss(out, self.y)

    trainer = Trainer()
    trainer.y = Y
    assert list(captured(trainer.loss)) == ["self.x", "self.y"]


def test_each_function_is_visited_once():
    def loop(n):
        return loop(n - 1) if n else loss(X)

    walk = _Walk(loop)
    walk.visit(loop)
    assert list(walk.found) == ["X"]
