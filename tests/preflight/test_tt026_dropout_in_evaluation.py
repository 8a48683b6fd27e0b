"""Dropout that eval() leaves on."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.preflight.tt026_dropout_in_evaluation import DROPOUTS, DropoutInEvaluation

EXTRA = {functional.dropout1d: 1, functional.dropout2d: 2, functional.dropout3d: 3}
"""Dimensions that these want behind the channels."""


class Net(nn.Module):
    def __init__(self, drop):
        super().__init__()
        self.drop, self.head = drop, nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.drop(x))


class Told(nn.Module):
    """Functional dropout that is told the mode."""

    def forward(self, x):
        return functional.dropout(x, 0.5, self.training)


class Attention(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        x = x[:, None]
        return functional.scaled_dot_product_attention(x, x, x, dropout_p=self.p)[:, 0]


def found(judge, classes, drop):
    model = Net(drop)
    optimizer = torch.optim.Adam(model.parameters())
    return list(judge(DropoutInEvaluation(), model, optimizer, nn.CrossEntropyLoss(), classes))


def always(x):
    return functional.dropout(x, 0.3)


def test_fires_on_functional_dropout(judge, shown, classes):
    (finding,) = found(judge, classes, always)

    line = always.__code__.co_firstlineno + 1
    assert (finding.file, finding.line) == (__file__, line)
    assert shown(finding) == [
        "warning, silent_config_error: TT026 dropout-in-evaluation at "
        f"{__file__}:{line}: functional.dropout drops with p = 0.3 in "
        "eval mode, too",
        "dropouts that eval() leaves on 1, normal 0",
        "The functional form of dropout is on unless it is told otherwise; eval() turns off layers "
        "alone. So predictions are random.",
        "pass training=self.training, or dropout_p=p if self.training else 0.0, or use the layer "
        "nn.Dropout",
    ]


def test_fires_on_attention_and_names_the_module(judge, classes):
    (finding,) = found(judge, classes, Attention(0.1))

    assert finding.site == "drop"
    assert finding.what.startswith("functional.scaled_dot_product_attention ")


@pytest.mark.parametrize("function", sorted(DROPOUTS, key=lambda f: f.__name__))
def test_fires_on_every_form(judge, classes, function):
    def drop(x):
        wide = x.reshape(*x.shape, *[1] * EXTRA.get(function, 0))
        return function(wide, training=True).reshape(x.shape)

    (finding,) = found(judge, classes, drop)

    assert "p = 0.5" in finding.what


@pytest.mark.parametrize(
    "drop",
    [
        nn.Dropout(0.5), nn.AlphaDropout(0.5), Told(), Attention(0.0),
        lambda x: functional.dropout(x, 0.0), lambda x: functional.dropout(x, training=False),
    ],
)  # fmt: skip
def test_is_silent_on_what_eval_turns_off(judge, classes, drop):
    assert found(judge, classes, drop) == []


def test_is_silent_on_a_layer_of_attention(judge):
    x = torch.randn(4, 6, 8)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.4, batch_first=True)
    optimizer = torch.optim.Adam(model.parameters())

    assert not judge(DropoutInEvaluation(), model, optimizer, nn.MSELoss(), (x, x))
