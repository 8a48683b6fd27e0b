"""What tensors hold."""

import ast

import pytest

from trimtab.lint import Source
from trimtab.lint._outputs import Outputs, lone_model, loss_arguments, loss_names

HEAD = """\
import torch
import torch.nn as nn
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        self.head = nn.Linear(2, 2)
        self.act = nn.Softmax(dim=1)

    def forward(self, x):
        x = self.body(x)
        return self.head(x), self.act(self.head(x))

class Plain(nn.Module):
    def forward(self, x):
        if self.training:
            return x.sigmoid()
        return x

class Chain(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(2, 2), nn.Sigmoid())

layers = [nn.Linear(2, 2)]
layers.append(nn.Sigmoid())

def apply(t):
    return torch.softmax(t, 1)
"""


def kinds(*lines):
    source = Source(HEAD + "\n".join(lines) + "\nuse(out)\n")
    call = next(c for c in source.all(ast.Call) if getattr(c.func, "id", "") == "use")
    return Outputs(source).of(call.args[0])


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("out = F.softmax(x, 1)",), "softmax"),
        (("out = x.softmax(1).squeeze()[:, 0]",), "softmax"),
        (("out = torch.log(x.softmax(1))",), "log_softmax"),
        (("out = nn.LogSoftmax(dim=1)(x)",), "log_softmax"),
        (("out = torch.sigmoid(x)", "out = out.view(-1).float()"), "sigmoid"),
        (("net = Net()", "out, _ = net(x)"), "logits"),
        (("net = Net().to('cuda')", "_, out = net(x)"), "softmax"),
        (("net = nn.DataParallel(Net())", "both = net(x)", "out = both[1]"), "softmax"),
        (("out = nn.Sequential(nn.Linear(2, 2), nn.Softmax(1))(x)",), "softmax"),
        (("out = nn.Sequential(*layers)(x)",), "sigmoid"),
        (("out = Chain()(x)",), "sigmoid"),
        (("out = apply(x)",), "softmax"),
        (("out = F.relu(x)",), "other"),
        (("out = helper(x)",), "unknown"),
        (("out = nn.Sequential(nn.Linear(2, 2), nn.Flatten())(x)",), "logits"),
    ],
)
def test_certain_kinds(lines, expected):
    assert kinds(*lines) == {expected}


def test_both_ways_through_a_branch():
    assert kinds("out = Plain()(x)") == {"sigmoid", "unknown"}
    assert kinds("out = x.sigmoid()", "if a:", "    out = x.softmax(1)") == {"sigmoid", "softmax"}


def test_circles_end():
    assert kinds("while a:", "    out = out.float()") == {"unknown"}


def test_the_only_network_of_a_file_stands_for_a_model_from_elsewhere():
    text = (
        "from torch import nn\n"
        "class Part(nn.Module):\n    def forward(self, x): return x\n"
        "class Whole(nn.Module):\n"
        "    def __init__(self):\n        self.part = Part()\n"
        "    def forward(self, x): return self.part(x)\n"
        "def train(model):\n    model(x)\n"
    )
    source = Source(text)
    name = next(n for n in source.all(ast.Name) if n.id == "model")

    assert lone_model(source, name).name == "Whole"
    other = Source(text + "class More(nn.Module):\n    def forward(self, x): return x\n")
    assert lone_model(other, next(n for n in other.all(ast.Name) if n.id == "model")) is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("F.cross_entropy(a, b)", {"cross_entropy"}),
        ("nn.MSELoss()(a, b)", {"MSELoss"}),
        ("nn.MSELoss(a, b)", set()),
        ("criterion(a, b)", {"BCELoss"}),
        ("function(a, b)", {"mse_loss"}),
        ("unknown(a, b)", set()),
    ],
)
def test_losses(text, names):
    source = Source(HEAD + f"criterion = nn.BCELoss()\nfunction = F.mse_loss\nuse({text})\n")
    call = next(c for c in source.all(ast.Call) if getattr(c.func, "id", "") == "use").args[0]

    assert loss_names(source, call) == names


def test_arguments_of_a_loss():
    call = ast.parse("f(target=a, input=b)", mode="eval").body

    assert [n.id for n in loss_arguments(call)] == ["b", "a"]
