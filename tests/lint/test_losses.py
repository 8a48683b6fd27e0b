"""Losses and what they are given."""

import ast

from trimtab.lint import Source, apply_fixes
from trimtab.lint._losses import culprit, loss_called, loss_calls, unwrap
from trimtab.lint._names import CROSS_ENTROPIES

TEXT = """\
import torch
import torch.nn.functional as F
for x, y in test_loader:
    F.cross_entropy(model(x), y)
for x, y in train_loader:
    p = model(x).softmax(1)
    loss = F.cross_entropy(p.float(), y)
    loss.backward()
"""


def test_losses_in_training_come_first():
    first, second = loss_calls(Source(TEXT), CROSS_ENTROPIES)

    assert [c.node.lineno for c in (first, second)] == [7, 4]
    assert (first.kinds, first.is_local) == ({"softmax"}, True)
    assert (second.kinds, second.is_local) == ({"unknown"}, False)
    assert ast.unparse(first.target) == "y"


def test_none_without_their_names():
    assert list(loss_calls(Source(TEXT), frozenset({"nll_loss"}))) == []


def test_who_applied_it():
    source = Source(TEXT)
    loss = next(iter(loss_calls(source, CROSS_ENTROPIES)))

    assert culprit(source, loss.prediction, "softmax").lineno == 6
    assert culprit(source, loss.prediction, "sigmoid") is None


def test_it_is_taken_off_only_in_the_loss_s_own_argument():
    text = "import torch\nf(torch.softmax(g(a), 1), x.softmax(1))\n"
    source = Source(text)
    call = source.tree.body[1].value
    fixed = text
    for argument in reversed(call.args):
        remedy = unwrap(source, argument, argument)
        line, start, _, end, new = remedy.args["edits"][0]
        assert line == 2
        row = fixed.splitlines()[1]
        fixed = f"import torch\n{row[: start - 1]}{new}{row[end - 1 :]}\n"

    assert fixed == "import torch\nf(g(a), x)\n"
    assert unwrap(source, call.args[0], call.args[1]) is None
    assert apply_fixes(text, []) == text


def test_what_a_loss_is_called():
    assert loss_called("loss") == "the loss"
    assert loss_called("errD") == "the loss errD"
