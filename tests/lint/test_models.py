"""Layers of networks."""

import ast

import pytest

from trimtab.lint import Source
from trimtab.lint._models import has_biases, has_modes, has_norms, layers_of

HEAD = """\
import timm
from torch import nn
import torch.nn.functional as F

class Block(nn.Module):
    def __init__(self):
        self.norm = nn.LayerNorm(2)
        self.fc = nn.Linear(2, 2, bias=False)

class Net(nn.Module):
    def __init__(self):
        self.blocks = nn.ModuleList([Block() for _ in range(3)])

    def forward(self, x):
        return F.dropout(x, training=self.training)
"""


def layers(text):
    source = Source(HEAD + f"use({text})\n")
    call = next(c for c in source.all(ast.Call) if getattr(c.func, "id", "") == "use")
    return layers_of(source, call.args[0])


def test_layers_of_parts_count():
    assert layers("Net()") == {
        "ModuleList",
        "LayerNorm",
        "Linear without bias",
        "functional dropout",
    }
    assert layers("nn.Sequential(nn.Conv2d(1, 1, 1), Block())") >= {"Conv2d", "LayerNorm"}
    assert layers("timm.create_model('resnet18')") == {"zoo"}
    assert layers("unknown()") == set()


@pytest.mark.parametrize(
    ("text", "modes", "norms", "biases"),
    [
        ("nn.Linear(2, 2)", False, False, True),
        ("nn.Linear(2, 2, bias=False)", False, False, False),
        ("nn.Sequential(nn.Linear(2, 2), nn.Dropout())", True, False, True),
        ("nn.BatchNorm1d(2)", True, True, True),
        ("Block()", False, True, True),
        ("nn.TransformerEncoderLayer(8, 2)", True, True, True),
        ("nn.TransformerEncoderLayer(8, 2, dropout=0.0)", False, True, True),
        ("timm.create_model('x')", True, True, True),
    ],
)
def test_what_they_imply(text, modes, norms, biases):
    found = layers(text)

    assert (has_modes(found), has_norms(found), has_biases(found)) == (modes, norms, biases)
