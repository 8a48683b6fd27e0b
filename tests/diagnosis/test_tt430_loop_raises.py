import torch
from torch import nn

from trimtab.diagnosis import LoopRaises, diagnose
from trimtab.findings import Selection

ALONE = Selection(select=("TT430",))


def diagnosed(env, body, **changes):
    vars(env).update(changes)
    return diagnose(
        env.model,
        env.optimizer,
        env.loss_fn,
        env.pairs,
        steps=20,
        train_step=body,
        selection=ALONE,
    )


def test_fires(env, correct, line_of):
    calls = iter(range(1000))

    def body(*args):
        if next(calls) == 2:
            raise ValueError("too late\nand more")
        return correct(*args)

    assert diagnosed(env, body).findings == [
        LoopRaises().finding(
            what="call 3 of the loop raised ValueError: too late",
            file=__file__,
            line=line_of(body, "raise"),
            step=3,
            cause="the training step cannot be carried out as it is",
            fix="look at the line that is named, and at what was found beside it",
        )
    ]


def test_fires_without_a_loop_body_and_without_a_line(env):
    model = nn.Linear(9, 3)

    (found,) = diagnosed(
        env, None, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1)
    ).findings

    assert (found.code, found.file, found.line) == ("TT430", None, None)
    assert found.what.startswith("call 1 of the loop raised RuntimeError: mat1 and mat2")


def test_fires_on_an_error_without_a_message(env):
    def body(*args):
        raise KeyError

    assert diagnosed(env, body).findings[0].what == (
        "call 1 of the loop raised KeyError: no message"
    )


def test_silent_on_errors_that_the_loop_deals_with(env, correct):
    def body(*args):
        try:
            raise ValueError
        except ValueError:
            return correct(*args)

    assert diagnosed(env, body).healthy
