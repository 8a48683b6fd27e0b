"""What evaluates, and in what state."""

import pytest

from trimtab.lint import Source
from trimtab.lint._evaluation import (
    caller_is_known,
    evaluations,
    in_evaluation_function,
    mode_before,
    without_gradients,
)


def found(text):
    return list(evaluations(Source("import torch\n" + text)))


@pytest.mark.parametrize(
    "text",
    [
        "for x, y in val_loader:\n    model(x)",
        "for i, (x, y) in enumerate(tqdm(test_dl)):\n    net(x)",
        "def f(loader):\n    for x in loader:\n        model(x)\nf(valid_loader)",
        "out = model(X_test)",
        "hits = sum(model(x) for x in loaders['val'])\nfor x in eval_loader: model(x)",
    ],
)
def test_held_out_data_is_evaluated(text):
    assert len(found(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "for x, y in train_loader:\n    model(x)",
        "for x, y in loader:\n    model(x)",
        "for x, y in val_loader:\n    loss_fn(model(x)).backward()",
        "loss = loss_fn(model(x_test))\nloss.backward()",
        "for x in range(0, n, eval_batch_size):\n    model(x)  # loader",
        "trainer = 1\nfor x in trainer.train_loader:\n    model(x)",
    ],
)
def test_other_data_is_not(text):
    assert found(text) == []


def test_the_state_it_is_in():
    (each,) = found(
        "def evaluate(model, loader):\n"
        "    with torch.no_grad():\n"
        "        for x in loader:\n"
        "            model(x)\n"
        "net.train()\n"
        "evaluate(net, test_loader)\n"
    )

    assert without_gradients(each.forward)
    assert in_evaluation_function(each.trace.source, each.forward)
    assert caller_is_known(each.trace.source, each)
    assert (mode_before(each).key, mode_before(each).detail) == ("net", "train")


def test_a_function_that_nobody_calls():
    (each,) = found("def test(model, test_loader):\n    for x in test_loader:\n        model(x)\n")

    assert not caller_is_known(each.trace.source, each)
    assert in_evaluation_function(each.trace.source, each.forward)
    assert mode_before(each) is None
    assert not without_gradients(each.forward)
