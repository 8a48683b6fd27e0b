import functools
import types

import pytest
import torch
from torch import nn

from trimtab.diagnosis._reach import is_own, reachable, stateful

SCALER = torch.amp.GradScaler("cpu")


class Thing:
    """What is looked for."""


def nested_global(model):
    def closure():
        return SCALER.scale(model)

    return closure()


def is_reached(function, thing):
    return any(v is thing for v in reachable(function))


class Trainer:
    def __init__(self, thing):
        self.thing = thing

    def __call__(self):
        return SCALER

    def step(self):
        return self.thing


def ways(thing):
    def helper():
        return thing

    def decorated(function):
        @functools.wraps(function)
        def wrapper():
            return function()

        return wrapper

    trainer = Trainer(thing)
    return {
        "closure": lambda: thing,
        "default": lambda t=thing: t,
        "keyword default": lambda *, t=thing: t,
        "helper": lambda: helper(),  # noqa: PLW0108 # the point of it
        "decorated": decorated(helper),
        "partial": functools.partial(print, thing),
        "partial of a function": functools.partial(helper),
        "keyword of a partial": functools.partial(print, end=thing),
        "object": trainer,
        "method": trainer.step,
        "attribute": lambda: trainer.thing,
        "list": lambda kept=[thing]: kept,
        "dict": lambda kept={"a": thing}: kept,
        "helper in a dict": lambda kept={"a": helper}: kept,
    }


@pytest.mark.parametrize("way", ways(None))
def test_reaches(way):
    thing = Thing()

    assert is_reached(ways(thing)[way], thing)
    assert not is_reached(ways(Thing())[way], thing)


def test_reaches_globals_of_functions_inside():
    assert is_reached(nested_global, SCALER)
    assert is_reached(Trainer(None), SCALER)
    assert not is_reached(ways(None)["closure"], SCALER)


def test_a_name_without_a_value_is_passed_over():
    def body():
        return later

    assert reachable(body) == []
    later = 1
    assert reachable(body) == [later]


@pytest.mark.parametrize("function", [None, len, print, "text", nn.Linear(1, 1).forward])
def test_anything_can_be_asked(function):
    assert isinstance(reachable(function), list)


def test_functions_that_name_each_other_end():
    def one():
        return two

    def two():
        return one

    assert {f.__name__ for f in reachable(one)} == {"one", "two"}


def test_stateful_is_what_has_a_state_to_put_back(make_model):
    model, teacher = make_model(), make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    theirs = torch.optim.SGD(teacher.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    half = types.SimpleNamespace(state_dict=dict)
    kind, module = torch.optim.SGD, torch.optim
    layer, part = model[0], teacher[0]

    def body():
        return model, optimizer, teacher, theirs, schedule, half, kind, module, layer, part, SCALER

    found = stateful(body, known=(model, optimizer, None))

    assert {id(v) for v in found} == {id(v) for v in (teacher, theirs, schedule, SCALER)}
    assert stateful(None) == []


@pytest.mark.parametrize(
    ("module", "file", "own"),
    [
        ("torch_models.mine", "/home/me/torch/trimtab/mine.py", True),
        ("__main__", "/home/me/train.py", True),
        ("torch.optim.sgd", "/x/torch/optim/sgd.py", False),
        ("torch", "/x/torch/__init__.py", False),
        ("trimtab", "/x/trimtab/__init__.py", False),
        ("accelerate", "/x/lib/site-packages/accelerate/accelerator.py", False),
    ],
)
def test_tells_own_code_from_others(module, file, own):
    assert is_own(module, file) is own
