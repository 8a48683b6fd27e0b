"""Where values come from."""

import ast

import pytest

from trimtab.lint import Source
from trimtab.lint._origins import exclusive, reaching

TEXT = """\
from torch import nn, optim
from torch.nn.parallel import DistributedDataParallel as DDP

class Net(nn.Module):
    def __init__(self):
        self.fc = nn.Linear(2, 2)

class Small(Net):
    pass

class Trainer:
    def __init__(self, model, lr=0.1):
        self.model = model
        self.optimizer, self.schedule = build(model)
        self.many = [optim.SGD(p) for p in model]

    def fit(self):
        use(self.optimizer, self.schedule, self.model)

def build(m):
    opt = optim.Adam(m.parameters())
    return opt, optim.lr_scheduler.StepLR(opt, 1)

def train(net, optimizer):
    use(net, optimizer)

model = DDP(Net().to("cuda"))
trainer = Trainer(model)
train(trainer.model, trainer.optimizer)
a = first if flag else second
"""


@pytest.fixture
def source():
    return Source(TEXT)


def uses(source, function):
    return next(
        c
        for c in source.all(ast.Call)
        if isinstance(c.func, ast.Name) and c.func.id == "use" and source.site(c) == function
    )


def texts(source, node):
    return sorted(ast.unparse(o) for o in source.origins.of(node))


def test_through_attributes_functions_and_tuples(source):
    optimizer, schedule, model = uses(source, "Trainer.fit").args

    assert texts(source, optimizer) == ["optim.Adam(m.parameters())"]
    assert source.origins.class_names(schedule) == {"StepLR"}
    assert texts(source, model) == ["Net()"]


def test_through_arguments_and_instances(source):
    net, optimizer = uses(source, "train").args

    assert texts(source, net) == ["Net()"]
    assert source.origins.is_optimizer(optimizer)
    assert [c.name for c in source.origins.instances(net)] == ["Net"]
    assert source.origins.is_model(net)


def test_both_arms_of_a_condition(source):
    (value,) = (d.value for d in source.module.definitions["a"])

    assert texts(source, value) == ["first", "second"]


def test_modules_of_the_file_are_known_through_their_bases(source):
    net, small, trainer = source.classes

    assert [source.origins.is_module(c) for c in (net, small, trainer)] == [True, True, False]
    assert source.origins.method(small, "__init__") is net.methods["__init__"]


def test_callers(source):
    functions = {s.name: f for f, s in source.scopes.items() if s.name and s.owner is None}

    assert [ast.unparse(c) for c in source.origins.callers(functions["build"])] == ["build(model)"]


@pytest.mark.parametrize("text", ["a = b\nb = a\nuse(a)", "def f(): return f()\nuse(f())"])
def test_circles_end(text):
    source = Source(text)

    assert source.origins.of(uses(source, "").args[0]) == []


def test_a_long_chain_of_names_is_followed_in_no_time():
    lines = ["x = start()", *(f"x = layer{i}(x, x)" for i in range(300)), "use(x)"]
    source = Source("\n".join(lines))

    assert source.origins.of(uses(source, "").args[0]) == []  # too many to say


@pytest.mark.parametrize(
    ("text", "is_optimizer", "is_schedule", "is_scaler"),
    [
        ("use(optimizer)", True, False, False),
        ("use(lr_scheduler)", False, True, False),
        ("use(scaler)", False, False, True),
        ("import torch\nopt = torch.amp.GradScaler()\nuse(opt)", False, False, True),
        ("import torch\ns = torch.optim.SGD(p)\nuse(s)", True, False, False),
        ("class Env: pass\nopt = Env()\nuse(opt)", False, False, False),
        ("use(env)", False, False, False),
    ],
)
def test_kinds(text, is_optimizer, is_schedule, is_scaler):
    source = Source(text)
    node = uses(source, "").args[0]
    origins = source.origins

    assert origins.is_optimizer(node) is is_optimizer
    assert origins.is_scheduler(node) is is_schedule
    assert origins.is_scaler(node) is is_scaler


def test_reaching_definitions():
    source = Source(
        "x = 1\nif a:\n    x = 2\nelse:\n    y = 0\nif b:\n    x = 3\n    use(x)\nz = x\n"
    )
    inner = uses(source, "").args[0]
    last = source.tree.body[-1].value

    assert [ast.unparse(d.value) for d in reaching(source, inner)] == ["3"]
    assert [ast.unparse(d.value) for d in reaching(source, last)] == ["3", "2", "1"]


def test_exclusive_branches():
    source = Source("if a:\n    b\nelse:\n    c\nd\n")
    branch = source.tree.body[0]

    assert exclusive(source, branch.body[0], branch.orelse[0])
    assert not exclusive(source, branch.body[0], source.tree.body[1])
